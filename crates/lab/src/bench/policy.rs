//! `sled bench policy`: draft lengths compared on recorded drafts, in virtual time, for idle and loaded servers.

use std::time::Duration;

use anyhow::Context;
use plotters::prelude::*;
use sled_core::cost::CostTable;
use sled_core::device::Ahead;
use sled_core::policy::Policy;
use sled_core::server::{Assist, Batching};
use sled_sim::experiment::{self, Regime};
use sled_sim::recording::Recording;
use sled_sim::replay::Replay;

use super::predict::{self, CalibrationResult, PreparationResult};
use crate::args::PolicyArgs;
use crate::output::write_json;
use sled_launch::progress::bar;

/// Longer blocks than these are hardly ever worth it.
const K_MAX: usize = 8;

/// A server, its devices, and how far apart they are.
#[derive(Clone, Copy, serde::Serialize)]
struct Situation {
    name: &'static str,
    step_fixed_ms: f64,
    step_row_ms: f64,
    draft_ms: f64,
    rtt_ms: f64,
    devices: usize,
    /// Recorded outputs that each device generates.
    outputs: usize,
}

const fn situation(name: &'static str, step: (f64, f64), draft_ms: f64, rtt_ms: f64, devices: usize) -> Situation {
    let outputs = if devices == 1 {
        60
    } else if devices < 100 {
        12
    } else {
        6
    };
    Situation { name, step_fixed_ms: step.0, step_row_ms: step.1, draft_ms, rtt_ms, devices, outputs }
}

/// 1.5B F16 on two CPU cores, measured with llama.cpp b11434.
const CPU: (f64, f64) = (118.0, 17.0);

/// 70B on four A100, FP16: a line through lmdeploy's published table.
const GPU: (f64, f64) = (29.0, 0.17);

const SITUATIONS: [Situation; 8] = [
    situation("CPU idle, RTT 20", CPU, 20.0, 20.0, 1),
    situation("CPU idle, RTT 200", CPU, 20.0, 200.0, 1),
    situation("CPU, 16 devices", CPU, 20.0, 20.0, 16),
    situation("GPU idle, drafts 20 ms", GPU, 20.0, 20.0, 1),
    situation("GPU idle, drafts 5 ms", GPU, 5.0, 20.0, 1),
    situation("GPU idle, 5 ms, RTT 100", GPU, 5.0, 100.0, 1),
    situation("GPU, 256 devices, 20 ms", GPU, 20.0, 20.0, 256),
    situation("GPU, 256 devices, 5 ms", GPU, 5.0, 20.0, 256),
];

#[derive(serde::Serialize)]
struct Results {
    command: String,
    recording: String,
    seed: u64,
    situations: Vec<SituationResult>,
    calibration: Vec<CalibrationResult>,
    /// The situation of an idle server with the shortest round trip, where preparing for a miss would help most.
    preparation: PreparationResult,
}

#[derive(serde::Serialize)]
struct SituationResult {
    situation: Situation,
    policies: Vec<PolicyResult>,
}

#[derive(serde::Serialize)]
struct PolicyResult {
    policy: String,
    tokens_per_s: f64,
    rows_per_token: f64,
    tokens_per_round: f64,
}

/// Simulates, prints a table, and writes the results.
pub fn run(args: &PolicyArgs) -> anyhow::Result<()> {
    let recording = Recording::load(&args.drafts)?;
    let replay = Replay::new(&recording);
    anyhow::ensure!(
        !replay.is_empty(),
        "{} has no outputs; record some with `sled bench record`",
        args.drafts.display()
    );
    let policies = policies();
    let bar = bar(SITUATIONS.len() * policies.len(), "simulated".to_owned());
    let mut situations = Vec::new();
    for situation in SITUATIONS {
        let time = |ms: f64| Duration::from_secs_f64(ms / 1e3);
        let regime = Regime {
            cost: CostTable::line(situation.step_fixed_ms / 1e3, situation.step_row_ms / 1e3),
            draft_time: time(situation.draft_ms),
            rtt: time(situation.rtt_ms),
            devices: situation.devices,
            outputs: situation.outputs,
            batching: Batching::Continuous,
            assist: Assist::Auto,
            rate_goal: None,
        };
        let mut results = Vec::new();
        for (name, policy) in &policies {
            let figures = experiment::run(&replay, &regime, *policy, Ahead::Blocks, args.seed)?;
            results.push(PolicyResult {
                policy: name.clone(),
                tokens_per_s: figures.tokens_per_s,
                rows_per_token: figures.rows_per_token,
                tokens_per_round: figures.tokens_per_round,
            });
            bar.inc(1);
        }
        situations.push(SituationResult { situation, policies: results });
    }
    bar.finish_and_clear();
    let rate = situations.first().and_then(|r| r.policies.last()).map_or(0.0, |goodput| goodput.tokens_per_s);
    let results = Results {
        command: format!("sled bench policy --drafts {} --seed {}", args.drafts.display(), args.seed),
        recording: args.drafts.display().to_string(),
        seed: args.seed,
        situations,
        calibration: predict::calibration(&recording),
        preparation: predict::preparation(&recording, SITUATIONS[0].draft_ms, rate),
    };
    print(&results);
    write_json(&args.out, &results)?;
    let picture = args.out.with_extension("svg");
    draw(&picture, &results).with_context(|| format!("cannot draw {}; check --out", picture.display()))?;
    println!("\nwritten to {} and {}", args.out.display(), picture.display());
    Ok(())
}

