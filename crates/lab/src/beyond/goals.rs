//! Which goals the results meet.

use serde::Serialize;

use super::Findings;
use super::capacity::{Capacities, with_goal};
use super::map::Map;
use super::series::{CENTRAL, NAMES, Series};
use super::setting::{JETSON, LAPTOP, NOISE, PI};

/// A goal, and what was found.
#[derive(Serialize)]
pub struct Goal {
    text: &'static str,
    found: String,
    /// Whether it is met with prompts as recorded, if that is asked.
    recorded: Option<bool>,
    /// Whether it is met where answers are so long that reading prompts does not matter, if that is asked.
    generating: Option<bool>,
}

/// All goals, judged.
pub fn goals(findings: &Findings) -> Vec<Goal> {
    let capacities = &findings.capacity;
    let goals = fleets(&findings.map).into_iter().chain(mixed(findings));
    goals.chain(capacity(capacities)).chain(speed(findings)).chain([rates(capacities)]).collect()
}

fn by_name<'a>(findings: &'a Findings, name: &str) -> Option<&'a Series> {
    NAMES.iter().zip(&findings.series).find(|(other, _)| **other == name).map(|(_, series)| series)
}

fn fleets(map: &Map) -> Option<Goal> {
    let points = &map.points;
    let worst = points.iter().min_by(|a, b| a.gain.total_cmp(&b.gain))?;
    let below = points.iter().filter(|point| point.gain < 1.0 - NOISE).count();
    Some(Goal {
        text: "user speed never below plain continuous batching: fleets of one drafter",
        found: format!(
            "{below} of {} cases of the map are below {:.2}; the worst is {:.2} (step {} ms, draft {} ms, RTT {} ms, {} devices)",
            points.len(),
            1.0 - NOISE,
            worst.gain,
            worst.step_ms,
            worst.draft_ms,
            worst.rtt_ms,
            worst.devices
        ),
        recorded: None,
        generating: Some(below == 0),
    })
}

fn mixed(findings: &Findings) -> Option<Goal> {
    let mixed = by_name(findings, "mixed")?;
    let thin = [4.0, 16.0, 64.0, 128.0].into_iter().filter_map(|count| Some((mixed.gain("thin", count)?, count)));
    let (gain, count) = thin.min_by(|a, b| a.0.total_cmp(&b.0))?;
    Some(Goal {
        text: "the same: mixed fleets",
        found: format!("thin clients among fast drafters get down to {gain:.2} (at {count} devices)"),
        recorded: Some(gain >= 1.0 - NOISE),
        generating: None,
    })
}

fn capacity(capacities: &Capacities) -> impl Iterator<Item = Goal> {
    let drafters = [LAPTOP, JETSON, PI];
    let judge = |text, lines: [String; 3]| {
        let ratios = lines.iter().flat_map(|line| {
            Capacities::rates().into_iter().filter_map(move |rate| {
                let central = capacities.get(CENTRAL, rate)?.devices;
                let sled = capacities.get(line, rate)?.devices;
                (central > 0).then(|| (sled as f64 / central as f64, line, rate))
            })
        });
        let (ratio, line, rate) = ratios.min_by(|a, b| a.0.total_cmp(&b.0))?;
        let found = format!("the least is {ratio:.2} ({line}, {rate} tokens/s)");
        Some(Goal { text, found, recorded: Some(ratio >= 1.0 - NOISE), generating: None })
    };
    let told = "capacity never below plain continuous batching: the rate is the server's goal";
    let not_told = "the same: the server is not told the rate";
    let goals =
        [judge(told, drafters.map(with_goal)), judge(not_told, drafters.map(|drafter| drafter.name.to_owned()))];
    goals.into_iter().flatten()
}

fn speed(findings: &Findings) -> impl Iterator<Item = Goal> {
    let judge = |[recorded, generating]: [&str; 2], text, line: &str, counts: &[f64], wanted: f64| {
        let least = |name: &str| {
            let series = by_name(findings, name)?;
            let gains = counts.iter().filter_map(|&count| Some((series.gain(line, count)?, count)));
            gains.min_by(|a, b| a.0.total_cmp(&b.0))
        };
        let ((with, at), (without, at_without)) = (least(recorded)?, least(generating)?);
        let found = format!(
            "at least {with:.2} with prompts as recorded (at {at}), {without:.2} while generating (at {at_without})"
        );
        Some(Goal { text, found, recorded: Some(with >= wanted), generating: Some(without >= wanted) })
    };
    let (big, slow) = (["speed", "generating"], ["offloaded", "offloaded-generating"]);
    let few = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0];
    let goals = [
        judge(big, "70B, drafts of 5 ms, up to 32 devices: 1.6 times the speed", LAPTOP.name, &few, 1.6),
        judge(big, "the same at 64 devices: 1.4 times", LAPTOP.name, &[64.0], 1.4),
        judge(slow, "0.3 s a step, Pi-class drafters, 1 to 8 devices: 1.8 times", PI.name, &few[..4], 1.8),
    ];
    goals.into_iter().flatten()
}

fn rates(capacities: &Capacities) -> Goal {
    let reached = |line: &str| {
        let rates = Capacities::rates().into_iter();
        rates.filter(|&rate| capacities.get(line, rate).is_some_and(|point| point.devices > 0)).fold(0.0, f64::max)
    };
    let (sled, central) = (reached(LAPTOP.name), reached(CENTRAL));
    Goal {
        text: "rates that no plain stream reaches",
        found: format!("{sled} tokens/s with {}, {central} with `{CENTRAL}`", LAPTOP.name),
        recorded: Some(sled > central),
        generating: None,
    }
}
