//! `sled bench attack`: what honest clients notice while strangers attack a real server process.
//!
//! Beside each attack, the same clients are measured without one right before. All are on one machine, so that attackers take
//! processor time from the server, too.

mod attacks;
mod healthy;
mod raw;
mod report;
mod victim;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use attacks::{ATTACKS, Attack, Target};
use healthy::{Answer, Device, Likeness, Questions};
use report::{Outcome, Ratios, Results, Seen};
use sled_device::RemoteServer;
use sled_model::chat::Message;
use victim::{Peak, Watch};

use super::prompts;
use super::serve::process::{ServerProcess, cpu_seconds};
use crate::args::AttackArgs;
use crate::output::{command, write_json};
use sled_launch::progress::bar;
use sled_launch::{Usage, device, ports};

/// How many prompts honest clients ask in turn.
const QUESTIONS: usize = 4;

/// How long an attack has to begin before it is measured.
const BEGINNING: Duration = Duration::from_millis(300);

/// Measures, prints a table, and writes the results.
pub async fn run(args: AttackArgs) -> anyhow::Result<()> {
    ports::raise_open_files();
    let chosen = choose(&args.attacks)?;
    let mut scene = Scene::open(&args).await?;
    let bar = bar(chosen.len() * args.repeat as usize, "attacks measured".to_owned());
    let mut outcomes: Vec<Vec<Pair>> = chosen.iter().map(|_| Vec::new()).collect();
    for repetition in 0..args.repeat {
        for at in order(chosen.len(), args.seed.wrapping_add(repetition.into())) {
            let pair = scene.measure(chosen[at]).await.with_context(|| format!("attack `{}`", chosen[at].name))?;
            bar.suspend(|| eprintln!("{}", line(chosen[at], &pair)));
            outcomes[at].push(pair);
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    let results = Results {
        command: command(),
        model: args.model.clone(),
        window_s: args.window,
        repeat: args.repeat,
        seed: args.seed,
        attacks: chosen.iter().zip(outcomes).map(|(attack, pairs)| outcome(attack, pairs)).collect(),
    };
    print!("{}", report::table(&results));
    write_json(&args.out, &results)?;
    let picture = args.out.with_extension("svg");
    report::draw(&picture, &results).with_context(|| format!("cannot draw {}; check --out", picture.display()))?;
    println!("\nwritten to {} and {}", args.out.display(), picture.display());
    Ok(())
}

fn line(attack: &Attack, pair: &Pair) -> String {
    let (control, attacked) = (&pair.control, &pair.attack);
    format!(
        "{:20} first token {:.0} and {:.0} ms (without it {:.0}, {:.0}), p99 of token to token {:.0} and {:.0} ms ({:.0}, {:.0}), {} MiB",
        attack.name,
        attacked.device.first_ms,
        attacked.http.first_ms,
        control.device.first_ms,
        control.http.first_ms,
        attacked.device.gap_p99_ms,
        attacked.http.gap_p99_ms,
        control.device.gap_p99_ms,
        control.http.gap_p99_ms,
        pair.peak.memory_mib
    )
}

fn choose(names: &[String]) -> anyhow::Result<Vec<&'static Attack>> {
    if names.is_empty() {
        return Ok(ATTACKS.iter().collect());
    }
    let known = || ATTACKS.map(|attack| attack.name).join(", ");
    let find = |name: &String| {
        ATTACKS
            .iter()
            .find(|attack| attack.name == name)
            .ok_or_else(|| Usage(format!("there is no attack `{name}`; use {}", known())))
    };
    Ok(names.iter().map(find).collect::<Result<_, _>>()?)
}

/// The numbers below `len` in an order that `seed` decides.
fn order(len: usize, seed: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..len).collect();
    // The key of each is a hash (splitmix64) of seed and number.
    order.sort_by_key(|&at| {
        let z = (seed.wrapping_mul(1 << 16).wrapping_add(at as u64 + 1)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb)
    });
    order
}

/// What both honest clients saw in one window.
struct Window {
    device: Seen,
    http: Seen,
    answers: usize,
    near_ties: usize,
    refusals: usize,
}

/// A window of control, and one under attack.
struct Pair {
    control: Window,
    attack: Window,
    peak: Peak,
    memory_after_mib: u64,
    attackers_cores: f64,
}

/// A server, and two clients that have done nothing wrong.
struct Scene {
    server: ServerProcess,
    target: Target,
    device: Device,
    questions: Questions,
    /// The answers without an attack, of the device and over HTTP, by question.
    expected: [Vec<Answer>; 2],
    window: Duration,
}

