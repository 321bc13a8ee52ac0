//! The server's side: sessions, acceptance, and what the next forward pass consists of.
//!
//! [`Server`] is a state machine. Requests go in; [`Server::plan`] hands out the next [`Step`] when the engine is free; the
//! engine's logits come back through [`Server::complete`], which returns what to tell the devices. It runs no model and
//! knows no clock: `now` is the time since any fixed moment.
//!
//! | file | what it decides |
//! |---|---|
//! | `scheduling.rs` | the policies, by name |
//! | `session.rs` | what a message means for one session: new, repeated, stale or ahead |
//! | `schedule.rs` | who is served by the next pass, and when it is launched |
//! | `reading.rs` | whose text it reads, and how much of it |
//! | `batch.rs` | which rows it has |
//! | `verdict.rs` | what its logits commit, and what becomes of it if it fails |
//! | `cache.rs` | the KV cache: its sequences, the texts in them, and what they share |
//! | `memory.rs` | who has a place in it, and who gives way |
//! | `forecast.rs` | when a session's next draft is due, and what it is worth |
//! | `cost.rs`, `rate.rs` | what a pass costs, and how many tokens a second the passes bring |

mod batch;
mod cache;
mod cost;
mod forecast;
mod memory;
mod rate;
mod reading;
mod schedule;
mod scheduling;
mod session;
mod verdict;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

pub use batch::{Plan, Step, Waits};
use cache::Cache;
pub use cache::Owner;
use cost::StepCost;
use rate::{Goal, Rate};
use reading::Readings;
pub use scheduling::{Assist, Batching, SchedulingError};
pub use session::Tally;
use session::{Session, Wants};

use crate::Token;
use crate::acceptance::AcceptedAt;
use crate::message::{Reply, Request};

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
}

/// Why a session is not opened now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Busy {
    /// There are as many sessions as may be.
    #[error("the server is busy: it has {0} sessions, and takes no more")]
    Sessions(usize),
    /// Too many texts wait to be read.
    #[error("the server is busy: {0} prompts wait to be read")]
    Queue(usize),
}

/// The least and the most that a refused device is told to wait.
const SOONEST: Duration = Duration::from_secs(1);
const LATEST: Duration = Duration::from_secs(30);

/// What a session is doing, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// Which session.
    pub id: SessionId,
    /// Tokens of its text.
    pub tokens: usize,
    /// How many of them the KV cache holds.
    pub cached: usize,
    /// What it has had so far.
    pub tally: Tally,
    /// What it is doing.
    pub activity: Activity,
}

/// What a session is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// Its answer is complete, it has no prompt yet, or nothing is heard of its device; so long since.
    Idle(Duration),
    /// Its text is being read, or waits to be; so long since.
    Reading(Duration),
    /// A block of it waits for its verdict; so long since.
    Waiting(Duration),
    /// Its device is drafting.
    Drafting,
}

/// What the answer to a request took that has a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Whose it was.
    pub session: SessionId,
    /// The name of the request.
    pub request: String,
    /// Tokens of its prompt.
    pub prompt: usize,
    /// Tokens committed, drafts verified and drafts accepted for it.
    pub tally: Tally,
    /// From the prompt to the last token, or to when it was given up.
    pub took: Duration,
}

/// What all sessions have had so far, closed ones included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Tokens committed.
    pub committed: u64,
    /// Verdicts on at least one draft.
    pub drafts: u64,
    /// Drafts verified.
    pub drafted: u64,
    /// Accepted drafts.
    pub accepted: u64,
    /// Accepted drafts by their place among the verified ones.
    pub accepted_at: AcceptedAt,
}

impl Totals {
    fn add(&mut self, committed: usize, drafted: usize, accepted: usize) {
        self.committed += committed as u64;
        self.drafts += u64::from(drafted > 0);
        self.drafted += drafted as u64;
        self.accepted += accepted as u64;
        self.accepted_at.add(accepted);
    }
}

/// How many sessions want something of the engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// Their text is being read, or waits to be.
    pub reading: usize,
    /// A block of theirs waits for its verdict, or they asked for plain decoding.
    pub waiting: usize,
    /// Their devices are drafting.
    pub drafting: usize,
}

/// All sessions of one server.
#[derive(Debug)]
pub struct Server {
    config: ServerConfig,
    sessions: BTreeMap<SessionId, Session>,
    next_id: u64,
    cache: Cache,
    cost: StepCost,
    rate: Rate,
    goal: Goal,
    readings: Readings,
    /// Whether the last pass that had rows only for the one or the other was for reading.
    reads: bool,
    /// Whether the last pass was for a suspect.
    tried: bool,
    /// Whether a step was handed out and has not come back.
    running: bool,
    /// Whether nobody was served before the next step.
    idle: bool,
    evictions: u64,
    /// Answers that have ended since they were last asked for.
    answered: Vec<Answer>,
    totals: Totals,
    demand: Demand,
}

impl Server {
    /// A server without sessions.
    #[must_use]
    pub fn new(config: ServerConfig) -> Self {
        Self {
            cache: Cache::new(config.cells, config.sequences),
            config,
            sessions: BTreeMap::new(),
            next_id: 0,
            cost: StepCost::default(),
            rate: Rate::default(),
            goal: Goal::default(),
            readings: Readings::default(),
            reads: false,
            tried: false,
            running: false,
            idle: true,
            evictions: 0,
            answered: Vec::new(),
            totals: Totals::default(),
            demand: Demand::default(),
        }
    }

    /// Tells that a pass of `rows` rows takes `time`, before there was any for a session.
    pub fn calibrate(&mut self, rows: usize, time: Duration) {
        self.cost.observe(rows, rows, time);
    }

