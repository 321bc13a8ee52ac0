//! The engine thread: it alone owns the model and the core's server, and takes what arrives in the order it arrives.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sled_core::message::Reply;
use sled_core::server::{Activity, Answer, Plan, Server, ServerConfig, SessionId, Step};
use sled_core::step::{CacheOp, Row};
use sled_model::Model;
use tokio::sync::mpsc;

use super::{Event, Opened, Record};

/// Replies that may wait for a device. One that reads so slowly that more pile up is disconnected.
const REPLY_QUEUE: usize = 4096;

/// Before it serves, the engine is measured with passes of so many rows.
const CALIBRATION: [usize; 6] = [1, 1, 2, 4, 8, 16];

/// What sessions are told when the server ends.
const FAREWELL: &str = "the server is shutting down";

/// What the thread works with.
pub(super) struct Worker {
    model: Box<dyn Model>,
    core: Server,
    replies: HashMap<SessionId, mpsc::Sender<Reply>>,
    began: Instant,
    record: Arc<Mutex<Record>>,
    /// Whether it is to end when all sessions have their answers.
    draining: bool,
}

impl Worker {
    pub(super) fn new(model: Box<dyn Model>, config: ServerConfig, record: Arc<Mutex<Record>>) -> Self {
        let core = Server::new(config);
        Self { model, core, replies: HashMap::new(), began: Instant::now(), record, draining: false }
    }

    /// Works until it is told to stop, or until nobody is left who could tell it anything.
    pub(super) fn run(mut self, mut inbox: mpsc::Receiver<Event>, timer: &tokio::runtime::Runtime) {
        self.calibrate();
        loop {
            let busy_since = Instant::now();
            while let Ok(event) = inbox.try_recv() {
                if !self.handle(event) {
                    return;
                }
            }
            self.log_answers();
            if self.draining && self.dismiss() {
                return;
            }
            match self.core.plan(self.began.elapsed()) {
                Plan::Run(step) => {
                    let forward = self.run_step(step);
                    let mut record = self.record();
                    record.stats.forward += forward;
                    record.stats.overhead += busy_since.elapsed().saturating_sub(forward);
                }
                Plan::Wait(until) => {
                    self.publish();
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
                    self.publish();
                    let Some(event) = inbox.blocking_recv() else { return };
                    if !self.handle(event) {
                        return;
                    }
                }
            }
        }
    }

    /// Takes leave of the sessions that have their answers; whether there are no others.
    fn dismiss(&mut self) -> bool {
        let status = self.core.status(self.began.elapsed());
        let answered = status.filter(|status| matches!(status.activity, Activity::Idle(_))).map(|status| status.id);
        for id in answered.collect::<Vec<_>>() {
            self.deliver(id, Reply::Closing(FAREWELL.to_owned()));
        }
        self.core.sessions() == 0
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
            Event::Share(text) => self.core.share(text),
            Event::Open(owner, answer) => {
                let opened = self.core.open(self.began.elapsed(), owner).map(|id| {
                    let (sender, replies) = mpsc::channel(REPLY_QUEUE);
                    let beside = sender.downgrade();
                    self.replies.insert(id, sender);
                    Opened { id, replies, beside }
                });
                let mut record = self.record();
                record.sessions = self.core.sessions();
                record.stats.opened += u64::from(opened.is_ok());
                record.stats.refused += u64::from(opened.is_err());
                drop(record);
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
                let _gone = answer.send(self.core.status(self.began.elapsed()).collect());
            }
            Event::Reused(id, answer) => {
                let _gone = answer.send(self.core.reused(id));
            }
            Event::Drain => self.draining = true,
            Event::Shutdown => {
                for (_, replies) in self.replies.drain() {
                    let _gone = replies.try_send(Reply::Closing(FAREWELL.to_owned()));
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
        self.record().pass_since = Some(began);
        let ran = step.cache_ops.iter().try_for_each(|&op| self.model.apply(op));
        let ran = ran.and_then(|()| if step.rows.is_empty() { Ok(()) } else { self.model.forward(&step.rows) });
        let forward = began.elapsed();

        let (rows, sessions, waits) = (step.rows.len(), step.sessions(), std::mem::take(&mut step.waits));
        let model = &self.model;
        let choosing = Instant::now();
        let completed = ran.and_then(|()| self.core.complete(self.began.elapsed(), &mut step, |row| model.logits(row)));
        let chosen = choosing.elapsed();
        let replies = completed.unwrap_or_else(|error| {
            tracing::error!(%error, "a forward pass failed; its sessions are evaluated anew");
            self.core.fail(step, &error.to_string())
        });
        let time = began.elapsed();
        let mut record = self.record();
        record.pass_since = None;
        record.stats.on_pass(rows, sessions, time, &waits);
        record.remember(rows, time);
        record.stats.choosing += chosen;
        let commits = replies.iter().filter(|(_, reply)| matches!(reply, Reply::Commit(_)) && !reply.is_repeated());
        record.stats.commits += commits.count() as u64;
        record.stats.evictions = self.core.evictions();
        record.stats.totals.clone_from(self.core.totals());
        record.cost = self.core.cost();
        drop(record);
        self.publish();
        for (id, reply) in replies {
            self.deliver(id, reply);
        }
        forward
    }

    /// Writes down how things stand.
    fn publish(&self) {
        let mut record = self.record();
        record.sessions = self.core.sessions();
        record.demand = self.core.demand();
        record.cells = self.core.cells();
        record.refusal = self.core.admit().err();
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
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
        self.record().sessions = self.core.sessions();
    }
}
