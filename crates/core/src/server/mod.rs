//! The server's side: sessions, acceptance, and what the next forward pass consists of.
//!
//! [`Server`] is a state machine. Requests go in; [`Server::plan`] hands out the next [`Step`] when the engine is free; the
//! engine's logits come back through [`Server::complete`], which returns what to tell the devices. It runs no model and
//! knows no clock: `now` is the time since any fixed moment.
//!
//! It is made of parts that each own their data. No part looks into another's; what one needs of another it is handed.
//!
//! | part | file | what it owns and decides |
//! |---|---|---|
//! | `Sessions` | `sessions.rs` | who is there, what they had, and who gives way to whom |
//! | | `session/` | one session: its text, what its device said, its place in the cache, its history |
//! | | `admission.rs` | who is let in |
//! | `Scheduler` | `schedule.rs` | who is served by the next pass, and when it is launched |
//! | | `scheduling.rs` | the policies, by name |
//! | | `prices.rs` | what tokens are worth and rows cost |
//! | `Batcher` | `batch.rs` | which rows a pass has |
//! | | `reading.rs` | whose text it reads, and how much of it |
//! | | `verdict.rs` | what its logits commit, and what becomes of it if it fails |
//! | | `step.rs` | a pass that is planned |
//! | `PrefixCache` | `cache.rs` | the KV cache: its sequences, the texts in them, and what they share |
//! | | `memory.rs` | places in it: sessions are asked who gives way, the cache is told |
//! | `Costs` | `costs.rs` | what passes cost and bring |
//! | | `cost.rs`, `rate.rs` | a table of what passes cost, learned; tokens a second, of the server and of a session |
//! | | `choice.rs` | how many rows a pass is to have, of all that it could |
//! | | `forecast.rs` | when a session's next draft is due, and what it is worth |
//! | `Tuning` | `tuning.rs` | what was tuned, and where each value comes from |

mod admission;
mod batch;
mod cache;
mod choice;
mod cost;
mod costs;
mod forecast;
mod memory;
mod prices;
mod rate;
mod reading;
mod report;
mod schedule;
mod scheduling;
mod session;
mod sessions;
mod step;
mod tuning;
mod verdict;

use std::time::Duration;

pub use admission::Busy;
use batch::{Batcher, Market};
pub use cache::{Found, Owner, PrefixCache};
pub use cost::CALIBRATION;
use costs::Costs;
pub use report::{Activity, Answer, Demand, SessionStatus, Totals};
use schedule::{Batch, Launch, Scheduler, View};
pub use scheduling::{Assist, Batching, SchedulingError};
pub use session::Tally;
use session::Wants;
use sessions::Sessions;
pub use step::{Plan, Step, Waits};
pub use tuning::{CostTuning, FairnessTuning, ForecastTuning, MemoryTuning, PassTuning, Tuning};
use verdict::Outcome;

use crate::Token;
use crate::message::{Reply, Request};

/// For so many passes that serve somebody one counts that was measured before.
const MEASURED: usize = 3;

/// Names a session within one run of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// What the engine can hold and do at once, and how the server uses it.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Tokens in the vocabulary.
    pub vocab_size: usize,
    /// Tokens that the KV cache holds, over all sequences.
    pub cells: usize,
    /// Sequences that the KV cache tells apart: the most sessions that are in it at once.
    pub sequences: usize,
    /// Rows that one forward pass may have.
    pub rows: usize,
    /// The longest that one session may get, in tokens.
    pub context: usize,
    /// The tokens that end a generation.
    pub end_of_generation: Vec<Token>,
    /// The most sessions at once; more than sequences take turns.
    pub sessions: usize,
    /// The most sessions whose text waits to be read, before no other is opened and no other prompt is taken.
    pub queue: usize,
    /// How requests become batches.
    pub batching: Batching,
    /// Who is given rows without having asked.
    pub assist: Assist,
    /// Tokens a second that each session is to get; if there is none, as many as possible, and hardly fewer than plain batching gives.
    pub rate_goal: Option<f64>,
    /// What was tuned; the default is what was found best.
    pub tuning: Tuning,
}

/// All sessions of one server, and the engine that they share.
#[derive(Debug)]
pub struct Server {
    config: ServerConfig,
    sessions: Sessions,
    scheduler: Scheduler,
    batcher: Batcher,
    cache: PrefixCache,
    costs: Costs,
}

impl Server {
    /// A server without sessions.
    #[must_use]
    pub fn new(config: ServerConfig) -> Self {
        Self {
            cache: PrefixCache::new(config.cells, config.sequences, config.tuning.memory.min_shared_prefix),
            sessions: Sessions::new(
                config.tuning,
                config.assist != Assist::Never && config.batching == Batching::Continuous,
            ),
            scheduler: Scheduler::default(),
            batcher: Batcher::new(config.tuning.passes),
            costs: Costs::new(config.tuning.costs, config.rows),
            config,
        }
    }

