//! `sled bench validate`: what `sled bench serve` measured, beside what the simulator says of the same fleet.
//!
//! The measured file names the command that made it, and the command says everything about the fleet: who asks for what when, how
//! drafts are made, how batches. The simulator adds the machine's profile and the recorded drafts, and nothing is fitted.

mod plot;

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Parser;
use sled_core::device::Ahead;
use sled_sim::figures::Figures;
use sled_sim::scenario::{self, DeviceClass, Estimate, Fallback, LinkClass, Load, Scenario, ServerClass, Summary};

use super::serve::CONTEXT;
use super::serve::results::{self as serve, Format};
use crate::args::{Bench, Lab, LoadArgs, Mode, ValidateArgs};
use crate::output::{command, write_json};
use crate::spread::Spread;
use crate::virtual_time::{threads, with_bar};
use sled_launch::Usage;
use sled_launch::serve::ROWS;

/// A device of the benchmark gives its server so many seconds to answer.
const TIMEOUT_S: f64 = 120.0;

/// What is compared: its name, and where it is in the figures.
const COMPARED: [(&str, &str); 3] =
    [("WSTGR", "output_throughput"), ("TPOT p50", "median_tpot_ms"), ("TPOT p99", "p99_tpot_ms")];

/// A fleet that was measured: medians of its windows.
struct Fleet<'a> {
    measured_in: &'a Path,
    load: &'a LoadArgs,
    format: &'a Format,
    profile: &'a str,
    mode: Mode,
    devices: usize,
}

#[derive(serde::Serialize)]
struct Results {
    command: String,
    /// The profiles of the formats that were measured.
    profile: Vec<String>,
    seeds: u32,
    /// The mean of the errors without their signs, by what is compared.
    mean_errors: Vec<(&'static str, f64)>,
    points: Vec<Point>,
}

/// One fleet on one server.
#[derive(serde::Serialize)]
struct Point {
    measured_in: PathBuf,
    target: String,
    mode: String,
    batching: String,
    devices: usize,
    /// Answers that the measured figures are from: a quantile of few is no more than one of them.
    answers: usize,
    compared: Vec<Compared>,
}

#[derive(serde::Serialize)]
struct Compared {
    what: &'static str,
    /// Tokens a second, or milliseconds; none if no answer was complete.
    measured: Option<f64>,
    simulated: Option<Estimate>,
    /// The simulated value over the measured one, less 1.
    error: Option<f64>,
}

/// Simulates what was measured, prints both, and writes the results.
pub fn run(args: &ValidateArgs) -> anyhow::Result<()> {
    let files: Vec<(serve::Results, LoadArgs)> =
        args.measured.iter().map(|path| read(path)).collect::<anyhow::Result<_>>()?;
    let mut fleets = Vec::new();
    for (path, (measured, load)) in args.measured.iter().zip(&files) {
        fleets.extend(fleets_of(path, measured, load, &args.profile)?);
    }
    let seeds: Vec<u64> = (0..u64::from(args.seeds)).collect();
    let share = 1.0 / fleets.len().max(1) as f64;
    let points = with_bar("simulated", |progress| {
        let simulated = fleets.iter().map(|fleet| {
            let scenario = fleet.scenario(args);
            let summary = scenario::run_seeds(&scenario, &seeds, threads(), &|done| progress(done * share))?;
            Ok(fleet.point(&summary))
        });
        simulated.collect::<anyhow::Result<Vec<Point>>>()
    })?;
    let results = Results {
        command: command(),
        profile: args.profile.clone(),
        seeds: args.seeds,
        mean_errors: COMPARED.map(|(what, _)| (what, mean_error(&points, what))).to_vec(),
        points,
    };
    print(&results);
    write_json(&args.out, &results)?;
    let picture = args.out.with_extension("svg");
    plot::draw(&picture, &results.points).with_context(|| format!("cannot draw {}; check --out", picture.display()))?;
    println!("\nwritten to {} and {}", args.out.display(), picture.display());
    Ok(())
}

/// What was measured, and the flags that it was measured with.
fn read(path: &Path) -> anyhow::Result<(serve::Results, LoadArgs)> {
    let measured = serve::Results::load(path)?;
    let load = load_of(path, &measured.command)?;
    Ok((measured, load))
}

/// All fleets of a file, with the profile of each format.
fn fleets_of<'a>(
    measured_in: &'a Path,
    measured: &'a serve::Results,
    load: &'a LoadArgs,
    profiles: &'a [String],
) -> anyhow::Result<Vec<Fleet<'a>>> {
    let formats = &measured.formats;
    if profiles.len() != formats.len() {
        let formats: Vec<&str> = formats.iter().map(|format| format.target.as_str()).collect();
        let reason = format!("{} has {}; give --profile as many names", measured_in.display(), formats.join(", "));
        return Err(Usage(reason).into());
    }
    let of_format = |(format, profile): (&'a Format, &'a String)| {
        let fleet = move |mode, devices| Fleet { measured_in, load, format, profile, mode, devices };
        let has = |fleet: &Fleet<'_>| fleet.measured(|figures| figures.output_throughput).is_some();
        let of_mode = move |mode| format.devices().into_iter().map(move |devices| fleet(mode, devices));
        [Mode::Central, Mode::Sled].into_iter().flat_map(of_mode).filter(has).collect::<Vec<_>>()
    };
    Ok(formats.iter().zip(profiles).flat_map(of_format).collect())
}

