//! The engine, from outside: a thread that alone owns the model and the core's server.
//!
//! | file | what it does |
//! |---|---|
//! | `worker.rs` | the thread |
//! | `thread.rs` | whether it still runs, from outside |
//! | `seat.rs` | one session's way to it, which closes the session when it is dropped |
//! | `seats.rs` | who has the sessions, and who gives way |
//! | `outbox.rs` | replies on their way to whoever reads them, bounded by what they weigh |
//! | `record.rs` | what it has done |

mod outbox;
mod record;
mod seat;
mod seats;
mod thread;
mod worker;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use outbox::Outboxes;
pub(crate) use outbox::Replies;
pub(crate) use record::Record;
pub use record::{EngineStats, Histogram};
pub(crate) use seat::Seat;
pub(crate) use seats::Party;
use sled_core::Token;
use sled_core::message::Request;
use sled_core::server::{Busy, Owner, ServerConfig, SessionId, SessionStatus};
use sled_model::Model;
pub(crate) use thread::Thread;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use worker::Worker;

use crate::Pass;

/// Sessions that may wait to be opened before those who ask for them wait too.
const OPENING: usize = 64;

/// Reports that the engine may be asked for at once: each takes it longer than a message.
const REPORTS: usize = 4;

/// How long whoever finds all places taken is to wait.
const PLACE_TAKEN: Duration = Duration::from_secs(1);

/// A pass that shows no sign of life for longer has no end, for all that can be told from outside.
const ENDLESS_PASS: Duration = Duration::from_secs(30);

/// What a stopping server says.
pub(crate) const FAREWELL: &str = "the server is shutting down";

/// Whom the engine takes sessions of, and for how long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seating {
    /// The most sessions of one client.
    pub(crate) most_per_client: usize,
    /// For how long a session may be idle.
    pub(crate) idle: Duration,
}

/// Why a session is not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Full {
    /// The core takes no more.
    #[error(transparent)]
    Server(#[from] Busy),
    /// The client has as many as it may.
    #[error(
        "the server is busy: it has {0} sessions of this device's address, and takes no more of it; close some, or start the \
         server with a larger --max-sessions-per-client"
    )]
    Client(usize),
}

/// A session that is not opened, and how long the device is to wait.
pub(crate) type Refusal = (Full, Duration);

/// What the engine thread is told. What may wait at once is bounded by permits, which whoever asks waits for.
enum Event {
    Share(Vec<Token>),
    Open(Opening, OwnedSemaphorePermit),
    Request(SessionId, Request, OwnedSemaphorePermit),
    Close(SessionId),
    Report(oneshot::Sender<Vec<SessionStatus>>, OwnedSemaphorePermit),
    Reused(SessionId, oneshot::Sender<usize>),
    /// Sessions end when they have their answers, and the thread with the last of them.
    Drain,
    Shutdown,
}

/// A session that is asked for.
struct Opening {
    party: Party,
    owner: Owner,
    events: mpsc::UnboundedSender<Event>,
    answer: oneshot::Sender<Result<Opened, Refusal>>,
}

/// A session that was opened, and where its replies come out.
pub(crate) struct Opened {
    pub(crate) seat: Seat,
    pub(crate) replies: Replies,
}

/// A session that is about to be opened.
pub(crate) struct Place {
    coming: Arc<AtomicUsize>,
    party: Party,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.coming.fetch_sub(1, Ordering::SeqCst);
    }
}

/// What keeps an engine from answering.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Ailment {
    /// Its thread has ended, or is told to.
    #[error("the engine has stopped; send the request to another server")]
    Stopped,
    /// It is in a pass that does not end.
    #[error("a forward pass of the engine has not got on for {} s; send the request to another server", .0.as_secs())]
    Hangs(Duration),
}

/// The engine thread, from outside.
#[derive(Clone)]
pub(crate) struct Engine {
    events: mpsc::UnboundedSender<Event>,
    record: Arc<Mutex<Record>>,
    outboxes: Outboxes,
    opening: Arc<Semaphore>,
    reports: Arc<Semaphore>,
    /// Sessions that are about to be opened.
    coming: Arc<AtomicUsize>,
    /// The most sessions at once.
    most: usize,
    /// Whether no more sessions are opened, because the server is to end.
    draining: Arc<AtomicBool>,
}

impl Engine {
    /// Starts the thread, which runs until [`Engine::shutdown`] or until every handle is gone. Without `passes` it first measures
    /// some.
    pub(crate) fn start(
        model: Box<dyn Model>,
        config: ServerConfig,
        seating: Seating,
        passes: Vec<Pass>,
    ) -> std::io::Result<(Self, Thread)> {
        let (events, inbox) = mpsc::unbounded_channel();
        let record = Arc::new(Mutex::new(Record::new(model.pulse())));
        let outboxes = Outboxes::default();
        let most = config.sessions;
        let worker = Worker::new(model, config, seating, Arc::clone(&record), outboxes.clone());
        let timer = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let thread = Thread::spawn(move || worker.run(inbox, &timer, &passes))?;
        let (opening, reports) = (Arc::new(Semaphore::new(OPENING)), Arc::new(Semaphore::new(REPORTS)));
        let (coming, draining) = (Arc::default(), Arc::default());
        Ok((Self { events, record, outboxes, opening, reports, coming, most, draining }, thread))
    }

    /// A place for a session of `party` that the engine is to be asked for.
    pub(crate) fn place(&self, party: Party) -> Place {
        self.coming.fetch_add(1, Ordering::SeqCst);
        Place { coming: Arc::clone(&self.coming), party }
    }

