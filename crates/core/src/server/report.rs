//! What a server tells of itself and of its sessions.

use std::time::Duration;

use super::{SessionId, Tally};
use crate::acceptance::AcceptedAt;

/// What a session is doing, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionStatus {
    /// Which session.
    pub id: SessionId,
    /// Tokens of its text.
    pub tokens: usize,
    /// How many of them the KV cache holds.
    pub cached: usize,
    /// What it has had so far.
    pub tally: Tally,
    /// What it is doing.
    pub activity: Activity,
}

/// What a session is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// Its answer is complete, it has no prompt yet, or nothing is heard of its device; so long since.
    Idle(Duration),
    /// Its text is being read, or waits to be; so long since.
    Reading(Duration),
    /// A block of it waits for its verdict; so long since.
    Waiting(Duration),
    /// Its device is drafting.
    Drafting,
}

impl Activity {
    /// It in a word, for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Idle(_) => "idle",
            Self::Reading(_) => "reading",
            Self::Waiting(_) => "waiting",
            Self::Drafting => "drafting",
        }
    }

    /// For how long; zero for drafting, since the server does not know when that began.
    #[must_use]
    pub fn since(self) -> Duration {
        match self {
            Self::Idle(since) | Self::Reading(since) | Self::Waiting(since) => since,
            Self::Drafting => Duration::ZERO,
        }
    }
}

/// What the answer to a request took that has a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Whose it was.
    pub session: SessionId,
    /// The name of the request.
    pub request: String,
    /// Tokens of its prompt.
    pub prompt: usize,
    /// Tokens committed, drafts verified and drafts accepted for it.
    pub tally: Tally,
    /// From the prompt to the last token, or to when it was given up.
    pub took: Duration,
}

/// What all sessions have had so far, closed ones included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Tokens committed.
    pub committed: u64,
    /// Verdicts on at least one draft.
    pub drafts: u64,
    /// Drafts verified.
    pub drafted: u64,
    /// Accepted drafts.
    pub accepted: u64,
    /// Accepted drafts by their place among the verified ones.
    pub accepted_at: AcceptedAt,
}

impl Totals {
    pub(super) fn add(&mut self, committed: usize, drafted: usize, accepted: usize) {
        self.committed += committed as u64;
        self.drafts += u64::from(drafted > 0);
        self.drafted += drafted as u64;
        self.accepted += accepted as u64;
        self.accepted_at.add(accepted);
    }
}

/// How many sessions want something of the engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// Their text is being read, or waits to be.
    pub reading: usize,
    /// A block of theirs waits for its verdict, or they asked for plain decoding.
    pub waiting: usize,
    /// Their devices are drafting.
    pub drafting: usize,
}
