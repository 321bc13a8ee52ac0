//! What a device is given: its limits, what it does when nobody answers, and prompts.

use std::sync::Arc;
use std::time::Duration;

use super::Tuning;
use crate::Token;
use crate::message::{ContextUpdate, MAX_BLOCK, Turn};
use crate::policy::Policy;
use crate::sampler::SamplingParams;
use crate::sequence::Digest;

/// What a device is, for as long as a session lasts.
#[derive(Clone, Debug)]
pub struct DeviceConfig {
    /// How drafts are made; `None` leaves the decoding to the server.
    pub policy: Option<Policy>,
    /// What is done while a verdict is under way.
    pub ahead: Ahead,
    /// The longest that the session may get, in tokens, whatever server it is connected to.
    pub context: usize,
    /// The longest block that is sent to any server.
    pub max_draft: usize,
    /// The tokens that end a generation.
    pub end_of_generation: Arc<[Token]>,
    /// What is done when the server cannot be reached.
    pub resilience: Resilience,
    /// The numbers that its decisions rest on.
    pub tuning: Tuning,
}

impl Default for DeviceConfig {
    /// A device that drafts, for texts of any length.
    fn default() -> Self {
        Self {
            policy: Some(Policy::default()),
            ahead: Ahead::default(),
            context: usize::MAX,
            max_draft: MAX_BLOCK,
            end_of_generation: Arc::from([]),
            resilience: Resilience::default(),
            tuning: Tuning::DEFAULT,
        }
    }
}

/// What a server takes of a device: each has its own bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The longest that a text may get there, in tokens.
    pub context: usize,
    /// The longest block that it takes, in tokens.
    pub max_draft: usize,
}

/// What a device does while a verdict is under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ahead {
    /// Nothing: rounds are synchronous.
    Nothing,
    /// It drafts on, as if all it sent were accepted.
    Drafts,
    /// It drafts on, and sends further blocks.
    #[default]
    Blocks,
}

/// What a device does when its server cannot be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resilience {
    /// How many servers there are to try, one after the other. Without any the device decodes alone, from the first token on.
    pub servers: usize,
    /// The longest that a server is given to answer before it is asked again.
    pub timeout: Duration,
    /// What happens after `fallback_after` failures.
    pub fallback: Fallback,
    /// How many failures in a row (a timeout, a broken connection, a refused one, a server that is busy for as long as a timeout) are
    /// borne before `fallback`.
    pub fallback_after: u32,
    /// Where the jitter of the delays between attempts comes from.
    pub seed: u64,
}

impl Default for Resilience {
    fn default() -> Self {
        let timeout = Duration::from_secs(10);
        Self { servers: 1, timeout, fallback: Fallback::Release, fallback_after: 3, seed: 0 }
    }
}

/// What happens when a server cannot be reached for long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fallback {
    /// The drafts are shown as provisional, and the device decodes alone until a server is back.
    #[default]
    Release,
    /// The device waits, as long as it takes.
    Wait,
    /// The generation fails.
    Error,
}

/// What to continue, and how.
#[derive(Clone, Debug, Default)]
pub struct Prompt {
    /// The whole text so far, in tokens; earlier turns included.
    pub tokens: Vec<Token>,
    /// The most tokens to generate.
    pub max_tokens: usize,
    /// How tokens are chosen.
    pub sampling: SamplingParams,
    /// Whether the target's log probabilities are wanted, and those of how many most likely tokens (at most
    /// [`MAX_TOP`](crate::sampler::Logprobs::MAX_TOP)) besides the chosen one.
    pub logprobs: Option<u8>,
    /// Names the request in the logs of device and server: at most 256 printable bytes.
    pub request_id: Option<String>,
}

impl Prompt {
    /// The message that tells a server all of it, as turn `turn` of a session: for those who need no device between.
    #[must_use]
    pub fn into_context(self, turn: Turn) -> ContextUpdate {
        let prompt_len = self.tokens.len();
        ContextUpdate {
            turn,
            from: 0,
            built_on: Digest::EMPTY,
            tokens: self.tokens,
            prompt_len,
            limit: prompt_len.saturating_add(self.max_tokens),
            sampling: self.sampling,
            logprobs: self.logprobs,
            request_id: self.request_id,
        }
    }
}
