//! The speeds to expect, by the simulator: the shipped state machines with what was measured here.

use serde::Serialize;
use sled_core::policy::Policy;
use sled_sim::scenario::{self, Cost, DeviceClass, LinkClass, Load, Range, Scenario, ServerClass};
use sled_sim::theory::tokens_per_round;

use super::facts::{Facts, Passes, Trial};

/// Virtual seconds before the measurement, and of it.
const WARMUP_S: f64 = 5.0;
const WINDOW_S: f64 = 60.0;

/// What is assumed of the devices of a server that has none yet: a small model on a laptop, and a model of the same family.
pub const ASSUMED_DRAFT_MS: f64 = 20.0;
pub const ASSUMED_ACCEPTANCE: f64 = 0.8;

/// Tokens a second of one device.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Speeds {
    /// Others that are being answered at the same time, without drafts.
    pub others: usize,
    /// With drafts that the server verifies; none without a drafter.
    pub sled: Option<f64>,
    /// The server decodes.
    pub plain: Option<f64>,
    /// The draft model alone.
    pub device: Option<f64>,
}

/// What a pass takes: `fixed + row * rows`, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Line {
    pub fixed_ms: f64,
    pub row_ms: f64,
}

/// What a device has alone, and, if the server is answering others, beside them.
pub fn of_device(facts: &Facts) -> anyhow::Result<Vec<Speeds>> {
    let device = facts.drafter.as_ref().and_then(|drafter| drafter.model.as_ref()?.tokens_per_s);
    let found = facts.server.as_ref().and_then(|server| server.found.as_ref());
    let line = facts.trial.as_ref().and_then(|trial| line(&trial.passes));
    let (Some(found), Some(line)) = (found, line) else {
        return Ok(device
            .map(|rate| Speeds { others: 0, sled: None, plain: None, device: Some(rate) })
            .into_iter()
            .collect());
    };
    // N-grams take no time.
    let draft_ms = device.map_or(0.0, |rate| 1e3 / rate);
    let drafts = facts.trial.as_ref().and_then(acceptance).map(|acceptance| (draft_ms, acceptance));
    let mut loads = vec![0, found.busy_sessions];
    loads.dedup();
    let speeds = |others| {
        Ok(Speeds {
            others,
            sled: drafts.map(|drafts| beside(line, found.round_trip_ms, Some(drafts), others)).transpose()?,
            plain: Some(beside(line, found.round_trip_ms, None, others)?),
            device,
        })
    };
    loads.into_iter().map(speeds).collect()
}

/// What each of a server's devices has: one that is alone, and as many as `devices`.
pub fn of_server(passes: &Passes, devices: u32) -> anyhow::Result<Vec<Speeds>> {
    let mut loads = vec![0, (devices as usize).saturating_sub(1)];
    loads.dedup();
    let speeds = |others| {
        let (sled, plain) = each(&passes.points, others + 1)?;
        Ok(Speeds { others, sled: Some(sled), plain: Some(plain), device: None })
    };
    loads.into_iter().map(speeds).collect()
}

/// Tokens a second of each of `devices` of a server whose passes take `points`: with the drafts that are assumed, and without.
pub fn each(points: &[[f64; 2]], devices: usize) -> anyhow::Result<(f64, f64)> {
    let each = |drafts| simulate(Cost::points(points.to_vec()), vec![class(drafts, 0.0, devices)]);
    Ok((each(Some((ASSUMED_DRAFT_MS, ASSUMED_ACCEPTANCE)))?, each(None)?))
}

/// The line through the first and the last of the points `[rows, milliseconds]`. Where these have nearly the same rows, what a
/// row adds is taken to be nothing.
pub fn line(points: &[[f64; 2]]) -> Option<Line> {
    let ([r0, t0], [r1, t1]) = (*points.first()?, *points.last()?);
    let row_ms = if r1 - r0 > 0.5 { ((t1 - t0) / (r1 - r0)).max(0.0) } else { 0.0 };
    Some(Line { fixed_ms: (t0 - row_ms * r0).max(0.0), row_ms })
}

