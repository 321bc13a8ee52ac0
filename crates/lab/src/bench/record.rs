//! `sled bench record`: what the draft model proposes along the target's outputs, once, for all benchmarks that replay it.

use sled_core::Token;
use sled_core::sampler::{self, Sampler, SamplingParams};
use sled_llama::LlamaEngine;
use sled_model::chat::Message;
use sled_model::drafter::ModelDrafter;
use sled_sim::recording::{Output, Proposal, Recording};

use super::{Prompt, prompts};
use crate::args::RecordArgs;
use crate::output::write_text;
use sled_launch::device;
use sled_launch::progress::bar;
use sled_launch::threads::{Threads, Work};

/// Tokens that a prompt and its answer may have.
const CONTEXT: usize = 1024;

/// How far a detour is followed: longer than any draft block is worth.
const DETOUR: usize = 12;

/// Records, and writes the recording.
pub fn run(args: &RecordArgs) -> anyhow::Result<()> {
    let prompts = prompts(&args.prompts)?;
    let target = device::load_draft_model(&args.pair.target)?;
    let draft = device::load_draft_model(&args.pair.draft)?;
    let vocab = target.vocab();
    anyhow::ensure!(
        vocab.fingerprint() == draft.vocab().fingerprint(),
        "{} and {} have different vocabularies; use models of one family",
        args.pair.target,
        args.pair.draft
    );
    let threads = Threads::Auto.count(Work::Serving).threads;
    let mut recorder = Recorder {
        target: device::model_drafter(&target, CONTEXT, threads)?,
        draft: device::model_drafter(&draft, CONTEXT, threads)?,
        sampler: Sampler::new(SamplingParams::default(), vocab.size())?,
    };
    let bar = bar(prompts.len(), "recording".to_owned());
    let mut outputs = Vec::new();
    for Prompt { kind, text } in prompts {
        let tokens = device::chat_tokens(&vocab, &[Message { role: "user".to_owned(), content: text }])?;
        outputs.push(recorder.record(kind, &tokens, usize::try_from(args.max_tokens)?, vocab.eog_tokens())?);
        bar.inc(1);
    }
    bar.finish_and_clear();
    let recording = Recording {
        command: format!(
            "sled bench record --target {} --draft {} -n {}",
            args.pair.target, args.pair.draft, args.max_tokens
        ),
        target: args.pair.target.clone(),
        draft: args.pair.draft.clone(),
        outputs,
    };
    // One line for each output: the file is large, and a difference between two of them is to be readable.
    let text = serde_json::to_string(&recording)?.replace("{\"kind\"", "\n{\"kind\"");
    write_text(&args.out, &(text + "\n"))?;
    println!("written to {}", args.out.display());
    Ok(())
}

struct Recorder {
    target: ModelDrafter<LlamaEngine>,
    draft: ModelDrafter<LlamaEngine>,
    sampler: Sampler,
}

impl Recorder {
    fn record(&mut self, kind: String, prompt: &[Token], most: usize, end: &[Token]) -> anyhow::Result<Output> {
        let prompt_len = prompt.len();
        let mut output = Output { kind, prompt_len, tokens: Vec::new(), drafts: Vec::new(), detours: Vec::new() };
        let mut text = prompt.to_vec();
        while output.tokens.len() < most && !output.tokens.last().is_some_and(|token| end.contains(token)) {
            let token = self.sampler.choose(self.target.logits_after(&text)?, context(&text, prompt_len));
            let proposal = self.propose(&text, prompt_len)?;
            let mut detour = Vec::new();
            if proposal.token != token {
                text.push(proposal.token);
                while detour.len() < DETOUR && text.last().is_some_and(|token| !end.contains(token)) {
                    let Proposal { token, confidence, .. } = self.propose(&text, prompt_len)?;
                    detour.push((token, confidence));
                    text.push(token);
                }
                text.truncate(prompt_len + output.tokens.len());
            }
            output.drafts.push(proposal);
            output.detours.push(detour);
            output.tokens.push(token);
            text.push(token);
        }
        Ok(output)
    }

    fn propose(&mut self, text: &[Token], prompt_len: usize) -> anyhow::Result<Proposal> {
        let logits = self.draft.logits_after(text)?;
        let draft = self.sampler.draft(logits, context(text, prompt_len));
        let max = logits.iter().copied().fold(f32::MIN, f32::max);
        let weights = || logits.iter().map(|&logit| f64::from(logit - max).exp());
        let sum: f64 = weights().sum();
        let entropy: f64 = weights().map(|w| w / sum).filter(|&p| p > 0.0).map(|p| -p * p.ln()).sum();
        let first = weights().fold(0.0f64, f64::max);
        let others = weights().enumerate().filter(|(token, _)| *token != draft.token as usize);
        let (other, second) = others.fold((0, 0.0f64), |best, (token, w)| if w > best.1 { (token, w) } else { best });
        let round = |x: f64| (x * 1e5).round() as f32 / 1e5;
        Ok(Proposal {
            token: draft.token,
            confidence: round(f64::from(draft.confidence)),
            second: Token::try_from(other)?,
            entropy: round(entropy),
            margin: round((first - second) / sum),
        })
    }
}

fn context(tokens: &[Token], prompt_len: usize) -> sampler::Context<'_> {
    sampler::Context { tokens, prompt_len }
}
