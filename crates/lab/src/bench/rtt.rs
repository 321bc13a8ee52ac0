//! `sled bench rtt`: one device at growing distance from its server, over real sockets and a relay that delays.

use std::time::Duration;

use anyhow::Context;
use plotters::prelude::*;
use sled_core::cost::CostTable;
use sled_core::device::Ahead;
use sled_core::policy::Policy;
use sled_sim::oracle;
use sled_sim::recording::Recording;
use sled_sim::replay::Replay;
use tokio::task::JoinSet;

use super::emulate::{self, Emulation};
use crate::args::RttArgs;
use crate::output::write_json;
use sled_launch::progress::bar;

/// Milliseconds.
const ROUND_TRIPS: [u64; 6] = [0, 20, 50, 100, 200, 400];

/// The paper's policy, for the devices that follow no cost model.
const CONFIDENCE: Policy = Policy::Confidence { threshold: 0.5, k_max: 8 };

/// The ways to be a device, in the order of the picture's legend.
const MODES: [(&str, Option<Policy>, Ahead); 5] = [
    ("thin client", None, Ahead::Blocks),
    ("synchronous, confidence:0.5:8", Some(CONFIDENCE), Ahead::Nothing),
    ("asynchronous, confidence:0.5:8", Some(CONFIDENCE), Ahead::Drafts),
    ("asynchronous + pipelined, confidence:0.5:8", Some(CONFIDENCE), Ahead::Blocks),
    ("asynchronous + pipelined, goodput (the default)", Some(Policy::Goodput), Ahead::Blocks),
];

/// What the server and the drafter cost: the claim, and where the numbers are from.
#[derive(Clone, Copy, serde::Serialize)]
struct Profile {
    name: &'static str,
    source: &'static str,
    step_fixed_ms: f64,
    step_row_ms: f64,
    draft_ms: f64,
}

const PROFILES: [Profile; 2] = [
    Profile {
        name: "1.5B F16 on two CPU cores, drafts of 20 ms",
        source: "line through forward passes of 1 to 32 rows, measured with llama.cpp b11434 on two cores",
        step_fixed_ms: 118.0,
        step_row_ms: 17.0,
        draft_ms: 20.0,
    },
    Profile {
        name: "70B on four A100, drafts of 5 ms",
        source: "line through lmdeploy's published table of forward passes, FP16",
        step_fixed_ms: 29.0,
        step_row_ms: 0.17,
        draft_ms: 5.0,
    },
];

#[derive(serde::Serialize)]
struct Results {
    command: String,
    recording: String,
    outputs: Vec<usize>,
    profiles: Vec<ProfileResult>,
}

#[derive(serde::Serialize)]
struct ProfileResult {
    profile: Profile,
    points: Vec<Point>,
}

/// One round-trip time.
#[derive(serde::Serialize)]
struct Point {
    rtt_ms: u64,
    /// What a device could reach that knew which drafts are right.
    bound_tokens_per_s: f64,
    modes: Vec<ModeResult>,
}

#[derive(serde::Serialize)]
struct ModeResult {
    mode: &'static str,
    tokens_per_s: f64,
    of_bound: f64,
    tokens_per_round: f64,
    rows_per_token: f64,
}

/// Measures, prints a table, and writes the results.
pub async fn run(args: RttArgs) -> anyhow::Result<()> {
    let replay = Replay::new(&Recording::load(&args.drafts)?);
    anyhow::ensure!(
        !replay.is_empty(),
        "{} has no outputs; record some with `sled bench record`",
        args.drafts.display()
    );
    // As many of each kind of prompt: the recording has the kinds one after the other.
    let count = usize::try_from(args.outputs)?.min(replay.len());
    let indices: Vec<usize> = (0..count).map(|i| i * replay.len() / count).collect();
    let bar = bar(ROUND_TRIPS.len() * PROFILES.len() * MODES.len(), "devices done".to_owned());
    let mut profiles: Vec<ProfileResult> =
        PROFILES.iter().map(|&profile| ProfileResult { profile, points: Vec::new() }).collect();
    for rtt_ms in ROUND_TRIPS {
        let rtt = Duration::from_millis(rtt_ms);
        // The emulated models sleep: devices and servers side by side take nothing from each other.
        let mut running = JoinSet::new();
        for (p, profile) in PROFILES.iter().enumerate() {
            for (m, &(_, policy, ahead)) in MODES.iter().enumerate() {
                let emulation =
                    Emulation { cost: profile.cost(), draft_time: profile.draft_time(), rtt, policy, ahead };
                let (replay, indices) = (replay.clone(), indices.clone());
                running.spawn(async move { (p, m, emulate::run(&replay, emulation, &indices).await) });
            }
        }
        let mut measured = vec![vec![emulate::Measured::default(); MODES.len()]; PROFILES.len()];
        while let Some(done) = running.join_next().await {
            let (p, m, result) = done?;
            measured[p][m] = result?;
            bar.inc(1);
        }
        for (result, measured) in profiles.iter_mut().zip(measured) {
            result.points.push(point(&replay, &indices, result.profile, rtt_ms, &measured));
        }
    }
    bar.finish_and_clear();
    let results = Results {
        command: format!("sled bench rtt --drafts {} --outputs {}", args.drafts.display(), args.outputs),
        recording: args.drafts.display().to_string(),
        outputs: indices,
        profiles,
    };
    print(&results);
    write_json(&args.out, &results)?;
    let picture = args.out.with_extension("svg");
    draw(&picture, &results).with_context(|| format!("cannot draw {}; check --out", picture.display()))?;
    println!("\nwritten to {} and {}", args.out.display(), picture.display());
    Ok(())
}

