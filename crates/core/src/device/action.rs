//! What a device hands out: things for the shell to do, tokens, and what they took.

use std::time::Duration;

use crate::acceptance::AcceptedAt;
use crate::message::{Request, Turn};
use crate::sampler::Logprobs;
use crate::sequence::Digest;
use crate::{Position, Token};

/// Names the state that a draft was asked for in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    pub(super) turn: Turn,
    pub(super) digest: Digest,
}

/// Something for the shell to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Connect to the server of this index, and open a session; then [`on_connected`](super::Device::on_connected) or
    /// [`on_disconnected`](super::Device::on_disconnected).
    Connect(usize),
    /// Close the connection, or give up the attempt; nothing of it is to arrive any more.
    Disconnect,
    /// Send this to the server.
    Send(Request),
    /// Draft the token after [`context`](super::Device::context) and hand it to [`on_draft`](super::Device::on_draft).
    Draft(Ticket),
    /// A token of the answer; show it.
    Emit(Emitted),
    /// Tell the user, once.
    Notify(Notice),
    /// The generation is over.
    Finish(FinishReason),
}

/// A token of the answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Emitted {
    /// Where it stands.
    pub position: Position,
    /// The token.
    pub token: Token,
    /// Who proposed it, and whether the target decided it.
    pub provenance: Provenance,
    /// Whether it is the first that a verdict brought.
    pub opens_verdict: bool,
    /// The target's log probabilities here, if they were asked for and the target decided the token.
    pub logprobs: Option<Logprobs>,
}

/// How a token came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provenance {
    /// The device drafted it, and the target chose the same.
    Accepted,
    /// The target chose it instead of the device's draft.
    Corrected,
    /// The target chose it where the device had sent no draft.
    Bonus,
    /// The device drafted it, and no target has seen it: no server could be reached. It is not committed.
    Provisional,
}

/// What the user is to know about the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The server cannot be reached; the reason, in a few words.
    Lost(String),
    /// The server takes no more sessions for now; one sentence without a full stop.
    Busy(String),
    /// A server answers again.
    Back {
        /// Which one.
        server: usize,
    },
}

/// Why a generation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// A token that ends a generation, or a stop string.
    Stop,
    /// The limit on tokens, or the end of the context.
    Length,
    /// The session cannot go on; one sentence for the user.
    Failed(String),
}

/// What a generation took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Verdicts received.
    pub rounds: u64,
    /// Draft tokens sent; what is sent again counts once.
    pub draft_tokens: u64,
    /// Draft tokens that became committed tokens.
    pub accepted_tokens: u64,
    /// Verdicts on at least one draft token.
    pub drafts: u64,
    /// Accepted draft tokens by their place in a verdict.
    pub accepted_at: AcceptedAt,
    /// Tokens that no target has seen.
    pub provisional_tokens: u64,
    /// Rows that the server spent on verdicts.
    pub server_rows: u64,
    /// Draft tokens made while a verdict was under way that came to stand in the text.
    pub ahead_kept: u64,
    /// Those that did not.
    pub ahead_discarded: u64,
    /// Times that a connection was lost.
    pub disconnections: u64,
    /// From the prompt to the first token.
    pub time_to_first_token: Option<Duration>,
}
