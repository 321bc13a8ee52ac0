//! Which session a request goes on in. Requests bring their whole text with them; the session that knows most of it saves device
//! and server from reading it again.

use std::sync::{Mutex, PoisonError};

use sled_api::backend::Mode;
use sled_core::Token;

use crate::Session;

/// Sessions that wait for the next turn of their chats.
pub(super) struct Pool {
    /// Whoever waits longest comes first.
    idle: Mutex<Vec<Idle>>,
    most: usize,
}

struct Idle {
    mode: Mode,
    session: Session,
}

impl Pool {
    /// Keeps at most `most` sessions.
    pub(super) fn new(most: usize) -> Self {
        Self { idle: Mutex::new(Vec::new()), most }
    }

    /// The session of this mode that knows the most of `prompt`. What else it knows is lost when it goes on with another text, so
    /// that one is taken only if at least half of what it was last asked is in `prompt`: a chat that goes on, or is taken up
    /// again earlier, but no other chat that begins alike.
    pub(super) fn take(&self, mode: Mode, prompt: &[Token]) -> Option<Session> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let known = |idle: &Idle| idle.session.known(prompt);
        let (at, best) =
            idle.iter().enumerate().filter(|(_, idle)| idle.mode == mode).max_by_key(|(_, it)| known(it))?;
        let is_its_chat = known(best) > 0 && 2 * known(best) >= best.session.prompt_len();
        is_its_chat.then(|| idle.remove(at).session)
    }

    /// Keeps `session` for the next turn, at the expense of whichever waits longest.
    pub(super) fn put(&self, mode: Mode, session: Session) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.push(Idle { mode, session });
        if idle.len() > self.most {
            idle.remove(0);
        }
    }

    /// Closes the session that waits longest.
    pub(super) fn close_oldest(&self) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if !idle.is_empty() {
            idle.remove(0);
        }
    }

    /// Closes all.
    pub(super) fn clear(&self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
