//! Table I: how many devices a server carries.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sled_core::server::Assist;

use super::lab::{LENGTH, Lab, line};
use super::published;
use crate::Error;
use crate::scenario::{Estimate, ServerClass};
use crate::theory::{Pass, plain_capacity, serial_capacity, sled_capacity};

/// More devices than the paper's server carries of any class.
const DEVICES: usize = 64;

/// Virtual seconds before and in the measurement, of the slow server.
const TIMES: (f64, f64) = (100.0, 1000.0);

/// The same, of the fast one.
const FAST_TIMES: (f64, f64) = (10.0, 40.0);

/// The target of the strong baseline, and whose row the paper's server has.
pub(super) const TARGET: &str = "a100x4/70b-16bit";

/// The drafter of every device under the paper's assumptions.
const DRAFTER: &str = "3b-4bit";

/// The drafters that are set against the strong baseline, and the rates.
const STRONG_DRAFTERS: [&str; 3] = ["pi-5/3b-4bit", "orin-nano/3b-4bit", "orin-nano/1b-4bit"];
const STRONG_RATES: [f64; 3] = [10.0, 20.0, 30.0];

/// Table I.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Table1 {
    /// The fixed part of a pass of the paper's server, in milliseconds: calibrated, so that centralised serving carries as many
    /// Pi 5 as in the paper.
    pub slow_fixed_ms: f64,
    /// What each row adds, in milliseconds.
    pub slow_row_ms: f64,
    /// Under the paper's assumptions: one request at a time.
    pub slow: Vec<Capacities>,
    /// Against continuous batching of the same target at published speed.
    pub strong: Vec<AtRate>,
}

/// How many devices of a class the paper's server carries at the rate that one of them gets from SLED with the server to itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Capacities {
    /// The device's profile.
    pub machine: String,
    /// Tokens a second that it drafts.
    pub draft_rate: f64,
    /// Tokens a second that each device is to get.
    pub rate: f64,
    /// Centralised serving, by the law.
    pub central_law: f64,
    /// Centralised serving: saturated tokens a second, over the rate.
    pub central: Estimate,
    /// SLED, by the law.
    pub sled_law: f64,
    /// SLED: saturated tokens a second, over the rate.
    pub sled: Estimate,
    /// SLED over centralised serving.
    pub gain: Estimate,
}

/// How many devices the fast server carries at a rate; the median device must get it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AtRate {
    /// The drafter.
    pub drafter: String,
    /// Tokens a second that each device is to get.
    pub rate: f64,
    /// Continuous batching, by the law.
    pub central_law: f64,
    /// Continuous batching.
    pub central: Estimate,
    /// Fixed lengths without assist, by the law for devices that are all in every pass.
    pub fixed_law: f64,
    /// Fixed lengths without assist.
    pub fixed: Estimate,
    /// The product's defaults.
    pub shipped: Estimate,
    /// With as many devices as continuous batching carries: tokens a second of the mean device with the product's defaults.
    pub shipped_mean: Estimate,
    /// The same of the slowest: the rate that 95 % of the devices exceed.
    pub shipped_p5: Estimate,
}

/// The paper's server with one request in each pass.
pub(super) fn slow_server(lab: &Lab<'_>) -> Result<Pass, Error> {
    let row = lab.pass(TARGET)?.row;
    let round = lab.round("pi-5/3b-4bit", LENGTH)?;
    let [_, (_, _, carried, _), _] = published::TABLE_1;
    // carried = 1 / ((f + b) r), where r = E / (waits + f + b rows).
    let scale = carried * round.tokens;
    let fixed = (round.waits + row * (round.rows - scale)) / (scale - 1.0);
    Ok(Pass { fixed, row })
}

pub(super) fn capacities(lab: &Lab<'_>) -> Result<Table1, Error> {
    let pass = slow_server(lab)?;
    Ok(Table1 {
        slow_fixed_ms: 1e3 * pass.fixed,
        slow_row_ms: 1e3 * pass.row,
        slow: slow(lab, pass)?,
        strong: strong(lab)?,
    })
}