impl Scene {
    async fn open(args: &AttackArgs) -> anyhow::Result<Self> {
        let mut arguments =
            ["-m", &args.model, "--http-port", "0", "-c", &args.ctx_size.to_string()].map(str::to_owned).to_vec();
        arguments.extend(["-t".to_owned(), args.threads.to_string()]);
        let server = ServerProcess::sled(&arguments).await?;
        let http = server.http.as_deref().context("the server did not say where its HTTP port is")?;
        let remote = RemoteServer::connect(&server.url).await?;
        let vocab = device::vocabularies()?.obtain(&remote).await?;
        let target = Target {
            grpc: server.url.trim_start_matches("http://").parse()?,
            http: http.trim_start_matches("http://").parse()?,
            bounds: remote.description().bounds,
            vocabulary: vocab.fingerprint(),
            longest_piece: vocab.longest_piece(),
        };
        let questions = questions(args, &vocab)?;
        let device = Device::open(&remote, &vocab).await?;
        let window = Duration::from_secs_f64(args.window);
        let mut scene = Self { server, target, device, questions, expected: Default::default(), window };
        // The first round warms the server up; answers of the second are what later ones are compared with.
        for _ in 0..2 {
            let (device, http, _) = scene.ask(QUESTIONS, Instant::now()).await?;
            scene.expected = [device, http];
        }
        Ok(scene)
    }

    /// Both clients ask until `until`, and so many questions at least.
    async fn ask(&mut self, least: usize, until: Instant) -> anyhow::Result<(Vec<Answer>, Vec<Answer>, usize)> {
        let (http, questions) = (self.target.http, self.questions.clone());
        let over_http = tokio::task::spawn_blocking(move || healthy::ask_over_http(http, &questions, least, until));
        let of_device = self.device.ask(&self.questions, least, until).await?;
        let (over_http, refusals) = over_http.await??;
        Ok((of_device, over_http, refusals))
    }

    async fn window(&mut self) -> anyhow::Result<Window> {
        let (device, http, refusals) = self.ask(1, Instant::now() + self.window).await?;
        let mut near_ties = 0;
        for (answers, expected) in [&device, &http].into_iter().zip(&self.expected) {
            for answer in answers {
                match answer.likeness(&expected[answer.question]) {
                    Likeness::Equal => {}
                    Likeness::NearTie(_) => near_ties += 1,
                    Likeness::Different => {
                        anyhow::bail!("an honest client was given another answer than without an attack")
                    }
                }
            }
        }
        let answers = device.len() + http.len();
        Ok(Window { device: seen(device), http: seen(http), answers, near_ties, refusals })
    }

    /// A window without the attack, and one with it.
    async fn measure(&mut self, attack: &Attack) -> anyhow::Result<Pair> {
        victim::rest(&mut self.server).await?;
        let control = self.window().await?;
        let watch = Watch::start(self.server.id().context("the server has ended")?);
        // Attackers have threads of their own, so that honest clients do not wait for them.
        let attackers = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let (before, began) = (cpu_seconds("self"), Instant::now());
        attack.start(attackers.handle(), &self.target);
        tokio::time::sleep(BEGINNING).await;
        let attacked = self.window().await;
        let attackers_cores = (cpu_seconds("self") - before) / began.elapsed().as_secs_f64();
        attackers.shutdown_background();
        let peak = watch.peak()?;
        let memory_after_mib = victim::rest(&mut self.server).await?;
        Ok(Pair { control, attack: attacked?, peak, memory_after_mib, attackers_cores })
    }
}

fn questions(args: &AttackArgs, vocab: &sled_model::vocabulary::Vocab) -> anyhow::Result<Questions> {
    let prompts = prompts(&args.prompts)?
        .into_iter()
        .take(QUESTIONS)
        .map(|prompt| device::chat_tokens(vocab, &[Message { role: "user".to_owned(), content: prompt.text }]));
    let prompts: Vec<_> = prompts.collect::<anyhow::Result<_>>()?;
    anyhow::ensure!(!prompts.is_empty(), "{} has no prompts", args.prompts.display());
    Ok(Questions { prompts: Arc::new(prompts), max_tokens: usize::try_from(args.max_tokens)? })
}

fn seen(answers: Vec<Answer>) -> Seen {
    let first = answers.iter().map(|answer| answer.first_ms).collect();
    Seen::new(first, answers.into_iter().flat_map(|answer| answer.gaps_ms).collect())
}

fn outcome(attack: &Attack, pairs: Vec<Pair>) -> Outcome {
    let ratios =
        |of: fn(&Window) -> Seen| Ratios::new(pairs.iter().map(|pair| (of(&pair.control), of(&pair.attack))).collect());
    let sum = |of: fn(&Window) -> usize| pairs.iter().map(|pair| of(&pair.attack)).sum();
    Outcome {
        attack: attack.name.to_owned(),
        what: attack.what.to_owned(),
        device: ratios(|window| window.device),
        http: ratios(|window| window.http),
        answers: sum(|window| window.answers),
        near_ties: sum(|window| window.near_ties),
        refusals: sum(|window| window.refusals),
        peak: pairs.iter().map(|pair| pair.peak).fold(Peak::default(), Peak::max),
        memory_after_mib: pairs.iter().map(|pair| pair.memory_after_mib).max().unwrap_or(0),
        attackers_cores: pairs.iter().map(|pair| pair.attackers_cores).sum::<f64>() / pairs.len().max(1) as f64,
    }
}