/// The probability that a draft is accepted whose predecessors are: the `a` for which blocks of `k` drafts have
/// `a + a^2 + … + a^k` accepted on average. None if nothing was drafted.
pub fn acceptance(trial: &Trial) -> Option<f64> {
    let blocks = trial.drafted as f64 / f64::from(trial.block.max(1));
    if blocks < 1.0 {
        return None;
    }
    let accepted = trial.accepted as f64 / blocks;
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..40 {
        let middle = f64::midpoint(low, high);
        if tokens_per_round(middle, trial.block) - 1.0 < accepted { low = middle } else { high = middle }
    }
    Some(high)
}

/// Tokens a second of one device beside `others` that do not draft.
fn beside(line: Line, rtt_ms: f64, drafts: Option<(f64, f64)>, others: usize) -> anyhow::Result<f64> {
    let mut devices = vec![class(drafts, rtt_ms, 1)];
    if others > 0 {
        devices.push(class(None, rtt_ms, others));
    }
    simulate(Cost::line(line.fixed_ms, line.row_ms), devices)
}

/// Tokens a second of each device of the first class, while answers come: prompts are short.
fn simulate(cost: Cost, devices: Vec<DeviceClass>) -> anyhow::Result<f64> {
    let scenario = Scenario {
        warmup_s: WARMUP_S,
        window_s: WINDOW_S,
        server: ServerClass { cost: Some(cost), ..ServerClass::default() },
        load: Load { prompt_tokens: Some(Range::One(1)), ..Load::default() },
        devices,
        ..Scenario::default()
    };
    let report = scenario::run(&scenario, 0)?;
    Ok(report.classes.first().map_or(0.0, |class| class.figures.device_throughput_mean))
}

fn class(drafts: Option<(f64, f64)>, rtt_ms: f64, count: usize) -> DeviceClass {
    DeviceClass {
        count,
        policy: drafts.map(|_| Policy::default()),
        draft_ms: drafts.map(|(ms, _)| ms),
        acceptance: Some(drafts.map_or(0.0, |(_, acceptance)| acceptance)),
        link: LinkClass { rtt_ms, ..LinkClass::default() },
        ..DeviceClass::default()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn acceptance_is_what_blocks_of_four_come_to() {
        let trial = |drafted, accepted| Trial { drafted, accepted, block: 4, ..Trial::default() };
        // 0.7 + 0.49 + 0.343 + 0.2401 of each four.
        let found = acceptance(&trial(40_000, 17_731)).unwrap();
        assert!((found - 0.7).abs() < 1e-3, "{found}");
        assert!(acceptance(&trial(40, 40)).unwrap() > 0.999);
        assert!(acceptance(&trial(40, 0)).unwrap() < 1e-6);
        assert_eq!(acceptance(&trial(0, 0)), None);
    }

    #[test]
    fn a_line_through_two_points_never_falls() {
        assert_eq!(line(&[[1.0, 30.0], [5.0, 50.0]]), Some(Line { fixed_ms: 25.0, row_ms: 5.0 }));
        assert_eq!(line(&[[1.0, 30.0], [5.0, 20.0]]), Some(Line { fixed_ms: 30.0, row_ms: 0.0 }));
        assert_eq!(line(&[[1.0, 30.0], [1.2, 90.0]]), Some(Line { fixed_ms: 30.0, row_ms: 0.0 }));
        assert_eq!(line(&[]), None);
    }

    #[test]
    fn plain_decoding_alone_is_one_token_a_pass_and_a_round_trip_hardly_matters() {
        let line = Line { fixed_ms: 40.0, row_ms: 10.0 };
        for rtt_ms in [0.0, 50.0] {
            let rate = beside(line, rtt_ms, None, 0).unwrap();
            assert!((rate - 20.0).abs() < 1.5, "{rate}");
        }
        let drafted = beside(line, 0.0, Some((1.0, 0.9)), 0).unwrap();
        assert!(drafted > 25.0, "drafts that are quick and mostly right help: {drafted}");
        let crowded = beside(line, 0.0, None, 15).unwrap();
        assert!(crowded < 7.0, "sixteen in a pass of 200 ms: {crowded}");
    }
}
