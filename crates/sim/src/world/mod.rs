//! Devices, servers and the network between them in virtual time: the production state machines, driven by an event queue.
//!
//! Nothing here decides anything about tokens: [`Device`] and [`Server`] do, as they do in the shells. The world carries their
//! messages, lets time pass as the cost models say, and breaks things when it is told to.

mod faults;
mod queue;
mod servers;
mod setup;

use std::collections::BTreeMap;
use std::time::Duration;

use queue::Queue;
pub use setup::{DeviceSetup, Fault, Outcome, ServerSetup, Turn};
use sled_core::Token;
use sled_core::device::{Action, Device, Emitted, Notice, Prompt, Ticket};
use sled_core::message::{Reply, Request};
use sled_core::sampler::{Draft, Sampler};
use sled_core::server::{Server, SessionId, Step};
use sled_model::Model;

use crate::Error;
use crate::network::Direction;
use crate::rng::Rng;

/// A server that a device cannot reach learns after this long that the device has hung up.
const KEEPALIVE: Duration = Duration::from_secs(40);

type ConnectionId = u64;

enum Event {
    ToServer(ConnectionId, Request),
    ToDevice(ConnectionId, Reply),
    Attempt { device: usize, server: usize, attempt: u64 },
    Attempted { device: usize, server: usize, attempt: u64, connection: Option<ConnectionId> },
    HungUp(ConnectionId),
    Broken(ConnectionId),
    Drafted { device: usize, life: u64, ticket: Ticket, draft: Option<Draft> },
    Timer { device: usize },
    StepDone { server: usize, life: u64 },
    Resume { server: usize },
    Begin { device: usize, life: u64 },
    Fault(Fault),
    Restart { server: usize },
}

struct ServerHost {
    setup: ServerSetup,
    core: Server,
    model: Box<dyn Model>,
    step: Option<Step>,
    up: bool,
    stalled_until: Duration,
    /// When it looks again whether to launch a step.
    wakes: Option<Duration>,
    life: u64,
    /// The steps and rows so far.
    steps: u64,
    rows: u64,
}

struct DeviceHost {
    setup: DeviceSetup,
    core: Device,
    sampler: Sampler,
    up: Direction,
    down: Direction,
    partitioned_until: Duration,
    connection: Option<ConnectionId>,
    attempt: u64,
    /// Counts reboots.
    life: u64,
    /// When the drafting thread is done with what it was asked.
    drafting_until: Duration,
    timer: Option<Duration>,
    /// The device's clock, against the world's.
    clock_ahead: Duration,
    clock_behind: Duration,
    text: Vec<Token>,
    turn: usize,
    began: Duration,
    emitted: Vec<(Duration, Emitted)>,
    notices: Vec<Notice>,
    outcomes: Vec<Outcome>,
    off: bool,
}

impl DeviceHost {
    fn clock(&self, now: Duration) -> Duration {
        (now + self.clock_ahead).saturating_sub(self.clock_behind)
    }

    fn done(&self) -> bool {
        self.turn >= self.setup.turns.len()
    }
}

struct Connection {
    device: usize,
    server: usize,
    session: SessionId,
    life: u64,
}

/// The simulation.
pub struct World {
    now: Duration,
    queue: Queue<Event>,
    rng: Rng,
    servers: Vec<ServerHost>,
    devices: Vec<DeviceHost>,
    connections: BTreeMap<ConnectionId, Connection>,
    next_connection: ConnectionId,
}

/// What a server did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServerTotals {
    /// Forward passes.
    pub steps: u64,
    /// Rows in them.
    pub rows: u64,
}

