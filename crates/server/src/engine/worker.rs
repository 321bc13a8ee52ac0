//! The engine thread: it alone owns the model and the core's server, and takes what arrives in the order it arrives.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sled_core::message::Reply;
use sled_core::server::{Activity, Answer, Busy, Owner, Plan, Server, ServerConfig, SessionId, Step};
use sled_core::step::{CacheOp, Row};
use sled_model::Model;
use tokio::sync::mpsc;

use super::outbox::Outboxes;
use super::seats::{Party, Seats};
use super::{Event, FAREWELL, Full, Opened, Opening, PLACE_TAKEN, Record, Refusal, Seat, Seating};
use crate::Pass;

/// How long messages may keep the engine from its next pass.
const LISTENING: Duration = Duration::from_millis(5);

/// How often idle sessions are looked for, at least.
const SWEEP: Duration = Duration::from_secs(1);

/// An engine of which nothing is known is measured with a few passes, of so many rows.
const FEW: [usize; 6] = [1, 1, 2, 4, 8, 16];

/// What the thread works with.
pub(super) struct Worker {
    model: Box<dyn Model>,
    core: Server,
    outboxes: Outboxes,
    seats: Seats,
    seating: Seating,
    most: usize,
    began: Instant,
    /// When idle sessions are looked for next.
    sweep: Duration,
    record: Arc<Mutex<Record>>,
    /// Whether it is to end when all sessions have their answers.
    draining: bool,
}

type Inbox = mpsc::UnboundedReceiver<Event>;

impl Worker {
    pub(super) fn new(
        model: Box<dyn Model>,
        config: ServerConfig,
        seating: Seating,
        record: Arc<Mutex<Record>>,
        outboxes: Outboxes,
    ) -> Self {
        let most = config.sessions;
        let (core, seats) = (Server::new(config), Seats::new(seating.most_per_client));
        Self {
            model,
            core,
            outboxes,
            seats,
            seating,
            most,
            began: Instant::now(),
            sweep: Duration::ZERO,
            record,
            draining: false,
        }
    }

