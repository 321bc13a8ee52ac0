//! What servers do: take connections and requests, run steps, reply.

use std::time::Duration;

use sled_core::message::{Reply, Request};
use sled_core::server::{Owner, Plan, SessionId};

use super::{Connection, ConnectionId, Event, ServerHost, World};
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
        let opened = if host.up { host.core.open(self.now, owner(device)).map_err(Some) } else { Err(None) };
        let answer = opened.map(|session| {
            self.connections.push(Some(Connection { device, server, session, life }));
            let id = self.connections.len() - 1;
            host.answer(session, id);
            id
        });
        let back = self.now + self.devices[device].down.latency();
        self.at(back, Event::Attempted { device, server, attempt, answer });
    }

    pub(super) fn deliver_request(&mut self, id: ConnectionId, request: Request) -> Result<(), Error> {
        let Some(Connection { server, session, life, .. }) = self.connections[id] else { return Ok(()) };
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
        let Some(Connection { device, server, session, life }) = self.connections[id] else { return };
        if matches!(reply, Reply::Closing(_))
            && let Some(host) = self.servers.get_mut(server).filter(|host| host.life == life)
        {
            host.core.close(self.now, session);
        }
        if !self.reachable(device) {
            return;
        }
        let tokens = if let Reply::Commit(commit) = &reply { commit.tokens.len() } else { 0 };
        let [first, second] = self.devices[device].down.send(self.now, tokens, &mut self.rng);
        if let Some(arrival) = second {
            self.at(arrival, Event::ToDevice(id, reply.clone()));
        }
        if let Some(arrival) = first {
            self.at(arrival, Event::ToDevice(id, reply));
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
        host.totals.launch(&step);
        host.stepping = self.now;
        let done = self.now + host.setup.cost.of(&step.rows);
        host.step = Some(step);
        host.passes += 1;
        let (life, pass) = (host.life, host.passes);
        self.at(done, Event::StepDone { server, life, pass });
        Ok(())
    }

    pub(super) fn step_done(&mut self, server: usize, life: u64, pass: u64) -> Result<(), Error> {
        let Some(host) = self.servers.get_mut(server).filter(|host| (host.life, host.passes) == (life, pass)) else {
            return Ok(());
        };
        if host.stalled_until > self.now {
            let resumes = host.stalled_until;
            self.at(resumes, Event::StepDone { server, life, pass });
            return Ok(());
        }
        let Some(mut step) = host.step.take() else { return Ok(()) };
        host.totals.forward += self.now.saturating_sub(host.stepping);
        let model = &host.model;
        let replies = host.core.complete(self.now, &mut step, |row| model.logits(row))?;
        self.hand_out(server, replies);
        self.launch(server)
    }

    /// The pass that a server is at fails; its engine is as good as before.
    pub(super) fn fail_step(&mut self, server: usize) -> Result<(), Error> {
        let Some(host) = self.servers.get_mut(server).filter(|host| host.up) else { return Ok(()) };
        let Some(step) = host.step.take() else { return Ok(()) };
        host.totals.forward += self.now.saturating_sub(host.stepping);
        let replies = host.core.fail(step, "it was told to");
        self.hand_out(server, replies);
        self.launch(server)
    }

    fn hand_out(&mut self, server: usize, replies: Vec<(SessionId, Reply)>) {
        for (session, reply) in replies {
            let Some(host) = self.servers.get_mut(server) else { return };
            host.totals.reply(&reply);
            if let Some(id) = host.connection_of(session) {
                self.reply(id, reply);
            }
        }
    }
}

/// Devices share no more than public prefixes.
pub(super) fn owner(device: usize) -> Owner {
    Owner(device as u64)
}

impl ServerHost {
    /// From now on `session` answers to the connection `id`.
    pub(super) fn answer(&mut self, session: SessionId, id: ConnectionId) {
        // A server numbers its sessions as they come.
        let place = session.0 as usize;
        self.sessions.resize(self.sessions.len().max(place + 1), id);
        self.sessions[place] = id;
    }

    fn connection_of(&self, session: SessionId) -> Option<ConnectionId> {
        self.sessions.get(session.0 as usize).copied()
    }
}
