//! Fig. 4: tokens a second of all devices together.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sled_core::server::Assist;

use super::lab::{LENGTH, Lab};
use crate::Error;
use crate::scenario::{Estimate, ServerClass};

/// The device of the figure.
const DRAFTER: &str = "pi-5/3b-4bit";

/// The targets.
const TARGETS: [&str; 2] = ["a100x4/11b-16bit", "a100x4/70b-16bit"];

/// Batch sizes.
const BATCHES: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];

/// More devices than it takes to have a full batch waiting always.
const DEVICES: usize = 2048;

/// Numbers of devices against the strong baseline.
const LOADS: [usize; 9] = [1, 2, 4, 8, 16, 32, 64, 128, 256];

/// The devices there: the figure's, and one that drafts fast.
const LOAD_DRAFTERS: [&str; 2] = [DRAFTER, "orin-nano/1b-4bit"];

/// Nobody waits long for a batch to be full: there are enough devices.
const MAX_WAIT: Duration = Duration::from_secs(1);

/// Virtual seconds before and in the measurement.
const TIMES: (f64, f64) = (10.0, 20.0);

/// Fig. 4.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fig4 {
    /// Under the paper's assumptions: static batches that are always full.
    pub batches: Vec<BatchPoint>,
    /// The same devices and targets, with continuous batching, by number of devices.
    pub loads: Vec<LoadPoint>,
}

/// Static batches of one size.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BatchPoint {
    /// The target.
    pub target: String,
    /// Requests in a batch.
    pub batch: usize,
    /// Tokens a second of thin clients.
    pub central: Estimate,
    /// Tokens a second of the paper's devices.
    pub sled: Estimate,
    /// The one over the other.
    pub gain: Estimate,
    /// The same by the law, `E (a + b B) / (a + b B (k + 1))`.
    pub gain_law: f64,
}

/// So many devices on a server with continuous batching.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoadPoint {
    /// The target.
    pub target: String,
    /// The drafter.
    pub drafter: String,
    /// How many devices there are, all of them always busy.
    pub devices: usize,
    /// Tokens a second of thin clients.
    pub central: Estimate,
    /// Tokens a second with fixed lengths, without assist.
    pub fixed: Estimate,
    /// Tokens a second with the product's defaults.
    pub shipped: Estimate,
}

pub(super) fn batches(lab: &Lab<'_>) -> Result<Fig4, Error> {
    let mut scenarios = Vec::new();
    for target in TARGETS {
        for batch in BATCHES {
            let server = ServerClass { profile: Some(target.to_owned()), ..Lab::static_server(batch, MAX_WAIT) };
            scenarios.push(lab.scenario(server.clone(), Lab::thin(), DEVICES, TIMES));
            scenarios.push(lab.scenario(server, lab.fixed(DRAFTER, LENGTH), DEVICES, TIMES));
        }
    }
    let runs = lab.run("Fig. 4", &scenarios)?;
    let mut pairs = runs.chunks_exact(2);
    let mut batches = Vec::new();
    for target in TARGETS {
        let (pass, round) = (lab.pass(target)?, lab.round(DRAFTER, LENGTH)?);
        for (batch, pair) in BATCHES.into_iter().zip(pairs.by_ref()) {
            let [central, sled] = pair else { continue };
            let size = batch as f64;
            batches.push(BatchPoint {
                target: target.to_owned(),
                batch,
                central: central.throughput(),
                sled: sled.throughput(),
                gain: sled.gain_over(central),
                gain_law: round.tokens * pass.of(size) / pass.of(size * round.rows),
            });
        }
    }
    Ok(Fig4 { batches, loads: loads(lab)? })
}

fn loads(lab: &Lab<'_>) -> Result<Vec<LoadPoint>, Error> {
    let mut scenarios = Vec::new();
    let mut places = Vec::new();
    for target in TARGETS {
        let server = |assist| Lab::continuous(target, assist);
        for devices in LOADS {
            scenarios.push(lab.scenario(server(Assist::Never), lab.thin_recorded(), devices, TIMES));
            for drafter in LOAD_DRAFTERS {
                let fixed = lab.fixed_recorded(drafter, LENGTH);
                scenarios.push(lab.scenario(server(Assist::Never), fixed, devices, TIMES));
                scenarios.push(lab.scenario(server(Assist::Auto), lab.shipped(drafter), devices, TIMES));
            }
            places.push((target, devices));
        }
    }
    let runs = lab.run("Fig. 4, continuous batching", &scenarios)?;
    let mut points = Vec::new();
    for ((target, devices), runs) in places.into_iter().zip(runs.chunks_exact(1 + 2 * LOAD_DRAFTERS.len())) {
        let Some((central, sled)) = runs.split_first() else { continue };
        for (drafter, pair) in LOAD_DRAFTERS.into_iter().zip(sled.chunks_exact(2)) {
            let [fixed, shipped] = pair else { continue };
            points.push(LoadPoint {
                target: target.to_owned(),
                drafter: drafter.to_owned(),
                devices,
                central: central.throughput(),
                fixed: fixed.throughput(),
                shipped: shipped.throughput(),
            });
        }
    }
    Ok(points)
}
