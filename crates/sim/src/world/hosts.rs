//! Who is in the world, and what happens to them: the state machines, and what the shells around them know.

use std::time::Duration;

use sled_core::Token;
use sled_core::device::{Device, Emitted, Notice, Ticket};
use sled_core::message::{Reply, Request};
use sled_core::sampler::{Draft, Sampler};
use sled_core::server::{Busy, Server, SessionId, Step};
use sled_model::Model;

use super::{DeviceSetup, Fault, Outcome, ServerSetup, ServerTotals, Turn};
use crate::network::Direction;

/// The place of a connection among all that there ever were.
pub(super) type ConnectionId = usize;

pub(super) enum Event {
    ToServer(ConnectionId, Request),
    ToDevice(ConnectionId, Reply),
    Attempt { device: usize, server: usize, attempt: u64 },
    Attempted { device: usize, server: usize, attempt: u64, answer: Result<ConnectionId, Option<(Busy, Duration)>> },
    HungUp(ConnectionId),
    Broken(ConnectionId),
    Drafted { device: usize, life: u64, ticket: Ticket, draft: Option<Draft> },
    Timer { device: usize },
    StepDone { server: usize, life: u64, pass: u64 },
    Resume { server: usize },
    Begin { device: usize, life: u64 },
    Fault(Fault),
    Restart { server: usize },
}

pub(super) struct ServerHost {
    pub(super) setup: ServerSetup,
    pub(super) core: Server,
    pub(super) model: Box<dyn Model>,
    pub(super) step: Option<Step>,
    /// Counts passes.
    pub(super) passes: u64,
    pub(super) up: bool,
    pub(super) stalled_until: Duration,
    /// When it looks again whether to launch a step.
    pub(super) wakes: Option<Duration>,
    pub(super) life: u64,
    /// The connection of each session of this life, by the session's number.
    pub(super) sessions: Vec<ConnectionId>,
    pub(super) totals: ServerTotals,
    /// Since when the step that is under way is running.
    pub(super) stepping: Duration,
}

pub(super) struct DeviceHost {
    pub(super) setup: DeviceSetup,
    pub(super) core: Device,
    pub(super) sampler: Sampler,
    pub(super) up: Direction,
    pub(super) down: Direction,
    pub(super) partitioned_until: Duration,
    pub(super) connection: Option<ConnectionId>,
    pub(super) attempt: u64,
    /// Counts reboots.
    pub(super) life: u64,
    /// When the drafting thread is done with what it was asked.
    pub(super) drafting_until: Duration,
    /// What drafts of the block at hand take, against the mean.
    pub(super) pace: f64,
    /// How long it has drafted so far.
    pub(super) drafted: Duration,
    /// When the next timer event comes.
    pub(super) timer: Option<Duration>,
    /// The device's clock, against the world's.
    pub(super) clock_ahead: Duration,
    pub(super) clock_behind: Duration,
    pub(super) text: Vec<Token>,
    /// The turn that it is at; `None` when it is done.
    pub(super) turn: Option<Turn>,
    /// When the turn began; `None` before that.
    pub(super) began: Option<Duration>,
    pub(super) emitted: Vec<(Duration, Emitted)>,
    pub(super) notices: Vec<Notice>,
    pub(super) outcomes: Vec<Outcome>,
    pub(super) off: bool,
}

impl DeviceHost {
    pub(super) fn clock(&self, now: Duration) -> Duration {
        (now + self.clock_ahead).saturating_sub(self.clock_behind)
    }

    pub(super) fn done(&self) -> bool {
        self.turn.is_none()
    }
}

pub(super) struct Connection {
    pub(super) device: usize,
    pub(super) server: usize,
    pub(super) session: SessionId,
    pub(super) life: u64,
}
