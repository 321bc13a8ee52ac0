//! The engine, from outside: a thread that alone owns the model and the core's server.

mod record;
mod worker;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

pub(crate) use record::Record;
pub use record::{EngineStats, Histogram};
use sled_core::Token;
use sled_core::message::{Reply, Request};
use sled_core::server::{Busy, Owner, ServerConfig, SessionId, Status};
use sled_model::Model;
use tokio::sync::{mpsc, oneshot};
use worker::Worker;

/// Events that may wait for the engine before those who send them wait too.
const EVENT_QUEUE: usize = 4096;

/// How long whoever finds all places taken is to wait.
const PLACE_TAKEN: Duration = Duration::from_secs(1);

/// A session that is not opened, and how long the device is to wait.
pub(crate) type Refusal = (Busy, Duration);

/// What the engine thread is told.
enum Event {
    Share(Vec<Token>),
    Open(Owner, oneshot::Sender<Result<Opened, Refusal>>),
    Request(SessionId, Request),
    Close(SessionId),
    Report(oneshot::Sender<Vec<Status>>),
    Reused(SessionId, oneshot::Sender<usize>),
    /// Sessions end when they have their answers, and the thread with the last of them.
    Drain,
    Shutdown,
}

/// A session that was opened: its number, and where its replies come out.
pub(crate) struct Opened {
    pub(crate) id: SessionId,
    pub(crate) replies: mpsc::Receiver<Reply>,
    /// For what is said to the device while the engine cannot; it does not keep the session open.
    pub(crate) beside: mpsc::WeakSender<Reply>,
}

/// A session that is about to be opened.
pub(crate) struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The engine thread, from outside.
#[derive(Clone)]
pub(crate) struct Engine {
    events: mpsc::Sender<Event>,
    record: Arc<Mutex<Record>>,
    /// Sessions that are about to be opened.
    coming: Arc<AtomicUsize>,
    /// The most sessions at once.
    most: usize,
    /// Whether no more sessions are opened, because the server is to end.
    draining: Arc<AtomicBool>,
}

impl Engine {
    /// Starts the thread, which runs until [`Engine::shutdown`] or until every handle is gone.
    pub(crate) fn start(model: Box<dyn Model>, config: ServerConfig) -> std::io::Result<(Self, JoinHandle<()>)> {
        let (events, inbox) = mpsc::channel(EVENT_QUEUE);
        let record = Arc::new(Mutex::new(Record::new(model.pulse())));
        let most = config.sessions;
        let worker = Worker::new(model, config, Arc::clone(&record));
        let timer = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let thread =
            std::thread::Builder::new().name("sled-engine".to_owned()).spawn(move || worker.run(inbox, &timer))?;
        Ok((Self { events, record, coming: Arc::default(), most, draining: Arc::default() }, thread))
    }

    /// A place for a session that the engine is to be asked for.
    pub(crate) fn place(&self) -> Place {
        self.coming.fetch_add(1, Ordering::SeqCst);
        Place(Arc::clone(&self.coming))
    }

    /// A place for a session that the engine will hardly refuse: whoever cannot wait for its answer asks here first.
    pub(crate) fn reserve(&self) -> Result<Place, Refusal> {
        let place = self.place();
        let mut record = self.record();
        let taken = record.sessions + self.coming.load(Ordering::SeqCst);
        let refusal = record.refusal.or((taken > self.most).then_some((Busy::Sessions(record.sessions), PLACE_TAKEN)));
        record.stats.refused += u64::from(refusal.is_some());
        refusal.map_or(Ok(place), Err)
    }

    /// Lets everybody share the prefixes of `text`.
    pub(crate) fn share(&self, text: Vec<Token>) {
        let _stopped = self.events.try_send(Event::Share(text));
    }

    /// Opens a session of `owner`; `None` if no more are opened.
    pub(crate) async fn open(&self, place: Place, owner: Owner) -> Option<Result<Opened, Refusal>> {
        if self.has_stopped() {
            return None;
        }
        let (answer, opened) = oneshot::channel();
        self.events.send(Event::Open(owner, answer)).await.ok()?;
        let opened = opened.await.ok();
        drop(place);
        opened
    }

    /// Hands a device's message over. What is sent to a stopped engine is dropped: its sessions have ended.
    pub(crate) async fn request(&self, id: SessionId, request: Request) {
        let _stopped = self.events.send(Event::Request(id, request)).await;
    }

    /// Closes a session.
    pub(crate) async fn close(&self, id: SessionId) {
        let _stopped = self.events.send(Event::Close(id)).await;
    }

    /// What all sessions are doing; an error if the engine has stopped.
    pub(crate) async fn report(&self) -> oneshot::Receiver<Vec<Status>> {
        let (answer, report) = oneshot::channel();
        let _stopped = self.events.send(Event::Report(answer)).await;
        report
    }

    /// How many tokens of its prompt a session found in the cache; an error if the engine has stopped.
    pub(crate) async fn reused(&self, id: SessionId) -> oneshot::Receiver<usize> {
        let (answer, reused) = oneshot::channel();
        let _stopped = self.events.send(Event::Reused(id, answer)).await;
        reused
    }

    /// Whether it opens no more sessions.
    pub(crate) fn has_stopped(&self) -> bool {
        self.draining.load(Ordering::SeqCst) || self.events.is_closed()
    }

    /// From now on opens no more sessions, ends each when it has its answer, and the thread with the last.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
        // An engine with so much to do that this does not fit will not have done it in time.
        let _full = self.events.try_send(Event::Drain);
    }

    /// Resolves when the thread takes nothing any more.
    pub(crate) async fn ended(&self) {
        self.events.closed().await;
    }

    /// Ends every session with a word of farewell, and the thread.
    pub(crate) async fn shutdown(&self) {
        let _stopped = self.events.send(Event::Shutdown).await;
    }

    /// What the engine has done so far. The engine waits while this is held.
    pub(crate) fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn stats(&self) -> EngineStats {
        self.record().stats.clone()
    }
}