    /// Works until it is told to stop, or until nobody is left who could tell it anything. `passes` are known already.
    pub(super) fn run(mut self, mut inbox: Inbox, timer: &tokio::runtime::Runtime, passes: &[Pass]) {
        self.calibrate(passes);
        loop {
            let busy_since = Instant::now();
            if self.outboxes.have_ended() || !self.listen(&mut inbox, busy_since) {
                return;
            }
            self.sweep();
            self.log_answers();
            if self.draining && self.take_leave() {
                return;
            }
            let until = match self.core.plan(self.now()) {
                Plan::Run(step) => {
                    let forward = self.run_step(step);
                    let mut record = self.record();
                    record.stats.forward += forward;
                    record.stats.overhead += busy_since.elapsed().saturating_sub(forward);
                    continue;
                }
                Plan::Wait(until) => until,
                Plan::Idle => Duration::MAX,
            };
            self.publish();
            let until = if self.core.sessions() > 0 { until.min(self.sweep) } else { until };
            let wait = until.saturating_sub(self.now());
            // The time beyond which tokio does not count is longer than anything waits.
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
    }

    /// Takes what has come, and nothing that comes meanwhile; false if it is to stop.
    fn listen(&mut self, inbox: &mut Inbox, since: Instant) -> bool {
        for _ in 0..inbox.len() {
            let Ok(event) = inbox.try_recv() else { break };
            if !self.handle(event) {
                return false;
            }
            if since.elapsed() >= LISTENING {
                break;
            }
        }
        true
    }

    /// The core's time.
    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Tells the log of the answers that have ended, as far as their requests have names.
    fn log_answers(&mut self) {
        for Answer { session, request, prompt, tally, took } in self.core.take_answered() {
            let (tokens, drafted, accepted) = (tally.committed, tally.drafted, tally.accepted);
            let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
            tracing::info!(session = session.0, request, prompt, tokens, drafted, accepted, ms, "answer complete");
        }
    }

    /// Tells the core what passes cost, so that the first decisions are no guesses.
    fn calibrate(&mut self, passes: &[Pass]) {
        if passes.is_empty() {
            self.measure();
        }
        passes.iter().for_each(|pass| self.core.calibrate(pass.rows, pass.time));
    }

    /// Measures what a few passes cost. One that fails is not counted; the first real one will tell why.
    fn measure(&mut self) {
        let most = self.model.limits().rows;
        for (i, rows) in FEW.into_iter().filter(|&rows| rows <= most).enumerate() {
            let row = |position| Row { sequence: 0, position, token: 0, wants_logits: true };
            let rows: Vec<Row> = (0..rows).map(row).collect();
            let began = Instant::now();
            self.record().pass_since = Some(began);
            let ran = self.model.forward(&rows);
            self.record().pass_since = None;
            // The first pass reads the weights from the disk.
            if ran.is_ok() && i > 0 {
                self.core.calibrate(rows.len(), began.elapsed());
            }
            let _emptied = self.model.apply(CacheOp::Truncate { sequence: 0, len: 0 });
        }
    }

    /// Takes one event; false if it was the last. The permit that came with it is given back.
    fn handle(&mut self, event: Event) -> bool {
        match event {
            Event::Share(text) => self.core.share(text),
            Event::Open(opening, _permit) => self.open(opening),
            Event::Request(id, request, _permit) => {
                let now = self.now();
                self.seats.is_active(now, id);
                if let Some(reply) = self.core.request(now, id, request) {
                    self.deliver(id, reply);
                }
            }
            Event::Close(id) => self.close(id),
            Event::Report(answer, _permit) => {
                let _gone = answer.send(self.core.status(self.now()).collect());
            }
            Event::Reused(id, answer) => {
                let _gone = answer.send(self.core.reused(id));
            }
            Event::Drain => self.draining = true,
            Event::Shutdown => return false,
        }
        true
    }

    fn open(&mut self, Opening { party, owner, events, answer }: Opening) {
        let opened = self.admit(party, owner).map(|id| {
            let (outbox, replies) = self.outboxes.open(id);
            Opened { seat: Seat::new(id, events, outbox), replies }
        });
        let mut record = self.record();
        record.sessions = self.core.sessions();
        record.stats.opened += u64::from(opened.is_ok());
        record.stats.refused += u64::from(opened.is_err());
        drop(record);
        // Where nobody waits for it any more, others are not to wait until its seat has said so.
        if let Err(Ok(opened)) = answer.send(opened) {
            self.close(opened.seat.id());
        }
    }

    /// A session of `owner`. Where there is no room, an idle one gives way: of this client, if it has all that it may have, or
    /// else of whoever has most.
    fn admit(&mut self, party: Party, owner: Owner) -> Result<SessionId, Refusal> {
        let now = self.now();
        if let Err((busy @ Busy::Queue(_), after)) = self.core.admit() {
            return Err((Full::Server(busy), after));
        }
        if let Some(count) = self.seats.all_of(party) {
            let idlest = self.seats.gives_way(now, Some(party), self.core.status(now));
            self.give_way(idlest.ok_or((Full::Client(count), PLACE_TAKEN))?);
        }
        let mut opened = self.core.open(now, owner);
        if let Err((Busy::Sessions(_), _)) = opened
            && let Some(idlest) = self.seats.gives_way(now, None, self.core.status(now))
        {
            self.give_way(idlest);
            opened = self.core.open(now, owner);
        }
        let id = opened.map_err(|(busy, after)| (Full::Server(busy), after))?;
        self.seats.enter(now, id, party);
        Ok(id)
    }

    fn give_way(&mut self, id: SessionId) {
        let reason =
            "the server closed the session, which was idle, to make room for another; its next prompt opens it again";
        self.dismiss(id, reason);
    }

    /// Closes a session, for this reason.
    fn dismiss(&mut self, id: SessionId, reason: &str) {
        tracing::info!(session = id.0, reason, "session dismissed");
        self.outboxes.close(id, Some(Reply::Closing(reason.to_owned())));
        self.close(id);
    }

    /// Dismisses the sessions that have their answers; whether there are no others.
    fn take_leave(&mut self) -> bool {
        let status = self.core.status(self.now());
        let answered = status.filter(|status| matches!(status.activity, Activity::Idle(_))).map(|status| status.id);
        for id in answered.collect::<Vec<_>>() {
            self.dismiss(id, FAREWELL);
        }
        self.core.sessions() == 0
    }

    /// Closes the sessions that have been idle for too long, if it is time to look for them.
    fn sweep(&mut self) {
        let now = self.now();
        if now < self.sweep {
            return;
        }
        let idle = self.seating.idle;
        self.sweep = now + SWEEP.min(idle / 4);
        let reason = format!(
            "the session was idle for {} s, and the server closed it; its next prompt opens it again",
            idle.as_secs()
        );
        for id in self.seats.idle_for(now, idle, self.core.status(now)) {
            self.dismiss(id, &reason);
        }
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
        let now = self.now();
        let completed = ran.and_then(|()| self.core.complete(now, &mut step, |row| model.logits(row)));
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
        let now = self.now();
        let full = self.core.sessions() >= self.most;
        let resting = if full { self.seats.resting(now, self.core.status(now)) } else { 0 };
        let refusal = self.core.admit().err();
        let mut record = self.record();
        record.sessions = self.core.sessions();
        record.demand = self.core.demand();
        record.cells = self.core.cells();
        record.resting = resting;
        record.refusal = refusal
            .filter(|(busy, _)| resting == 0 || !matches!(busy, Busy::Sessions(_)))
            .map(|(busy, after)| (Full::Server(busy), after));
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn deliver(&mut self, id: SessionId, reply: Reply) {
        let last = matches!(reply, Reply::Closing(_) | Reply::Failed(_));
        self.seats.is_active(self.now(), id);
        if let Err(closed) = self.outboxes.deliver(id, reply) {
            self.close(closed);
        }
        if last {
            self.close(id);
        }
    }

    fn close(&mut self, id: SessionId) {
        self.core.close(self.now(), id);
        self.seats.leave(id);
        self.outboxes.close(id, None);
        self.record().sessions = self.core.sessions();
    }
}

impl Drop for Worker {
    /// Whatever it ends of, nobody waits for its replies for ever.
    fn drop(&mut self) {
        self.outboxes.end_all("the server's engine has stopped");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use tokio::sync::{Semaphore, oneshot};

    use super::super::tests::{SEATING, setting};
    use super::*;

    #[tokio::test]
    async fn the_engine_takes_what_has_come_and_not_what_comes_meanwhile() {
        let (model, config) = setting();
        let mut worker = Worker::new(model, config, SEATING, Arc::default(), Outboxes::default());
        let (events, mut inbox) = mpsc::unbounded_channel();
        let permits = Arc::new(Semaphore::new(100));
        for _ in 0..100 {
            // Nobody waits for the session: while it is opened, the order to close it comes in.
            let opening =
                Opening { party: Party::Http, owner: Owner(1), events: events.clone(), answer: oneshot::channel().0 };
            events.send(Event::Open(opening, Arc::clone(&permits).try_acquire_owned().unwrap())).ok().unwrap();
        }
        let soon = Instant::now() + Duration::from_secs(60);
        assert!(worker.listen(&mut inbox, soon));
        assert_eq!((inbox.len(), worker.core.sessions(), permits.available_permits()), (100, 0, 100));
        assert!(worker.listen(&mut inbox, soon));
        assert_eq!((inbox.len(), worker.core.sessions()), (0, 0));
        // It has listened for long enough: the rest is for after the next pass.
        (0..10).for_each(|id| events.send(Event::Close(SessionId(id))).ok().unwrap());
        assert!(worker.listen(&mut inbox, Instant::now().checked_sub(LISTENING).unwrap()));
        assert_eq!(inbox.len(), 9);
    }
}
