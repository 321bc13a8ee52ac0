//! Devices, servers and the network between them in virtual time: the production state machines, driven by an event queue.
//!
//! Nothing here decides anything about tokens: [`Device`] and [`Server`] do, as they do in the shells. The world carries their
//! messages, lets time pass as the cost models say, and breaks things when it is told to.

mod faults;
mod hosts;
mod queue;
mod servers;
mod setup;
mod totals;

use std::time::Duration;

use hosts::{Connection, ConnectionId, DeviceHost, Event, ServerHost};
use queue::Queue;
pub use setup::{DeviceSetup, Drafting, Fault, Outcome, ServerSetup, Turn, Turns};
use sled_core::device::{Action, Device, Emitted, FinishReason, Prompt};
use sled_core::message::{Reply, Request};
use sled_core::sampler::Sampler;
pub use totals::ServerTotals;

use crate::Error;
use crate::network::Direction;
use crate::rng::Rng;

/// A server that a device cannot reach learns after this long that the device has hung up.
const KEEPALIVE: Duration = Duration::from_secs(40);

/// The simulation.
pub struct World {
    now: Duration,
    queue: Queue<Event>,
    rng: Rng,
    servers: Vec<ServerHost>,
    devices: Vec<DeviceHost>,
    /// All connections that there ever were; `None` for those that are over.
    connections: Vec<Option<Connection>>,
    /// Devices that are not done.
    busy: usize,
    /// Whether the state machines are checked after each event.
    checked: bool,
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
            connections: Vec::new(),
            busy: 0,
            checked: false,
        }
    }

    /// Adds a server; devices know it by the order of these calls.
    pub fn add_server(&mut self, setup: ServerSetup) {
        self.servers.push(ServerHost {
            core: setup.start(),
            model: (setup.model)(),
            setup,
            step: None,
            passes: 0,
            up: true,
            stalled_until: Duration::ZERO,
            wakes: None,
            life: 0,
            sessions: Vec::new(),
            totals: ServerTotals::default(),
            stepping: Duration::ZERO,
        });
    }

    /// Adds a device.
    ///
    /// # Errors
    /// If the sampling parameters of its first turn are out of range.
    pub fn add_device(&mut self, mut setup: DeviceSetup) -> Result<(), Error> {
        let device = self.devices.len();
        let turn = (setup.turns)(self.now);
        self.busy += usize::from(turn.is_some());
        if let Some(turn) = &turn {
            self.at(turn.arrives, Event::Begin { device, life: 0 });
        }
        self.devices.push(DeviceHost {
            core: Device::new(setup.config.clone()),
            sampler: self.sampler(turn.as_ref())?,
            up: Direction::new(setup.up),
            down: Direction::new(setup.down),
            setup,
            partitioned_until: Duration::ZERO,
            connection: None,
            attempt: 0,
            life: 0,
            drafting_until: Duration::ZERO,
            pace: 1.0,
            drafted: Duration::ZERO,
            timer: None,
            clock_ahead: Duration::ZERO,
            clock_behind: Duration::ZERO,
            text: Vec::new(),
            turn,
            began: None,
            emitted: Vec::new(),
            notices: Vec::new(),
            outcomes: Vec::new(),
            off: false,
        });
        Ok(())
    }

    /// Plans a fault.
    pub fn fault(&mut self, time: Duration, fault: Fault) {
        self.at(time, Event::Fault(fault));
    }

    /// From now on the invariants of the state machines are checked after each event, and a violation panics: for tests.
    pub fn check_invariants(&mut self) {
        self.checked = true;
    }

    /// Runs until every device is done, or until `deadline`; whether all are done.
    ///
    /// # Errors
    /// If a model fails: the state machines asked for what cannot be.
    pub fn run(&mut self, deadline: Duration) -> Result<bool, Error> {
        while self.busy > 0 {
            let Some((time, event)) = self.queue.pop(deadline) else {
                self.now = deadline;
                return Ok(false);
            };
            self.now = time;
            self.handle(event)?;
            if self.checked {
                self.devices.iter().filter(|host| !host.off).for_each(|host| host.core.check_invariants());
                self.servers.iter().for_each(|server| server.core.check_invariants());
            }
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

    /// What became of the turns that ended since the last call, each with the index of its device.
    pub fn take_outcomes(&mut self) -> impl Iterator<Item = (usize, Outcome)> {
        let devices = self.devices.iter_mut().enumerate();
        devices.flat_map(|(device, host)| std::mem::take(&mut host.outcomes).into_iter().map(move |o| (device, o)))
    }

    /// The turn that a device is at: when its prompt came or comes, and the tokens so far.
    #[must_use]
    pub fn unfinished(&self, device: usize) -> Option<(Duration, &[(Duration, Emitted)])> {
        let host = self.devices.get(device)?;
        Some((host.turn.as_ref()?.arrives, &host.emitted))
    }

    /// How long a device has drafted so far.
    #[must_use]
    pub fn drafted(&self, device: usize) -> Duration {
        self.devices.get(device).map_or(Duration::ZERO, |host| host.drafted)
    }

    /// What a server has done so far.
    #[must_use]
    pub fn totals(&self, server: usize) -> ServerTotals {
        let Some(host) = self.servers.get(server) else { return ServerTotals::default() };
        let mut totals = host.totals.clone();
        if host.step.is_some() {
            totals.forward += self.now.saturating_sub(host.stepping);
        }
        totals
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
                let Some(connection) = &self.connections[id] else { return Ok(()) };
                let device = connection.device;
                if self.devices[device].connection == Some(id) {
                    if matches!(reply, Reply::Closing(_)) {
                        self.devices[device].connection = None;
                        self.hang_up(Some(id));
                    }
                    let clock = self.devices[device].clock(self.now);
                    self.devices[device].core.on_reply(clock, reply);
                    self.pump(device)?;
                }
            }
            Event::Attempt { device, server, attempt } => self.attempt(device, server, attempt),
            Event::Attempted { device, server, attempt, answer } => {
                let terms = self.servers[server].setup.terms();
                let host = &mut self.devices[device];
                if host.attempt != attempt || host.off {
                    self.hang_up(answer.ok());
                    return Ok(());
                }
                let clock = host.clock(self.now);
                host.connection = answer.ok();
                match answer {
                    Ok(_) => host.core.on_connected(clock, server, terms),
                    Err(Some((busy, after))) => host.core.on_busy(clock, busy.to_string(), after),
                    Err(None) => host.core.on_disconnected(clock, "refused".to_owned()),
                }
                self.pump(device)?;
            }
            Event::HungUp(id) => {
                if let Some(connection) = self.connections[id].take()
                    && let Some(server) = self.servers.get_mut(connection.server)
                    && server.life == connection.life
                {
                    server.core.close(self.now, connection.session);
                }
            }
            Event::Broken(id) => {
                if let Some(connection) = &self.connections[id] {
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
                    if host.core.deadline().is_some_and(|deadline| deadline <= clock) {
                        host.core.on_timer(clock);
                    }
                    self.pump(device)?;
                }
            }
            Event::StepDone { server, life, pass } => self.step_done(server, life, pass)?,
            Event::Resume { server } => self.launch(server)?,
            Event::Restart { server } => {
                if let Some(host) = self.servers.get_mut(server) {
                    host.core = host.setup.start();
                    host.model = (host.setup.model)();
                    host.sessions.clear();
                    host.up = true;
                }
            }
            Event::Begin { device, life } => {
                let host = &mut self.devices[device];
                if host.life == life {
                    host.off = false;
                    match host.turn.as_ref().map(|turn| turn.arrives) {
                        Some(arrives) if arrives > self.now => self.at(arrives, Event::Begin { device, life }),
                        _ => self.begin_turn(device)?,
                    }
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
        let Some(device) = self.connections[id].as_ref().map(|connection| connection.device) else { return };
        let after = if self.reachable(device) { self.devices[device].up.latency() } else { KEEPALIVE };
        self.at(self.now + after, Event::HungUp(id));
    }

    fn begin_turn(&mut self, device: usize) -> Result<(), Error> {
        let sampler = self.sampler(self.devices[device].turn.as_ref())?;
        let now = self.now;
        let host = &mut self.devices[device];
        let Some(turn) = &host.turn else { return Ok(()) };
        if turn.anew {
            host.text.clear();
        }
        host.text.extend(&turn.text);
        let prompt = Prompt {
            tokens: host.text.clone(),
            max_tokens: turn.max_tokens,
            sampling: turn.sampling.clone(),
            ..Prompt::default()
        };
        host.sampler = sampler;
        host.began = Some(now);
        host.emitted.clear();
        host.notices.clear();
        let clock = host.clock(now);
        host.core.prompt(clock, prompt);
        self.pump(device)
    }

    fn sampler(&self, turn: Option<&Turn>) -> Result<Sampler, Error> {
        let vocab_size = self.servers.first().map_or(0, |server| server.setup.config.vocab_size);
        Ok(Sampler::new(turn.map(|turn| turn.sampling.clone()).unwrap_or_default(), vocab_size)?)
    }

    /// The turn of a device is over; the next one begins when its prompt comes.
    fn end_turn(&mut self, device: usize, reason: FinishReason) -> Result<(), Error> {
        let now = self.now;
        let host = &mut self.devices[device];
        let prompt = std::mem::take(&mut host.text);
        host.text = host.core.settled().to_vec();
        let next = (host.setup.turns)(now);
        let arrives = next.as_ref().map(|turn| turn.arrives);
        if let Some(turn) = std::mem::replace(&mut host.turn, next) {
            host.outcomes.push(Outcome {
                prompt,
                turn,
                emitted: std::mem::take(&mut host.emitted),
                notices: std::mem::take(&mut host.notices),
                reason,
                stats: host.core.stats(),
                time: (host.began.take().unwrap_or(now), now),
            });
        }
        let life = host.life;
        match arrives {
            None => self.busy -= 1,
            Some(arrives) if arrives > now => self.at(arrives, Event::Begin { device, life }),
            Some(_) => self.begin_turn(device)?,
        }
        Ok(())
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
                    if host.setup.drafting == Drafting::Exponential && matches!(request, Request::Draft(_)) {
                        host.pace = self.rng.exponential(Duration::from_secs(1)).as_secs_f64();
                    }
                    let Some(id) = host.connection.filter(|_| host.partitioned_until <= self.now) else { continue };
                    let tokens = match &request {
                        Request::Context(update) => update.tokens.len(),
                        Request::Draft(block) => block.tokens.len(),
                        Request::Stop(_) => 0,
                    };
                    let [first, second] = host.up.send(self.now, tokens, &mut self.rng);
                    if let Some(arrival) = second {
                        self.at(arrival, Event::ToServer(id, request.clone()));
                    }
                    if let Some(arrival) = first {
                        self.at(arrival, Event::ToServer(id, request));
                    }
                }
                Action::Draft(ticket) => {
                    let draft = match &mut host.setup.drafter {
                        Some(drafter) => drafter.draft(host.core.context(), &host.sampler)?,
                        None => None,
                    };
                    let time = host.setup.draft_time.mul_f64(host.pace);
                    host.drafted += time;
                    host.drafting_until = host.drafting_until.max(self.now) + time;
                    let (done, life) = (host.drafting_until, host.life);
                    self.at(done, Event::Drafted { device, life, ticket, draft });
                }
                Action::Emit(emitted) => host.emitted.push((self.now, emitted)),
                Action::Notify(notice) => host.notices.push(notice),
                Action::Finish(reason) => self.end_turn(device, reason)?,
            }
        }
        let host = &mut self.devices[device];
        let deadline = host.core.deadline().map(|deadline| {
            let wait = deadline.saturating_sub(host.clock(self.now));
            self.now + wait
        });
        // A deadline that is put off, as each verdict does, needs no other event: when that comes it is looked at again.
        if let Some(deadline) = deadline.filter(|&deadline| host.timer.is_none_or(|timer| timer > deadline)) {
            host.timer = Some(deadline);
            self.at(deadline, Event::Timer { device });
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
