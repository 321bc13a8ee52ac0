//! `sled bench serve` and `sled bench capacity`: a real server process under the load of many emulated devices.
//!
//! | file | what it is |
//! |---|---|
//! | `load.rs` | one server, so many devices, one window |
//! | `fleet.rs`, `openai.rs`, `seen.rs` | devices, clients of another server, and what they see |
//! | `process.rs` | servers as processes |
//! | `work.rs` | modes compared over the same tokens |
//! | `passes.rs` | what passes take, for the bound |
//! | `results.rs`, `table.rs`, `plot.rs` | what is written: medians and spreads, a table, a picture |
//! | `estimate.rs` | how long it takes |
//! | `capacity.rs` | the most devices that each get a rate |

mod capacity;
mod estimate;
mod fleet;
mod load;
#[cfg(test)]
pub mod made_up;
mod openai;
mod passes;
pub mod plot;
pub mod process;
pub mod results;
mod seen;
mod table;
mod work;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context;
use sled_sim::recording::Recording;

pub use capacity::{ABOVE, run as capacity};
use estimate::{Known, Plan, Progress, words};
use load::{Load, Run};
use results::{Format, Point, Results};
use sled_launch::threads::Work;
use sled_launch::{Usage, measure};
use work::SameWork;

use crate::args::{LoadArgs, Mode, ServeBenchArgs};
use crate::output::{command, write_json};

/// Tokens of cache for each device: longer than any prompt of the set and its answer.
pub const CONTEXT: usize = 768;

/// Measures round after round, prints a table, and writes the results after each round.
pub async fn run(args: ServeBenchArgs) -> anyhow::Result<()> {
    let mut bench = Bench::new(&args).await?;
    let mut results = results(&args, &bench)?;
    for round in 0..args.repeat {
        if bench.compares() {
            bench.passes(&mut results).await?;
        }
        if round == 0 {
            eprintln!("{} windows: about {}", bench.windows(), words(bench.plan.rest(&bench.known)));
        }
        for at in 0..bench.plan.devices.len() {
            bench.cells(at, round, &mut results).await?;
        }
        write(&args.load.out, &results)?;
    }
    table::print(&results);
    println!("\nwritten to {} and {}", args.load.out.display(), args.load.out.with_extension("svg").display());
    Ok(())
}

/// Nothing is measured yet.
fn results(args: &ServeBenchArgs, bench: &Bench<'_>) -> anyhow::Result<Results> {
    let threads = args.load.threads.count(Work::Serving).threads;
    let format = |file: &ModelFile<'_>| {
        let drafts = Recording::load(&file.recording)?;
        anyhow::Ok(Format::new(file.load.model, &file.recording, &drafts))
    };
    Ok(Results {
        command: command(),
        machine: format!("{}, {threads} threads", measure::cpu_name()),
        draft_rate: args.load.draft_rate,
        rtt_ms: args.load.rtt,
        warmup_s: args.load.warmup,
        window_s: args.load.window,
        seed: args.load.seed,
        peer: args.load.llama_server.as_deref().map(process::llama_server_version),
        formats: bench.files.iter().map(format).collect::<anyhow::Result<_>>()?,
    })
}

fn write(out: &Path, results: &Results) -> anyhow::Result<()> {
    write_json(out, results)?;
    let picture = out.with_extension("svg");
    plot::draw(&picture, &results.formats).with_context(|| format!("cannot draw {}; check --out", picture.display()))
}

/// A run: what is measured in each round, and what is known of how long that takes.
struct Bench<'a> {
    args: &'a ServeBenchArgs,
    files: Vec<ModelFile<'a>>,
    plan: Plan,
    known: Vec<Known>,
    progress: Progress,
}

/// A model file that is measured.
struct ModelFile<'a> {
    load: Load<'a>,
    recording: PathBuf,
    /// What passes of it took in each round, `[rows, milliseconds]`.
    passes: Vec<Vec<[f64; 2]>>,
}

