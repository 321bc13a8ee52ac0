//! `sled bench serve` and `sled bench capacity`: a real server process under the load of many emulated devices.

mod capacity;
mod fleet;
mod openai;
mod plot;
pub mod process;
mod work;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use indicatif::ProgressBar;
use sled_device::RemoteServer;
use sled_model::chat::Message;
use sled_sim::figures::{Figures, Log, ServerSide};
use sled_sim::load::Arrivals;
use sled_sim::recording::Recording;
use tokio::task::JoinSet;

use super::meter::Meter;
use super::prompts;
use crate::args::{LoadArgs, Mode, ServeBenchArgs};
use crate::output::{command, write_json};
pub use capacity::{ABOVE, run as capacity};
use fleet::{Fleet, Task};
use process::ServerProcess;
use sled_launch::device;
use sled_launch::progress::bar;
use sled_launch::threads::Work;
use work::SameWork;

/// Tokens of cache for each device: longer than any prompt of the set and its answer.
pub const CONTEXT: usize = 768;

#[derive(serde::Serialize)]
struct Results {
    command: String,
    target: String,
    recording: String,
    draft_rate: f64,
    rtt_ms: f64,
    warmup_s: f64,
    window_s: f64,
    seed: u64,
    peer: Option<String>,
    points: Vec<Figures>,
    same_work: Vec<SameWork>,
    /// The same work in each repetition, that of `same_work` included.
    repetitions: Vec<SameWork>,
}

/// All modes with one number of devices.
struct Repetition {
    points: Vec<Figures>,
    same_work: Option<SameWork>,
}

/// Measures, prints a table, and writes the results.
pub async fn run(args: ServeBenchArgs) -> anyhow::Result<()> {
    let load = Load::new(&args.load).await?;
    let bar = bar(args.load.modes.len() * args.devices.len() * args.repeat as usize, "measured".to_owned());
    let (mut points, mut same_work, mut all) = (Vec::new(), Vec::new(), Vec::new());
    for &devices in &args.devices {
        let mut repetitions = Vec::new();
        for _ in 0..args.repeat {
            repetitions.push(repetition(&load, &args, usize::try_from(devices)?, &bar).await?);
        }
        all.extend(repetitions.iter().filter_map(|repetition| repetition.same_work.clone()));
        if let Some(middle) = middle(repetitions) {
            points.extend(middle.points);
            same_work.extend(middle.same_work);
        }
    }
    points.sort_by_key(|figures| args.load.modes.iter().position(|mode| mode.name() == figures.mode));
    bar.finish_and_clear();
    let results = Results {
        command: command(),
        target: args.load.model.clone(),
        recording: args.load.drafts.display().to_string(),
        draft_rate: args.load.draft_rate,
        rtt_ms: args.load.rtt,
        warmup_s: args.load.warmup,
        window_s: args.load.window,
        seed: args.load.seed,
        peer: args.load.llama_server.as_deref().map(process::llama_server_version),
        points,
        same_work,
        repetitions: all,
    };
    print(&results);
    write_json(&args.load.out, &results)?;
    let picture = args.load.out.with_extension("svg");
    plot::draw(&picture, &results.points).with_context(|| format!("cannot draw {}; check --out", picture.display()))?;
    println!("\nwritten to {} and {}", args.load.out.display(), picture.display());
    Ok(())
}

/// Measures one mode right after the other: other users of the machine come and go.
async fn repetition(
    load: &Load<'_>,
    args: &ServeBenchArgs,
    devices: usize,
    bar: &ProgressBar,
) -> anyhow::Result<Repetition> {
    let (mut points, mut runs) = (Vec::new(), Vec::new());
    for &mode in &args.load.modes {
        let (figures, logs) = load.measure(mode, devices, args.leave).await?;
        bar.suspend(|| eprintln!("{}", line(&figures)));
        points.push(figures);
        runs.push((mode.name(), logs));
        bar.inc(1);
    }
    // A device that leaves does so at a time, not at a token.
    let compared = runs.len() > 1 && args.leave == 0.0;
    let begin = Duration::from_secs_f64(args.load.warmup);
    let window = Duration::from_secs_f64(args.load.window);
    let same_work = compared.then(|| SameWork::new(&runs, begin, begin + window)).flatten();
    Ok(Repetition { points, same_work })
}

/// The repetition with the middle speed of devices that draft over thin clients; where they are not compared, with the middle
/// speed of what was measured last.
fn middle(mut repetitions: Vec<Repetition>) -> Option<Repetition> {
    let speed = |repetition: &Repetition| {
        let over_central = repetition.same_work.as_ref().and_then(|work| work.over_central(Mode::Sled.name()));
        over_central.or_else(|| Some(repetition.points.last()?.output_throughput)).unwrap_or_default()
    };
    repetitions.sort_by(|a, b| speed(a).total_cmp(&speed(b)));
    let at = repetitions.len() / 2;
    repetitions.into_iter().nth(at)
}

