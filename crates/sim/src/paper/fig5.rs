//! Fig. 5: what the length of drafts does to a device's speed and to the server's capacity.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sled_core::server::Assist;

use super::lab::{Lab, line};
use super::table1::{TARGET, slow_server};
use crate::Error;
use crate::scenario::{DeviceClass, Estimate, ServerClass};
use crate::theory::{plain_capacity, serial_capacity, sled_capacity};

/// The device of the figure.
const DRAFTER: &str = "pi-5/1b-4bit";

/// Lengths.
const LENGTHS: std::ops::RangeInclusive<u32> = 1..=16;

/// Lengths whose capacity at a rate is looked for.
const GOAL_LENGTHS: [u32; 6] = [1, 2, 3, 4, 6, 8];

/// Tokens a second that each device is to get there.
const GOAL: f64 = 8.0;

/// More devices than the paper's server carries.
const DEVICES: usize = 64;

/// Virtual seconds before and in the measurement of the slow server, and of the fast one.
const TIMES: (f64, f64) = (100.0, 1000.0);
const FAST_TIMES: (f64, f64) = (10.0, 40.0);

/// Fig. 5.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fig5 {
    /// Under the paper's assumptions: one request at a time, and every length is held to its own rate.
    pub lengths: Vec<LengthPoint>,
    /// The rate that all are held to on the fast server, in tokens a second.
    pub goal: f64,
    /// At that rate, with continuous batching.
    pub at_goal: Vec<GoalPoint>,
}

/// One length.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LengthPoint {
    /// Drafts in a round.
    pub k: u32,
    /// Tokens a second of a device alone, by the law.
    pub rate_law: f64,
    /// Tokens a second of a device alone.
    pub rate: Estimate,
    /// Devices that the server carries at that rate, by the law.
    pub capacity_law: f64,
    /// Saturated tokens a second over that rate.
    pub capacity: Estimate,
    /// Saturated tokens a second.
    pub throughput: Estimate,
}

/// Who is held to the same rate as all others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GoalPoint {
    /// `fixed:K`, `central` or `goodput`.
    pub system: String,
    /// Drafts in a round, if that is fixed.
    pub k: Option<u32>,
    /// Devices, by the law, if there is one.
    pub law: Option<f64>,
    /// Devices.
    pub capacity: Estimate,
}

pub(super) fn lengths(lab: &Lab<'_>) -> Result<Fig5, Error> {
    let pass = slow_server(lab)?;
    let server = ServerClass { cost: Some(line(pass)), ..Lab::static_server(1, Duration::ZERO) };
    let mut scenarios = Vec::new();
    for k in LENGTHS {
        for devices in [1, DEVICES] {
            scenarios.push(lab.scenario(server.clone(), lab.fixed(DRAFTER, k), devices, TIMES));
        }
    }
    let runs = lab.run("Fig. 5", &scenarios)?;
    let mut lengths = Vec::new();
    for (k, pair) in LENGTHS.zip(runs.chunks_exact(2)) {
        let [alone, saturated] = pair else { continue };
        let round = lab.round(DRAFTER, k)?;
        let rate_law = round.alone(pass);
        let throughput = saturated.throughput();
        let capacity = saturated.estimate(|report| report.figures.output_throughput / rate_law);
        let capacity_law = serial_capacity(pass, round.tokens, round.rows, rate_law);
        lengths.push(LengthPoint { k, rate_law, rate: alone.throughput(), capacity_law, capacity, throughput });
    }
    Ok(Fig5 { lengths, goal: GOAL, at_goal: at_goal(lab)? })
}

fn at_goal(lab: &Lab<'_>) -> Result<Vec<GoalPoint>, Error> {
    let pass = lab.pass(TARGET)?;
    let server = |assist| Lab::continuous(TARGET, assist);
    let central = (lab.thin_recorded(), Assist::Never);
    let mut who = vec![("central".to_owned(), None, Some(plain_capacity(pass, GOAL)), central)];
    for k in GOAL_LENGTHS {
        let law = sled_capacity(pass, lab.recorded_round(DRAFTER, k)?, GOAL);
        who.push((format!("fixed:{k}"), Some(k), Some(law), (lab.fixed_recorded(DRAFTER, k), Assist::Never)));
    }
    who.push(("goodput".to_owned(), None, None, (lab.shipped(DRAFTER), Assist::Auto)));
    let scenario = |class: &DeviceClass, assist| lab.scenario(server(assist), class.clone(), 1, FAST_TIMES);
    let scenarios: Vec<_> = who.iter().map(|(.., (class, assist))| (scenario(class, *assist), GOAL)).collect();
    let found = lab.capacities("Fig. 5, at one rate", &scenarios)?;
    let points = who.into_iter().zip(found);
    Ok(points.map(|((system, k, law, ..), capacity)| GoalPoint { system, k, law, capacity }).collect())
}
