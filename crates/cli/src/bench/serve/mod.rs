//! `sled bench serve` and `sled bench capacity`: a real server process under the load of many emulated devices.

mod capacity;
mod fleet;
mod openai;
mod plot;
mod process;
mod work;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use sled_device::{Link, obtain_vocabulary};
use sled_model::chat::Message;
use sled_sim::figures::{Figures, Log, ServerSide};
use sled_sim::load::Arrivals;
use sled_sim::recording::Recording;
use tokio::task::JoinSet;

use super::meter::Meter;
use super::{bar, command, prompts, write_json};
use crate::args::{LoadArgs, Mode, ServeBenchArgs};
use crate::device;
pub use capacity::{ABOVE, run as capacity};
use fleet::{Fleet, Task};
use process::ServerProcess;
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
}

/// Measures, prints a table, and writes the results.
pub async fn run(args: ServeBenchArgs) -> anyhow::Result<()> {
    let load = Load::new(&args.load).await?;
    let bar = bar(args.load.modes.len() * args.devices.len(), "measured".to_owned());
    let mut points = Vec::new();
    let mut same_work = Vec::new();
    // What is compared is measured one right after the other: other users of the machine come and go.
    for &devices in &args.devices {
        let mut runs = Vec::new();
        for &mode in &args.load.modes {
            let (figures, logs) = load.measure(mode, usize::try_from(devices)?, args.leave).await?;
            bar.suspend(|| eprintln!("{}", line(&figures)));
            points.push(figures);
            runs.push((mode.name(), logs));
            bar.inc(1);
        }
        // A device that leaves does so at a time, not at a token.
        if runs.len() > 1 && args.leave == 0.0 {
            let begin = Duration::from_secs_f64(args.load.warmup);
            same_work.extend(SameWork::new(&runs, begin, begin + Duration::from_secs_f64(args.load.window)));
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
    };
    print(&results);
    write_json(&args.load.out, &results)?;
    let picture = args.load.out.with_extension("svg");
    plot::draw(&picture, &results.points).with_context(|| format!("cannot draw {}; check --out", picture.display()))?;
    println!("\nwritten to {} and {}", args.load.out.display(), picture.display());
    Ok(())
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
        let vocab = obtain_vocabulary(&Link::connect(&server.url).await?, &device::vocabulary_folder()?).await?;
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
            let model = crate::models::locate(&args.model)?.display().to_string();
            let threads = args.threads.unwrap_or_else(device::cores).to_string();
            let arguments = ["-m", &model, "-np", &parallel, "-c", &context, "-t", &threads, "--no-webui"];
            return ServerProcess::llama_server(program, &arguments.map(str::to_owned)).await;
        }
        let mut arguments = vec!["-m", &args.model, "--np", &parallel, "-c", &context].into_iter().map(str::to_owned);
        let mut all: Vec<String> = arguments.by_ref().collect();
        let scheduling = &args.scheduling;
        all.extend(["--batching".to_owned(), scheduling.batching.to_string()]);
        all.extend(["--assist".to_owned(), scheduling.assist.to_string()]);
        if let Some(goal) = self.rate_goal {
            all.extend(["--rate-goal".to_owned(), goal.to_string()]);
        }
        if let Some(threads) = args.threads {
            all.extend(["-t".to_owned(), threads.to_string()]);
        }
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
            Mode::Sled | Mode::Central => Link::connect(&server.url).await?.sessions().await?.totals,
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