/// A command as it was typed.
#[derive(Parser)]
struct Typed {
    #[command(subcommand)]
    command: Lab,
}

/// The flags that a file was measured with.
fn load_of(path: &Path, command: &str) -> anyhow::Result<LoadArgs> {
    if let Ok(Typed { command: Lab::Bench(bench) }) = Typed::try_parse_from(command.split_whitespace())
        && let Bench::Serve(serve) = bench.bench
    {
        return Ok(serve.load);
    }
    anyhow::bail!("{} was not made by `sled bench serve`, but by `{command}`", path.display())
}

impl Fleet<'_> {
    /// The median over repetitions, if there is a number.
    fn measured(&self, of: impl Fn(&Figures) -> f64) -> Option<f64> {
        // Where no answer was complete, older files say 0.
        self.format.figure(self.mode, self.devices, of).map(|spread| spread.median).filter(|value| *value > 0.0)
    }

    /// The same fleet for the simulator.
    fn scenario(&self, args: &ValidateArgs) -> Scenario {
        let (load, devices) = (self.load, self.devices);
        let begins = self
            .format
            .points
            .iter()
            .filter(|point| point.figures.mode == self.mode.name() && point.figures.devices == devices);
        let begin = Spread::of(begins.filter_map(|point| point.begin_s));
        Scenario {
            name: format!("{} {devices}", self.mode.name()),
            warmup_s: begin.map_or(load.warmup, |begin| begin.median),
            window_s: load.window,
            profiles: args.profiles.clone(),
            server: ServerClass {
                profile: Some(self.profile.to_owned()),
                batching: load.scheduling.batching,
                assist: load.scheduling.assist,
                rate_goal: load.scheduling.rate_goal,
                sequences: Some(devices.min(256)),
                cells: Some(devices * CONTEXT),
                rows: ROWS as usize,
                ..ServerClass::default()
            },
            load: Load {
                think_s: load.think,
                poisson: load.poisson,
                shared_tokens: args.shared_tokens,
                repeats: true,
                ..Load::default()
            },
            devices: vec![DeviceClass {
                name: self.mode.name().to_owned(),
                count: devices,
                policy: (self.mode == Mode::Sled).then_some(load.policy),
                ahead: Ahead::Blocks,
                draft_ms: Some(1e3 / load.draft_rate),
                recording: Some(PathBuf::from(&self.format.recording)),
                link: LinkClass { rtt_ms: load.rtt, ..LinkClass::default() },
                fallback: Fallback::Wait,
                timeout_s: TIMEOUT_S,
                ..DeviceClass::default()
            }],
            ..Scenario::default()
        }
    }

    /// What was measured of it, beside what the simulator says.
    fn point(&self, summary: &Summary) -> Point {
        let compared = COMPARED.map(|(what, key)| {
            let measured = self.measured(|figures| match key {
                "output_throughput" => figures.output_throughput,
                "median_tpot_ms" => figures.median_tpot_ms,
                _ => figures.p99_tpot_ms,
            });
            let simulated = summary.get(&format!("figures.{key}"));
            let error = measured.zip(simulated).map(|(measured, simulated)| simulated.mean / measured - 1.0);
            Compared { what, measured, simulated, error }
        });
        Point {
            measured_in: self.measured_in.to_owned(),
            target: self.format.target.clone(),
            mode: self.mode.name().to_owned(),
            batching: self.load.scheduling.batching.to_string(),
            devices: self.devices,
            answers: self.measured(|figures| figures.completed as f64).map_or(0, |answers| answers as usize),
            compared: compared.into(),
        }
    }
}

fn errors<'a>(points: &'a [Point], what: &'a str) -> impl Iterator<Item = f64> + 'a {
    points.iter().flat_map(|point| &point.compared).filter(move |c| c.what == what).filter_map(|c| c.error)
}

fn mean_error(points: &[Point], what: &str) -> f64 {
    errors(points, what).map(f64::abs).sum::<f64>() / errors(points, what).count().max(1) as f64
}

fn print(results: &Results) {
    print!("{:8} {:14} {:>7} {:>7}", "mode", "batching", "devices", "answers");
    COMPARED.iter().for_each(|(what, _)| print!(" {:>32}", format!("{what} measured, simulated")));
    println!();
    for point in &results.points {
        print!("{:8} {:14} {:>7} {:>7}", point.mode, point.batching, point.devices, point.answers);
        for Compared { measured, simulated, error, .. } in &point.compared {
            let number = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.1}"));
            let error = error.map_or(String::new(), |error| format!("{:+.1} %", 100.0 * error));
            print!(" {:>10} {:>10} {error:>10}", number(*measured), number(simulated.map(|estimate| estimate.mean)));
        }
        println!();
    }
    println!();
    for (what, error) in &results.mean_errors {
        let within = errors(&results.points, what).filter(|error| error.abs() <= 0.1).count();
        let all = errors(&results.points, what).count();
        println!("{what}: {within} of {all} within 10 %, {:.1} % off on average", 100.0 * error);
    }
}
