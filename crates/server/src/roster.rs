//! Who has each session, and since when.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sled_core::names::PlainText;
use sled_core::server::{self, SessionId};
use sled_wire::{Activity, SessionStatus};

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
    pub(crate) fn describe(&self, sessions: &[server::Status]) -> Vec<SessionStatus> {
        let known = self.lock();
        let describe = |status: &server::Status| {
            let (activity, since) = match status.activity {
                server::Activity::Idle(since) => (Activity::Idle, since),
                server::Activity::Reading(since) => (Activity::Reading, since),
                server::Activity::Waiting(since) => (Activity::Waiting, since),
                server::Activity::Drafting => (Activity::Drafting, Duration::ZERO),
            };
            let known = known.get(&status.id);
            SessionStatus {
                id: status.id.0,
                device: known.map(|(device, _)| device.clone()).unwrap_or_default(),
                tokens: status.tokens,
                cached: status.cached,
                committed: status.tally.committed,
                drafted: status.tally.drafted,
                accepted: status.tally.accepted,
                activity,
                since,
                age: known.map_or(Duration::ZERO, |(_, opened)| opened.elapsed()),
            }
        };
        sessions.iter().map(describe).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SessionId, (PlainText, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
