//! Devices, servers and the network between them in virtual time: the production state machines, driven by an event queue.
//!
//! Nothing here decides anything about tokens: [`Device`] and [`Server`] do, as they do in the shells. The world carries their
//! messages, lets time pass as the cost models say, and breaks things when it is told to.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use sled_core::Token;
use sled_core::device::{Action, Device, DeviceConfig, Emitted, FinishReason, Notice, Prompt, Stats, Ticket};
use sled_core::message::{Reply, Request};
use sled_core::sampler::{Draft, Sampler};
use sled_core::server::{Server, ServerConfig, SessionId, Step};
use sled_model::Model;
use sled_model::drafter::Drafter;

use crate::Error;
use crate::cost::StepCost;
use crate::network::{Direction, Path};
use crate::rng::Rng;

/// A server that a device cannot reach learns after this long that the device has hung up.
const KEEPALIVE: Duration = Duration::from_secs(40);

/// What a simulated server is.
pub struct ServerSetup {
    /// How the state machine is set up.
    pub config: ServerConfig,
    /// Makes the model, empty; called again when the server restarts.
    pub model: Box<dyn Fn() -> Box<dyn Model>>,
    /// What a step takes.
    pub cost: StepCost,
}

/// What a simulated device is, and what it does.
pub struct DeviceSetup {
    /// How the state machine is set up.
    pub config: DeviceConfig,
    /// Who drafts.
    pub drafter: Option<Box<dyn Drafter>>,
    /// The time that a draft takes.
    pub draft_time: Duration,
    /// The way to its servers, and back.
    pub up: Path,
    /// The way back.
    pub down: Path,
    /// When it begins.
    pub begins: Duration,
    /// What it asks, one after the other.
    pub turns: Vec<Turn>,
}

/// One prompt.
#[derive(Clone, Debug)]
pub struct Turn {
    /// Appended to the text so far.
    pub text: Vec<Token>,
    /// Whether it begins a new text.
    pub anew: bool,
    /// The most tokens to generate.
    pub max_tokens: usize,
    /// How tokens are chosen.
    pub sampling: sled_core::sampler::SamplingParams,
}

/// What became of a turn.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The whole prompt.
    pub prompt: Vec<Token>,
    /// What was asked.
    pub turn: Turn,
    /// The tokens, as they were shown, and when.
    pub emitted: Vec<(Duration, Emitted)>,
    /// What the user was told.
    pub notices: Vec<Notice>,
    /// Why it ended.
    pub reason: FinishReason,
    /// What it took.
    pub stats: Stats,
    /// When it began, and when it ended.
    pub time: (Duration, Duration),
}

/// Something that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The server of this index dies, and is back, empty, after a time.
    Crash {
        /// Which server.
        server: usize,
        /// How long it is gone.
        lasts: Duration,
    },
    /// It does nothing for a time, and then goes on.
    Stall {
        /// Which server.
        server: usize,
        /// How long it stands still.
        lasts: Duration,
    },
    /// It forgets the session of a device, without a word.
    Forget {
        /// Whose session.
        device: usize,
    },
    /// Nothing that a device or its servers send arrives, for a time.
    Partition {
        /// Which device.
        device: usize,
        /// How long.
        lasts: Duration,
    },
    /// The device dies, and begins its turn anew after a time.
    Reboot {
        /// Which device.
        device: usize,
        /// How long it is gone.
        lasts: Duration,
    },
    /// The device's connection is cut, and it notices.
    Cut {
        /// Which device.
        device: usize,
    },
    /// From now on nothing is lost, repeated or reordered any more.
    Heal,
    /// The device's clock jumps ahead (it slept), or back.
    ClockJump {
        /// Which device.
        device: usize,
        /// How far.
        by: Duration,
        /// Whether back.
        back: bool,
    },
}

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

/// An entry of the event queue; the earliest, and of those the first put in, comes first.
struct Entry {
    time: Duration,
    number: u64,
    event: Event,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.time, self.number).cmp(&(other.time, other.number))
    }
}

