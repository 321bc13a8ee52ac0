//! The engine thread: it alone owns the model and the core's server, and takes what arrives in the order it arrives.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sled_core::message::{Reply, Request};
use sled_core::server::{Answer, Busy, Plan, Server, ServerConfig, SessionId, Status, Step};
use sled_core::step::{CacheOp, Row};
use sled_model::Model;
use tokio::sync::{mpsc, oneshot};

/// Events that may wait for the engine before those who send them wait too.
const EVENT_QUEUE: usize = 4096;

/// Replies that may wait for a device. One that reads so slowly that more pile up is disconnected.
const REPLY_QUEUE: usize = 4096;

/// Before it serves, the engine is measured with passes of so many rows.
const CALIBRATION: [usize; 6] = [1, 1, 2, 4, 8, 16];

/// A session that is not opened, and how long the device is to wait.
pub(crate) type Refusal = (Busy, Duration);

/// What the engine thread is told.
enum Event {
    Open(oneshot::Sender<Result<Opened, Refusal>>),
    Request(SessionId, Request),
    Close(SessionId),
    Report(oneshot::Sender<Report>),
    Shutdown,
}

/// What all sessions are doing.
pub(crate) struct Report {
    pub(crate) sessions: Vec<Status>,
    /// Cells of the KV cache in use, and how many there are.
    pub(crate) cells: (usize, usize),
}

/// A session that was opened: its number, and where its replies come out.
pub(crate) struct Opened {
    pub(crate) id: SessionId,
    pub(crate) replies: mpsc::Receiver<Reply>,
}

/// What the engine has done so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EngineStats {
    /// Forward passes.
    pub steps: u64,
    /// Rows in them.
    pub rows: u64,
    /// Commits sent: verdicts, and steps that the server took by itself.
    pub commits: u64,
    /// Time in forward passes and cache operations.
    pub forward: Duration,
    /// Time in everything else: reading messages, planning, choosing tokens, sending replies. Waiting for work is not in it.
    pub overhead: Duration,
    /// Times that a session had to give way to another in the KV cache.
    pub evictions: u64,
    /// How many passes had rows of one session, of two, and so on.
    pub batch_sizes: Vec<u64>,
    /// Of `overhead`, the time to choose tokens from logits.
    pub choosing: Duration,
}

/// The engine thread, from outside.
#[derive(Clone)]
pub(crate) struct Engine {
    events: mpsc::Sender<Event>,
    stats: Arc<Mutex<EngineStats>>,
}

impl Engine {
    /// Starts the thread, which runs until [`Engine::shutdown`] or until every handle is gone.
    pub(crate) fn start(model: Box<dyn Model>, config: ServerConfig) -> std::io::Result<(Self, JoinHandle<()>)> {
        let (events, inbox) = mpsc::channel(EVENT_QUEUE);
        let stats = Arc::new(Mutex::new(EngineStats::default()));
        let worker = Worker {
            model,
            core: Server::new(config),
            replies: HashMap::new(),
            began: Instant::now(),
            stats: EngineStats::default(),
            published: Arc::clone(&stats),
        };
        let timer = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let thread =
            std::thread::Builder::new().name("sled-engine".to_owned()).spawn(move || worker.run(inbox, &timer))?;
        Ok((Self { events, stats }, thread))
    }

    /// Opens a session; `None` if the engine has stopped.
    pub(crate) async fn open(&self) -> Option<Result<Opened, Refusal>> {
        let (answer, opened) = oneshot::channel();
        self.events.send(Event::Open(answer)).await.ok()?;
        opened.await.ok()
    }

    /// Hands a device's message over. What is sent to a stopped engine is dropped: its sessions have ended.
    pub(crate) async fn request(&self, id: SessionId, request: Request) {
        let _stopped = self.events.send(Event::Request(id, request)).await;
    }

    /// Closes a session.
    pub(crate) async fn close(&self, id: SessionId) {
        let _stopped = self.events.send(Event::Close(id)).await;
    }

    /// What all sessions are doing; `None` if the engine has stopped.
    pub(crate) async fn report(&self) -> Option<Report> {
        let (answer, report) = oneshot::channel();
        self.events.send(Event::Report(answer)).await.ok()?;
        report.await.ok()
    }

    /// Ends every session with a word of farewell, and the thread.
    pub(crate) async fn shutdown(&self) {
        let _stopped = self.events.send(Event::Shutdown).await;
    }