/// What to put on a server.
struct Load<'a> {
    args: &'a LoadArgs,
    tasks: Arc<Vec<Task>>,
    /// Tokens a second that the server is to give each session.
    rate_goal: Option<f64>,
}

impl<'a> Load<'a> {
    /// Reads prompts and recording; the prompts become tokens by the vocabulary that the server sends.
    async fn new(args: &'a LoadArgs) -> anyhow::Result<Self> {
        let recording = Recording::load(&args.drafts)?;
        let prompts = prompts(&args.prompts)?;
        anyhow::ensure!(
            prompts.len() == recording.outputs.len() && !prompts.is_empty(),
            "{} has {} outputs for the {} prompts of {}; record them again with `sled bench record`",
            args.drafts.display(),
            recording.outputs.len(),
            prompts.len(),
            args.prompts.display()
        );
        let server =
            ServerProcess::sled(&["-m".to_owned(), args.model.clone(), "-c".to_owned(), "256".to_owned()]).await?;
        let vocab = device::vocabularies()?.obtain(&RemoteServer::connect(&server.url).await?).await?;
        let mut tasks = Vec::new();
        for (prompt, output) in prompts.into_iter().zip(recording.outputs) {
            let message = Message { role: "user".to_owned(), content: prompt.text.clone() };
            let tokens = device::chat_tokens(&vocab, &[message])?;
            anyhow::ensure!(
                tokens.len() == output.prompt_len,
                "{} was not recorded with the prompts of {} and the vocabulary of {}; record it again",
                args.drafts.display(),
                args.prompts.display(),
                args.model
            );
            tasks.push(Task { prompt: tokens, text: prompt.text, output });
        }
        Ok(Self { args, tasks: Arc::new(tasks), rate_goal: args.scheduling.rate_goal })
    }

    async fn start(&self, mode: Mode, devices: usize) -> anyhow::Result<ServerProcess> {
        let args = self.args;
        let context = (devices * CONTEXT).to_string();
        let parallel = devices.min(256).to_string();
        if mode == Mode::LlamaServer {
            let program = args.llama_server.as_deref();
            let program = program.context("the mode llama-server needs a program; name it with --llama-server PATH")?;
            let model = sled_launch::models::locate(&args.model)?.display().to_string();
            let threads = args.threads.count(Work::Serving).threads.to_string();
            let arguments = ["-m", &model, "-np", &parallel, "-c", &context, "-t", &threads, "--no-webui"];
            return ServerProcess::llama_server(program, &arguments.map(str::to_owned)).await;
        }
        let mut arguments = vec!["-m", &args.model, "--np", &parallel, "-c", &context].into_iter().map(str::to_owned);
        let mut all: Vec<String> = arguments.by_ref().collect();
        // All devices of a measurement are on this machine.
        let sessions = devices.max(1024).to_string();
        all.extend(["--max-sessions", &sessions, "--max-sessions-per-client", &sessions].map(str::to_owned));
        let scheduling = &args.scheduling;
        all.extend(["--batching".to_owned(), scheduling.batching.to_string()]);
        all.extend(["--assist".to_owned(), scheduling.assist.to_string()]);
        if let Some(goal) = self.rate_goal {
            all.extend(["--rate-goal".to_owned(), goal.to_string()]);
        }
        all.extend(["-t".to_owned(), args.threads.to_string()]);
        ServerProcess::sled(&all).await
    }

    /// One server, so many devices, one window. A share of them, `leave`, hangs up in the middle of it.
    async fn measure(&self, mode: Mode, devices: usize, leave: f64) -> anyhow::Result<(Figures, Vec<Log>)> {
        let args = self.args;
        let server = self.start(mode, devices).await?;
        let address = server.url.trim_start_matches("http://").parse()?;
        let relay = Meter::start(address, Duration::from_secs_f64(args.rtt / 2e3)).await?;
        let began = Instant::now();
        let fleet = Fleet {
            tasks: Arc::clone(&self.tasks),
            policy: (mode == Mode::Sled).then_some(args.policy),
            draft_time: Duration::from_secs_f64(1.0 / args.draft_rate),
            arrivals: match args.poisson {
                Some(rate) => Arrivals::Poisson { rate },
                None => Arrivals::Closed { think: Duration::from_secs_f64(args.think) },
            },
            url: if args.rtt > 0.0 { relay.url() } else { server.url.clone() },
            began,
            seed: args.seed,
        };
        let begin = Duration::from_secs_f64(args.warmup);
        let end = begin + Duration::from_secs_f64(args.window);
        let leavers = (leave * devices as f64) as usize;
        let mut running = JoinSet::new();
        for index in 0..devices {
            let until = if index < leavers { begin + (end - begin) / 2 } else { end };
            let fleet = fleet.clone();
            running.spawn(async move {
                match mode {
                    Mode::Sled | Mode::Central => fleet::device(fleet, index, until).await,
                    Mode::LlamaServer => openai::client(fleet, index, until).await,
                }
            });
        }
        tokio::time::sleep_until((began + begin).into()).await;
        let before = Snapshot::take(&server, mode).await?;
        tokio::time::sleep_until((began + end).into()).await;
        let after = Snapshot::take(&server, mode).await?;
        let logs: Vec<Log> = running.join_all().await.into_iter().collect::<anyhow::Result<_>>()?;
        Ok((Figures::new(mode.name(), &logs, after.since(&before), begin, end), logs))
    }
}