struct ServerHost {
    setup: ServerSetup,
    core: Server,
    model: Box<dyn Model>,
    step: Option<Step>,
    up: bool,
    stalled_until: Duration,
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
    queue: BinaryHeap<Reverse<Entry>>,
    number: u64,
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
            queue: BinaryHeap::new(),
            number: 0,
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
            let Some(Reverse(Entry { time, event, .. })) = self.queue.pop() else { return Ok(false) };
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
        self.number += 1;
        self.queue.push(Reverse(Entry { time: time.max(self.now), number: self.number, event }));
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
                    server.core.close(connection.session);
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

    fn attempt(&mut self, device: usize, server: usize, attempt: u64) {
        if self.devices[device].attempt != attempt || !self.reachable(device) {
            return;
        }
        let Some(host) = self.servers.get_mut(server) else { return };
        if host.up && host.stalled_until > self.now {
            // A stalled server accepts, and answers when it goes on.
            let resumes = host.stalled_until;
            self.at(resumes, Event::Attempt { device, server, attempt });
            return;
        }
        let life = host.life;
        let session = if host.up { host.core.open().ok() } else { None };
        let connection = session.map(|session| {
            self.next_connection += 1;
            self.connections.insert(self.next_connection, Connection { device, server, session, life });
            self.next_connection
        });
        let back = self.now + self.devices[device].down.latency();
        self.at(back, Event::Attempted { device, server, attempt, connection });
    }

    fn hang_up(&mut self, connection: Option<ConnectionId>) {
        let Some(id) = connection else { return };
        let Some(device) = self.connections.get(&id).map(|connection| connection.device) else { return };
        let after = if self.reachable(device) { self.devices[device].up.latency() } else { KEEPALIVE };
        self.at(self.now + after, Event::HungUp(id));
    }

    fn deliver_request(&mut self, id: ConnectionId, request: Request) -> Result<(), Error> {
        let Some(&Connection { server, session, life, .. }) = self.connections.get(&id) else { return Ok(()) };
        let Some(host) = self.servers.get_mut(server).filter(|host| host.up && host.life == life) else {
            return Ok(());
        };
        if host.stalled_until > self.now {
            let resumes = host.stalled_until;
            self.at(resumes, Event::ToServer(id, request));
            return Ok(());
        }
        if let Some(reply) = host.core.request(self.now, session, request) {
            self.reply(id, reply);
        }
        self.launch(server)
    }

    fn reply(&mut self, id: ConnectionId, reply: Reply) {
        let Some(device) = self.connections.get(&id).map(|connection| connection.device) else { return };
        if !self.reachable(device) {
            return;
        }
        let tokens = if let Reply::Commit(commit) = &reply { commit.tokens.len() } else { 0 };
        for arrival in self.devices[device].down.send(self.now, tokens, &mut self.rng) {
            self.at(arrival, Event::ToDevice(id, reply.clone()));
        }
    }

    /// Runs the next step of a server that is free.
    fn launch(&mut self, server: usize) -> Result<(), Error> {
        let Some(host) = self.servers.get_mut(server) else { return Ok(()) };
        if !host.up || host.stalled_until > self.now || host.step.is_some() {
            return Ok(());
        }
        let Some(step) = host.core.plan(self.now) else { return Ok(()) };
        for &op in &step.cache_ops {
            host.model.apply(op)?;
        }
        if !step.rows.is_empty() {
            host.model.forward(&step.rows)?;
        }
        host.steps += 1;
        host.rows += step.rows.len() as u64;
        let done = self.now + host.setup.cost.of(step.rows.len());
        host.step = Some(step);
        let life = host.life;
        self.at(done, Event::StepDone { server, life });
        Ok(())
    }