impl<'a> Bench<'a> {
    async fn new(args: &'a ServeBenchArgs) -> anyhow::Result<Self> {
        let devices: Vec<usize> = args.devices.iter().map(|&devices| devices as usize).collect();
        let LoadArgs { warmup: warmup_s, window: window_s, .. } = args.load;
        let modes = args.load.modes.len();
        let plan = Plan { rounds: args.repeat as usize, devices, modes, warmup_s, window_s };
        let recordings = recordings(&args.model, &args.drafts)?;
        let windows = plan.windows(args.model.len());
        eprintln!("{windows} windows: {} and what servers take to start", words(plan.least(args.model.len())));
        let (mut files, mut known) = (Vec::new(), Vec::new());
        for (model, recording) in args.model.iter().zip(recordings) {
            let began = Instant::now();
            let load = Load::new(&args.load, model, Recording::load(&recording)?).await?;
            let prompts = |&devices: &usize| load.first_outputs(devices).map(|output| output.prompt_len).sum();
            let prompts = plan.devices.iter().map(prompts).collect();
            // Until passes are measured, prompts are read in no time.
            known.push(Known { passes: Default::default(), start: began.elapsed(), reading: f64::INFINITY, prompts });
            files.push(ModelFile { load, recording, passes: Vec::new() });
        }
        Ok(Self { args, files, plan, known, progress: Progress::new(windows) })
    }

    fn windows(&self) -> usize {
        self.plan.windows(self.files.len())
    }

    /// Whether there is a ratio that a bound can be put beside.
    fn compares(&self) -> bool {
        let modes = &self.args.load.modes;
        modes.contains(&Mode::Sled) && modes.contains(&Mode::Central)
    }

    /// Measures passes of all model files.
    async fn passes(&mut self, results: &mut Results) -> anyhow::Result<()> {
        let rows = passes::rows(&self.args.rows, &self.plan.devices);
        let all = self.files.iter_mut().zip(&mut results.formats).zip(&mut self.known);
        for ((ModelFile { load, passes: rounds, .. }, format), known) in all {
            let began = Instant::now();
            let (model, rows, threads) = (load.model.to_owned(), rows.clone(), self.args.load.threads);
            let passes = tokio::task::spawn_blocking(move || passes::measure(&model, &rows, threads)).await??;
            if let Some([rows, ms]) = passes.last() {
                known.reading = 1e3 * rows / ms;
            }
            known.passes = began.elapsed();
            rounds.push(passes);
            format.set_passes(rounds, &self.plan.devices);
            eprintln!("{}: passes measured in {}", load.model, words(known.passes));
        }
        Ok(())
    }

    /// Measures all model files in all modes with one number of devices, one right after the other: other users of the machine come
    /// and go.
    async fn cells(&mut self, at: usize, round: u32, results: &mut Results) -> anyhow::Result<()> {
        let devices = self.plan.devices[at];
        for (ModelFile { load, .. }, format) in self.files.iter().zip(&mut results.formats) {
            let mut runs = Vec::new();
            for mode in order(&self.args.load.modes, round) {
                let run = load.measure(mode, devices, self.args.leave).await?;
                eprintln!("[{}] {}: {}", self.progress.next(), load.model, table::line(&run.figures));
                runs.push(run);
            }
            // A device that leaves does so at a time, not at a token.
            if runs.len() > 1 && self.args.leave == 0.0 {
                format.same_work.extend(SameWork::new(&runs));
            }
            let point = |run: Run| Point { begin_s: Some(run.begin.as_secs_f64()), figures: run.figures };
            format.points.extend(runs.into_iter().map(point));
        }
        Ok(())
    }
}

/// The modes in the order of a round: every other one backwards, so that what becomes slower in a round is not always the same.
fn order(modes: &[Mode], round: u32) -> Vec<Mode> {
    let mut modes = modes.to_vec();
    if round % 2 == 1 {
        modes.reverse();
    }
    modes
}

/// A recording for each model.
fn recordings(models: &[String], drafts: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    match drafts {
        [one] => Ok(vec![one.clone(); models.len()]),
        all if all.len() == models.len() => Ok(all.to_vec()),
        all => Err(Usage(format!(
            "{} recordings are no use for {} models; give --drafts one file, or one for each model",
            all.len(),
            models.len()
        ))
        .into()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn every_other_round_is_backwards() {
        let modes = [Mode::Central, Mode::Sled, Mode::Control];
        assert_eq!(order(&modes, 0), modes);
        assert_eq!(order(&modes, 1), [Mode::Control, Mode::Sled, Mode::Central]);
        assert_eq!(order(&modes, 2), modes);
    }

    #[test]
    fn a_recording_is_for_all_models_or_each_has_its_own() {
        let models = ["a", "b"].map(str::to_owned);
        let [x, y] = ["x", "y"].map(PathBuf::from);
        assert_eq!(recordings(&models, std::slice::from_ref(&x)).unwrap(), [x.clone(), x.clone()]);
        assert_eq!(recordings(&models, &[x.clone(), y.clone()]).unwrap(), [x.clone(), y.clone()]);
        let error = recordings(&models, &[x.clone(), y, x]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "3 recordings are no use for 2 models; give --drafts one file, or one for each model"
        );
    }
}
