//! The server's side: sessions, acceptance, and what the next forward pass consists of.
//!
//! [`Server`] is a state machine. Requests go in; [`Server::plan`] hands out the next [`Step`] when the engine is free; the
//! engine's logits come back through [`Server::complete`], which returns what to tell the devices. It runs no model and
//! knows no clock: `now` is the time since any fixed moment.
//!
//! | file | what it decides |
//! |---|---|
//! | `session.rs` | what a message means for one session: new, repeated, stale or ahead |
//! | `batch.rs` | which rows the next pass has, and what its logits commit |
//! | `cost.rs` | what a row costs, from the passes so far |

mod batch;
mod cost;
mod session;

use std::collections::BTreeMap;
use std::time::Duration;

pub use batch::Step;
use cost::StepCost;
use session::Session;

use crate::Token;
use crate::message::{Reply, Request};
use crate::step::{CacheOp, SequenceId};

/// Names a session within one run of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// What the engine can hold and do at once, and how the server uses it.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Tokens in the vocabulary.
    pub vocab_size: usize,
    /// Tokens that the KV cache holds, over all sequences.
    pub cells: usize,
    /// Sequences that the KV cache tells apart: the most sessions at once.
    pub sequences: usize,
    /// Rows that one forward pass may have.
    pub rows: usize,
    /// The longest that one session may get, in tokens.
    pub context: usize,
    /// Prompt rows that one forward pass may have, so that a long prompt delays nobody's verification by more than these.
    pub prefill_rows: usize,
    /// The tokens that end a generation.
    pub end_of_generation: Vec<Token>,
}

/// Why a session is not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Every sequence of the KV cache is taken.
    #[error(
        "the server is busy with {0} sessions, which is all it can hold; try again later, or start it with a larger -np"
    )]
    Busy(usize),
}

/// All sessions of one server.
#[derive(Debug)]
pub struct Server {
    config: ServerConfig,
    sessions: BTreeMap<SessionId, Session>,
    next_id: u64,
    free_sequences: Vec<SequenceId>,
    /// What closed sessions left in the cache, to be removed before the next pass.
    closing: Vec<CacheOp>,
    cost: StepCost,
    /// Whether a step was handed out and has not come back.
    running: bool,
}

impl Server {
    /// A server without sessions.
    #[must_use]
    pub fn new(config: ServerConfig) -> Self {
        let free_sequences = (0..SequenceId::try_from(config.sequences).unwrap_or(SequenceId::MAX)).rev().collect();
        Self {
            config,
            sessions: BTreeMap::new(),
            next_id: 0,
            free_sequences,
            closing: Vec::new(),
            cost: StepCost::default(),
            running: false,
        }
    }

    /// How many sessions are open.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// Opens a session.
    ///
    /// # Errors
    /// If every sequence of the KV cache is taken.
    pub fn open(&mut self) -> Result<SessionId, OpenError> {
        let sequence = self.free_sequences.pop().ok_or(OpenError::Busy(self.config.sequences))?;
        let id = SessionId(self.next_id);
        self.next_id += 1;
        self.sessions.insert(id, Session::new(sequence));
        Ok(id)
    }

    /// Closes a session and frees its cache. Closing it twice does nothing.
    pub fn close(&mut self, id: SessionId) {
        if let Some(session) = self.sessions.remove(&id) {
            self.closing.push(CacheOp::Truncate { sequence: session.cache.sequence, len: 0 });
            self.free_sequences.push(session.cache.sequence);
        }
    }

    /// Takes a device's message and returns the answer, if it has one that needs no forward pass.
    pub fn request(&mut self, now: Duration, id: SessionId, request: Request) -> Option<Reply> {
        let session = self.sessions.get_mut(&id)?;
        match request {
            Request::Context(update) => session.on_context(&self.config, now, update),
            Request::Draft(block) => session.on_draft(&self.config, now, block),
        }
    }
}
