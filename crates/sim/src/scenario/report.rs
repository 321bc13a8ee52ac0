//! What came of a run.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sled_core::device::Provenance;

use super::build::seconds;
use super::{DeviceClass, Simulation};
use crate::Error;
use crate::figures::{Answer, Figures, Log, ServerSide};
use crate::world::{Outcome, ServerTotals, World};

/// So often is told how far a run is, and what is done is put away.
const SLICES: u32 = 50;

/// What came of a run: the figures of `sled bench serve`, and what only a simulation knows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// The scenario's name.
    pub scenario: String,
    /// The seed of the run.
    pub seed: u64,
    /// All devices together.
    pub figures: Figures,
    /// Committed tokens for each verdict.
    pub tokens_per_round: f64,
    /// Tokens that were shown without a verdict, of all that were shown.
    pub provisional_share: f64,
    /// Prompts that are answered, or wait to be, on average over the window (Little's `L`).
    pub mean_requests: f64,
    /// Answers completed a second (Little's `lambda`).
    pub requests_per_s: f64,
    /// From the prompt to the last token, in seconds, of the answers completed in the window (Little's `W`).
    pub mean_response_s: f64,
    /// The server.
    pub server: ServerReport,
    /// Joules for each committed token, if the scenario says what anybody draws.
    pub energy: Option<Energy>,
    /// The same by class of devices.
    pub classes: Vec<ClassReport>,
}

/// What the server did in the window.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct ServerReport {
    /// The share of the time in forward passes.
    pub utilisation: f64,
    /// Rows in a pass.
    pub rows_per_pass: f64,
    /// The share of rows that read prompts, or pad.
    pub prompt_share: f64,
    /// How long a block waits until its pass begins, on average, in milliseconds.
    pub queue_ms: f64,
}

/// Joules for each committed token.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Energy {
    /// Of all devices together.
    pub devices: f64,
    /// Of the server.
    pub server: f64,
}

/// What the devices of one class had.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ClassReport {
    /// The class's name.
    pub name: String,
    /// Its devices together.
    pub figures: Figures,
    /// Committed tokens for each verdict.
    pub tokens_per_round: f64,
    /// Tokens that were shown without a verdict, of all that were shown.
    pub provisional_share: f64,
    /// The share of the time that a device drafts.
    pub drafting: f64,
}

/// What one device saw, beyond its log.
#[derive(Clone, Debug, Default)]
struct Seen {
    log: Log,
    provisional: u64,
    shown: u64,
    /// When its answers were asked for, and completed.
    requests: Vec<(Duration, Duration)>,
}

impl Simulation {
    /// Runs once; `progress` is told the share that is done.
    ///
    /// # Errors
    /// If the state machines ask for what cannot be.
    pub fn run(&self, seed: u64, progress: &mut dyn FnMut(f64)) -> Result<Report, Error> {
        self.run_with_logs(seed, progress).map(|(report, _)| report)
    }

    /// Runs once, and returns what every device saw beside the report.
    ///
    /// # Errors
    /// If the state machines ask for what cannot be.
    pub fn run_with_logs(&self, seed: u64, progress: &mut dyn FnMut(f64)) -> Result<(Report, Vec<Log>), Error> {
        let (begin, end) = (seconds(self.scenario.warmup_s), self.end());
        let mut world = self.world(seed)?;
        let mut seen = vec![Seen::default(); self.scenario.count()];
        let mut run_until = |world: &mut World, from: Duration, until: Duration| -> Result<(), Error> {
            for slice in 1..=SLICES {
                let time = from + (until - from) * slice / SLICES;
                world.run(time)?;
                for (device, outcome) in world.take_outcomes() {
                    seen[device].add(&outcome);
                }
                progress(time.as_secs_f64() / end.as_secs_f64());
            }
            Ok(())
        };
        run_until(&mut world, Duration::ZERO, begin)?;
        let drafted = |world: &World| (0..self.scenario.count()).map(|device| world.drafted(device)).collect();
        let before: (ServerTotals, Vec<Duration>) = (world.totals(0), drafted(&world));
        run_until(&mut world, begin, end)?;
        for (device, seen) in seen.iter_mut().enumerate() {
            seen.add_unfinished(&world, device);
        }
        let totals = world.totals(0).since(&before.0);
        let drafted: Vec<Duration> = drafted(&world);
        let drafted: Vec<f64> =
            drafted.iter().zip(&before.1).map(|(after, before)| after.saturating_sub(*before).as_secs_f64()).collect();
        let report = self.report(seed, &seen, &totals, &drafted);
        Ok((report, seen.into_iter().map(|seen| seen.log).collect()))
    }

