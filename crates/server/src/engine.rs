//! The engine thread: it alone owns the model and the core's server, and takes what arrives in the order it arrives.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sled_core::message::{Reply, Request};
use sled_core::server::{OpenError, Server, ServerConfig, SessionId, Step};
use sled_model::Model;
use tokio::sync::{mpsc, oneshot};

/// Events that may wait for the engine before those who send them wait too.
const EVENT_QUEUE: usize = 4096;

/// Replies that may wait for a device. One that reads so slowly that more pile up is disconnected.
const REPLY_QUEUE: usize = 4096;

/// What the engine thread is told.
enum Event {
    Open(oneshot::Sender<Result<Opened, OpenError>>),
    Request(SessionId, Request),
    Close(SessionId),
    Shutdown,
}

/// A session that was opened: its number, and where its replies come out.
pub(crate) struct Opened {
    pub(crate) id: SessionId,
    pub(crate) replies: mpsc::Receiver<Reply>,
}

/// What the engine has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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
        let thread = std::thread::Builder::new().name("sled-engine".to_owned()).spawn(move || worker.run(inbox))?;
        Ok((Self { events, stats }, thread))
    }

    /// Opens a session; `None` if the engine has stopped.
    pub(crate) async fn open(&self) -> Option<Result<Opened, OpenError>> {
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

    /// Ends every session with a word of farewell, and the thread.
    pub(crate) async fn shutdown(&self) {
        let _stopped = self.events.send(Event::Shutdown).await;
    }

    pub(crate) fn stats(&self) -> EngineStats {
        *self.stats.lock().unwrap_or_else(PoisonError::into_inner)
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
    fn run(mut self, mut inbox: mpsc::Receiver<Event>) {
        loop {
            let busy_since = Instant::now();
            while let Ok(event) = inbox.try_recv() {
                if !self.handle(event) {
                    return;
                }
            }
            let Some(step) = self.core.plan(self.began.elapsed()) else {
                let Some(event) = inbox.blocking_recv() else { return };
                if !self.handle(event) {
                    return;
                }
                continue;
            };
            let forward = self.run_step(step);
            self.stats.forward += forward;
            self.stats.overhead += busy_since.elapsed().saturating_sub(forward);
            *self.published.lock().unwrap_or_else(PoisonError::into_inner) = self.stats;
        }
    }

    /// Takes one event; false if it was the last.
    fn handle(&mut self, event: Event) -> bool {
        match event {
            Event::Open(answer) => {
                let opened = self.core.open().map(|id| {
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
        let began = Instant::now();
        let ran = step.cache_ops.iter().try_for_each(|&op| self.model.apply(op));
        let ran = ran.and_then(|()| if step.rows.is_empty() { Ok(()) } else { self.model.forward(&step.rows) });
        let forward = began.elapsed();
        self.stats.steps += 1;
        self.stats.rows += step.rows.len() as u64;

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
        self.core.close(id);
        self.replies.remove(&id);
    }
}
