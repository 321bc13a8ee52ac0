//! What is told at the end of an answer: usage, and what SLED did for it.

use std::collections::BTreeMap;

use serde::Serialize;
use sled_core::device::Provenance;
use utoipa::ToSchema;

use super::options::mode_name;
use crate::generation::{End, Shown};

/// How many tokens an answer took.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Usage {
    /// Tokens of the prompt.
    prompt_tokens: usize,
    /// Tokens of the answer, with one that ended it.
    completion_tokens: usize,
    /// Both.
    total_tokens: usize,
    /// More on the prompt's.
    prompt_tokens_details: PromptDetails,
}

/// More on a prompt's tokens.
#[derive(Debug, Serialize, ToSchema)]
struct PromptDetails {
    /// How many were in a cache already.
    cached_tokens: usize,
}

impl Usage {
    pub(crate) fn of(end: &End) -> Self {
        Self {
            prompt_tokens: end.prompt_tokens,
            completion_tokens: end.tokens,
            total_tokens: end.prompt_tokens + end.tokens,
            prompt_tokens_details: PromptDetails { cached_tokens: cached(end) },
        }
    }
}

fn cached(end: &End) -> usize {
    end.outcome.as_ref().map_or(0, |outcome| outcome.cached)
}

/// vLLM's figures of a request; experimental there, so that they are nowhere but here.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RequestMetrics {
    /// What speculation brought; left out where there was none.
    speculative_decoding: SpeculativeDecoding,
}

/// What speculation brought.
#[derive(Debug, Serialize, ToSchema)]
struct SpeculativeDecoding {
    /// Tokens a verdict: 1 + accepted / verdicts.
    mean_acceptance_length: f64,
    /// Accepted / proposed tokens.
    draft_acceptance_rate: f64,
    /// How many verdicts accepted so many proposed tokens, by that number; numbers that none accepted are left out.
    acceptance_histogram: BTreeMap<usize, u64>,
    /// Verdicts on at least one proposed token.
    num_spec_steps: u64,
    /// Proposed tokens that became committed.
    num_accepted_draft_tokens: u64,
    /// Proposed tokens.
    num_draft_tokens: u64,
}

impl RequestMetrics {
    #[allow(clippy::cast_precision_loss)]
    pub(crate) fn of(end: &End) -> Option<Self> {
        let drafted = end.outcome.as_ref()?.stats.draft_tokens;
        let (steps, accepted) = (end.acceptance.drafts, end.acceptance.accepted);
        (steps > 0 && drafted > 0).then(|| Self {
            speculative_decoding: SpeculativeDecoding {
                mean_acceptance_length: 1.0 + accepted as f64 / steps as f64,
                draft_acceptance_rate: accepted as f64 / drafted as f64,
                acceptance_histogram: histogram(steps, end.acceptance.accepted_at.counts()),
                num_spec_steps: steps,
                num_accepted_draft_tokens: accepted,
                num_draft_tokens: drafted,
            },
        })
    }
}

/// How many of `verdicts` accepted exactly so many drafts, given how many accepted at least one, two, and so on.
fn histogram(verdicts: u64, at_least: &[u64]) -> BTreeMap<usize, u64> {
    let from = std::iter::once(verdicts).chain(at_least.iter().copied());
    let to = at_least.iter().copied().chain([0]);
    let exactly = from.zip(to).map(|(from, to)| from.saturating_sub(to));
    exactly.enumerate().filter(|&(_, count)| count > 0).collect()
}

/// A token and how it came about.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SledToken {
    /// Its part of the text.
    text: String,
    /// `accepted`, `corrected`, `bonus` or `provisional`.
    provenance: &'static str,
}

impl From<&Shown> for SledToken {
    fn from(shown: &Shown) -> Self {
        let provenance = match shown.generated.provenance {
            Provenance::Accepted => "accepted",
            Provenance::Corrected => "corrected",
            Provenance::Bonus => "bonus",
            Provenance::Provisional => "provisional",
        };
        Self { text: shown.text.clone(), provenance }
    }
}

/// What SLED tells of a chunk, if `provenance` was asked for.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SledChunk {
    /// The tokens of this chunk. Their texts together are the answer.
    pub(crate) tokens: Vec<SledToken>,
    /// A sentence for the user: the server is lost, or back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) notice: Option<String>,
}

/// What SLED tells at the end of an answer.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SledSummary {
    /// Which tokens are the drafter's own, seen by no target; counted from 0.
    provisional: Vec<usize>,
    /// How many they are.
    provisional_tokens: usize,
    /// Verdicts; null if the generation was cut off before it could tell.
    rounds: Option<u64>,
    /// Proposed tokens; null as `rounds`.
    draft_tokens: Option<u64>,
    /// Proposed tokens that became committed.
    accepted_tokens: u64,
    /// Tokens a second, once the first was there.
    tokens_per_s: Option<f64>,
    /// Seconds from the request to the first token.
    ttft_s: Option<f64>,
    /// What the server takes to answer, in milliseconds.
    round_trip_ms: Option<f64>,
    /// How many tokens of the prompt were in a cache already.
    cached_prompt_tokens: usize,
    /// Who answered.
    mode: &'static str,
    /// The seed that gives the same answer again.
    seed: u64,
    /// How busy the server was.
    load: Option<SledLoad>,
    /// All tokens of the answer, if `provenance` was asked for and it was not streamed.
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens: Option<Vec<SledToken>>,
}

/// How busy a server is.
#[derive(Debug, Serialize, ToSchema)]
struct SledLoad {
    /// What a block waited for its pass, in milliseconds.
    queue_ms: f64,
    /// What the pass took.
    step_ms: f64,
    /// What one more row adds to a pass.
    row_ms: f64,
    /// How many sessions shared the pass.
    sharing: u32,
    /// What one more row costs, in tokens that others do without.
    price: f64,
}

impl SledSummary {
    pub(crate) fn of(end: &End) -> Self {
        let stats = end.outcome.as_ref().map(|outcome| outcome.stats);
        let ms = |duration: std::time::Duration| duration.as_secs_f64() * 1e3;
        let load = end.outcome.as_ref().and_then(|outcome| outcome.load).map(|load| SledLoad {
            queue_ms: ms(load.queue),
            step_ms: ms(load.step),
            row_ms: ms(load.row),
            sharing: load.sharing,
            price: f64::from(load.price) / 1e3,
        });
        Self {
            provisional_tokens: end.provisional.len(),
            provisional: end.provisional.clone(),
            rounds: stats.map(|stats| stats.rounds),
            draft_tokens: stats.map(|stats| stats.draft_tokens),
            accepted_tokens: end.acceptance.accepted,
            tokens_per_s: end.rate,
            ttft_s: end.first.map(|first| first.as_secs_f64()),
            round_trip_ms: end.outcome.as_ref().and_then(|outcome| outcome.round_trip).map(ms),
            cached_prompt_tokens: cached(end),
            mode: mode_name(end.mode),
            seed: end.seed,
            load,
            tokens: None,
        }
    }

    /// With the tokens of the answer.
    pub(crate) fn with(self, tokens: Option<Vec<SledToken>>) -> Self {
        Self { tokens, ..self }
    }
}
