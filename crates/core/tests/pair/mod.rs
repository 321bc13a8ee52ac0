//! Devices and a server, the real state machines, joined by queues that a seed shuffles: the bench of the law.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use sled_core::device::{
    Action, Ahead, Device, DeviceConfig, Fallback, FinishReason, Prompt, Resilience, Stats, Terms, Tuning,
};
use sled_core::message::{MAX_BLOCK, Reply, Request};
use sled_core::policy::Policy;
use sled_core::sampler::{Logprobs, Sampler, SamplingParams};
use sled_core::server::{Assist, Batching, Owner, Plan, Server, ServerConfig, SessionId};
use sled_core::{Token, sampler, splitmix};
use sled_model::Model;
use sled_model::drafter::Drafter;
use sled_model::synthetic::{SyntheticConfig, SyntheticModel};

/// All the randomness of a case comes from its seed.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        splitmix::next(&mut self.0)
    }

    /// A number in `range`.
    pub fn within(&mut self, range: std::ops::RangeInclusive<usize>) -> usize {
        range.start() + (self.next() % (range.end() - range.start() + 1) as u64) as usize
    }

    pub fn chance(&mut self, one_in: u64) -> bool {
        self.next().is_multiple_of(one_in)
    }

    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.within(0..=of.len() - 1)]
    }
}

/// What one device does in a case.
pub struct Script {
    pub drafter: Option<Box<dyn Drafter>>,
    pub policy: Policy,
    pub ahead: Ahead,
    pub turns: Vec<Turn>,
}

/// One prompt of a script. Its text is the committed text so far, cut to `keep`, then `text`.
#[derive(Clone)]
pub struct Turn {
    pub keep: usize,
    pub text: Vec<Token>,
    pub max_tokens: usize,
    pub sampling: SamplingParams,
    /// The shell stops the generation after this token, as a stop string would.
    pub stop_after: Option<Token>,
    /// How many log probabilities are asked for.
    pub logprobs: Option<u8>,
}

/// What a turn came to.
pub struct Outcome {
    pub prompt: Vec<Token>,
    pub output: Vec<Token>,
    /// What was told of each token of the output.
    pub logprobs: Vec<Option<Logprobs>>,
    pub reason: FinishReason,
    pub stats: Stats,
}

struct Host {
    device: Device,
    sampler: Sampler,
    script: Script,
    next_turn: usize,
    owner: Owner,
    session: SessionId,
    to_server: VecDeque<Request>,
    to_device: VecDeque<Reply>,
    output: Vec<Token>,
    logprobs: Vec<Option<Logprobs>>,
    outcomes: Vec<Outcome>,
}

/// How messages travel.
#[derive(Clone, Copy)]
pub struct Network {
    /// Every so many-th message is delivered twice; 0 for none.
    pub duplicates: u64,
    /// Every so many-th message overtakes others; 0 for none.
    pub overtakes: u64,
    /// The server is told to decode by itself though the device drafts, so that commits come unasked.
    pub unasked: bool,
    /// How many forward passes fail: at most two, since a session that fails three times in a row is given up.
    pub engine_failures: u64,
}

impl Network {
    /// Nothing is lost, late or repeated.
    pub const CALM: Self = Self { duplicates: 0, overtakes: 0, unasked: false, engine_failures: 0 };
}

/// Devices are of so many owners.
const OWNERS: u64 = 3;

/// How servers are run by default.
pub const CONTINUOUS: (Batching, Assist, Option<f64>) = (Batching::Continuous, Assist::Auto, None);

pub struct Pair {
    pub model: SyntheticModel,
    server: Server,
    hosts: Vec<Host>,
    network: Network,
    rng: Rng,
    now: Duration,
    end_of_generation: Vec<Token>,
    pub context: usize,
    pub largest_step: usize,
}

impl Pair {
    pub fn new(
        rng: Rng,
        model: SyntheticConfig,
        scheduling: (Batching, Assist, Option<f64>),
        end: &[Token],
        network: Network,
    ) -> Self {
        let model = SyntheticModel::new(model);
        let limits = model.limits();
        let config = ServerConfig {
            batching: scheduling.0,
            assist: scheduling.1,
            rate_goal: scheduling.2,
            ..limits.server_config(end.to_vec())
        };
        Self {
            model,
            server: Server::new(config),
            hosts: Vec::new(),
            network,
            rng,
            now: Duration::ZERO,
            end_of_generation: end.to_vec(),
            context: limits.context,
            largest_step: 0,
        }
    }

