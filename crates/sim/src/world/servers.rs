//! What servers do: take connections and requests, run steps, reply.

use std::time::Duration;

use sled_core::message::{Reply, Request};
use sled_core::server::Plan;

use super::{Connection, ConnectionId, Event, World};
use crate::Error;

/// Timers of a server are no finer than this.
const TICK: Duration = Duration::from_micros(100);

impl World {
    pub(super) fn attempt(&mut self, device: usize, server: usize, attempt: u64) {
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
        let session = if host.up { host.core.open(self.now).ok() } else { None };
        let connection = session.map(|session| {
            self.next_connection += 1;
            self.connections.insert(self.next_connection, Connection { device, server, session, life });
            self.next_connection
        });
        let back = self.now + self.devices[device].down.latency();
        self.at(back, Event::Attempted { device, server, attempt, connection });
    }

    pub(super) fn deliver_request(&mut self, id: ConnectionId, request: Request) -> Result<(), Error> {
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

    pub(super) fn reply(&mut self, id: ConnectionId, reply: Reply) {
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
    pub(super) fn launch(&mut self, server: usize) -> Result<(), Error> {
        let Some(host) = self.servers.get_mut(server) else { return Ok(()) };
        if !host.up || host.stalled_until > self.now || host.step.is_some() {
            return Ok(());
        }
        let step = match host.core.plan(self.now) {
            Plan::Run(step) => step,
            Plan::Wait(until) => {
                // Every message makes the server think again; one timer is enough.
                let until = until.max(self.now + TICK);
                if host.wakes.is_none_or(|wakes| wakes <= self.now || wakes > until) {
                    host.wakes = Some(until);
                    self.at(until, Event::Resume { server });
                }
                return Ok(());
            }
            Plan::Idle => return Ok(()),
        };
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

    pub(super) fn step_done(&mut self, server: usize, life: u64) -> Result<(), Error> {
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
}