    fn step_done(&mut self, server: usize, life: u64) -> Result<(), Error> {
        let Some(host) = self.servers.get_mut(server).filter(|host| host.life == life) else { return Ok(()) };
        if host.stalled_until > self.now {
            let resumes = host.stalled_until;
            self.at(resumes, Event::StepDone { server, life });
            return Ok(());
        }
        let Some(mut step) = host.step.take() else { return Ok(()) };
        let model = &host.model;
        let replies = host.core.complete(self.now, &mut step, |row| model.logits(row))?;
        for (session, reply) in replies {
            let to = self
                .connections
                .iter()
                .find(|(_, c)| (c.server, c.life, c.session) == (server, life, session))
                .map(|(&id, _)| id);
            if let Some(id) = to {
                self.reply(id, reply);
            }
        }
        self.launch(server)
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

    fn strike(&mut self, fault: Fault) -> Result<(), Error> {
        let now = self.now;
        match fault {
            Fault::Crash { server, lasts } => {
                let Some(host) = self.servers.get_mut(server).filter(|host| host.up) else { return Ok(()) };
                host.up = false;
                host.step = None;
                host.life += 1;
                host.stalled_until = Duration::ZERO;
                // Who is connected learns it from the operating system of the server; not behind a partition.
                let connected: Vec<_> = self
                    .connections
                    .iter()
                    .filter(|(_, c)| c.server == server)
                    .map(|(&id, c)| (id, c.device))
                    .collect();
                for (id, device) in connected {
                    if self.reachable(device) {
                        let arrival = now + self.devices[device].down.latency();
                        self.at(arrival, Event::Broken(id));
                    }
                }
                self.at(now + lasts, Event::Restart { server });
            }
            Fault::Stall { server, lasts } => {
                if let Some(host) = self.servers.get_mut(server).filter(|host| host.up) {
                    host.stalled_until = host.stalled_until.max(now + lasts);
                    let resumes = host.stalled_until;
                    self.at(resumes, Event::Resume { server });
                }
            }
            Fault::Forget { device } => {
                let Some(id) = self.devices[device].connection else { return Ok(()) };
                let Some(connection) = self.connections.get_mut(&id) else { return Ok(()) };
                if let Some(host) = self.servers.get_mut(connection.server)
                    && host.up
                    && host.life == connection.life
                {
                    host.core.close(connection.session);
                    if let Ok(session) = host.core.open() {
                        connection.session = session;
                    }
                }
            }
            Fault::Partition { device, lasts } => {
                let host = &mut self.devices[device];
                host.partitioned_until = host.partitioned_until.max(now + lasts);
            }
            Fault::Reboot { device, lasts } => {
                let connection = self.devices[device].connection.take();
                self.hang_up(connection);
                let host = &mut self.devices[device];
                if host.done() || host.off {
                    return Ok(());
                }
                host.off = true;
                host.life += 1;
                host.attempt += 1;
                host.timer = None;
                host.drafting_until = now;
                host.core = Device::new(host.setup.config.clone());
                // What the turn began with is still known: it was on the disk, or the user asks again.
                let turn = &host.setup.turns[host.turn];
                let before = host.text.len().saturating_sub(turn.text.len());
                host.text.truncate(before);
                let life = host.life;
                self.at(now + lasts, Event::Begin { device, life });
            }
            Fault::Heal => {
                for host in &mut self.devices {
                    host.up.heal();
                    host.down.heal();
                }
            }
            Fault::Cut { device } => {
                if self.devices[device].connection.is_some() {
                    self.lose_connection(device, "cut")?;
                }
            }
            Fault::ClockJump { device, by, back } => {
                let host = &mut self.devices[device];
                if back {
                    host.clock_behind += by;
                } else {
                    host.clock_ahead += by;
                }
                if !host.off {
                    self.pump(device)?;
                }
            }
        }
        Ok(())
    }
}

fn sampler(setup: &DeviceSetup, turn: usize, vocab_size: usize) -> Result<Sampler, Error> {
    let params = setup.turns.get(turn).map(|turn| turn.sampling.clone()).unwrap_or_default();
    Ok(Sampler::new(params, vocab_size)?)
}
