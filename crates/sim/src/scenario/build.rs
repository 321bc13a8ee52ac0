//! From a scenario to a world.

use std::sync::Arc;
use std::time::Duration;

use sled_core::Token;
use sled_core::device::{DeviceConfig, Resilience};
use sled_core::message::MAX_BLOCK;
use sled_core::sampler::SamplingParams;
use sled_core::server::ServerConfig;
use sled_model::Model;

use super::{DeviceClass, Fallback, FaultKind, FaultPlan, LinkClass, Simulation};
use crate::Error;
use crate::cost::millis;
use crate::load::{Arrivals, Schedule};
use crate::network::Path;
use crate::rng::{Rng, mix};
use crate::texts::{TextDrafter, TextModel, Texts};
use crate::world::{DeviceSetup, Drafting, Fault, ServerSetup, Turn, Turns, World};

/// The places of a recording that devices begin at are so far apart, as in `sled bench serve`.
const APART: usize = 7;

/// Bytes a second in a megabit a second.
const MBIT: f64 = 125_000.0;

impl Simulation {
    /// The virtual time at which a run ends.
    pub(super) fn end(&self) -> Duration {
        seconds(self.scenario.warmup_s) + seconds(self.scenario.window_s)
    }

    /// A world with the server and all devices, and everything that will go wrong with them.
    pub(super) fn world(&self, seed: u64) -> Result<World, Error> {
        let texts = Texts::new(self.families.clone(), self.scenario.load.shared_tokens, seed);
        let mut world = World::new(mix(seed));
        let context = self.add_server(&mut world, &texts);
        let classes = self.scenario.devices.iter().enumerate();
        let members = classes.flat_map(|(family, class)| std::iter::repeat_n((family, class), class.count));
        for (index, (family, class)) in members.enumerate() {
            let setup = self.device(&texts, seed, index, family, class, context);
            world.add_device(setup)?;
        }
        let mut rng = Rng(mix(seed ^ mix(1)));
        for plan in &self.scenario.faults {
            self.plan_faults(&mut world, plan, &mut rng);
        }
        Ok(world)
    }

    /// Returns the longest that a session may get.
    fn add_server(&self, world: &mut World, texts: &Texts) -> usize {
        let server = &self.scenario.server;
        let target = TextModel::new(texts.clone(), server.sequences.unwrap_or_else(|| self.scenario.count()));
        let limits = target.limits();
        world.add_server(ServerSetup {
            config: ServerConfig {
                cells: server.cells.unwrap_or(limits.cells),
                rows: server.rows,
                batching: server.batching,
                assist: server.assist,
                rate_goal: server.rate_goal,
                tuning: server.tuning,
                ..limits.server_config(Vec::new())
            },
            shared: texts.shared(),
            model: Box::new(move || Box::new(target.clone())),
            cost: self.cost.clone(),
        });
        limits.context
    }

    fn device(
        &self,
        texts: &Texts,
        seed: u64,
        index: usize,
        family: usize,
        class: &DeviceClass,
        context: usize,
    ) -> DeviceSetup {
        let path = path(class.link);
        DeviceSetup {
            config: DeviceConfig {
                policy: class.policy,
                ahead: class.ahead,
                context,
                max_draft: MAX_BLOCK,
                end_of_generation: Arc::from([]),
                resilience: Resilience {
                    servers: 1,
                    timeout: seconds(class.timeout_s),
                    fallback: match class.fallback {
                        Fallback::Release => sled_core::device::Fallback::Release,
                        Fallback::Wait => sled_core::device::Fallback::Wait,
                    },
                    seed: mix(mix(seed) ^ index as u64),
                    ..Resilience::default()
                },
                tuning: class.tuning,
            },
            drafter: class.policy.is_some().then(|| Box::new(TextDrafter::new(texts.clone())) as Box<_>),
            draft_time: self.drafters.get(family).map_or(Duration::ZERO, |&(time, _)| time),
            drafting: if class.exponential { Drafting::Exponential } else { Drafting::Steady },
            up: path,
            down: path,
            turns: self.turns(texts.clone(), seed, index, family),
        }
    }

    /// Prompts without end.
    fn turns(&self, texts: Texts, seed: u64, index: usize, family: usize) -> Turns {
        let load = &self.scenario.load;
        let arrivals = match load.poisson {
            Some(rate) => Arrivals::Poisson { rate },
            None => Arrivals::Closed { think: seconds(load.think_s) },
        };
        // Devices take consecutive seeds: those of runs are far apart.
        let mut schedule = Schedule::new(arrivals, mix(seed), index);
        let (families, devices, repeats) = (texts.families().len(), self.scenario.count(), load.repeats);
        let answers = texts.families().get(family).map_or(1, |family| family.source.answers());
        // As many numbers as there are; after so many prompts that they run out they are used again.
        let most = Token::MAX as usize / families / answers;
        let mut turn = 0;
        Box::new(move |now| {
            let place = (index * APART + turn) % answers;
            let unique = if repeats { 0 } else { (turn * devices + index) % most };
            turn += 1;
            let number = Token::try_from((place + answers * unique) * families + family).unwrap_or(0);
            Some(Turn {
                arrives: schedule.next(now),
                text: texts.prompt(number),
                anew: true,
                max_tokens: texts.answer_len(number),
                sampling: SamplingParams::default(),
            })
        })
    }

    fn plan_faults(&self, world: &mut World, plan: &FaultPlan, rng: &mut Rng) {
        let lasts = seconds(plan.lasts_s);
        let fault = |device| match plan.kind {
            FaultKind::Crash => Fault::Crash { server: 0, lasts },
            FaultKind::Stall => Fault::Stall { server: 0, lasts },
            FaultKind::Forget => Fault::Forget { device },
            FaultKind::Offline => Fault::Partition { device, lasts },
            FaultKind::Reboot => Fault::Reboot { device, lasts },
            FaultKind::Cut => Fault::Cut { device },
        };
        let struck = if matches!(plan.kind, FaultKind::Crash | FaultKind::Stall) { vec![0] } else { self.struck(plan) };
        for device in struck {
            let Some(interval) = plan.every_s.map(seconds) else {
                world.fault(seconds(plan.at_s.unwrap_or(0.0)), fault(device));
                continue;
            };
            let mut time = rng.exponential(interval);
            while time < self.end() {
                world.fault(time, fault(device));
                // The next one does not begin before this one is over.
                time += lasts + rng.exponential(interval);
            }
        }
    }

    /// The devices that a fault strikes.
    fn struck(&self, plan: &FaultPlan) -> Vec<usize> {
        let mut struck = Vec::new();
        let mut first = 0;
        for class in &self.scenario.devices {
            if plan.class.as_ref().is_none_or(|name| *name == class.name) {
                let count = (plan.share * class.count as f64).round() as usize;
                struck.extend(first..first + count.min(class.count));
            }
            first += class.count;
        }
        struck
    }
}

fn path(link: LinkClass) -> Path {
    Path {
        jitter: millis(link.jitter_ms),
        bandwidth: link.bandwidth_mbit.map_or(f64::INFINITY, |mbit| mbit * MBIT),
        loss: link.loss,
        ..Path::clear(millis(link.rtt_ms) / 2)
    }
}

pub(super) fn seconds(s: f64) -> Duration {
    Duration::try_from_secs_f64(s).unwrap_or_default()
}
