//! A span for each request of a session: from its prompt to its last token.

use std::sync::{Arc, Mutex, PoisonError};

use sled_core::Token;
use sled_core::message::{Commit, Reply, Request, Turn};
use sled_core::server::SessionId;
use tracing::{Span, field};

/// The request of one session that is being answered, if there is one.
pub(crate) struct Requests {
    session: u64,
    device: Arc<str>,
    end_of_generation: Arc<[Token]>,
    open: Mutex<Option<Open>>,
}

struct Open {
    span: Span,
    turn: Turn,
    prompt_len: usize,
    limit: usize,
    /// Verdicts, drafts accepted by them, and rows of passes.
    rounds: u64,
    accepted: usize,
    rows: u64,
}

impl Requests {
    pub(crate) fn new(session: SessionId, device: &str, end_of_generation: &[Token]) -> Self {
        Self {
            session: session.0,
            device: device.into(),
            end_of_generation: end_of_generation.into(),
            open: Mutex::new(None),
        }
    }

    /// The device has sent this.
    pub(crate) fn on_request(&self, request: &Request) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        match request {
            Request::Context(context) if open.as_ref().is_none_or(|open| open.turn != context.turn) => {
                let (turn, prompt_len, limit) = (context.turn, context.prompt_len, context.limit);
                let span = tracing::info_span!(
                    "request",
                    session = self.session,
                    device = &*self.device,
                    turn,
                    request = context.request_id,
                    prompt_tokens = prompt_len,
                    tokens = field::Empty,
                    rounds = field::Empty,
                    accepted = field::Empty,
                    rows = field::Empty
                );
                *open = Some(Open { span, turn, prompt_len, limit, rounds: 0, accepted: 0, rows: 0 });
            }
            Request::Stop(turn) if open.as_ref().is_some_and(|open| open.turn == *turn) => *open = None,
            _ => {}
        }
    }

    /// The device is sent this.
    pub(crate) fn on_reply(&self, reply: &Reply) {
        let Reply::Commit(commit) = reply else { return };
        if reply.is_repeated() {
            return;
        }
        let mut slot = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(open) = slot.as_mut().filter(|open| open.turn == commit.turn) else { return };
        open.rounds += 1;
        open.accepted += commit.accepted;
        open.rows += u64::from(commit.rows);
        if commit.end() >= open.limit || self.ends(commit) {
            open.finish(commit.end());
            *slot = None;
        }
    }

    /// Whether a commit ends the text before its limit; it has no token of the target's if an accepted draft did.
    fn ends(&self, commit: &Commit) -> bool {
        commit.tokens.last().is_none_or(|token| self.end_of_generation.contains(token))
    }
}

impl Open {
    fn finish(&self, end: usize) {
        let tokens = end.saturating_sub(self.prompt_len);
        let span = &self.span;
        span.record("tokens", tokens).record("rounds", self.rounds);
        span.record("accepted", self.accepted).record("rows", self.rows);
        span.in_scope(|| tracing::debug!("request answered"));
    }
}