fn slow(lab: &Lab<'_>, pass: Pass) -> Result<Vec<Capacities>, Error> {
    let server = ServerClass { cost: Some(line(pass)), ..Lab::static_server(1, Duration::ZERO) };
    let mut scenarios = vec![lab.scenario(server.clone(), Lab::thin(), DEVICES, TIMES)];
    for (machine, ..) in published::TABLE_1 {
        let class = lab.fixed(&format!("{machine}/{DRAFTER}"), LENGTH);
        scenarios.push(lab.scenario(server.clone(), class, DEVICES, TIMES));
    }
    let runs = lab.run("Table I", &scenarios)?;
    let Some((central, sled)) = runs.split_first() else { return Ok(Vec::new()) };
    let row = |((machine, ..), sled): ((&str, f64, f64, f64), &super::lab::Runs)| {
        let drafter = format!("{machine}/{DRAFTER}");
        let round = lab.round(&drafter, LENGTH)?;
        let rate = round.alone(pass);
        Ok(Capacities {
            machine: machine.to_owned(),
            draft_rate: lab.draft_rate(&drafter)?,
            rate,
            central_law: serial_capacity(pass, 1.0, 1.0, rate),
            central: central.estimate(|report| report.figures.output_throughput / rate),
            sled_law: serial_capacity(pass, round.tokens, round.rows, rate),
            sled: sled.estimate(|report| report.figures.output_throughput / rate),
            gain: sled.gain_over(central),
        })
    };
    published::TABLE_1.into_iter().zip(sled).map(row).collect()
}

fn strong(lab: &Lab<'_>) -> Result<Vec<AtRate>, Error> {
    let pass = lab.pass(TARGET)?;
    let mut scenarios = Vec::new();
    for rate in STRONG_RATES {
        let server = |assist| Lab::continuous(TARGET, assist);
        scenarios.push((lab.scenario(server(Assist::Never), lab.thin_recorded(), 1, FAST_TIMES), rate));
        for drafter in STRONG_DRAFTERS {
            let fixed = lab.fixed_recorded(drafter, LENGTH);
            scenarios.push((lab.scenario(server(Assist::Never), fixed, 1, FAST_TIMES), rate));
            scenarios.push((lab.scenario(server(Assist::Auto), lab.shipped(drafter), 1, FAST_TIMES), rate));
        }
    }
    let found = lab.capacities("Table I, continuous batching", &scenarios)?;
    let of_rates: Vec<&[Estimate]> = found.chunks_exact(1 + 2 * STRONG_DRAFTERS.len()).collect();
    let mut crowds = Vec::new();
    for central in of_rates.iter().filter_map(|of_rate| of_rate.first()) {
        let devices = (central.mean.round() as usize).max(1);
        let server = || Lab::continuous(TARGET, Assist::Auto);
        crowds.extend(STRONG_DRAFTERS.map(|drafter| lab.scenario(server(), lab.shipped(drafter), devices, FAST_TIMES)));
    }
    let mut crowds = lab.run("Table I, as many devices", &crowds)?.into_iter();
    let mut rows = Vec::new();
    for (rate, of_rate) in STRONG_RATES.into_iter().zip(of_rates) {
        let Some((&central, sled)) = of_rate.split_first() else { continue };
        for (drafter, pair) in STRONG_DRAFTERS.into_iter().zip(sled.chunks_exact(2)) {
            let (&[fixed, shipped], Some(crowd)) = (pair, crowds.next()) else { continue };
            rows.push(AtRate {
                drafter: drafter.to_owned(),
                rate,
                central_law: plain_capacity(pass, rate),
                central,
                fixed_law: sled_capacity(pass, lab.recorded_round(drafter, LENGTH)?, rate),
                fixed,
                shipped,
                shipped_mean: crowd.estimate(|report| report.figures.device_throughput_mean),
                shipped_p5: crowd.estimate(|report| report.figures.device_throughput_p5),
            });
        }
    }
    Ok(rows)
}