    /// Tells that a pass of `rows` rows takes `time`, before there was any for a session; see [`CALIBRATION`].
    pub fn calibrate(&mut self, rows: usize, time: Duration) {
        // It was measured with care, and counts for more than a pass that serves somebody.
        (0..MEASURED).for_each(|_| self.costs.observe(rows, 0, time));
    }

    /// Makes `text` a public prefix: as far as texts begin with it, sessions of all owners share it.
    pub fn share(&mut self, text: Vec<Token>) {
        self.cache.publish(text);
    }

    /// Opens a session of `owner`.
    ///
    /// # Errors
    /// If the server is busy; and how long it is likely to be.
    pub fn open(&mut self, now: Duration, owner: Owner) -> Result<SessionId, (Busy, Duration)> {
        admission::session(&self.config, &self.sessions, &self.costs, Some(owner))?;
        Ok(self.sessions.open(now, owner))
    }

    /// Whether another session may be opened now, whoever it is of.
    ///
    /// # Errors
    /// As [`Server::open`].
    pub fn admit(&self) -> Result<(), (Busy, Duration)> {
        admission::session(&self.config, &self.sessions, &self.costs, None)
    }

    /// Closes a session. Closing it twice does nothing.
    pub fn close(&mut self, now: Duration, id: SessionId) {
        let Some(session) = self.sessions.close(now, id) else { return };
        if let Some(sequence) = session.place.sequence() {
            self.cache.cut(sequence, session.place.valid());
            self.cache.leave(now, sequence);
        }
        self.batcher.forget(now);
    }

    /// Takes a device's message and returns the answer, if it has one that needs no forward pass. A new prompt is not taken while
    /// too many wait to be read: then the session ends, and its device asks another server, or is told when it opens the next
    /// session how long to wait.
    pub fn request(&mut self, now: Duration, id: SessionId, request: Request) -> Option<Reply> {
        let session = self.sessions.get(id)?;
        if let Request::Context(update) = &request
            && update.turn > session.text.turn()
        {
            let owner = Some(session.owner);
            if let Err((busy, after)) = admission::prompt(&self.config, &self.sessions, &self.costs, owner, Some(id)) {
                return Some(Reply::Closing(format!("{busy}; try again in {:.0} s", after.as_secs_f64().ceil())));
            }
            self.sessions.end_answer(now, id);
        }
        let session = self.sessions.get_mut(id)?;
        let reply = match request {
            Request::Context(update) => {
                let reply = session.on_context(&self.config, now, update);
                if let Some(sequence) = session.place.sequence() {
                    self.cache.cut(sequence, session.place.valid());
                }
                reply
            }
            Request::Draft(block) => session.on_draft(&self.config, now, block),
            Request::Stop(turn) => {
                session.on_stop(turn);
                if session.wants() == Wants::Nothing {
                    self.sessions.end_answer(now, id);
                }
                None
            }
        };
        self.sessions.get_mut(id)?.on_word();
        reply
    }

    /// What the engine is to do now, if it is free.
    ///
    /// A pass that is handed out changes what it says: who has a place in the cache and who had to give way, whose turn it is, what was
    /// read for whom, and that a block is being verified. Nothing that a device said is lost with it.
    pub fn plan(&mut self, now: Duration) -> Plan {
        if self.batcher.is_running() {
            return Plan::Idle;
        }
        let suspects_first = self.scheduler.suspects_first();
        if suspects_first && let Some(step) = self.plan_suspect(now) {
            return Plan::Run(step);
        }
        match self.plan_others(now) {
            Plan::Run(step) => Plan::Run(step),
            plan if suspects_first => plan,
            plan => self.plan_suspect(now).map_or(plan, Plan::Run),
        }
    }

    /// A pass for one of those whose fault it may be that a pass failed.
    fn plan_suspect(&mut self, now: Duration) -> Option<Step> {
        let Self { config, sessions, scheduler, cache, costs, .. } = self;
        let suspects = scheduler.suspects(View { config, sessions, cache, costs });
        let step = suspects.into_iter().find_map(|batch| self.fill(now, batch));
        self.scheduler.note_suspect(step.is_some());
        step
    }

    /// A pass for all others: the scheduler says who is served and when, the batcher makes rows of it as far as there is room.
    fn plan_others(&mut self, now: Duration) -> Plan {
        // Texts that the memory has no room for wait; the others do not wait for them.
        for with_texts in [true, false] {
            let Self { config, sessions, scheduler, cache, costs, .. } = self;
            match scheduler.next(now, with_texts, View { config, sessions, cache, costs }) {
                Launch::Never => {
                    self.costs.pause(self.sessions.iter().any(|(_, session)| session.is_generating()));
                    return Plan::Idle;
                }
                Launch::At(time) => return Plan::Wait(time),
                Launch::Now(batch) => {
                    if let Some(step) = self.fill(now, batch) {
                        return Plan::Run(step);
                    }
                }
            }
        }
        Plan::Idle
    }

