//! What devices and the server say to each other.
//!
//! Messages are addressed by position and safe to repeat, lose or reorder: each names the turn and the prefix that it builds
//! on. What does not fit the receiver's state is answered with what the receiver has, or ignored; it is never guessed at.

use std::time::Duration;

use crate::sampler::{Logprobs, SamplingParams};
use crate::sequence::Digest;
use crate::{Position, Token};

/// Counts the prompts of a session: a chat's second question is turn 2. Messages of an earlier turn are stale.
pub type Turn = u32;

/// A device's message to the server.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// The text to continue.
    Context(ContextUpdate),
    /// Tokens to verify, or leave to decode without any.
    Draft(DraftBlock),
    /// The device has what it wants of this turn: a stop string was met, or its user has gone.
    Stop(Turn),
}

/// "From position `from` on, the sequence is `tokens`": a prompt, or what the server has lost of it.
#[derive(Clone, Debug, PartialEq)]
pub struct ContextUpdate {
    /// The turn that this text belongs to.
    pub turn: Turn,
    /// The position of the first of `tokens`.
    pub from: Position,
    /// The prefix of length `from` that `tokens` continue.
    pub built_on: Digest,
    /// The tokens; committed ones of this turn may follow the prompt.
    pub tokens: Vec<Token>,
    /// How many tokens from position 0 on are the prompt of this turn.
    pub prompt_len: usize,
    /// The answer is complete, at the latest, with this many tokens from position 0 on. The server may decode up to there
    /// without being asked.
    pub limit: usize,
    /// How the tokens of this turn are chosen.
    pub sampling: SamplingParams,
    /// Whether commits are to have the target's log probabilities, and those of how many most likely tokens (at most
    /// [`Logprobs::MAX_TOP`]) besides the chosen one.
    pub logprobs: Option<u8>,
    /// Names the request in the logs of device and server.
    pub request_id: Option<String>,
}

/// "From position `from` on, I propose `tokens`." Without tokens it asks for one plain step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DraftBlock {
    /// The turn that this block belongs to.
    pub turn: Turn,
    /// The position of the first of `tokens`.
    pub from: Position,
    /// The prefix of length `from` that `tokens` continue.
    pub built_on: Digest,
    /// The proposal `d_1..d_k`; may be empty.
    pub tokens: Vec<Token>,
    /// The server may decode by itself, unasked, while fewer than this many tokens are committed; 0 asks for nothing. It goes no
    /// further than [`MAX_UNHEARD`] tokens without a word from the device.
    pub until: usize,
}

/// The most tokens that a server commits after a device last said anything, so that nothing is decoded for a device that is not
/// there any more. Who lets the server decode says so again when half of them have come.
pub const MAX_UNHEARD: usize = 256;

/// The most tokens of a draft block that a device sends and a server accepts.
pub const MAX_BLOCK: usize = 64;

/// The server's message to a device.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// Tokens that the target decided.
    Commit(Commit),
    /// "I lack what your message builds on: send the context again from this position."
    Resend {
        /// The turn that the reply is about.
        turn: Turn,
        /// The first position that the server lacks.
        from: Position,
    },
    /// "I have your block, and have not come to it." The answer to a block that is repeated while it waits.
    Pending {
        /// The turn that the reply is about.
        turn: Turn,
    },
    /// The server cannot go on with this session, but another server can, or this one later; one sentence for the user.
    Closing(String),
    /// The session cannot go on anywhere; one sentence for the user.
    Failed(String),
}

impl Reply {
    /// About how much memory it takes while it waits to be sent, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let held = match self {
            Self::Commit(commit) => {
                let logprobs = commit.logprobs.iter().map(|of| size_of::<Logprobs>() + size_of_val(&*of.top));
                size_of_val(&*commit.tokens) + logprobs.sum::<usize>()
            }
            Self::Resend { .. } | Self::Pending { .. } => 0,
            Self::Closing(reason) | Self::Failed(reason) => reason.len(),
        };
        size_of::<Self>() + held
    }

    /// Whether it tells again what was told before, because the device asked again: whoever is told a later one needs it no more.
    #[must_use]
    pub fn is_repeated(&self) -> bool {
        matches!(self, Self::Commit(Commit { rows: 0, .. }))
    }
}

/// "From position `from` on: `accepted` of your tokens as you sent them, then `tokens` of mine."
///
/// The verdict on a block has one token of the server's (the correction or the bonus), or none if an accepted token ended
/// the text. The answer to a repeated block may have more. May come unasked.
#[derive(Clone, Debug, PartialEq)]
pub struct Commit {
    /// The turn that this commit belongs to.
    pub turn: Turn,
    /// Where the answered block began.
    pub from: Position,
    /// How many of the block's tokens the target chose too.
    pub accepted: usize,
    /// The target's tokens after the accepted ones.
    pub tokens: Vec<Token>,
    /// The whole sequence up to and including `tokens`: by this the device knows that it understood the commit rightly.
    pub digest: Digest,
    /// How many rows of forward passes the server spent for this commit (prompt evaluation not counted).
    pub rows: u32,
    /// Whether it answers no block: the server decoded by itself.
    pub unasked: bool,
    /// The target's log probabilities, if they were asked for: those of the last tokens that this commits. What the device
    /// sent as text has none.
    pub logprobs: Vec<Logprobs>,
    /// How busy the server is.
    pub load: Load,
}

impl Commit {
    /// The committed length after this commit.
    #[must_use]
    pub fn end(&self) -> Position {
        self.from.saturating_add(self.accepted).saturating_add(self.tokens.len())
    }

    /// The target's log probabilities at `position`, if the commit tells them.
    #[must_use]
    pub fn logprobs_at(&self, position: Position) -> Option<&Logprobs> {
        let first = self.end().checked_sub(self.logprobs.len())?;
        self.logprobs.get(position.checked_sub(first)?)
    }
}

/// How busy the server is, so that devices can adapt their draft lengths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// How long the block waited before its forward pass began.
    pub queue: Duration,
    /// How long that pass took.
    pub step: Duration,
    /// What one more row adds to a pass.
    pub row: Duration,
    /// How many sessions shared the pass: each of them waits for every row of it.
    pub sharing: u32,
    /// What one more row costs, in thousandths of a token: so much is not committed, for anybody, because of it.
    pub price: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_weighs_what_it_holds() {
        let commit = |tokens: usize, top: usize| {
            let logprobs = vec![Logprobs { chosen: 0.0, top: vec![(0, 0.0); top] }; tokens];
            let (digest, tokens) = (Digest::EMPTY, vec![0; tokens]);
            let load = Load::default();
            Reply::Commit(Commit {
                turn: 1,
                from: 0,
                accepted: 0,
                tokens,
                digest,
                rows: 0,
                unasked: false,
                logprobs,
                load,
            })
        };
        let empty = Reply::Pending { turn: 1 }.bytes();
        assert_eq!(Reply::Closing("bye".to_owned()).bytes(), empty + 3);
        assert_eq!(commit(0, 0).bytes(), empty);
        assert_eq!(commit(1000, 20).bytes() - commit(1000, 0).bytes(), 1000 * 20 * 8);
        assert!(commit(1, 0).is_repeated() && !Reply::Pending { turn: 1 }.is_repeated());
    }
}
