//! Who has each session, and since when.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sled_core::names::PlainText;
use sled_core::server::{SessionId, SessionStatus};
use sled_wire::ListedSession;

/// The sessions that are open, by whom.
#[derive(Clone, Default)]
pub(crate) struct Roster(Arc<Mutex<HashMap<SessionId, (PlainText, Instant)>>>);

impl Roster {
    /// A session was opened.
    pub(crate) fn enter(&self, id: SessionId, device: PlainText) {
        self.lock().insert(id, (device, Instant::now()));
    }

    /// A session was closed.
    pub(crate) fn leave(&self, id: SessionId) {
        self.lock().remove(&id);
    }

    /// What the sessions are doing, and whose they are.
    pub(crate) fn describe(&self, sessions: &[SessionStatus]) -> Vec<ListedSession> {
        let known = self.lock();
        let describe = |&status: &SessionStatus| {
            let known = known.get(&status.id);
            ListedSession {
                device: known.map(|(device, _)| device.clone()).unwrap_or_default(),
                age: known.map_or(Duration::ZERO, |(_, opened)| opened.elapsed()),
                status,
            }
        };
        sessions.iter().map(describe).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SessionId, (PlainText, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
