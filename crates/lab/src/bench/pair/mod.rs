//! `sled bench pair`: the real pair over real sockets, in one process: rounds, acceptance, bytes, and the server's overhead.

mod plot;

use std::ops::ControlFlow;

use super::meter::Meter;
use sled_core::device::{Prompt, Stats};
use sled_core::policy::Policy;
use sled_device::{Drafts, RemoteServer, Session, SessionOptions};
use sled_llama::LlamaModel;
use sled_model::chat::Message;
use sled_model::drafter::Drafter;
use sled_model::ngram::NgramDrafter;
use sled_model::vocabulary::Vocab;
use sled_server::EngineStats;

use crate::args::PairBenchArgs;
use crate::output::write_json;
use sled_launch::args::ServeArgs;
use sled_launch::progress::bar;
use sled_launch::threads::{Processor, Threads, Work};
use sled_launch::{device, serve};

/// Sessions at once in the measurement of the server's overhead.
const SESSIONS: usize = 16;

/// Tokens that a session of the benchmark may have.
const CONTEXT: usize = 512;

const PROMPTS: [&str; 10] = [
    "Write a Python function that checks whether a string is a palindrome.",
    "Explain in simple terms what a hash map is.",
    "Translate to French: The weather is nice today and we are going to the beach.",
    "Write a SQL query that finds the three customers with the most orders.",
    "What is the difference between a process and a thread?",
    "Write a haiku about the sea.",
    "Summarise: The quick brown fox jumped over the lazy dog, ran into the forest, and was never seen again.",
    "Write a Rust function that reverses the words of a sentence.",
    "List five healthy breakfast ideas.",
    "Who wrote the theory of general relativity, and in which year was it published?",
];

#[derive(serde::Serialize)]
struct Results {
    command: String,
    target: String,
    draft: String,
    max_tokens: u32,
    temperature: f32,
    seed: u64,
    cores: u32,
    pair: Vec<PairResult>,
    overhead: Vec<OverheadResult>,
}

/// One device, one policy, all prompts.
#[derive(serde::Serialize)]
struct PairResult {
    policy: String,
    tokens: u64,
    rounds: u64,
    tokens_per_round: f64,
    drafted_per_round: f64,
    acceptance: f64,
    rows_per_token: f64,
    tokens_per_s: f64,
    bytes_up_per_round: f64,
    bytes_down_per_round: f64,
}

/// The server's time beside the forward pass; the devices draft with n-grams.
#[derive(serde::Serialize)]
struct OverheadResult {
    sessions: usize,
    steps: u64,
    rows: u64,
    rounds: u64,
    rounds_per_step: f64,
    forward_ms_per_step: f64,
    overhead_ms_per_step: f64,
    overhead_ms_per_round: f64,
    /// The part of the overhead that chooses tokens from logits.
    choosing_ms_per_round: f64,
}

/// Measures, prints a table, and writes the results.
pub async fn run(args: PairBenchArgs) -> anyhow::Result<()> {
    let bench = Bench::start(&args).await?;
    let mut pair = Vec::new();
    for policy in [Policy::Goodput, Policy::Fixed { k: 4 }, Policy::Confidence { threshold: 0.5, k_max: 8 }] {
        pair.push(bench.pair(policy).await?);
    }
    let overhead = vec![bench.overhead(1).await?, bench.overhead(SESSIONS).await?];
    print(&pair, &overhead);
    let results = Results {
        command: format!(
            "sled bench pair --target {} --draft {} -n {}",
            args.pair.target, args.pair.draft, args.max_tokens
        ),
        target: args.pair.target.clone(),
        draft: args.pair.draft.clone(),
        max_tokens: args.max_tokens,
        temperature: 0.0,
        seed: 0,
        cores: Processor::read().cores,
        pair,
        overhead,
    };
    write_json(&args.out, &results)?;
    let picture = args.out.with_extension("svg");
    plot::draw(&picture, &results.pair, &results.overhead)?;
    println!("\nwritten to {} and {}", args.out.display(), picture.display());
    Ok(())
}

struct Bench {
    meter: Meter,
    stats: Box<dyn Fn() -> EngineStats + Send>,
    draft: LlamaModel,
    vocab: Vocab,
    max_tokens: u32,
}

impl Bench {
    async fn start(args: &PairBenchArgs) -> anyhow::Result<Self> {
        let context = u32::try_from(CONTEXT * SESSIONS)?;
        let server = serve::start(&ServeArgs::local(&args.pair.target, context, u32::try_from(SESSIONS)?)).await?;
        let meter = Meter::start(server.address()?, std::time::Duration::ZERO).await?;
        let stats = Box::new(server.stats());
        tokio::spawn(server.run(std::future::pending()));
        let draft = device::load_draft_model(&args.pair.draft)?;
        let vocab = draft.vocab();
        Ok(Self { meter, stats, draft, vocab, max_tokens: args.max_tokens })
    }

    async fn open(&self, drafter: Box<dyn Drafter>, policy: Policy) -> anyhow::Result<Session> {
        let remote = RemoteServer::connect(&self.meter.url()).await?;
        let options = SessionOptions {
            drafter: Some((Drafts::own(drafter)?, policy)),
            ..SessionOptions::new("bench", self.vocab.fingerprint(), self.vocab.eog_tokens())
        };
        Ok(Session::open(&remote, options).await?)
    }