impl Profile {
    fn cost(&self) -> CostTable {
        CostTable::line(self.step_fixed_ms / 1e3, self.step_row_ms / 1e3)
    }

    fn draft_time(&self) -> Duration {
        Duration::from_secs_f64(self.draft_ms / 1e3)
    }
}

fn point(replay: &Replay, indices: &[usize], profile: Profile, rtt_ms: u64, measured: &[emulate::Measured]) -> Point {
    let outputs = || indices.iter().filter_map(|&index| replay.outputs().get(index));
    let rtt = Duration::from_millis(rtt_ms);
    let least: Duration =
        outputs().map(|output| oracle::least_time(output, profile.draft_time(), rtt, &profile.cost())).sum();
    let tokens: usize = outputs().map(|output| output.tokens.len()).sum();
    let bound = tokens as f64 / least.as_secs_f64();
    let modes = MODES.iter().zip(measured).map(|(&(mode, ..), measured)| {
        let tokens_per_s = measured.tokens as f64 / measured.seconds;
        ModeResult {
            mode,
            tokens_per_s,
            of_bound: tokens_per_s / bound,
            tokens_per_round: measured.tokens as f64 / measured.rounds.max(1) as f64,
            rows_per_token: measured.server_rows as f64 / measured.tokens.max(1) as f64,
        }
    });
    Point { rtt_ms, bound_tokens_per_s: bound, modes: modes.collect() }
}

fn print(results: &Results) {
    for ProfileResult { profile, points } in &results.profiles {
        println!("{}: tokens/s (and share of the bound)", profile.name);
        print!("{:50}", "round trip, ms");
        points.iter().for_each(|point| print!("{:>14}", point.rtt_ms));
        for (m, (mode, ..)) in MODES.iter().enumerate() {
            print!("\n{mode:50}");
            for point in points {
                let mode = &point.modes[m];
                print!("{:>7.1} ({:>3.0}%)", mode.tokens_per_s, 100.0 * mode.of_bound);
            }
        }
        print!("\n{:50}", "bound: all right drafts are known beforehand");
        points.iter().for_each(|point| print!("{:>7.1}       ", point.bound_tokens_per_s));
        println!("\n");
    }
}

fn draw(path: &std::path::Path, results: &Results) -> anyhow::Result<()> {
    const COLOURS: [RGBColor; 5] = [
        RGBColor(140, 149, 159),
        RGBColor(207, 34, 46),
        RGBColor(191, 135, 0),
        RGBColor(84, 174, 255),
        RGBColor(9, 105, 218),
    ];
    let root = SVGBackend::new(path, (1100, 460)).into_drawing_area();
    root.fill(&WHITE)?;
    for (area, ProfileResult { profile, points }) in
        root.split_evenly((1, results.profiles.len())).iter().zip(&results.profiles)
    {
        let most = points.iter().flat_map(|p| p.modes.iter().map(|m| m.tokens_per_s).chain([p.bound_tokens_per_s]));
        let top = 1.45 * most.fold(1.0, f64::max);
        let mut chart = ChartBuilder::on(area)
            .caption(profile.name, ("sans-serif", 15))
            .margin(12)
            .x_label_area_size(36)
            .y_label_area_size(44)
            .build_cartesian_2d(0.0..400.0, 0.0..top)?;
        chart
            .configure_mesh()
            .light_line_style(WHITE)
            .x_desc("round trip, ms")
            .y_desc("tokens/s")
            .x_labels(9)
            .y_labels(8)
            .x_label_formatter(&|x| format!("{x:.0}"))
            .y_label_formatter(&|y| format!("{y:.0}"))
            .draw()?;
        for (m, ((mode, ..), colour)) in MODES.iter().zip(COLOURS).enumerate() {
            let line: Vec<_> = points.iter().map(|p| (p.rtt_ms as f64, p.modes[m].tokens_per_s)).collect();
            chart
                .draw_series(LineSeries::new(line.clone(), colour.stroke_width(2)).point_size(3))?
                .label(*mode)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
        }
        let bound = points.iter().map(|p| (p.rtt_ms as f64, p.bound_tokens_per_s));
        chart
            .draw_series(DashedLineSeries::new(bound, 5, 4, BLACK.stroke_width(1)))?
            .label("bound: right drafts known beforehand")
            .legend(|(x, y)| PathElement::new([(x, y), (x + 16, y)], BLACK.stroke_width(1)));
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .background_style(WHITE.mix(0.85))
            .border_style(RGBColor(208, 215, 222))
            .label_font(("sans-serif", 12))
            .draw()?;
    }
    Ok(root.present()?)
}
