//! The most devices that each get a rate.

use super::load::Load;
use crate::args::{CapacityArgs, Mode};
use crate::output::{command, write_json};
use sled_launch::progress::bar;
use sled_sim::figures::Figures;
use sled_sim::recording::Recording;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// So many of the devices must reach the rate.
const SHARE: f64 = 0.95;

/// A server is told a goal so much higher than the rate: what is measured includes the time to the first token.
pub const ABOVE: f64 = 1.2;

#[derive(serde::Serialize)]
struct Results {
    command: String,
    target: String,
    draft_rate: f64,
    window_s: f64,
    capacities: Vec<Capacity>,
}

#[derive(serde::Serialize)]
struct Capacity {
    mode: &'static str,
    rate: f64,
    devices: usize,
    trials: Vec<Trial>,
}

#[derive(Clone, serde::Serialize)]
struct Trial {
    devices: usize,
    /// The share of devices that reached the rate.
    share: f64,
    output_throughput: f64,
}

/// What was measured with a number of devices: tokens a second of each of them, in each repetition. It tells of every rate.
type Runs = BTreeMap<usize, Vec<Vec<f64>>>;

/// Bisects, prints a table, and writes the results.
pub async fn run(args: CapacityArgs) -> anyhow::Result<()> {
    let mut load = Load::new(&args.load, &args.model, Recording::load(&args.drafts)?).await?;
    let mut rates = args.rate.clone();
    rates.sort_by(f64::total_cmp);
    let bar = bar(args.load.modes.len() * rates.len(), "capacities".to_owned());
    let mut capacities = Vec::new();
    for &mode in &args.load.modes {
        let mut runs = Runs::new();
        // Who gets a rate gets every lower one.
        let mut most = usize::try_from(args.most)?;
        for &rate in &rates {
            if mode == Mode::Sled {
                // Each rate is another goal, and so another server.
                load.rate_goal = args.load.scheduling.rate_goal.or(Some(rate * ABOVE));
                runs.clear();
            }
            let capacity = bisect(&load, &args, mode, rate, most, &mut runs).await?;
            most = capacity.devices;
            bar.suspend(|| eprintln!("{:12} {rate:>5.1} tokens/s: {} devices", capacity.mode, capacity.devices));
            capacities.push(capacity);
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    println!("{:12} {:>9} {:>8}", "mode", "tokens/s", "devices");
    for capacity in &capacities {
        println!("{:12} {:>9.1} {:>8}", capacity.mode, capacity.rate, capacity.devices);
    }
    let results = Results {
        command: command(),
        target: args.model.clone(),
        draft_rate: args.load.draft_rate,
        window_s: args.load.window,
        capacities,
    };
    write_json(&args.load.out, &results)?;
    println!("\nwritten to {}", args.load.out.display());
    Ok(())
}

/// The most devices at which the rate is reached, each number of them tried `--repeat` times and the middle one taken.
async fn bisect(
    load: &Load<'_>,
    args: &CapacityArgs,
    mode: Mode,
    rate: f64,
    most: usize,
    runs: &mut Runs,
) -> anyhow::Result<Capacity> {
    let mut trials = Vec::new();
    let (mut reached, mut missed) = (0, most + 1);
    let mut next = 1;
    while reached + 1 < missed {
        if let Entry::Vacant(run) = runs.entry(next) {
            let mut repetitions = Vec::new();
            for _ in 0..args.repeat {
                let run = load.measure(mode, next, 0.0).await?;
                repetitions.push(Figures::rates(&run.seen, run.begin, run.end));
            }
            run.insert(repetitions);
        }
        let mut these: Vec<Trial> = runs.get(&next).into_iter().flatten().map(|rates| trial(rates, rate)).collect();
        trials.extend(these.iter().cloned());
        these.sort_by(|a, b| a.share.total_cmp(&b.share));
        if these.get(these.len() / 2).is_some_and(|trial| trial.share >= SHARE) {
            reached = next;
            // Doubling until the first miss.
            next = (next * 2).min((reached + missed) / 2).max(reached + 1);
        } else {
            missed = next;
            next = (reached + missed) / 2;
        }
    }
    Ok(Capacity { mode: mode.name(), rate, devices: reached, trials })
}

fn trial(rates: &[f64], rate: f64) -> Trial {
    Trial { devices: rates.len(), share: Figures::share_of(rates, rate), output_throughput: rates.iter().sum() }
}
