//! Which session a request goes on in. Requests bring their whole text with them; the session that knows most of it saves device
//! and server from reading it again.

use std::sync::{Mutex, MutexGuard, PoisonError};

use sled_api::backend::Mode;
use sled_core::Token;
use sled_device::Session;

/// Sessions that wait for the next turn of their chats.
pub(super) struct Pool {
    shelf: Mutex<Shelf>,
    most: usize,
}

#[derive(Default)]
struct Shelf {
    /// Whoever waits longest comes first.
    idle: Vec<Pooled>,
    /// Sessions of an earlier era are not kept.
    era: u64,
}

/// A session, and when and for what it was opened.
pub(super) struct Pooled {
    pub(super) session: Session,
    pub(super) mode: Mode,
    pub(super) era: u64,
}

impl Pool {
    /// Keeps at most `most` sessions.
    pub(super) fn new(most: usize) -> Self {
        Self { shelf: Mutex::default(), most }
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The era that sessions are opened in now.
    pub(super) fn era(&self) -> u64 {
        self.shelf().era
    }

    /// The session of this mode that knows the most of `prompt`. What else it knows is lost when it goes on with another text, so
    /// that one is taken only if at least half of what it was last asked is in `prompt`: a chat that goes on, or is taken up
    /// again earlier, but no other chat that begins alike.
    pub(super) fn take(&self, mode: Mode, prompt: &[Token]) -> Option<Pooled> {
        let idle = &mut self.shelf().idle;
        let known = |pooled: &Pooled| pooled.session.known(prompt);
        let same = idle.iter().enumerate().filter(|(_, pooled)| pooled.mode == mode);
        let (at, best) = same.max_by_key(|(_, pooled)| known(pooled))?;
        let is_its_chat = known(best) > 0 && 2 * known(best) >= best.session.prompt_len();
        is_its_chat.then(|| idle.remove(at))
    }

    /// Keeps a session for the next turn, at the expense of whichever waits longest.
    pub(super) fn put(&self, pooled: Pooled) {
        let shelf = &mut *self.shelf();
        if pooled.era == shelf.era {
            shelf.idle.push(pooled);
        }
        if shelf.idle.len() > self.most {
            shelf.idle.remove(0);
        }
    }

    /// Closes the session that waits longest.
    pub(super) fn close_oldest(&self) {
        let idle = &mut self.shelf().idle;
        if !idle.is_empty() {
            idle.remove(0);
        }
    }

    /// Closes all, and those that are in use as soon as they are not: a new era begins.
    pub(super) fn clear(&self) {
        let shelf = &mut *self.shelf();
        shelf.idle.clear();
        shelf.era += 1;
    }
}
