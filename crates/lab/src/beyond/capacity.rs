//! The most devices that each get a rate.

use serde::{Deserialize, Serialize};
use sled_sim::scenario::{self, Scenario};

use super::series::{CENTRAL, RTT};
use super::setting::{BIG, Drafter, JETSON, LAPTOP, PI, server_side, thin};
use crate::args::BeyondArgs;
use crate::bench::ABOVE;
use crate::virtual_time::{threads, with_bar};

/// Tokens a second that each device is to get.
const RATES: [f64; 9] = [2.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 40.0, 60.0];

/// So many of the devices must reach the rate.
const SHARE: f64 = 0.95;

/// A device is measured over about so many tokens.
const TOKENS: f64 = 2000.0;

/// The draft lengths that a server may choose for itself; the best of them counts.
const LENGTHS: [usize; 3] = [1, 2, 4];

/// The line of these drafters where the server is told the rate.
pub fn with_goal(drafter: Drafter) -> String {
    format!("{}, rate goal", drafter.name)
}

/// All capacities.
#[derive(Debug, Serialize, Deserialize)]
pub struct Capacities {
    pub command: String,
    pub seed: u64,
    pub share: f64,
    pub points: Vec<Point>,
}

/// How many devices a server carries at a rate.
#[derive(Debug, Serialize, Deserialize)]
pub struct Point {
    pub line: String,
    pub rate: f64,
    pub devices: usize,
    /// How busy the server is with them.
    pub utilisation: f64,
}

impl Capacities {
    pub fn get(&self, line: &str, rate: f64) -> Option<&Point> {
        self.points.iter().find(|point| point.line == line && point.rate == rate)
    }

    /// The lines, in the order in which they came.
    pub fn lines(&self) -> Vec<&str> {
        let mut lines: Vec<&str> = Vec::new();
        for point in &self.points {
            if !lines.contains(&point.line.as_str()) {
                lines.push(&point.line);
            }
        }
        lines
    }

    pub fn rates() -> [f64; RATES.len()] {
        RATES
    }
}

/// Finds the capacities.
pub fn run(args: &BeyondArgs) -> anyhow::Result<Capacities> {
    let drafts = args.drafts.as_path();
    let mut tasks: Vec<(String, f64, Scenario)> = Vec::new();
    for rate in RATES {
        let lasting = |mut scenario: Scenario| {
            // Drafts are better for some texts than for others: a rate is measured over as many answers as may be.
            scenario.window_s = (TOKENS / rate).clamp(40.0, 160.0);
            scenario.warmup_s = scenario.window_s / 8.0;
            scenario
        };
        let with = |class| lasting(Scenario { devices: vec![class], ..BIG.scenario("") });
        tasks.push((CENTRAL.to_owned(), rate, with(thin(drafts, 1, RTT, LAPTOP))));
        let drafting = [LAPTOP, JETSON, PI].map(|drafter| (drafter, with(drafter.class(drafts, 1, RTT))));
        for (drafter, scenario) in &drafting {
            tasks.push((drafter.name.to_owned(), rate, scenario.clone()));
        }
        for (drafter, mut scenario) in drafting {
            scenario.server.rate_goal = Some(rate * ABOVE);
            tasks.push((with_goal(drafter), rate, scenario));
        }
        for k in LENGTHS {
            tasks.push((format!("fixed:{k}"), rate, lasting(server_side(BIG, drafts, 1, k))));
        }
    }
    let share = 1.0 / tasks.len() as f64;
    let points = with_bar(super::CAPACITY, |progress| {
        scenario::parallel(&tasks, threads(), |(line, rate, scenario)| -> anyhow::Result<Point> {
            let found = scenario::capacity(scenario, *rate, SHARE, 0)?;
            progress(share);
            let last = found.trials.iter().find(|trial| trial.devices == found.devices);
            let utilisation = last.map_or(0.0, |trial| trial.utilisation);
            Ok(Point { line: line.clone(), rate: *rate, devices: found.devices, utilisation })
        })
    });
    let points = points.into_iter().collect::<anyhow::Result<Vec<Point>>>()?;
    Ok(Capacities { command: format!("sled beyond {}", super::CAPACITY), seed: 0, share: SHARE, points: best(points) })
}

/// Of the lengths that a server may choose for itself, the best at each rate.
fn best(points: Vec<Point>) -> Vec<Point> {
    let is_choice = |point: &Point| point.line.starts_with("fixed:");
    let (choices, mut points): (Vec<Point>, Vec<Point>) = points.into_iter().partition(is_choice);
    for rate in RATES {
        let of_rate = choices.iter().filter(|point| point.rate == rate);
        if let Some(best) = of_rate.max_by_key(|point| point.devices) {
            points.push(Point { line: "server-side, best length".to_owned(), rate, ..*best });
        }
    }
    points
}
