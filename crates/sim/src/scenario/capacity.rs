//! The most devices that each get a rate.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::build::seconds;
use super::{Scenario, Simulation};
use crate::Error;
use crate::figures::{Figures, Log};

/// More devices than these are not tried.
const MOST: usize = 1 << 20;

/// The most devices that each get a rate, and what was tried to find out.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Capacity {
    /// Tokens a second that each device is to get.
    pub rate: f64,
    /// The share of the devices that must.
    pub share: f64,
    /// How many devices there may be; 0 if one is too many.
    pub devices: usize,
    /// In the order in which they were tried.
    pub trials: Vec<Trial>,
}

/// One number of devices.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// How many there were.
    pub devices: usize,
    /// The share of them that reached the rate.
    pub share: f64,
    /// Tokens a second of all of them.
    pub output_throughput: f64,
    /// The share of time that the server was in forward passes.
    pub utilisation: f64,
}

/// Finds the most devices of which the share `share` gets `rate` tokens a second, by doubling and then bisecting, in steps of
/// 1 % of them beyond a hundred. More devices are taken to be slower: what is known of one number is not tried with another.
///
/// # Errors
/// If the scenario says what cannot be, or names a file that cannot be used.
pub fn capacity(scenario: &Scenario, rate: f64, share: f64, seed: u64) -> Result<Capacity, Error> {
    let simulation = Simulation::new(scenario)?;
    let mut found = Capacity { rate, share, devices: 0, trials: Vec::new() };
    let mut missed = None;
    let mut next = 1;
    while next <= MOST {
        let trial = simulation.with_devices(next).trial(rate, seed)?;
        found.trials.push(trial);
        if trial.share >= share {
            found.devices = next;
        } else {
            missed = Some(next);
        }
        next = match missed {
            None => next * 2,
            Some(missed) => {
                let step = (found.devices / 100).max(1);
                if missed - found.devices <= step {
                    break;
                }
                (found.devices + missed) / 2
            }
        };
    }
    Ok(found)
}

impl Simulation {
    fn trial(&self, rate: f64, seed: u64) -> Result<Trial, Error> {
        let (report, logs) = self.run_with_logs(seed, &mut |_| {})?;
        let begin: Duration = seconds(self.scenario.warmup_s);
        let logs: Vec<&Log> = logs.iter().collect();
        Ok(Trial {
            devices: self.scenario.count(),
            share: Figures::share_at(&logs, rate, begin, self.end()),
            output_throughput: report.figures.output_throughput,
            utilisation: report.server.utilisation,
        })
    }
}