/// Plain decoding first, `goodput` last.
fn policies() -> Vec<(String, Option<Policy>)> {
    let fixed = (1..=K_MAX).map(|k| Policy::Fixed { k });
    let confidence = (3..=9u8).map(|tenths| Policy::Confidence { threshold: f32::from(tenths) / 10.0, k_max: K_MAX });
    let drafting = fixed.chain(confidence).chain([Policy::Goodput]);
    let plain = ("none (thin clients)".to_owned(), None);
    std::iter::once(plain).chain(drafting.map(|policy| (policy.to_string(), Some(policy)))).collect()
}

impl SituationResult {
    /// The best of the settings that draft and do not adapt.
    fn best_fixed(&self) -> Option<&PolicyResult> {
        let fixed = self.policies.iter().filter(|p| p.policy != "goodput" && !p.policy.starts_with("none"));
        fixed.max_by(|a, b| a.tokens_per_s.total_cmp(&b.tokens_per_s))
    }
}

fn print(results: &Results) {
    println!("tokens/s of all devices together (rows per committed token)");
    print!("{:22}", "");
    results.situations.iter().for_each(|r| print!("{:>26}", r.situation.name));
    let count = results.situations.first().map_or(0, |r| r.policies.len());
    for i in 0..count {
        print!("\n{:22}", results.situations[0].policies[i].policy);
        for result in &results.situations {
            let policy = &result.policies[i];
            print!("{:>19.1} ({:.2})", policy.tokens_per_s, policy.rows_per_token);
        }
    }
    print!("\n{:22}", "goodput / best fixed");
    for result in &results.situations {
        let goodput = result.policies.last().map_or(0.0, |p| p.tokens_per_s);
        print!("{:>26.3}", goodput / result.best_fixed().map_or(f64::NAN, |best| best.tokens_per_s));
    }
    println!("\n\nwhether the target takes a draft, predicted by             log loss");
    for result in &results.calibration {
        println!("{:56} {:>10.4}", result.predictor, result.log_loss);
    }
    let p = &results.preparation;
    println!(
        "\n{} misses; the likeliest position was it for {:.0} %, with the second choice right for {:.0} %: drafts prepared for that \
         would save at most {:.1} % of the time in `{}`",
        p.misses,
        100.0 * p.position_guessed,
        100.0 * p.hit,
        100.0 * p.most_saved,
        SITUATIONS[0].name
    );
}

fn draw(path: &std::path::Path, results: &Results) -> anyhow::Result<()> {
    const DARK: RGBColor = RGBColor(9, 105, 218);
    const LIGHT: RGBColor = RGBColor(154, 202, 255);
    const GREY: RGBColor = RGBColor(140, 149, 159);
    let root = SVGBackend::new(path, (1240, 620)).into_drawing_area();
    root.fill(&WHITE)?;
    for (area, result) in root.split_evenly((2, results.situations.len().div_ceil(2))).iter().zip(&results.situations) {
        let top = 1.12 * result.policies.iter().map(|p| p.tokens_per_s).fold(1.0, f64::max);
        let count = result.policies.len() as f64;
        let mut chart = ChartBuilder::on(area)
            .caption(result.situation.name, ("sans-serif", 14))
            .margin(10)
            .x_label_area_size(96)
            .y_label_area_size(44)
            .build_cartesian_2d(0.0..count, 0.0..top)?;
        let name = |x: &f64| result.policies.get(*x as usize).map(|p| label(&p.policy)).unwrap_or_default();
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(WHITE)
            .y_desc("tokens/s")
            .y_labels(5)
            .y_label_formatter(&|y| format!("{y:.0}"))
            .x_labels(0)
            .draw()?;
        for (i, policy) in result.policies.iter().enumerate() {
            let colour = match policy.policy.as_str() {
                "goodput" => DARK,
                name if name.starts_with("none") => GREY,
                _ => LIGHT,
            };
            let x = i as f64;
            chart.draw_series([Rectangle::new([(x + 0.1, 0.0), (x + 0.9, policy.tokens_per_s)], colour.filled())])?;
            let (left, bottom) = chart.backend_coord(&(x + 0.35, 0.0));
            let style = ("sans-serif", 11).into_font().transform(FontTransform::Rotate90).color(&BLACK);
            root.draw_text(&name(&x), &style, (left + 12, bottom + 6))?;
        }
    }
    Ok(root.present()?)
}

fn label(policy: &str) -> String {
    let threshold = policy.strip_prefix("confidence:").and_then(|rest| rest.split(':').next());
    threshold.map_or_else(|| policy.trim_end_matches(" (thin clients)").to_owned(), |c| format!("confidence:{c}"))
}
