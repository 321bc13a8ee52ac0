//! A device, and what it does.

use std::sync::Arc;
use std::time::Duration;

use sled_core::device::{
    Action, Ahead, Device, DeviceConfig, Fallback, FinishReason, Prompt, Resilience, Terms, Ticket, Tuning,
};
use sled_core::message::{Commit, DraftBlock, Load, Reply, Request};
use sled_core::policy::Policy;
use sled_core::sampler::Draft;
use sled_core::sequence::Digest;

/// A server that takes all that the device has.
pub const LARGE: Terms = Terms { context: 100, max_draft: 64 };

/// A device whose every draft is the token after the last, and which is connected to server 0 of `servers`.
pub struct Bench {
    pub device: Device,
    pub now: Duration,
    pub actions: Vec<Action>,
    /// A draft that was asked for and not made.
    pub asked: Option<Ticket>,
}

impl Bench {
    pub fn new(servers: usize, fallback: Fallback) -> Self {
        Self::start(Device::new(Self::config(servers, fallback)))
    }

    pub fn config(servers: usize, fallback: Fallback) -> DeviceConfig {
        DeviceConfig {
            policy: Some(Policy::Fixed { k: 3 }),
            ahead: Ahead::Blocks,
            context: 100,
            max_draft: 64,
            end_of_generation: Arc::from([]),
            resilience: Resilience { servers, fallback, fallback_after: 3, ..Resilience::default() },
            tuning: Tuning::DEFAULT,
        }
    }

    pub fn start(mut device: Device) -> Self {
        device.on_connected(Duration::ZERO, 0, LARGE);
        device.prompt(Duration::ZERO, Prompt { tokens: vec![1, 2], max_tokens: 50, ..Prompt::default() });
        let mut bench = Self { device, now: Duration::ZERO, actions: Vec::new(), asked: None };
        bench.draft(3);
        bench
    }

    /// Collects actions, and makes at most `drafts` drafts.
    pub fn draft(&mut self, mut drafts: usize) {
        if drafts > 0
            && let Some(ticket) = self.asked.take()
        {
            self.make(ticket);
        }
        while let Some(action) = self.device.poll() {
            match action {
                Action::Draft(ticket) if drafts > 0 => {
                    drafts -= 1;
                    self.make(ticket);
                }
                Action::Draft(ticket) => {
                    self.asked = Some(ticket);
                    self.actions.push(Action::Draft(ticket));
                }
                action => self.actions.push(action),
            }
        }
        self.device.check_invariants();
    }

    pub fn make(&mut self, ticket: Ticket) {
        let last = *self.device.context().tokens.last().unwrap();
        self.device.on_draft(self.now, ticket, Some(Draft { token: last + 1, confidence: 0.99 }));
    }

    /// Lets time pass until the device wants to be woken.
    pub fn wait(&mut self) {
        self.now = self.device.deadline().expect("the device waits for something");
        self.device.on_timer(self.now);
        self.draft(0);
    }

    /// Lets time pass until the device connects; to which server, and how long it took.
    pub fn reconnect(&mut self) -> (usize, Duration) {
        let began = self.now;
        for _ in 0..100 {
            let connect = self.actions.iter().find_map(|action| match action {
                Action::Connect(server) => Some(*server),
                _ => None,
            });
            if let Some(server) = connect {
                self.actions.clear();
                return (server, self.now - began);
            }
            self.wait();
        }
        panic!("it does not connect: {:?}", self.device);
    }

    /// The server of this index is busy for `after`.
    pub fn busy(&mut self, after: Duration) {
        self.device.on_busy(self.now, "the server is busy".to_owned(), after);
        self.draft(0);
    }

    /// The answer's tokens up to here are these, and the server commits one more than the device drafted.
    pub fn commit(&mut self, from: usize, accepted: usize) {
        let end = u32::try_from(from + accepted).unwrap() + 1;
        let all: Vec<u32> = (1..=end).collect();
        let commit = Commit {
            turn: 1,
            from,
            accepted,
            tokens: vec![end],
            digest: Digest::EMPTY.then_all(&all),
            rows: 1,
            unasked: false,
            logprobs: Vec::new(),
            load: Load::default(),
        };
        self.device.on_reply(self.now, Reply::Commit(commit));
    }

    pub fn finished(&self) -> Option<&FinishReason> {
        self.actions.iter().find_map(|action| match action {
            Action::Finish(reason) => Some(reason),
            _ => None,
        })
    }

    /// The blocks among what the device did since the last call.
    pub fn blocks(&mut self) -> Vec<DraftBlock> {
        let actions = std::mem::take(&mut self.actions).into_iter();
        actions
            .filter_map(|action| if let Action::Send(Request::Draft(block)) = action { Some(block) } else { None })
            .collect()
    }
}
