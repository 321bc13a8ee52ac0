//! What goes wrong.

use std::time::Duration;

use sled_core::device::Device;

use super::servers::owner;
use super::{Event, Fault, World};
use crate::Error;

impl World {
    pub(super) fn strike(&mut self, fault: Fault) -> Result<(), Error> {
        let now = self.now;
        match fault {
            Fault::Crash { server, lasts } => {
                let Some(host) = self.servers.get_mut(server).filter(|host| host.up) else { return Ok(()) };
                host.up = false;
                if host.step.take().is_some() {
                    host.totals.forward += now.saturating_sub(host.stepping);
                }
                host.life += 1;
                host.stalled_until = Duration::ZERO;
                // Who is connected learns it from the operating system of the server; not behind a partition.
                let connections = self.connections.iter().enumerate();
                let connected: Vec<_> = connections
                    .filter_map(|(id, connection)| Some((id, connection.as_ref()?)))
                    .filter(|(_, connection)| connection.server == server)
                    .map(|(id, connection)| (id, connection.device))
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
                let Some(connection) = &mut self.connections[id] else { return Ok(()) };
                if let Some(host) = self.servers.get_mut(connection.server)
                    && host.up
                    && host.life == connection.life
                {
                    host.core.close(self.now, connection.session);
                    if let Ok(session) = host.core.open(self.now, owner(device)) {
                        connection.session = session;
                        host.answer(session, id);
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
                if let Some(turn) = host.turn.as_ref().filter(|_| host.began.take().is_some()) {
                    host.text.truncate(host.text.len().saturating_sub(turn.text.len()));
                }
                let life = host.life;
                self.at(now + lasts, Event::Begin { device, life });
            }
            Fault::Engine { server } => self.fail_step(server)?,
            Fault::Cancel { device } => {
                let host = &mut self.devices[device];
                if host.began.is_some() && !host.off {
                    host.core.stop_at(host.core.settled().len());
                    self.pump(device)?;
                }
            }
            Fault::CancelOpen { device } => {
                let host = &mut self.devices[device];
                if host.connection.is_none() && !host.off {
                    host.attempt += 1;
                    let clock = host.clock(now);
                    host.core.on_disconnected(clock, "cancelled".to_owned());
                    self.pump(device)?;
                }
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