    fn fill(&mut self, now: Duration, batch: Batch) -> Option<Step> {
        let prices = self.scheduler.prices();
        self.batcher.fill(
            now,
            batch,
            Market { config: &self.config, prices, costs: &self.costs },
            &mut self.sessions,
            &mut self.cache,
        )
    }

    /// Takes the logits of a pass that `plan` handed out, and returns what it commits. `logits(i)` are the logits of row `i`
    /// of the step; they are asked for only as far as drafts are accepted.
    ///
    /// # Errors
    /// Whatever `logits` returned first. Whoever has all its logits is served all the same; the step must be handed to
    /// [`Server::fail`], which tells what there is to tell.
    pub fn complete<'a, E>(
        &mut self,
        now: Duration,
        step: &mut Step,
        logits: impl FnMut(usize) -> Result<&'a [f32], E>,
    ) -> Result<Vec<(SessionId, Reply)>, E> {
        let duration = now.saturating_sub(step.planned);
        step.duration = Some(duration);
        self.costs.observe(step.rows.len(), step.deciding(), duration);
        let outcome = self.outcome().complete(now, step, logits);
        self.costs.on_brought(step.planned, now, step.rows.len(), step.brought);
        outcome?;
        self.batcher.end_pass();
        Ok(std::mem::take(&mut step.replies))
    }

    /// Takes back a step that the engine could not run, or not for all. Its sessions are evaluated anew from their tokens, by
    /// themselves; one that fails so again and again is given up, and only that one. Returns what there is to tell, also of those
    /// who were served.
    pub fn fail(&mut self, mut step: Step, reason: &str) -> Vec<(SessionId, Reply)> {
        self.batcher.end_pass();
        self.scheduler.on_failure();
        self.outcome().fail(&mut step, reason);
        step.replies
    }

    fn outcome(&mut self) -> Outcome<'_> {
        Outcome {
            config: &self.config,
            prices: self.scheduler.prices(),
            row: Duration::try_from_secs_f64(self.scheduler.prices().row_time()).unwrap_or_default(),
            sessions: &mut self.sessions,
            cache: &mut self.cache,
        }
    }

    /// How many sessions are open.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// How many cells of the KV cache are in use, of how many.
    #[must_use]
    pub fn cells(&self) -> (usize, usize) {
        self.cache.cells()
    }

    /// How many times a session had to give way to another in the KV cache.
    #[must_use]
    pub fn evictions(&self) -> u64 {
        self.cache.evictions()
    }

    /// The answers that have ended since the last call, of requests that have names.
    pub fn take_answered(&mut self) -> Vec<Answer> {
        self.sessions.take_answered()
    }

    /// What all sessions have had so far.
    #[must_use]
    pub fn totals(&self) -> &Totals {
        self.sessions.totals()
    }

    /// How many sessions wanted something when the next pass was last thought of.
    #[must_use]
    pub fn demand(&self) -> Demand {
        self.scheduler.demand()
    }

    /// The line near passes of the size that they have of late: the seconds that a pass takes without rows, and those that each row
    /// adds.
    #[must_use]
    pub fn cost(&self) -> (f64, f64) {
        self.costs.usual()
    }

    /// How many tokens of its turn's prompt a session did not have to read, because the KV cache had them; 0 before its first
    /// pass.
    #[must_use]
    pub fn reused(&self, id: SessionId) -> usize {
        self.sessions.get(id).map_or(0, |session| session.place.reused())
    }

    /// What each session is doing.
    pub fn status(&self, now: Duration) -> impl Iterator<Item = SessionStatus> {
        self.sessions.iter().map(move |(id, session)| session.status(id, now))
    }

    /// For tests: checks what always holds, between any two calls.
    ///
    /// # Panics
    /// If a part contradicts itself or another: cells are miscounted, two sessions are in one sequence, the cache holds something else
    /// than a session's text, or a block is being verified while no pass runs.
    pub fn check_invariants(&self) {
        self.cache.check_invariants();
        self.sessions.check_invariants();
        let mut held = 0;
        for (id, session) in self.sessions.iter() {
            assert!(self.batcher.is_running() || session.asked.verified().is_none(), "{id:?} is verified by no pass");
            let Some(sequence) = session.place.sequence() else { continue };
            let valid = session.place.valid();
            held += 1;
            assert!(self.cache.is_held(session.owner, sequence, valid), "{id:?} has what the cache says it has");
            let text = session.text.sequence().tokens().get(..valid);
            assert_eq!(text, Some(self.cache.tokens(sequence)), "the cache holds the text of {id:?}");
        }
        assert_eq!(held, self.cache.held(), "a sequence is of one session, and of one that is there");
        assert!(self.sessions.len() <= self.config.sessions, "no more sessions than may be");
    }
}
