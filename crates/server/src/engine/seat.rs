//! One session's way to the engine.

use std::sync::Arc;

use sled_core::message::{Reply, Request, Turn};
use sled_core::server::SessionId;
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::Event;
use super::outbox::Outbox;

/// Messages of one session that may wait for the engine: as many as a device has blocks under way, twice.
const WAITING: u32 = 32;

/// A text counts as one more message for each so many tokens.
const TOKENS: usize = 1024;

/// A session's way to the engine, which closes the session when this is dropped.
pub(crate) struct Seat {
    id: SessionId,
    events: mpsc::UnboundedSender<Event>,
    outbox: Outbox,
    turns: Arc<Semaphore>,
}

impl Seat {
    pub(super) fn new(id: SessionId, events: mpsc::UnboundedSender<Event>, outbox: Outbox) -> Self {
        Self { id, events, outbox, turns: Arc::new(Semaphore::new(WAITING as usize)) }
    }

    pub(crate) fn id(&self) -> SessionId {
        self.id
    }

    /// Hands a message over, once few enough of the session's wait. What is sent to a stopped engine is dropped: its sessions
    /// have ended.
    pub(crate) async fn request(&self, request: Request) {
        let tokens = if let Request::Context(update) = &request { update.tokens.len() } else { 0 };
        let turns = u32::try_from(1 + tokens / TOKENS).unwrap_or(WAITING).min(WAITING);
        if let Ok(permit) = Arc::clone(&self.turns).acquire_many_owned(turns).await {
            let _stopped = self.events.send(Event::Request(self.id, request, permit));
        }
    }

    /// How many tokens of its prompt the session found in the cache; an error if the engine has stopped.
    pub(crate) fn reused(&self) -> oneshot::Receiver<usize> {
        let (answer, reused) = oneshot::channel();
        let _stopped = self.events.send(Event::Reused(self.id, answer));
        reused
    }

    /// Tells the device that its block waits, while the engine cannot. Where its replies have no more room, it has enough to
    /// read.
    pub(crate) fn say_pending(&self, turn: Turn) {
        self.outbox.offer(Reply::Pending { turn });
    }

    /// Resolves when the engine has let go of the session.
    pub(crate) async fn ended(&self) {
        self.outbox.ended().await;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let _stopped = self.events.send(Event::Close(self.id));
    }
}