impl World {
    /// A world whose randomness comes from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            now: Duration::ZERO,
            queue: Queue::new(),
            rng: Rng(seed),
            servers: Vec::new(),
            devices: Vec::new(),
            connections: BTreeMap::new(),
            next_connection: 0,
        }
    }

    /// Adds a server; devices know it by the order of these calls.
    pub fn add_server(&mut self, setup: ServerSetup) {
        self.servers.push(ServerHost {
            core: Server::new(setup.config.clone()),
            model: (setup.model)(),
            setup,
            step: None,
            up: true,
            stalled_until: Duration::ZERO,
            wakes: None,
            life: 0,
            steps: 0,
            rows: 0,
        });
    }

    /// Adds a device.
    ///
    /// # Errors
    /// If the sampling parameters of a turn are out of range.
    pub fn add_device(&mut self, setup: DeviceSetup) -> Result<(), Error> {
        let device = self.devices.len();
        let vocab_size = self.servers.first().map_or(0, |server| server.setup.config.vocab_size);
        let sampler = sampler(&setup, 0, vocab_size)?;
        let begins = setup.begins;
        self.devices.push(DeviceHost {
            core: Device::new(setup.config.clone()),
            sampler,
            up: Direction::new(setup.up),
            down: Direction::new(setup.down),
            setup,
            partitioned_until: Duration::ZERO,
            connection: None,
            attempt: 0,
            life: 0,
            drafting_until: Duration::ZERO,
            timer: None,
            clock_ahead: Duration::ZERO,
            clock_behind: Duration::ZERO,
            text: Vec::new(),
            turn: 0,
            began: Duration::ZERO,
            emitted: Vec::new(),
            notices: Vec::new(),
            outcomes: Vec::new(),
            off: false,
        });
        self.at(begins, Event::Begin { device, life: 0 });
        Ok(())
    }

    /// Plans a fault.
    pub fn fault(&mut self, time: Duration, fault: Fault) {
        self.at(time, Event::Fault(fault));
    }

    /// Runs until every device is done, or until `deadline`; whether all are done.
    ///
    /// # Errors
    /// If a model fails: the state machines asked for what cannot be.
    pub fn run(&mut self, deadline: Duration) -> Result<bool, Error> {
        while self.devices.iter().any(|device| !device.done()) {
            let Some((time, event)) = self.queue.pop() else { return Ok(false) };
            if time > deadline {
                return Ok(false);
            }
            self.now = time;
            self.handle(event)?;
        }
        Ok(true)
    }

    /// The time.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.now
    }

    /// What became of the turns of each device, so far.
    pub fn outcomes(&self) -> impl Iterator<Item = &[Outcome]> {
        self.devices.iter().map(|device| device.outcomes.as_slice())
    }

    /// What the servers did together.
    #[must_use]
    pub fn totals(&self) -> ServerTotals {
        let sum = |of: fn(&ServerHost) -> u64| self.servers.iter().map(of).sum();
        ServerTotals { steps: sum(|server| server.steps), rows: sum(|server| server.rows) }
    }

    /// The state of every device and server, for a report of what went wrong.
    #[must_use]
    pub fn describe(&self) -> String {
        let devices = self.devices.iter().map(|device| format!("{:?}\n", device.core));
        devices.chain(self.servers.iter().map(|server| format!("{:?}\n", server.core))).collect()
    }

    fn at(&mut self, time: Duration, event: Event) {
        self.queue.push(time.max(self.now), event);
    }

    fn handle(&mut self, event: Event) -> Result<(), Error> {
        match event {
            Event::ToServer(id, request) => self.deliver_request(id, request)?,
            Event::ToDevice(id, reply) => {
                let Some(connection) = self.connections.get(&id) else { return Ok(()) };
                let device = connection.device;
                if self.devices[device].connection == Some(id) {
                    let clock = self.devices[device].clock(self.now);
                    self.devices[device].core.on_reply(clock, reply);
                    self.pump(device)?;
                }
            }
            Event::Attempt { device, server, attempt } => self.attempt(device, server, attempt),
            Event::Attempted { device, server, attempt, connection } => {
                let host = &mut self.devices[device];
                if host.attempt != attempt || host.off {
                    self.hang_up(connection);
                    return Ok(());
                }
                let clock = host.clock(self.now);
                host.connection = connection;
                match connection {
                    Some(_) => host.core.on_connected(clock, server),
                    None => host.core.on_disconnected(clock, "refused".to_owned()),
                }
                self.pump(device)?;
            }
            Event::HungUp(id) => {
                if let Some(connection) = self.connections.remove(&id)
                    && let Some(server) = self.servers.get_mut(connection.server)
                    && server.life == connection.life
                {
                    server.core.close(self.now, connection.session);
                }
            }
            Event::Broken(id) => {
                if let Some(connection) = self.connections.get(&id) {
                    let device = connection.device;
                    if self.devices[device].connection == Some(id) {
                        self.lose_connection(device, "broken")?;
                    }
                }
            }
            Event::Drafted { device, life, ticket, draft } => {
                let host = &mut self.devices[device];
                if host.life == life && !host.off {
                    let clock = host.clock(self.now);
                    host.core.on_draft(clock, ticket, draft);
                    self.pump(device)?;
                }
            }
            Event::Timer { device } => {
                let host = &mut self.devices[device];
                if host.timer == Some(self.now) && !host.off {
                    host.timer = None;
                    let clock = host.clock(self.now);
                    host.core.on_timer(clock);
                    self.pump(device)?;
                }
            }
            Event::StepDone { server, life } => self.step_done(server, life)?,
            Event::Resume { server } => self.launch(server)?,
            Event::Restart { server } => {
                if let Some(host) = self.servers.get_mut(server) {
                    host.core = Server::new(host.setup.config.clone());
                    host.model = (host.setup.model)();
                    host.up = true;
                }
            }
            Event::Begin { device, life } => {
                if self.devices[device].life == life {
                    self.devices[device].off = false;
                    self.begin_turn(device)?;
                }
            }
            Event::Fault(fault) => self.strike(fault)?,
        }
        Ok(())
    }

    fn reachable(&self, device: usize) -> bool {
        self.devices[device].partitioned_until <= self.now
    }

    fn hang_up(&mut self, connection: Option<ConnectionId>) {
        let Some(id) = connection else { return };
        let Some(device) = self.connections.get(&id).map(|connection| connection.device) else { return };
        let after = if self.reachable(device) { self.devices[device].up.latency() } else { KEEPALIVE };
        self.at(self.now + after, Event::HungUp(id));
    }

    fn begin_turn(&mut self, device: usize) -> Result<(), Error> {
        let vocab_size = self.servers.first().map_or(0, |server| server.setup.config.vocab_size);
        let now = self.now;
        let host = &mut self.devices[device];
        let Some(turn) = host.setup.turns.get(host.turn) else { return Ok(()) };
        let mut text = if turn.anew { Vec::new() } else { host.text.clone() };
        text.extend(&turn.text);
        let prompt = Prompt { tokens: text.clone(), max_tokens: turn.max_tokens, sampling: turn.sampling.clone() };
        host.text = text;
        host.sampler = sampler(&host.setup, host.turn, vocab_size)?;
        host.began = now;
        host.emitted.clear();
        host.notices.clear();
        let clock = host.clock(now);
        host.core.prompt(clock, prompt);
        self.pump(device)
    }

    /// Carries out what a device wants done.
    fn pump(&mut self, device: usize) -> Result<(), Error> {
        while let Some(action) = self.devices[device].core.poll() {
            let host = &mut self.devices[device];
            match action {
                Action::Connect(server) => {
                    host.attempt += 1;
                    let (attempt, arrival) = (host.attempt, self.now + host.up.latency());
                    self.at(arrival, Event::Attempt { device, server, attempt });
                }
                Action::Disconnect => {
                    host.attempt += 1;
                    let connection = host.connection.take();
                    self.hang_up(connection);
                }
                Action::Send(request) => {
                    let Some(id) = host.connection.filter(|_| host.partitioned_until <= self.now) else { continue };
                    let tokens = match &request {
                        Request::Context(update) => update.tokens.len(),
                        Request::Draft(block) => block.tokens.len(),
                        Request::Stop(_) => 0,
                    };
                    for arrival in host.up.send(self.now, tokens, &mut self.rng) {
                        self.at(arrival, Event::ToServer(id, request.clone()));
                    }
                }
                Action::Draft(ticket) => {
                    let draft = match &mut host.setup.drafter {
                        Some(drafter) => drafter.draft(host.core.context(), &host.sampler)?,
                        None => None,
                    };
                    host.drafting_until = host.drafting_until.max(self.now) + host.setup.draft_time;
                    let (done, life) = (host.drafting_until, host.life);
                    self.at(done, Event::Drafted { device, life, ticket, draft });
                }
                Action::Emit(emitted) => host.emitted.push((self.now, emitted)),
                Action::Notify(notice) => host.notices.push(notice),
                Action::Finish(reason) => {
                    let prompt = std::mem::take(&mut host.text);
                    host.text = host.core.settled().to_vec();
                    host.outcomes.push(Outcome {
                        prompt,
                        turn: host.setup.turns[host.turn].clone(),
                        emitted: std::mem::take(&mut host.emitted),
                        notices: std::mem::take(&mut host.notices),
                        reason,
                        stats: host.core.stats(),
                        time: (host.began, self.now),
                    });
                    host.turn += 1;
                    self.begin_turn(device)?;
                }
            }
        }
        let host = &mut self.devices[device];
        let deadline = host.core.deadline().map(|deadline| {
            let wait = deadline.saturating_sub(host.clock(self.now));
            self.now + wait
        });
        if deadline != host.timer {
            host.timer = deadline;
            if let Some(deadline) = deadline {
                self.at(deadline, Event::Timer { device });
            }
        }
        Ok(())
    }

    fn lose_connection(&mut self, device: usize, reason: &str) -> Result<(), Error> {
        let connection = self.devices[device].connection.take();
        self.hang_up(connection);
        let host = &mut self.devices[device];
        let clock = host.clock(self.now);
        host.core.on_disconnected(clock, reason.to_owned());
        self.pump(device)
    }
}

fn sampler(setup: &DeviceSetup, turn: usize, vocab_size: usize) -> Result<Sampler, Error> {
    let params = setup.turns.get(turn).map(|turn| turn.sampling.clone()).unwrap_or_default();
    Ok(Sampler::new(params, vocab_size)?)
}
