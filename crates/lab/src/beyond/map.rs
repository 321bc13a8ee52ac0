//! Where speculation over a network pays: the user's speed against plain continuous batching, by the time of a pass, of a draft
//! and of the round trip, and by load; answers are so long that reading prompts does not matter.

use std::path::Path;

use serde::{Deserialize, Serialize};
use sled_sim::recording::Recording;
use sled_sim::scenario::{self, Scenario};

use super::setting::{Drafter, LAPTOP, Outcome, Server, thin};
use crate::args::BeyondArgs;
use crate::virtual_time::{threads, with_bar};

/// What a row costs, of what a pass costs: as on the A100.
const ROW: f64 = 0.17 / 29.0;

pub const STEPS: [f64; 6] = [5.0, 10.0, 29.0, 60.0, 120.0, 300.0];
pub const DRAFTS: [f64; 4] = [2.0, 5.0, 20.0, 74.0];
pub const TRIPS: [f64; 3] = [5.0, 20.0, 100.0];
pub const DEVICES: [usize; 4] = [1, 8, 32, 128];

/// The longest block that the rule of thumb considers.
const LONGEST: usize = 8;

/// The whole map.
#[derive(Debug, Serialize, Deserialize)]
pub struct Map {
    pub command: String,
    pub seeds: u32,
    /// Tokens of a round with blocks of 1, 2, ... drafts, from the recording: the `E` of the rule of thumb.
    pub tokens_per_round: Vec<f64>,
    pub points: Vec<Point>,
}

/// One case.
#[derive(Debug, Serialize, Deserialize)]
pub struct Point {
    pub step_ms: f64,
    pub draft_ms: f64,
    pub rtt_ms: f64,
    pub devices: usize,
    /// Tokens a second of a user without drafts, and with them.
    pub central: f64,
    pub sled: Outcome,
    /// The latter over the former.
    pub gain: f64,
}

impl Map {
    /// The least step time, in milliseconds, with which synchronous blocks of the best length are faster than plain decoding:
    /// `k` drafts, a round trip and a step bring `E` tokens, of which a plain stream takes `E` steps.
    pub fn break_even_ms(&self, draft_ms: f64, rtt_ms: f64) -> f64 {
        let step = |(k, tokens): (usize, &f64)| (rtt_ms + (k + 1) as f64 * draft_ms) / (tokens - 1.0);
        self.tokens_per_round.iter().enumerate().map(step).fold(f64::INFINITY, f64::min)
    }

    pub fn get(&self, step_ms: f64, draft_ms: f64, rtt_ms: f64, devices: usize) -> Option<&Point> {
        self.points.iter().find(|point| {
            (point.step_ms, point.draft_ms, point.rtt_ms, point.devices) == (step_ms, draft_ms, rtt_ms, devices)
        })
    }
}

/// Simulates every case.
pub fn run(args: &BeyondArgs) -> anyhow::Result<Map> {
    let mut cases = Vec::new();
    for devices in DEVICES {
        for draft_ms in DRAFTS {
            for rtt_ms in TRIPS {
                cases.extend(STEPS.map(|step_ms| (step_ms, draft_ms, rtt_ms, devices)));
            }
        }
    }
    let seeds: Vec<u64> = (0..u64::from(args.seeds)).collect();
    let share = 1.0 / cases.len() as f64;
    let points = with_bar(super::MAP, |progress| {
        scenario::parallel(&cases, threads(), |&(step_ms, draft_ms, rtt_ms, devices)| {
            let point = case(&args.drafts, &seeds, step_ms, draft_ms, rtt_ms, devices);
            progress(share);
            point
        })
    });
    let points = points.into_iter().collect::<anyhow::Result<Vec<Point>>>()?;
    let recording = Recording::load(&args.drafts)?;
    let tokens_per_round = (1..=LONGEST).map(|k| tokens_per_round(&recording, k)).collect();
    Ok(Map { command: format!("sled beyond {}", super::MAP), seeds: args.seeds, tokens_per_round, points })
}

/// How many tokens a round commits on average with blocks of `k` recorded drafts.
fn tokens_per_round(recording: &Recording, k: usize) -> f64 {
    let (mut tokens, mut rounds) = (0, 0);
    for output in &recording.outputs {
        let right: Vec<bool> =
            output.tokens.iter().zip(&output.drafts).map(|(token, draft)| *token == draft.token).collect();
        let mut at = 0;
        while at < right.len() {
            at += right[at..].iter().take(k).take_while(|&&right| right).count() + 1;
            rounds += 1;
        }
        tokens += right.len();
    }
    f64::from(u32::try_from(tokens).unwrap_or(u32::MAX)) / f64::from(rounds.max(1))
}

fn case(
    drafts: &Path,
    seeds: &[u64],
    step_ms: f64,
    draft_ms: f64,
    rtt_ms: f64,
    devices: usize,
) -> anyhow::Result<Point> {
    let row_ms = ROW * step_ms;
    let server = Server { fixed_ms: step_ms - row_ms, row_ms, context_ms: 0.0, power_w: 0.0, idle_w: 0.0 };
    let speed = |class| -> anyhow::Result<Outcome> {
        let scenario = Scenario { devices: vec![class], ..server.generating("") };
        Ok(Outcome::of(&scenario::run_seeds(&scenario, seeds, 1, &|_| {})?, None))
    };
    let drafter = Drafter { draft_ms, ..LAPTOP };
    let central = speed(thin(drafts, devices, rtt_ms, drafter))?.speed.mean;
    let sled = speed(drafter.class(drafts, devices, rtt_ms))?;
    let gain = sled.speed.mean / central;
    Ok(Point { step_ms, draft_ms, rtt_ms, devices, central, sled, gain })
}
