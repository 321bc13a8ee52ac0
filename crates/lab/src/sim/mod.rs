//! `sled sim`: an experiment that a file describes, in virtual time.

mod plot;

use anyhow::Context;
use sled_sim::scenario::{self, Estimate, Scenario, Summary};

use crate::args::SimArgs;
use crate::output::write_json;
use crate::virtual_time::{threads, with_bar};

/// Simulates, prints a table, and writes the results.
pub fn run(args: &SimArgs) -> anyhow::Result<()> {
    let scenario = Scenario::load(&args.scenario)?;
    let seeds: Vec<u64> = (0..u64::from(args.seeds)).map(|i| scenario.seed.wrapping_add(i)).collect();
    let summary = with_bar(&scenario.name, |progress| scenario::run_seeds(&scenario, &seeds, threads(), progress))?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&summary)?);
    } else {
        print(&summary);
    }
    if let Some(out) = &args.out {
        write_json(out, &summary)?;
        let picture = out.with_extension("svg");
        plot::draw(&picture, &summary).with_context(|| format!("cannot draw {}; check --out", picture.display()))?;
        eprintln!("written to {} and {}", out.display(), picture.display());
    }
    Ok(())
}

/// A number with how far it may be off.
fn number(estimate: Option<Estimate>, digits: usize) -> String {
    match estimate {
        Some(Estimate { mean, ci95: Some(ci95) }) => format!("{mean:.digits$} ±{ci95:.digits$}"),
        Some(Estimate { mean, ci95: None }) => format!("{mean:.digits$}"),
        None => "-".to_owned(),
    }
}

fn print(summary: &Summary) {
    let scenario = &summary.scenario;
    println!(
        "{}: {} virtual seconds after {}, {} seeds; ± is half of the 95 % confidence interval",
        if scenario.name.is_empty() { "simulated" } else { &scenario.name },
        scenario.window_s,
        scenario.warmup_s,
        summary.seeds.len()
    );
    println!(
        "\n{:20} {:>7} {:>16} {:>14} {:>14} {:>14} {:>14} {:>14} {:>12} {:>12}",
        "", "devices", "tokens/s", "each", "p5", "TTFT ms", "TPOT ms", "TPOT p99", "rows/token", "tokens/round"
    );
    let line = |name: &str, devices: usize, at: &str| {
        let get = |path: &str, digits| number(summary.get(&format!("{at}{path}")), digits);
        println!(
            "{name:20} {devices:>7} {:>16} {:>14} {:>14} {:>14} {:>14} {:>14} {:>12} {:>12}",
            get("figures.output_throughput", 1),
            get("figures.device_throughput_mean", 2),
            get("figures.device_throughput_p5", 2),
            get("figures.median_ttft_ms", 0),
            get("figures.median_tpot_ms", 1),
            get("figures.p99_tpot_ms", 1),
            get("figures.rows_per_token", 2),
            get("tokens_per_round", 2),
        );
    };
    for (index, class) in scenario.devices.iter().enumerate() {
        line(&class.name, class.count, &format!("classes.{index}."));
    }
    if scenario.devices.len() > 1 {
        line("all", scenario.count(), "");
    }
    let get = |path: &str, digits| number(summary.get(path), digits);
    println!(
        "\nserver: {} of the time in passes, {} rows each",
        get("server.utilisation", 3),
        get("server.rows_per_pass", 1)
    );
    println!(
        "blocks wait for {} ms; {} prompts are being answered or wait",
        get("server.queue_ms", 1),
        get("mean_requests", 1)
    );
    if summary.get("provisional_share").is_some_and(|share| share.mean > 0.0) {
        println!("shown without a verdict: {} of the tokens", get("provisional_share", 4));
    }
    if summary.get("energy.server").is_some() {
        println!("joules a token: {} of the server, {} of devices", get("energy.server", 2), get("energy.devices", 2));
    }
}
