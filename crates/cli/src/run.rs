//! `sled run`: one answer.

use std::io::{IsTerminal, Read};
use std::ops::ControlFlow;

use anyhow::Context;
use sled_core::device::{FinishReason, Prompt};
use sled_core::message::MAX_BLOCK;
use sled_device::{Drafts, Generation, Session, SessionOptions};
use sled_wire::Bounds;

use crate::args::{RunArgs, SamplingArgs};
use crate::show::{self, Output, Screen};
use sled_launch::Usage;
use sled_launch::device::{self, Connected};
use sled_launch::threads::Work;

/// The one object that `--json` prints.
#[derive(serde::Serialize, serde::Deserialize, Debug)]
pub struct Report {
    pub text: String,
    pub token_ids: Vec<u32>,
    /// How each token came about: accepted, corrected, bonus or provisional.
    pub provenance: Vec<String>,
    /// The prompt's token ids, so that the output can be checked against the target alone.
    pub prompt_token_ids: Vec<u32>,
    pub prompt_tokens: usize,
    pub completion_tokens: usize,
    pub rounds: u64,
    pub draft_tokens: u64,
    pub accepted_tokens: u64,
    pub provisional_tokens: u64,
    pub server_rows: u64,
    pub disconnections: u64,
    pub finish_reason: String,
    pub ttft_s: Option<f64>,
    pub elapsed_s: f64,
}

/// Generates one answer and prints it.
pub async fn run(args: RunArgs) -> anyhow::Result<()> {
    let prompt = read_prompt(&args.prompt)?;
    if args.device.server == ["none"] { run_locally(args, prompt).await } else { run_with_server(&args, &prompt).await }
}

async fn run_with_server(args: &RunArgs, prompt: &str) -> anyhow::Result<()> {
    let Connected { mut session, vocab } = device::connect(&args.device).await?;
    let tokens = device::prompt_tokens(&vocab, prompt, args.raw, session.context())?;
    let mut screen = Screen::new(&vocab, &args.sampling.stop, text_output(args));
    let generation = session
        .generate(to_prompt(tokens.clone(), &args.sampling), |emitted| {
            go_on(screen.show(emitted.token, Some(emitted.provenance)))
        })
        .await?;
    finish(args, tokens, screen.finish(), &generation)
}

async fn run_locally(args: RunArgs, prompt: String) -> anyhow::Result<()> {
    if matches!(args.device.draft.as_str(), "ngram" | "none") {
        return Err(
            Usage("without a server there must be a model to decode with; name one with --draft".to_owned()).into()
        );
    }
    let model = device::load_draft_model(&args.device.draft)?;
    let vocab = model.vocab();
    let context = model.train_context();
    let tokens = device::prompt_tokens(&vocab, &prompt, args.raw, context)?;
    let room = (tokens.len() + to_prompt(Vec::new(), &args.sampling).max_tokens).min(context);
    let drafter = device::model_drafter(&model, room, args.device.threads.count(Work::Drafting).threads)?;
    let options = SessionOptions {
        drafter: Some((Drafts::own(Box::new(drafter))?, args.device.policy)),
        ..SessionOptions::new("alone", vocab.fingerprint(), vocab.eog_tokens())
    };
    let bounds = Bounds { vocabulary_size: vocab.size(), context: room, max_draft: MAX_BLOCK };
    let mut session = Session::unconnected(bounds, None, options);
    let mut screen = Screen::new(&vocab, &args.sampling.stop, text_output(&args));
    let generation = session
        .generate(to_prompt(tokens.clone(), &args.sampling), |emitted| go_on(screen.show(emitted.token, None)))
        .await?;
    finish(&args, tokens, screen.finish(), &generation)
}

/// The prompt as the core takes it.
pub fn to_prompt(tokens: Vec<u32>, sampling: &SamplingArgs) -> Prompt {
    let max_tokens = usize::try_from(sampling.max_tokens).unwrap_or(usize::MAX);
    Prompt { tokens, max_tokens, sampling: sampling.params(), ..Prompt::default() }
}

/// Whether a generation goes on after a token was shown.
pub fn go_on(more: bool) -> ControlFlow<()> {
    if more { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
}

fn finish(args: &RunArgs, prompt: Vec<u32>, text: String, generation: &Generation) -> anyhow::Result<()> {
    let Generation { tokens, provenance, reason, stats, elapsed } = generation;
    if args.json {
        let report = Report {
            text,
            token_ids: tokens.clone(),
            provenance: provenance.iter().map(|&provenance| show::name(provenance).to_owned()).collect(),
            prompt_tokens: prompt.len(),
            prompt_token_ids: prompt,
            completion_tokens: tokens.len(),
            rounds: stats.rounds,
            draft_tokens: stats.draft_tokens,
            accepted_tokens: stats.accepted_tokens,
            provisional_tokens: stats.provisional_tokens,
            server_rows: stats.server_rows,
            disconnections: stats.disconnections,
            finish_reason: match reason {
                FinishReason::Stop => "stop".to_owned(),
                FinishReason::Length => "length".to_owned(),
                FinishReason::Failed(why) => why.clone(),
            },
            ttft_s: stats.time_to_first_token.map(|time| time.as_secs_f64()),
            elapsed_s: elapsed.as_secs_f64(),
        };
        println!("{}", show::json(&report)?);
        return Ok(());
    }
    if args.show.show_drafts {
        eprintln!("{}", show::legend());
    }
    eprintln!("{}", show::summary(tokens.len(), *elapsed, stats));
    Ok(())
}

fn text_output(args: &RunArgs) -> Option<Output> {
    match (args.json, args.show.show_drafts) {
        (false, colours) => Some(Output::stdout(colours)),
        (true, true) => Some(Output::stderr()),
        (true, false) => None,
    }
}

fn read_prompt(prompt: &str) -> anyhow::Result<String> {
    let mut text = prompt.to_owned();
    if prompt == "-" {
        if std::io::stdin().is_terminal() {
            eprintln!("type the prompt, then Ctrl-D:");
        }
        text.clear();
        std::io::stdin()
            .read_to_string(&mut text)
            .context("cannot read the prompt from standard input as UTF-8 text")?;
    }
    if text.trim().is_empty() {
        return Err(Usage("the prompt is empty; give some text to answer".to_owned()).into());
    }
    Ok(text)
}
