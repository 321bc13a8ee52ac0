//! What the API asks of whatever generates behind it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sled_core::device::{FinishReason, Provenance, Stats};
pub use sled_core::sampler::Logprobs;
use sled_core::sampler::SamplingParams;
use sled_core::{Position, Token};
use sled_model::grammar::Compiler;
use sled_model::vocabulary::Vocab;
use tokio::sync::mpsc;

/// Something that continues texts: a device, or a server.
pub trait Backend: Send + Sync + 'static {
    /// What it serves.
    fn model(&self) -> &ModelCard;

    /// The vocabulary of the model, with its chat template.
    fn vocab(&self) -> &Vocab;

    /// Compiles grammars for that vocabulary.
    fn compiler(&self) -> &Arc<Compiler>;

    /// Takes a job, or says at once why not. Dropping the returned stream cancels the job, on every machine that works on it.
    ///
    /// # Errors
    /// If the job cannot be done here, or there are too many already.
    fn start(&self, job: Job) -> Result<Events, Refusal>;

    /// Whether it has figures of its own about all it generates, whoever asked: then the API's are not listed beside them.
    fn counts_requests(&self) -> bool {
        false
    }

    /// Whether it can be expected to answer; one sentence if not.
    ///
    /// # Errors
    /// If it cannot.
    fn health(&self) -> Result<(), String> {
        Ok(())
    }
}

/// What a job brings forth, in order: any number of tokens and notices, then [`Event::Done`] or [`Event::Failed`].
///
/// Where a stop string is met the receiver is closed, not dropped: the job is to end, and what it took is still of interest.
/// A backend that keeps a permit for its last event (`Sender::reserve_owned`) can send [`Event::Done`] even so.
pub type Events = mpsc::Receiver<Event>;

/// The model that a backend serves.
#[derive(Clone, Debug)]
pub struct ModelCard {
    /// The name that requests call it by.
    pub id: String,
    /// What it is, for people.
    pub description: String,
    /// The most tokens that prompt and answer may have together.
    pub context: usize,
    /// What drafts, on a device.
    pub drafter: Option<DrafterCard>,
    /// The ways of generating that a job may choose from; the first is the default.
    pub modes: Vec<Mode>,
}

/// What drafts on a device.
#[derive(Clone, Debug)]
pub struct DrafterCard {
    /// The name that the user gave it by.
    pub name: String,
    /// What it is, for people.
    pub description: String,
}

/// Which of the two models answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// The device drafts and the server verifies.
    #[default]
    Sled,
    /// The draft model alone; no token is the target's.
    Device,
    /// The server alone decodes.
    Server,
}

/// A text to be continued.
#[derive(Clone, Debug)]
pub struct Job {
    /// Names the request in the logs of device and server.
    pub request_id: String,
    /// The whole text so far, at least one token.
    pub prompt: Vec<Token>,
    /// The most tokens to generate, at least one.
    pub max_tokens: usize,
    /// How tokens are chosen; its grammar, if it has one, is compiled.
    pub sampling: SamplingParams,
    /// Whether the target's log probabilities are wanted, and those of how many most likely tokens besides the chosen one.
    pub logprobs: Option<u8>,
    /// Who answers.
    pub mode: Mode,
    /// Who asks, if that is known: what has been read for others is not to be told to them.
    pub client: Option<Client>,
}

/// Who is at the other end of a request: an extension of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Client {
    /// Where the connection comes from.
    pub address: SocketAddr,
    /// Which connection of this process it is; no two have the same number.
    pub connection: u64,
}

impl Client {
    /// Who has just connected from `address`.
    #[must_use]
    pub fn connected_from(address: SocketAddr) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self { address, connection: NEXT.fetch_add(1, Ordering::Relaxed) }
    }
}

/// What happens to a job.
#[derive(Clone, Debug)]
pub enum Event {
    /// The job has left the queue; a backend without a queue need not say so.
    Started,
    /// The next token.
    Token(Generated),
    /// Something to tell the user, in one sentence: the server is lost, or back.
    Notice(String),
    /// The answer is complete.
    Done(Box<Outcome>),
    /// The answer stays incomplete; one sentence for the user.
    Failed(String),
}

/// A token of an answer.
#[derive(Clone, Debug)]
pub struct Generated {
    /// The token.
    pub token: Token,
    /// Where it stands in the text.
    pub position: Position,
    /// Who proposed it, and whether the target decided it.
    pub provenance: Provenance,
    /// Whether it is the first that a verdict brought.
    pub opens_verdict: bool,
    /// The target's log probabilities here, if they were asked for and the target chose the token.
    pub logprobs: Option<Logprobs>,
}

/// How a job ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Why it ended.
    pub reason: FinishReason,
    /// What it took.
    pub stats: Stats,
    /// How many tokens of the prompt were in a cache already.
    pub cached: usize,
    /// How long the server takes to answer a block, as last measured; `None` without drafts or without a server.
    pub round_trip: Option<Duration>,
    /// How busy the server said it is, as last heard.
    pub load: Option<sled_core::message::Load>,
}

/// Why a job is not taken; each message is one sentence for the user.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There are too many jobs; one could be taken after this time.
    #[error("all places are taken; try again in {} s", .after.as_secs().max(1))]
    Busy {
        /// When to try again.
        after: Duration,
    },
    /// It can never be taken.
    #[error("{0}")]
    Invalid(String),
    /// Nothing can be taken any more.
    #[error("this server is shutting down; send the request to another")]
    Closing,
}