    /// A place for a session that the engine will hardly refuse: whoever cannot wait for its answer asks here first.
    pub(crate) fn reserve(&self, party: Party) -> Result<Place, Refusal> {
        let place = self.place(party);
        let mut record = self.record();
        let taken = (record.sessions + self.coming.load(Ordering::SeqCst)).saturating_sub(record.resting);
        let full = (Full::Server(Busy::Sessions(record.sessions)), PLACE_TAKEN);
        let refusal = record.refusal.or((taken > self.most).then_some(full));
        record.stats.refused += u64::from(refusal.is_some());
        refusal.map_or(Ok(place), Err)
    }

    /// Lets everybody share the prefixes of `text`.
    pub(crate) fn share(&self, text: Vec<Token>) {
        let _stopped = self.events.send(Event::Share(text));
    }

    /// Opens a session of `owner`; `None` if no more are opened. Whenever this is dropped, no session stays open that nobody has.
    pub(crate) async fn open(&self, place: Place, owner: Owner) -> Option<Result<Opened, Refusal>> {
        if self.has_stopped() {
            return None;
        }
        let permit = Arc::clone(&self.opening).acquire_owned().await.ok()?;
        let (answer, opened) = oneshot::channel();
        let opening = Opening { party: place.party, owner, events: self.events.clone(), answer };
        self.events.send(Event::Open(opening, permit)).ok()?;
        let opened = opened.await.ok();
        drop(place);
        opened
    }

    /// What all sessions are doing; an error if the engine has stopped.
    pub(crate) async fn report(&self) -> oneshot::Receiver<Vec<SessionStatus>> {
        let (answer, report) = oneshot::channel();
        if let Ok(permit) = Arc::clone(&self.reports).acquire_owned().await {
            let _stopped = self.events.send(Event::Report(answer, permit));
        }
        report
    }

    /// Whether it can be expected to answer.
    pub(crate) fn health(&self) -> Result<(), Ailment> {
        if self.has_stopped() {
            return Err(Ailment::Stopped);
        }
        let silence = self.record().silence().filter(|time| *time >= ENDLESS_PASS);
        silence.map_or(Ok(()), |time| Err(Ailment::Hangs(time)))
    }

    /// Whether it opens no more sessions.
    pub(crate) fn has_stopped(&self) -> bool {
        self.draining.load(Ordering::SeqCst) || self.events.is_closed() || self.outboxes.have_ended()
    }

    /// From now on opens no more sessions, ends each when it has its answer, and the thread with the last.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
        let _stopped = self.events.send(Event::Drain);
    }

    /// Ends every session with a word of farewell, whatever the engine is doing, and the thread after its pass.
    pub(crate) fn shutdown(&self) {
        self.outboxes.end_all(FAREWELL);
        let _stopped = self.events.send(Event::Shutdown);
    }

    /// What the engine has done so far. The engine waits while this is held.
    pub(crate) fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn stats(&self) -> EngineStats {
        self.record().stats.clone()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::Instant;

    use futures_util::FutureExt;

    use sled_model::synthetic::{SyntheticConfig, SyntheticModel};

    use super::*;

    pub(super) const SEATING: Seating = Seating { most_per_client: 4, idle: Duration::from_secs(1800) };

    pub(super) fn setting() -> (Box<dyn Model>, ServerConfig) {
        let (vocab_size, cells, sequences, rows, context) = (64, 100, 2, 32, 50);
        let model =
            SyntheticModel::new(SyntheticConfig { seed: 1, vocab_size, order: 3, cells, sequences, rows, context });
        let config = ServerConfig { sessions: 400, queue: 400, ..model.limits().server_config(vec![0]) };
        (Box::new(model), config)
    }

    pub(super) fn engine() -> (Engine, Thread) {
        let (model, config) = setting();
        Engine::start(model, config, SEATING, Vec::new()).unwrap()
    }

    /// Waits until so many sessions are open, as the record has it.
    async fn until_open(engine: &Engine, sessions: usize) {
        let waiting = async {
            while engine.record().sessions != sessions {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), waiting).await.unwrap();
    }

    #[tokio::test]
    async fn a_session_that_is_opened_for_nobody_is_closed() {
        let (engine, _thread) = engine();
        let mut opening = Box::pin(engine.open(engine.place(Party::Http), Owner(1)));
        // The engine cannot answer while its record is held.
        let held = engine.record();
        let answered = opening.as_mut().now_or_never().is_some();
        drop(held);
        assert!(!answered);
        // The answer is there, and nobody has taken it.
        until_open(&engine, 1).await;
        drop(opening);
        until_open(&engine, 0).await;
        assert_eq!(engine.coming.load(Ordering::SeqCst), 0);

        // Nor does it stay open if it was taken, and dropped.
        let opened = engine.open(engine.place(Party::Http), Owner(1)).await.unwrap().ok();
        until_open(&engine, 1).await;
        drop(opened);
        until_open(&engine, 0).await;
    }

    #[tokio::test]
    async fn an_engine_is_well_until_it_hangs_or_stops() {
        let (engine, mut thread) = engine();
        engine.report().await.await.unwrap();
        assert_eq!(engine.health(), Ok(()));
        engine.record().pass_since = Instant::now().checked_sub(ENDLESS_PASS - Duration::from_secs(5));
        assert_eq!(engine.health(), Ok(()));
        engine.record().pass_since = Instant::now().checked_sub(ENDLESS_PASS);
        assert!(matches!(engine.health(), Err(Ailment::Hangs(time)) if time >= ENDLESS_PASS));
        engine.shutdown();
        thread.ended().await;
        assert_eq!(engine.health(), Err(Ailment::Stopped));
        assert!(engine.open(engine.place(Party::Http), Owner(1)).await.is_none());
    }
}