    fn report(&self, seed: u64, seen: &[Seen], totals: &ServerTotals, drafted: &[f64]) -> Report {
        let (begin, end, window) = (seconds(self.scenario.warmup_s), self.end(), self.scenario.window_s);
        let side = ServerSide {
            steps: totals.steps,
            forward: totals.forward,
            batch_sizes: totals.batch_sizes.clone(),
            ..ServerSide::default()
        };
        let mode = |class: &DeviceClass| if class.policy.is_some() { "sled" } else { "central" };
        let all = if self.scenario.devices.iter().all(|class| class.policy.is_none()) { "central" } else { "sled" };
        let figures = |mode, seen: &[Seen], side| {
            let logs: Vec<&Log> = seen.iter().map(|seen| &seen.log).collect();
            Figures::new(mode, &logs, side, begin, end)
        };
        let figures_of_all = figures(all, seen, side);
        let mut classes = Vec::new();
        let mut first = 0;
        for class in &self.scenario.devices {
            let members = first..first + class.count;
            first += class.count;
            let of_class = seen.get(members.clone()).unwrap_or_default();
            let busy: f64 = drafted.get(members).unwrap_or_default().iter().sum();
            classes.push(ClassReport {
                name: class.name.clone(),
                figures: figures(mode(class), of_class, ServerSide::default()),
                tokens_per_round: tokens_per_round(of_class),
                provisional_share: provisional_share(of_class),
                drafting: busy / (window * class.count.max(1) as f64),
            });
        }
        let requests = || seen.iter().flat_map(|seen| &seen.requests);
        let overlap = |&(from, to): &(Duration, Duration)| to.min(end).saturating_sub(from.max(begin)).as_secs_f64();
        let completed = || requests().filter(|(_, to)| (begin..end).contains(to));
        let responses: f64 = completed().map(|(from, to)| to.saturating_sub(*from).as_secs_f64()).sum();
        let count = completed().count() as f64;
        let forward = totals.forward.as_secs_f64();
        Report {
            scenario: self.scenario.name.clone(),
            seed,
            energy: self.energy(figures_of_all.total_output_tokens, forward, &classes),
            figures: figures_of_all,
            tokens_per_round: tokens_per_round(seen),
            provisional_share: provisional_share(seen),
            mean_requests: requests().map(overlap).sum::<f64>() / window,
            requests_per_s: count / window,
            mean_response_s: responses / count,
            server: ServerReport {
                utilisation: forward / window,
                rows_per_pass: totals.rows as f64 / totals.steps.max(1) as f64,
                prompt_share: totals.unchosen as f64 / totals.rows.max(1) as f64,
                queue_ms: 1e3 * totals.queued.as_secs_f64() / totals.verdicts.max(1) as f64,
            },
            classes,
        }
    }

    fn energy(&self, tokens: usize, forward: f64, classes: &[ClassReport]) -> Option<Energy> {
        let known = self.server_w.is_some() || self.drafters.iter().any(|(_, watts)| watts.is_some());
        let window = self.scenario.window_s;
        let mixed = |busy: f64, watts: Option<f64>, idle: f64| watts.unwrap_or(0.0) * busy + idle * (window - busy);
        let devices = self.scenario.devices.iter().zip(classes).zip(&self.drafters);
        let devices = devices.map(|((class, report), (_, watts))| {
            class.count as f64 * mixed(report.drafting * window, *watts, class.idle_w)
        });
        let server = mixed(forward, self.server_w, self.scenario.server.idle_w);
        (known && tokens > 0)
            .then(|| Energy { devices: devices.sum::<f64>() / tokens as f64, server: server / tokens as f64 })
    }
}

fn tokens_per_round(seen: &[Seen]) -> f64 {
    let sum = |of: fn(&Log) -> u64| seen.iter().map(|seen| of(&seen.log)).sum::<u64>() as f64;
    sum(|log| log.generated) / sum(|log| log.rounds).max(1.0)
}

fn provisional_share(seen: &[Seen]) -> f64 {
    let sum = |of: fn(&Seen) -> u64| seen.iter().map(of).sum::<u64>() as f64;
    sum(|seen| seen.provisional) / sum(|seen| seen.shown).max(1.0)
}

impl Seen {
    fn add(&mut self, outcome: &Outcome) {
        let arrived = outcome.turn.arrives;
        let tokens = self.add_tokens(outcome.emitted.iter().map(|(time, emitted)| (*time, emitted.provenance)));
        let (first, last) = (outcome.emitted.first(), outcome.emitted.last());
        self.log.answers.push(Answer {
            arrived,
            first: first.map(|&(time, _)| time),
            last: last.map(|&(time, _)| time),
            tokens: outcome.emitted.len(),
        });
        self.log.generated += tokens;
        self.log.add(&outcome.stats);
        self.requests.push((arrived, outcome.time.1));
    }

    fn add_unfinished(&mut self, world: &World, device: usize) {
        let Some((arrived, emitted)) = world.unfinished(device) else { return };
        self.add_tokens(emitted.iter().map(|(time, emitted)| (*time, emitted.provenance)));
        if arrived <= world.now() {
            self.requests.push((arrived, Duration::MAX));
        }
    }

    /// Returns how many of the tokens are committed.
    fn add_tokens(&mut self, shown: impl Iterator<Item = (Duration, Provenance)>) -> u64 {
        let mut committed = 0;
        for (time, provenance) in shown {
            self.shown += 1;
            if provenance == Provenance::Provisional {
                self.provisional += 1;
            } else {
                committed += 1;
                self.log.tokens.push(time);
            }
        }
        committed
    }
}