/// What a server has done so far.
#[derive(Default)]
struct Snapshot {
    cpu_seconds: f64,
    totals: sled_wire::Totals,
}

impl Snapshot {
    async fn take(server: &ServerProcess, mode: Mode) -> anyhow::Result<Self> {
        let totals = match mode {
            Mode::LlamaServer => sled_wire::Totals::default(),
            Mode::Sled | Mode::Central => RemoteServer::connect(&server.url).await?.sessions().await?.totals,
        };
        Ok(Self { cpu_seconds: server.cpu_seconds(), totals })
    }

    fn since(self, before: &Self) -> ServerSide {
        let earlier = before.totals.batch_sizes.iter().copied().chain(std::iter::repeat(0));
        ServerSide {
            cpu_seconds: self.cpu_seconds - before.cpu_seconds,
            steps: self.totals.steps - before.totals.steps,
            forward: self.totals.forward.saturating_sub(before.totals.forward),
            overhead: self.totals.overhead.saturating_sub(before.totals.overhead),
            batch_sizes: self.totals.batch_sizes.iter().zip(earlier).map(|(after, before)| after - before).collect(),
        }
    }
}

fn line(f: &Figures) -> String {
    format!(
        "{:12} {:>3} devices: {:>6.1} tokens/s, {:>5.2} each ({:>5.2} p5), TTFT {:>6.0} ms, TPOT {:>5.0} ms, {:.2} rows/token, {:.1} % differ",
        f.mode,
        f.devices,
        f.output_throughput,
        f.device_throughput_mean,
        f.device_throughput_p5,
        f.median_ttft_ms,
        f.mean_tpot_ms,
        f.rows_per_token,
        100.0 * f.differing_share
    )
}

fn print(results: &Results) {
    println!(
        "{:12} {:>7} {:>9} {:>10} {:>7} {:>9} {:>9} {:>9} {:>11} {:>10} {:>9}",
        "mode",
        "devices",
        "tokens/s",
        "same work",
        "p5",
        "TTFT ms",
        "TPOT ms",
        "chunk p99",
        "rows/token",
        "CPU s/tok",
        "overhead"
    );
    for f in &results.points {
        let work = results.same_work.iter().find(|work| work.devices == f.devices);
        let ratio = work.and_then(|work| work.over_central(&f.mode));
        let ratio = ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}"));
        println!(
            "{:12} {:>7} {:>9.1} {ratio:>10} {:>7.2} {:>9.0} {:>9.0} {:>9.0} {:>11.2} {:>10.3} {:>8.2}%",
            f.mode,
            f.devices,
            f.output_throughput,
            f.device_throughput_p5,
            f.median_ttft_ms,
            f.mean_tpot_ms,
            f.p99_chunk_ms,
            f.rows_per_token,
            f.server_cpu_s_per_token,
            100.0 * f.server_overhead
        );
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// Thin clients at ten tokens a second, devices that draft at `rate`, for ten seconds.
    fn repetition(rate: u64) -> Repetition {
        let run = |mode: Mode, rate: u64| {
            let tokens = (1..=10 * rate).map(|i| Duration::from_millis(i * 1000 / rate)).collect();
            (mode.name(), vec![Log { tokens, ..Log::default() }])
        };
        let runs = [run(Mode::Central, 10), run(Mode::Sled, rate)];
        let (begin, end) = (Duration::from_secs(1), Duration::from_secs(9));
        let figures =
            |(mode, logs): &(&'static str, Vec<Log>)| Figures::new(mode, logs, ServerSide::default(), begin, end);
        Repetition { points: runs.iter().map(figures).collect(), same_work: SameWork::new(&runs, begin, end) }
    }

    #[test]
    fn the_middle_repetition_counts_with_all_its_modes() {
        let middle = middle([30, 10, 20].map(repetition).into()).unwrap();
        let over = middle.same_work.unwrap().over_central("sled").unwrap();
        assert!((over - 2.0).abs() < 0.05, "{over}");
        let throughput: Vec<f64> = middle.points.iter().map(|f| f.output_throughput.round()).collect();
        assert_eq!(throughput, [10.0, 20.0]);
    }

    #[test]
    fn what_is_not_compared_has_a_middle_too() {
        let alone = |rate| Repetition { same_work: None, ..repetition(rate) };
        let middle = middle([30, 10, 20].map(alone).into()).unwrap();
        assert_eq!(middle.points.last().unwrap().output_throughput.round(), 20.0);
    }
}
