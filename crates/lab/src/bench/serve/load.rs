//! What is put on a server, and what came of it: one server, so many devices, one window.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use sled_device::RemoteServer;
use sled_launch::device;
use sled_launch::threads::Work;
use sled_model::chat::Message;
use sled_sim::figures::{Figures, ServerSide};
use sled_sim::load::Arrivals;
use sled_sim::recording::{Output, Recording};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::CONTEXT;
use super::fleet::{self, Fleet, Task};
use super::openai;
use super::process::ServerProcess;
use super::seen::{Seen, Stop};
use crate::args::{LoadArgs, Mode};
use crate::bench::meter::Meter;
use crate::bench::prompts;

/// What to put on a server.
pub struct Load<'a> {
    args: &'a LoadArgs,
    /// The target model.
    pub model: &'a str,
    tasks: Arc<Vec<Task>>,
    /// Tokens a second that the server is to give each session.
    pub rate_goal: Option<f64>,
}

/// What one window was like.
pub struct Run {
    pub figures: Figures,
    /// What each device saw.
    pub seen: Vec<Seen>,
    /// The window, from when the devices began.
    pub begin: Duration,
    pub end: Duration,
}

impl<'a> Load<'a> {
    /// The prompts become tokens by the vocabulary that the server sends.
    pub async fn new(args: &'a LoadArgs, model: &'a str, recording: Recording) -> anyhow::Result<Self> {
        let prompts = prompts(&args.prompts)?;
        anyhow::ensure!(
            prompts.len() == recording.outputs.len() && !prompts.is_empty(),
            "the recording for {model} has {} outputs for the {} prompts of {}; record them again with `sled bench record`",
            recording.outputs.len(),
            prompts.len(),
            args.prompts.display()
        );
        let server =
            ServerProcess::sled(&["-m".to_owned(), model.to_owned(), "-c".to_owned(), "256".to_owned()]).await?;
        let vocab = device::vocabularies()?.obtain(&RemoteServer::connect(&server.url).await?).await?;
        let mut tasks = Vec::new();
        for (prompt, output) in prompts.into_iter().zip(recording.outputs) {
            let message = Message { role: "user".to_owned(), content: prompt.text.clone() };
            let tokens = device::chat_tokens(&vocab, &[message])?;
            anyhow::ensure!(
                tokens.len() == output.prompt_len,
                "the recording was not made with the prompts of {} and the vocabulary of {model}; record it again",
                args.prompts.display(),
            );
            tasks.push(Task { prompt: tokens, text: prompt.text, output });
        }
        server.end().await?;
        Ok(Self { args, model, tasks: Arc::new(tasks), rate_goal: args.scheduling.rate_goal })
    }

    /// What devices ask for in their first turns.
    pub fn first_outputs(&self, devices: usize) -> impl Iterator<Item = &Output> {
        (0..devices).map(|index| &fleet::task(&self.tasks, index, 0).output)
    }

    async fn start(&self, mode: Mode, devices: usize) -> anyhow::Result<ServerProcess> {
        let args = self.args;
        let context = (devices * CONTEXT).to_string();
        let parallel = devices.min(256).to_string();
        if mode == Mode::LlamaServer {
            let program = args.llama_server.as_deref();
            let program = program.context("the mode llama-server needs a program; name it with --llama-server PATH")?;
            let model = sled_launch::models::locate(self.model)?.display().to_string();
            let threads = args.threads.count(Work::Serving).threads.to_string();
            let arguments = ["-m", &model, "-np", &parallel, "-c", &context, "-t", &threads, "--no-webui"];
            return ServerProcess::llama_server(program, &arguments.map(str::to_owned)).await;
        }
        let mut all: Vec<String> = ["-m", self.model, "--np", &parallel, "-c", &context].map(str::to_owned).into();
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
    pub async fn measure(&self, mode: Mode, devices: usize, leave: f64) -> anyhow::Result<Run> {
        let args = self.args;
        let server = self.start(mode, devices).await?;
        let address = server.url.trim_start_matches("http://").parse()?;
        let relay = Meter::start(address, Duration::from_secs_f64(args.rtt / 2e3)).await?;
        let began = Instant::now();
        let (started, mut first_tokens) = mpsc::unbounded_channel();
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
            started,
        };
        let leavers = (leave * devices as f64) as usize;
        let ((leave_now, left), (stop_now, stop)) = (Stop::new(), Stop::new());
        let mut running = JoinSet::new();
        for index in 0..devices {
            let stop = if index < leavers { left.clone() } else { stop.clone() };
            let fleet = fleet.clone();
            running.spawn(async move {
                match mode {
                    Mode::Sled | Mode::Central | Mode::Control => fleet::device(fleet, index, stop).await,
                    Mode::LlamaServer => openai::client(fleet, index, stop).await,
                }
            });
        }
        tokio::time::sleep_until((began + Duration::from_secs_f64(args.warmup)).into()).await;
        if fleet.arrivals == (Arrivals::Closed { think: Duration::ZERO }) {
            all_started(devices, &mut first_tokens, &mut running).await?;
        }
        let begin = began.elapsed();
        let window = Duration::from_secs_f64(args.window);
        let before = Snapshot::take(&server, mode).await?;
        tokio::time::sleep_until((began + begin + window / 2).into()).await;
        leave_now.send_replace(true);
        let end = begin + window;
        tokio::time::sleep_until((began + end).into()).await;
        let after = Snapshot::take(&server, mode).await?;
        stop_now.send_replace(true);
        let seen: Vec<Seen> = running.join_all().await.into_iter().collect::<anyhow::Result<_>>()?;
        server.end().await?;
        Ok(Run { figures: Figures::new(mode.name(), &seen, after.since(&before), begin, end), seen, begin, end })
    }
}

/// Waits until each device has had a token: before that, all that the server does is to read their first prompts.
async fn all_started(
    devices: usize,
    first_tokens: &mut mpsc::UnboundedReceiver<()>,
    running: &mut JoinSet<anyhow::Result<Seen>>,
) -> anyhow::Result<()> {
    for _ in 0..devices {
        tokio::select! {
            _token = first_tokens.recv() => {}
            Some(ended) = running.join_next() => {
                ended??;
                anyhow::bail!("a device ended before it was told to; measure again");
            }
        }
    }
    Ok(())
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
            Mode::Sled | Mode::Central | Mode::Control => {
                RemoteServer::connect(&server.url).await?.sessions().await?.totals
            }
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