    pub fn join(&mut self, script: Script) {
        let config = DeviceConfig {
            policy: script.drafter.is_some().then_some(script.policy),
            ahead: script.ahead,
            context: self.context,
            max_draft: MAX_BLOCK,
            end_of_generation: Arc::from(self.end_of_generation.as_slice()),
            resilience: Resilience { fallback: Fallback::Wait, ..Resilience::default() },
            tuning: Tuning::DEFAULT,
        };
        let owner = Owner(self.hosts.len() as u64 % OWNERS);
        let session = self.server.open(self.now, owner).expect("the server has no limit on sessions");
        let sampler =
            Sampler::new(SamplingParams::default(), self.model.limits().vocab_size).expect("defaults are valid");
        let mut host = Host {
            device: Device::new(config),
            sampler,
            script,
            next_turn: 0,
            owner,
            session,
            to_server: VecDeque::new(),
            to_device: VecDeque::new(),
            output: Vec::new(),
            logprobs: Vec::new(),
            outcomes: Vec::new(),
        };
        self.begin_turn(&mut host);
        self.hosts.push(host);
    }

    /// Closes the session of device `at` in the middle of whatever it does.
    pub fn kill(&mut self, at: usize) {
        let host = self.hosts.remove(at);
        self.server.close(self.now, host.session);
    }

    /// Runs until every device is done; the outcomes of each.
    pub fn run(mut self) -> (Vec<Vec<Outcome>>, Self) {
        let mut idle = 0;
        while self.hosts.iter().any(|host| host.next_turn <= host.script.turns.len()) {
            let progressed = self.tick();
            idle = if progressed { 0 } else { idle + 1 };
            let stuck = || self.hosts.iter().map(|host| &host.device).collect::<Vec<_>>();
            assert!(idle < 10_000, "nobody has anything to do: {:?}\n{:?}", stuck(), self.server);
            assert!(self.now < Duration::from_secs(1_000), "it does not end: {:?}\n{:?}", stuck(), self.server);
        }
        (self.hosts.iter_mut().map(|host| std::mem::take(&mut host.outcomes)).collect(), self)
    }

    /// One thing happens, chosen by the seed. False if what was chosen had nothing to do.
    pub fn tick(&mut self) -> bool {
        self.now += Duration::from_millis(1);
        let progressed = self.happen();
        self.server.check_invariants();
        progressed
    }

    fn happen(&mut self) -> bool {
        if self.rng.chance(4) {
            return self.step();
        }
        let at = self.rng.within(0..=self.hosts.len() - 1);
        let progressed = match self.rng.within(0..=2) {
            0 => self.deliver_to_server(at),
            1 => self.deliver_to_device(at),
            _ => self.act(at),
        };
        self.hosts[at].device.check_invariants();
        progressed
    }

    fn step(&mut self) -> bool {
        let Plan::Run(mut step) = self.server.plan(self.now) else { return false };
        self.largest_step = self.largest_step.max(step.rows.len());
        let (used, cells) = self.server.cells();
        // The server goes on hearing its devices while the engine computes.
        for at in 0..self.hosts.len() {
            if self.rng.chance(3) {
                self.deliver_to_server(at);
                self.server.check_invariants();
            }
        }
        assert!(!matches!(self.server.plan(self.now), Plan::Run(_)), "one step at a time");
        assert!(used + step.rows.len() <= cells, "the cache is never fuller than it can be");
        for &op in &step.cache_ops {
            self.model.apply(op).expect("cache operations are valid");
        }
        assert_eq!(self.model.used_cells(), used, "cells are counted as the engine counts them");
        self.model.forward(&step.rows).expect("planned rows are valid");
        if self.network.engine_failures > 0 && self.rng.chance(9) {
            self.network.engine_failures -= 1;
            assert!(self.server.fail(step, "a test").is_empty());
            return true;
        }
        let model = &self.model;
        let replies =
            self.server.complete(self.now, &mut step, |row| model.logits(row)).expect("logits were asked for");
        for (session, reply) in replies {
            if let Some(host) = self.hosts.iter_mut().find(|host| host.session == session) {
                host.to_device.push_back(reply);
            }
        }
        true
    }

