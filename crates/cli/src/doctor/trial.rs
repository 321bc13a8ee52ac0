//! Short answers from the server, to see what its passes take and how many drafts it accepts.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use anyhow::Context;
use sled_core::Token;
use sled_core::device::{Ahead, Fallback, Prompt, Resilience};
use sled_core::policy::Policy;
use sled_device::{Drafts, Generation, RemoteServer, Session, SessionOptions};
use sled_model::drafter::Drafter;
use sled_wire::Totals;

use super::facts::Trial;
use sled_launch::device;

const PROMPT: &str = "Write a Python function that merges two sorted lists, and explain each line of it.";

/// Tokens of an answer without drafts, and of one with.
const PLAIN_TOKENS: usize = 16;
const DRAFTED_TOKENS: usize = 96;

/// Drafts in a block.
const BLOCK: u32 = 4;

/// An answer is cut off here, and given up there.
const LONGEST: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(60);

/// Has the server answer without drafts, and, if there is a drafter, with drafts.
pub async fn run(remote: &RemoteServer, drafter: Option<Box<dyn Drafter>>, done: impl Fn()) -> anyhow::Result<Trial> {
    let plain = answer(remote, None, PLAIN_TOKENS).await?;
    done();
    let mut trial = Trial {
        error: None,
        passes: plain.pass().into_iter().collect(),
        plain_tokens_per_s: Some(plain.generation.tokens.len() as f64 / plain.generation.elapsed.as_secs_f64()),
        block: BLOCK,
        ..Trial::default()
    };
    if let Some(drafter) = drafter {
        let drafted = answer(remote, Some(drafter), DRAFTED_TOKENS).await?;
        trial.drafted = drafted.generation.stats.draft_tokens;
        trial.accepted = drafted.generation.stats.accepted_tokens;
        trial.passes.extend(drafted.pass());
    }
    done();
    Ok(trial)
}

/// An answer, and what the server's engine had done before and after.
struct Answer {
    generation: Generation,
    before: Totals,
    after: Totals,
}

impl Answer {
    /// `[rows, milliseconds]` of the server's passes meanwhile, on average.
    fn pass(&self) -> Option<[f64; 2]> {
        let steps = self.after.steps.checked_sub(self.before.steps).filter(|&steps| steps > 0)? as f64;
        let rows = self.after.rows.saturating_sub(self.before.rows) as f64;
        let time = self.after.forward.saturating_sub(self.before.forward);
        Some([rows / steps, time.as_secs_f64() * 1e3 / steps])
    }
}

async fn answer(remote: &RemoteServer, drafter: Option<Box<dyn Drafter>>, tokens: usize) -> anyhow::Result<Answer> {
    let vocab = device::vocabularies()?.obtain(remote).await?;
    let context = remote.description().bounds.context;
    let text = device::prompt_tokens(&vocab, PROMPT, vocab.chat_template().is_none(), context)?;
    let drafts = drafter.map(Drafts::own).transpose()?;
    let options = SessionOptions {
        drafter: drafts.map(|drafts| (drafts, Policy::Fixed { k: BLOCK as usize })),
        // Block after block: what is drafted ahead is neither accepted nor rejected.
        ahead: Ahead::Nothing,
        // A server on a crowded machine is slow, not lost; how long it is waited for is decided below.
        resilience: Resilience { fallback: Fallback::Wait, ..Resilience::default() },
        ..SessionOptions::new("sled doctor", vocab.fingerprint(), vocab.eog_tokens())
    };
    let work = async {
        let mut session = Session::open(remote, options).await?;
        // Reading the prompt is not what a token takes.
        generate(&mut session, text, 1).await?;
        let before = remote.sessions().await?.totals;
        let so_far = session.tokens().to_vec();
        let generation = generate(&mut session, so_far, tokens).await?;
        Ok(Answer { generation, before, after: remote.sessions().await?.totals })
    };
    tokio::time::timeout(PATIENCE, work)
        .await
        .with_context(|| format!("the server has not answered within {} s; see `sled ps`", PATIENCE.as_secs()))?
}

async fn generate(session: &mut Session, text: Vec<Token>, max_tokens: usize) -> anyhow::Result<Generation> {
    let began = Instant::now();
    let prompt = Prompt { tokens: text, max_tokens, ..Prompt::default() };
    let go_on = |_| if began.elapsed() < LONGEST { ControlFlow::Continue(()) } else { ControlFlow::Break(()) };
    Ok(session.generate(prompt, go_on).await?)
}