    fn prompt(&self, text: &str) -> anyhow::Result<Prompt> {
        let message = Message { role: "user".to_owned(), content: text.to_owned() };
        let tokens = device::chat_tokens(&self.vocab, &[message])?;
        Ok(Prompt { tokens, max_tokens: usize::try_from(self.max_tokens)?, ..Prompt::default() })
    }

    /// One device with the draft model, all prompts one after the other.
    async fn pair(&self, policy: Policy) -> anyhow::Result<PairResult> {
        let bar = bar(PROMPTS.len(), format!("{policy}, one device"));
        let drafter = device::model_drafter(&self.draft, CONTEXT, Threads::Auto.count(Work::Drafting).threads)?;
        let mut session = self.open(Box::new(drafter), policy).await?;
        let mut sum = Stats::default();
        let (mut tokens, mut seconds) = (0, 0.0);
        let (mut bytes, mut counted_rounds) = ((0, 0), 0);
        for text in PROMPTS {
            // The prompt travels once a turn and is no part of a round: count from the first verdict on.
            let mut from = None;
            let generation = session
                .generate(self.prompt(text)?, |_| {
                    from.get_or_insert_with(|| self.meter.bytes());
                    ControlFlow::Continue(())
                })
                .await?;
            if let Some((up, down)) = from {
                let (up_now, down_now) = self.meter.bytes();
                bytes = (bytes.0 + up_now - up, bytes.1 + down_now - down);
                counted_rounds += generation.stats.rounds - 1;
            }
            tokens += generation.tokens.len() as u64;
            seconds += generation.elapsed.as_secs_f64();
            sum.rounds += generation.stats.rounds;
            sum.draft_tokens += generation.stats.draft_tokens;
            sum.accepted_tokens += generation.stats.accepted_tokens;
            sum.server_rows += generation.stats.server_rows;
            bar.inc(1);
        }
        bar.finish_and_clear();
        let per_round = |count: u64| count as f64 / sum.rounds.max(1) as f64;
        Ok(PairResult {
            policy: policy.to_string(),
            tokens,
            rounds: sum.rounds,
            tokens_per_round: per_round(tokens),
            drafted_per_round: per_round(sum.draft_tokens),
            acceptance: sum.accepted_tokens as f64 / sum.draft_tokens.max(1) as f64,
            rows_per_token: sum.server_rows as f64 / tokens.max(1) as f64,
            tokens_per_s: tokens as f64 / seconds,
            bytes_up_per_round: bytes.0 as f64 / counted_rounds.max(1) as f64,
            bytes_down_per_round: bytes.1 as f64 / counted_rounds.max(1) as f64,
        })
    }

    /// `sessions` devices at once, a prompt each. They draft with n-grams: draft models would take the server's cores, and
    /// their time would count as the server's.
    async fn overhead(&self, sessions: usize) -> anyhow::Result<OverheadResult> {
        let bar = bar(sessions, format!("{sessions} sessions at once"));
        let policy = Policy::Confidence { threshold: 0.5, k_max: 8 };
        let mut devices = Vec::new();
        for text in PROMPTS.iter().cycle().take(sessions) {
            devices.push((self.open(Box::new(NgramDrafter::default()), policy).await?, self.prompt(text)?));
        }
        let before = (self.stats)();
        let mut running = tokio::task::JoinSet::new();
        for (mut session, prompt) in devices {
            running.spawn(async move { session.generate(prompt, |_| ControlFlow::Continue(())).await });
        }
        while let Some(generation) = running.join_next().await {
            generation??;
            bar.inc(1);
        }
        bar.finish_and_clear();
        let after = (self.stats)();
        let (steps, commits) = (after.steps - before.steps, after.commits - before.commits);
        let ms = |time: std::time::Duration, count: u64| 1e3 * time.as_secs_f64() / count.max(1) as f64;
        Ok(OverheadResult {
            sessions,
            steps,
            rows: after.rows - before.rows,
            rounds: commits,
            rounds_per_step: commits as f64 / steps.max(1) as f64,
            forward_ms_per_step: ms(after.forward - before.forward, steps),
            overhead_ms_per_step: ms(after.overhead - before.overhead, steps),
            overhead_ms_per_round: ms(after.overhead - before.overhead, commits),
            choosing_ms_per_round: ms(after.choosing - before.choosing, commits),
        })
    }
}

fn print(pair: &[PairResult], overhead: &[OverheadResult]) {
    println!("policy             tokens/round  drafted/round  accepted  rows/token  tokens/s  bytes up  bytes down");
    for r in pair {
        println!(
            "{:<18} {:>12.2} {:>14.2} {:>8.0}% {:>11.2} {:>9.1} {:>9.0} {:>11.0}",
            r.policy,
            r.tokens_per_round,
            r.drafted_per_round,
            100.0 * r.acceptance,
            r.rows_per_token,
            r.tokens_per_s,
            r.bytes_up_per_round,
            r.bytes_down_per_round
        );
    }
    println!("\nsessions   rounds/step  forward ms/step  overhead ms/step  overhead ms/round  of it choosing");
    for r in overhead {
        println!(
            "{:<9} {:>12.2} {:>16.1} {:>17.3} {:>18.3} {:>15.3}",
            r.sessions,
            r.rounds_per_step,
            r.forward_ms_per_step,
            r.overhead_ms_per_step,
            r.overhead_ms_per_round,
            r.choosing_ms_per_round
        );
    }
}