    pub(crate) fn stats(&self) -> EngineStats {
        self.stats.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

struct Worker {
    model: Box<dyn Model>,
    core: Server,
    replies: HashMap<SessionId, mpsc::Sender<Reply>>,
    began: Instant,
    stats: EngineStats,
    published: Arc<Mutex<EngineStats>>,
}

impl Worker {
    fn run(mut self, mut inbox: mpsc::Receiver<Event>, timer: &tokio::runtime::Runtime) {
        self.calibrate();
        loop {
            let busy_since = Instant::now();
            while let Ok(event) = inbox.try_recv() {
                if !self.handle(event) {
                    return;
                }
            }
            self.log_answers();
            match self.core.plan(self.began.elapsed()) {
                Plan::Run(step) => {
                    let forward = self.run_step(step);
                    self.stats.forward += forward;
                    self.stats.overhead += busy_since.elapsed().saturating_sub(forward);
                    self.stats.evictions = self.core.evictions();
                    self.published.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&self.stats);
                }
                Plan::Wait(until) => {
                    let wait = until.saturating_sub(self.began.elapsed());
                    match timer.block_on(async { tokio::time::timeout(wait, inbox.recv()).await }) {
                        Ok(Some(event)) => {
                            if !self.handle(event) {
                                return;
                            }
                        }
                        Ok(None) => return,
                        Err(_elapsed) => {}
                    }
                }
                Plan::Idle => {
                    let Some(event) = inbox.blocking_recv() else { return };
                    if !self.handle(event) {
                        return;
                    }
                }
            }
        }
    }

    /// Tells the log of the answers that have ended, as far as their requests have names.
    fn log_answers(&mut self) {
        for Answer { session, request, prompt, tally, took } in self.core.take_answered() {
            let (tokens, drafted, accepted) = (tally.committed, tally.drafted, tally.accepted);
            let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
            tracing::info!(session = session.0, request, prompt, tokens, drafted, accepted, ms, "answer complete");
        }
    }

    /// Measures what passes cost, so that the first decisions are no guesses. A pass that fails is not counted; the first real
    /// one will tell why.
    fn calibrate(&mut self) {
        let most = self.model.limits().rows;
        for (i, rows) in CALIBRATION.into_iter().filter(|&rows| rows <= most).enumerate() {
            let row = |position| Row { sequence: 0, position, token: 0, wants_logits: true };
            let rows: Vec<Row> = (0..rows).map(row).collect();
            let began = Instant::now();
            let ran = self.model.forward(&rows);
            // The first pass reads the weights from the disk.
            if ran.is_ok() && i > 0 {
                self.core.calibrate(rows.len(), began.elapsed());
            }
            let _emptied = self.model.apply(CacheOp::Truncate { sequence: 0, len: 0 });
        }
    }

    /// Takes one event; false if it was the last.
    fn handle(&mut self, event: Event) -> bool {
        match event {
            Event::Open(answer) => {
                let opened = self.core.open(self.began.elapsed()).map(|id| {
                    let (sender, replies) = mpsc::channel(REPLY_QUEUE);
                    self.replies.insert(id, sender);
                    Opened { id, replies }
                });
                if let Err(Ok(opened)) = answer.send(opened) {
                    self.close(opened.id);
                }
            }
            Event::Request(id, request) => {
                if let Some(reply) = self.core.request(self.began.elapsed(), id, request) {
                    self.deliver(id, reply);
                }
            }
            Event::Close(id) => self.close(id),
            Event::Report(answer) => {
                let sessions = self.core.status(self.began.elapsed()).collect();
                let _gone = answer.send(Report { sessions, cells: self.core.cells() });
            }
            Event::Shutdown => {
                let farewell = "the server is shutting down";
                for (_, replies) in self.replies.drain() {
                    let _gone = replies.try_send(Reply::Closing(farewell.to_owned()));
                }
                return false;
            }
        }
        true
    }

    /// Runs a step and delivers what it commits. Returns the time that the model took.
    fn run_step(&mut self, mut step: Step) -> Duration {
        let _span = tracing::debug_span!("step", rows = step.rows.len(), sessions = step.sessions()).entered();
        let began = Instant::now();
        let ran = step.cache_ops.iter().try_for_each(|&op| self.model.apply(op));
        let ran = ran.and_then(|()| if step.rows.is_empty() { Ok(()) } else { self.model.forward(&step.rows) });
        let forward = began.elapsed();
        self.stats.steps += 1;
        self.stats.rows += step.rows.len() as u64;
        let sessions = step.sessions();
        self.stats.batch_sizes.resize(self.stats.batch_sizes.len().max(sessions), 0);
        if let Some(count) = sessions.checked_sub(1).and_then(|at| self.stats.batch_sizes.get_mut(at)) {
            *count += 1;
        }

        let model = &self.model;
        let choosing = Instant::now();
        let completed = ran.and_then(|()| self.core.complete(self.began.elapsed(), &mut step, |row| model.logits(row)));
        self.stats.choosing += choosing.elapsed();
        let replies = completed.unwrap_or_else(|error| {
            tracing::error!(%error, "a forward pass failed; its sessions are evaluated anew");
            self.core.fail(step, &error.to_string())
        });
        self.stats.commits += replies.len() as u64;
        for (id, reply) in replies {
            self.deliver(id, reply);
        }
        forward
    }

    fn deliver(&mut self, id: SessionId, reply: Reply) {
        let last = matches!(reply, Reply::Closing(_) | Reply::Failed(_));
        let delivered = self.replies.get(&id).is_some_and(|replies| replies.try_send(reply).is_ok());
        if last || !delivered {
            self.close(id);
        }
    }

    fn close(&mut self, id: SessionId) {
        self.core.close(self.began.elapsed(), id);
        self.replies.remove(&id);
    }
}