    /// Makes `text` a public prefix: as far as texts begin with it, sessions of all owners share it.
    pub fn share(&mut self, text: Vec<Token>) {
        self.cache.publish(text);
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
        self.evictions
    }

    /// The answers that have ended since the last call, of requests that have names.
    pub fn take_answered(&mut self) -> Vec<Answer> {
        std::mem::take(&mut self.answered)
    }

    /// What all sessions have had so far.
    #[must_use]
    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    /// How many sessions wanted something when the next pass was last thought of.
    #[must_use]
    pub fn demand(&self) -> Demand {
        self.demand
    }

    /// The line through the durations of the latest passes: the seconds that a pass takes without rows, and those that each row
    /// adds.
    #[must_use]
    pub fn cost(&self) -> (f64, f64) {
        self.cost.usual()
    }

    /// How many tokens of its turn's prompt a session did not have to read, because the KV cache had them; 0 before its first
    /// pass.
    #[must_use]
    pub fn reused(&self, id: SessionId) -> usize {
        self.sessions.get(&id).and_then(|session| session.reused).unwrap_or(0)
    }

    /// What each session is doing.
    pub fn status(&self, now: Duration) -> impl Iterator<Item = Status> {
        self.sessions.iter().map(move |(&id, session)| Status {
            id,
            tokens: session.sequence.len(),
            cached: session.cached.valid,
            tally: session.tally,
            activity: match session.wants() {
                _ if session.verifying => Activity::Waiting(now.saturating_sub(session.waiting_since())),
                Wants::Nothing => Activity::Idle(now.saturating_sub(session.active)),
                Wants::Reading => Activity::Reading(now.saturating_sub(session.begun)),
                Wants::Tokens => Activity::Waiting(now.saturating_sub(session.waiting_since())),
                Wants::Assistance => Activity::Drafting,
                Wants::Word => Activity::Idle(now.saturating_sub(session.active)),
            },
        })
    }

    /// Opens a session of `owner`.
    ///
    /// # Errors
    /// If the server is busy; and how long it is likely to be.
    pub fn open(&mut self, now: Duration, owner: Owner) -> Result<SessionId, (Busy, Duration)> {
        self.admit_of(Some(owner))?;
        let id = SessionId(self.next_id);
        self.next_id += 1;
        self.sessions.insert(id, Session::new(now, owner));
        Ok(id)
    }

    /// Whether another session may be opened now, whoever it is of.
    ///
    /// # Errors
    /// As [`Server::open`].
    pub fn admit(&self) -> Result<(), (Busy, Duration)> {
        self.admit_of(None)
    }

    fn admit_of(&self, owner: Option<Owner>) -> Result<(), (Busy, Duration)> {
        if self.sessions.len() >= self.config.sessions {
            return Err((Busy::Sessions(self.sessions.len()), SOONEST));
        }
        self.admit_prompt(owner, None)
    }

    /// Whether another text of `owner` may wait to be read beside those of other sessions than `id`. Where too many wait, whoever has
    /// less than its share of them is let in all the same.
    fn admit_prompt(&self, owner: Option<Owner>, id: Option<SessionId>) -> Result<(), (Busy, Duration)> {
        if self.sessions.len() < self.config.queue {
            return Ok(());
        }
        let (mut prompts, mut rows, mut own) = (0, 0, 0);
        let mut owners = BTreeSet::new();
        for (_, session) in self.sessions.iter().filter(|&(&other, _)| id != Some(other)) {
            if session.wants() == Wants::Reading {
                prompts += 1;
                rows += session.unread();
                own += usize::from(owner == Some(session.owner));
                owners.insert(session.owner);
            }
        }
        let share = (self.config.queue / owners.len().max(1)).max(1);
        if prompts >= self.config.queue && owner.is_none_or(|_| own >= share) {
            let time = Duration::try_from_secs_f64(self.cost.pass(rows as f64)).unwrap_or(LATEST);
            return Err((Busy::Queue(prompts), time.clamp(SOONEST, LATEST)));
        }
        Ok(())
    }

    /// Closes a session. Closing it twice does nothing.
    pub fn close(&mut self, now: Duration, id: SessionId) {
        if let Some(mut session) = self.sessions.remove(&id) {
            self.answered.extend(session.take_answer(id, now));
            if let Some(sequence) = session.cached.sequence {
                self.cache.cut(sequence, session.cached.valid);
                self.cache.leave(now, sequence);
            }
            self.readings.forget(now);
        }
    }

    /// Takes a device's message and returns the answer, if it has one that needs no forward pass. A new prompt is not taken while
    /// too many wait to be read: then the session ends, and its device asks another server, or is told when it opens the next
    /// session how long to wait.
    pub fn request(&mut self, now: Duration, id: SessionId, request: Request) -> Option<Reply> {
        if let Request::Context(update) = &request
            && let Some(session) = self.sessions.get(&id).filter(|session| update.turn > session.turn)
            && let Err((busy, after)) = self.admit_prompt(Some(session.owner), Some(id))
        {
            return Some(Reply::Closing(format!("{busy}; try again in {:.0} s", after.as_secs_f64().ceil())));
        }
        let session = self.sessions.get_mut(&id)?;
        let reply = match request {
            Request::Context(update) => {
                if update.turn > session.turn {
                    self.answered.extend(session.take_answer(id, now));
                }
                let reply = session.on_context(&self.config, now, update);
                if let Some(sequence) = session.cached.sequence {
                    self.cache.cut(sequence, session.cached.valid);
                }
                reply
            }
            Request::Draft(block) => session.on_draft(&self.config, now, block),
            Request::Stop(turn) => {
                session.on_stop(turn);
                if session.wants() == Wants::Nothing {
                    self.answered.extend(session.take_answer(id, now));
                }
                None
            }
        };
        session.on_word();
        reply
    }
}