    fn deliver_to_server(&mut self, at: usize) -> bool {
        let Some(request) = take(&mut self.hosts[at].to_server, self.network, &mut self.rng) else { return false };
        let session = self.hosts[at].session;
        if let Some(reply) = self.server.request(self.now, session, request) {
            self.hosts[at].to_device.push_back(reply);
        }
        true
    }

    fn deliver_to_device(&mut self, at: usize) -> bool {
        let Some(reply) = take(&mut self.hosts[at].to_device, self.network, &mut self.rng) else { return false };
        self.hosts[at].device.on_reply(self.now, reply);
        true
    }

    fn act(&mut self, at: usize) -> bool {
        let host = &mut self.hosts[at];
        if host.device.deadline().is_some_and(|deadline| deadline <= self.now) {
            host.device.on_timer(self.now);
        }
        let Some(action) = host.device.poll() else { return false };
        match action {
            Action::Connect(server) => {
                let terms = Terms { context: self.context, max_draft: MAX_BLOCK };
                host.device.on_connected(self.now, server, terms);
            }
            Action::Disconnect => {
                self.server.close(self.now, host.session);
                host.session = self.server.open(self.now, host.owner).expect("the server has no limit on sessions");
                host.to_server.clear();
                host.to_device.clear();
            }
            Action::Notify(_) => {}
            Action::Send(Request::Draft(mut block)) => {
                if host.script.drafter.is_some() && self.network.unasked && self.rng.chance(2) {
                    block.until = block.from + self.rng.within(0..=6);
                }
                host.to_server.push_back(Request::Draft(block));
            }
            Action::Send(request) => host.to_server.push_back(request),
            Action::Draft(ticket) => {
                let context: sampler::Context<'_> = host.device.context();
                let drafter = host.script.drafter.as_mut().expect("only a device with a drafter drafts");
                let draft = drafter.draft(context, &host.sampler).expect("the drafter works");
                host.device.on_draft(self.now, ticket, draft);
            }
            Action::Emit(emitted) => {
                host.output.push(emitted.token);
                host.logprobs.push(emitted.logprobs);
                let stop = host.script.turns[host.next_turn - 1].stop_after;
                if stop == Some(emitted.token) {
                    host.device.stop_at(emitted.position + 1);
                }
            }
            Action::Finish(reason) => {
                let output = std::mem::take(&mut host.output);
                let committed = host.device.settled();
                let prompt = committed[..committed.len() - output.len()].to_vec();
                assert!(committed.ends_with(&output));
                let logprobs = std::mem::take(&mut host.logprobs);
                host.outcomes.push(Outcome { prompt, output, logprobs, reason, stats: host.device.stats() });
                let mut host = self.hosts.remove(at);
                self.begin_turn(&mut host);
                self.hosts.insert(at, host);
            }
        }
        true
    }

    fn begin_turn(&mut self, host: &mut Host) {
        if let Some(turn) = host.script.turns.get(host.next_turn) {
            let mut tokens = host.device.settled().to_vec();
            tokens.truncate(turn.keep);
            tokens.extend(&turn.text);
            host.sampler =
                Sampler::new(turn.sampling.clone(), self.model.limits().vocab_size).expect("valid parameters");
            let prompt = Prompt {
                tokens,
                max_tokens: turn.max_tokens,
                sampling: turn.sampling.clone(),
                logprobs: turn.logprobs,
                request_id: None,
            };
            host.device.prompt(self.now, prompt);
        }
        host.next_turn += 1;
    }
}

/// Takes the next message off a queue; it may stay in it too, or overtake another.
fn take<T: Clone>(queue: &mut VecDeque<T>, network: Network, rng: &mut Rng) -> Option<T> {
    if network.overtakes > 0 && queue.len() > 1 && rng.chance(network.overtakes) {
        queue.swap(0, 1);
    }
    if network.duplicates > 0 && rng.chance(network.duplicates) {
        return queue.front().cloned();
    }
    queue.pop_front()
}
