//! Fault schedules: the production state machines in virtual time, with everything going wrong that can.
//!
//! There are two tests. One plays the same schedules each time; `SLED_FAULT_SEED=N cargo nextest run --release --workspace --test
//! faults --no-capture` replays the one with seed `N` alone, and `SLED_FAULT_SCHEDULES=N` plays so many. The other plays new ones
//! each time, with more kinds of servers, devices and faults: `SLED_FAULT_NEW_SEED` and `SLED_FAULT_NEW_SCHEDULES` do the same
//! for it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sled_core::Token;
use sled_core::cost::CostTable;
use sled_core::device::{Ahead, DeviceConfig, Fallback, FinishReason, Notice, Provenance, Resilience, Tuning};
use sled_core::policy::Policy;
use sled_core::sampler::{Context, Sampler, SamplingParams};
use sled_core::server::{Assist, Batching, ServerConfig};
use sled_model::drafter::Drafter;
use sled_model::synthetic::{SyntheticConfig, SyntheticDrafter, SyntheticModel};
use sled_sim::network::Path;
use sled_sim::rng::Rng;
use sled_sim::world::{DeviceSetup, Drafting, Fault, Outcome, ServerSetup, Turn, World};

const SCHEDULES: u64 = 100_000;

/// How many new ones are played.
const NEW_SCHEDULES: u64 = 10_000;

/// When the last fault is over.
const HEALED: Duration = Duration::from_secs(60);

/// When every session must have ended. A device that has lost much waits 20 s for an answer, three times before it gives up a
/// connection that is dead, and 5 s before each attempt to make another.
const ENDED: Duration = Duration::from_secs(60 + 180);

/// The same where servers are busy: 40 s until one learns that a device has hung up, and 30 s before each attempt to ask it again.
const ENDED_BUSY: Duration = Duration::from_secs(60 + 180 + 120);

const VOCAB: usize = 24;
const END: Token = 0;

#[derive(Debug, Default)]
struct Seen {
    generations: u64,
    committed: u64,
    provisional: u64,
    /// Provisional tokens that committed ones follow: verification was resumed.
    resumed: u64,
    disconnections: u64,
    lost: u64,
    back: u64,
    failed: u64,
    /// Of all outcomes: two builds that behave alike have the same.
    digest: u64,
}

impl Seen {
    fn add(&mut self, other: &Self) {
        self.generations += other.generations;
        self.committed += other.committed;
        self.provisional += other.provisional;
        self.resumed += other.resumed;
        self.disconnections += other.disconnections;
        self.lost += other.lost;
        self.back += other.back;
        self.failed += other.failed;
        self.digest = self.digest.wrapping_add(other.digest);
    }
}

fn ms(ms: usize) -> Duration {
    Duration::from_millis(ms as u64)
}

fn path(rng: &mut Rng, faulty: bool) -> Path {
    let latency = ms(rng.within(0..=150));
    if !faulty {
        return Path::clear(latency);
    }
    Path {
        latency,
        jitter: ms(rng.within(0..=50)),
        bandwidth: rng.pick(&[f64::INFINITY, 10_000.0]),
        loss: rng.pick(&[0.0, 0.0, 0.05, 0.3]),
        duplication: rng.pick(&[0.0, 0.0, 0.1]),
        reordering: rng.pick(&[0.0, 0.0, 0.2]),
    }
}

fn sampling(rng: &mut Rng) -> SamplingParams {
    let temperature = rng.pick(&[0.0, 0.7, 1.2]);
    let repetition_penalty = rng.pick(&[1.0, 1.0, 1.2]);
    SamplingParams { temperature, repetition_penalty, seed: rng.bits(), ..SamplingParams::default() }
}

/// Which schedules are played.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The same each time.
    Fixed,
    /// New ones each time.
    New,
}

impl Kind {
    /// The variables that name a seed, and how many schedules are played.
    fn variables(self) -> [&'static str; 2] {
        match self {
            Self::Fixed => ["SLED_FAULT_SEED", "SLED_FAULT_SCHEDULES"],
            Self::New => ["SLED_FAULT_NEW_SEED", "SLED_FAULT_NEW_SCHEDULES"],
        }
    }
}

fn policy(rng: &mut Rng, kind: Kind) -> Policy {
    match (kind, rng.within(0..=3)) {
        (_, 0 | 1) => Policy::Goodput,
        (Kind::Fixed, 2) => Policy::Fixed { k: 3 },
        (Kind::Fixed, _) => Policy::Confidence { threshold: 0.6, k_max: 6 },
        (Kind::New, 2) => Policy::Fixed { k: rng.within(1..=20) },
        (Kind::New, _) => Policy::Confidence { threshold: rng.pick(&[0.0, 0.3, 0.9]), k_max: rng.within(1..=20) },
    }
}

fn device(rng: &mut Rng, kind: Kind, model: &SyntheticModel, servers: usize, context: usize) -> DeviceSetup {
    let agreement = rng.pick(&[0.3, 0.8, 1.0]);
    let drafter: Option<Box<dyn Drafter>> =
        rng.chance(0.85).then(|| Box::new(SyntheticDrafter::new(model, agreement, rng.bits())) as Box<dyn Drafter>);
    let policy = policy(rng, kind);
    let faulty = rng.chance(0.6);
    let arrives = ms(rng.within(0..=500));
    let turns = (0..rng.within(1..=2))
        .map(|turn| Turn {
            arrives,
            text: (0..rng.within(1..=6)).map(|_| rng.within(1..=VOCAB - 1) as Token).collect(),
            anew: turn > 0 && rng.chance(0.3),
            max_tokens: rng.within(1..=24),
            sampling: sampling(rng),
        })
        .collect();
    let turns = Turn::list(turns);
    DeviceSetup {
        config: DeviceConfig {
            policy: drafter.is_some().then_some(policy),
            ahead: rng.pick(&[Ahead::Nothing, Ahead::Drafts, Ahead::Blocks, Ahead::Blocks]),
            context,
            max_draft: if kind == Kind::New { rng.pick(&[1, 2, 64]) } else { rng.pick(&[4, 64]) },
            end_of_generation: Arc::from([END]),
            resilience: Resilience {
                servers,
                timeout: rng.pick(&[ms(400), ms(2000), ms(10_000)]),
                fallback: rng.pick(&[Fallback::Release, Fallback::Release, Fallback::Wait, Fallback::Error]),
                fallback_after: rng.pick(&[1, 2, 3]),
                seed: rng.bits(),
            },
            tuning: Tuning::DEFAULT,
        },
        drafter,
        draft_time: ms(rng.within(1..=60)),
        drafting: Drafting::Steady,
        up: path(rng, faulty),
        down: path(rng, faulty),
        turns,
    }
}

fn fault(rng: &mut Rng, kind: Kind, servers: usize, devices: usize) -> Fault {
    let server = rng.within(0..=servers - 1);
    let device = rng.within(0..=devices - 1);
    let lasts = rng.pick(&[ms(5), ms(200), ms(1500), ms(8000), ms(20_000)]);
    match rng.within(0..=if kind == Kind::New { 10 } else { 7 }) {
        0 | 1 => Fault::Crash { server, lasts },
        2 => Fault::Stall { server, lasts },
        3 => Fault::Forget { device },
        4 => Fault::Partition { device, lasts },
        5 => Fault::Reboot { device, lasts },
        6 => Fault::Cut { device },
        8 => Fault::Engine { server },
        9 => Fault::Cancel { device },
        10 => Fault::CancelOpen { device },
        _ => Fault::ClockJump { device, by: lasts, back: rng.chance(0.5) },
    }
}

fn server(rng: &mut Rng, kind: Kind, model: &SyntheticConfig, devices: usize) -> ServerSetup {
    let SyntheticConfig { vocab_size, cells, sequences, rows, context, .. } = *model;
    let batching = match rng.within(0..=4) {
        0 => Batching::Static { batch_size: rng.within(1..=3), max_wait: ms(rng.within(0..=80)) },
        _ => Batching::Continuous,
    };
    let assist = rng.pick(&[Assist::Auto, Assist::Auto, Assist::Never, Assist::Always]);
    let rate_goal = rng.pick(&[None, None, Some(2.0), Some(30.0)]);
    let (sessions, queue, context) = match kind {
        Kind::Fixed => (usize::MAX, usize::MAX, context),
        Kind::New => (
            rng.pick(&[usize::MAX, devices, devices + 1]),
            rng.pick(&[usize::MAX, 1, 2]),
            rng.pick(&[context, context, context * 2 / 3]),
        ),
    };
    let model = model.clone();
    ServerSetup {
        config: ServerConfig {
            vocab_size,
            cells,
            sequences,
            rows,
            context,
            end_of_generation: vec![END],
            sessions,
            queue,
            batching,
            assist,
            rate_goal,
            tuning: sled_core::server::Tuning::default(),
        },
        shared: Vec::new(),
        model: Box::new(move || Box::new(SyntheticModel::new(model.clone()))),
        cost: CostTable::line(1e-3 * rng.within(1..=150) as f64, 1e-3 * rng.within(0..=10) as f64).into(),
    }
}

fn play(seed: u64, kind: Kind, seen: &mut Seen) {
    let mut rng = Rng(seed);
    let is_new = kind == Kind::New;
    let servers = rng.within(1..=if is_new { 3 } else { 2 });
    let devices = rng.within(1..=if is_new { 5 } else { 3 });
    let context = rng.within(30..=70);
    // From one for each device down to one for all: sessions take turns in the cache.
    let sequences = rng.within(1..=devices);
    let config = SyntheticConfig {
        seed: rng.bits(),
        vocab_size: VOCAB,
        order: rng.within(1..=2),
        cells: rng.pick(&[context + 8, context * 4]),
        sequences,
        rows: if is_new { rng.within(2..=80) } else { rng.pick(&[6, 80]) },
        context,
    };
    let reference = SyntheticModel::new(config.clone());
    let mut world = World::new(rng.bits());
    world.check_invariants();
    let mut smallest = context;
    for _ in 0..servers {
        let server = server(&mut rng, kind, &config, devices);
        smallest = smallest.min(server.config.context);
        world.add_server(server);
    }
    for _ in 0..devices {
        world.add_device(device(&mut rng, kind, &reference, servers, context)).expect("valid parameters");
    }
    let faults = rng.within(0..=8);
    for _ in 0..faults {
        // Most of the work is done in the first seconds.
        let most = rng.pick(&[2_000, 8_000, 40_000]);
        let time = ms(rng.within(0..=most));
        world.fault(time, fault(&mut rng, kind, servers, devices));
    }
    world.fault(HEALED, Fault::Heal);
    let end = if is_new { ENDED_BUSY } else { ENDED };
    let ended = world.run(end).expect("nothing is asked of the model that cannot be");
    assert!(ended, "every session ends once the network has healed, by {HEALED:?}:\n{}", world.describe());
    let mut hasher = DefaultHasher::new();
    format!("{:?}", world.outcomes().collect::<Vec<_>>()).hash(&mut hasher);
    seen.digest = seen.digest.wrapping_add(hasher.finish());
    for outcomes in world.outcomes() {
        let mut out = false;
        for outcome in outcomes {
            check(&reference, outcome, out, seen);
            check_end(outcome, kind, smallest, context);
            out = outcome.notices.last().map_or(out, is_loss);
        }
    }
}

/// Whether the user was told that no server can be had.
fn is_loss(notice: &Notice) -> bool {
    matches!(notice, Notice::Lost(_) | Notice::Busy(_))
}

/// An answer ends for a reason. `smallest`: the shortest context of a server.
fn check_end(outcome: &Outcome, kind: Kind, smallest: usize, context: usize) {
    let Outcome { prompt, turn, emitted, reason, .. } = outcome;
    let generated = emitted.len();
    match reason {
        FinishReason::Stop => {
            // Only the user ends it elsewhere.
            let ends = emitted.last().is_some_and(|(_, emitted)| emitted.token == END);
            assert!(ends || kind == Kind::New, "{outcome:?}");
        }
        FinishReason::Length => {
            let whole = turn.max_tokens.min(context.saturating_sub(prompt.len()));
            let is_cut = generated < whole && prompt.len() + generated >= smallest;
            assert!(generated == whole || is_cut, "{outcome:?}");
        }
        FinishReason::Failed(reason) => {
            let words: &[&str] = match kind {
                Kind::Fixed => &["the server is lost"],
                Kind::New => &["the server is lost", "the server is busy", "and the servers take"],
            };
            assert!(words.iter().any(|words| reason.contains(words)), "{reason}");
        }
    }
}

/// Every committed token is what the target chooses after the text before it, whatever that text has come to. `out`: when the
/// turn began, the user knew that the server was lost.
fn check(reference: &SyntheticModel, outcome: &Outcome, out: bool, seen: &mut Seen) {
    let Outcome { prompt, turn, emitted, notices, reason, stats, .. } = outcome;
    let sampler = Sampler::new(turn.sampling.clone(), VOCAB).expect("valid parameters");
    let mut text = prompt.clone();
    let mut provisional = 0;
    for (_, emitted) in emitted {
        assert_eq!(emitted.position, text.len(), "no token is lost, repeated or reordered");
        assert!(text.len() == prompt.len() || text.last() != Some(&END), "nothing follows the end");
        if emitted.provenance == Provenance::Provisional {
            provisional += 1;
        } else {
            let expected =
                sampler.choose(&reference.logits_after(&text), Context { tokens: &text, prompt_len: prompt.len() });
            assert_eq!(emitted.token, expected, "a committed token is the target's own");
            seen.resumed += u64::from(provisional > 0);
        }
        text.push(emitted.token);
    }
    let generated = text.len() - prompt.len();
    assert_eq!(stats.provisional_tokens, provisional, "provisional tokens are counted");
    let lost = notices.iter().filter(|notice| is_loss(notice)).count();
    let back = notices.len() - lost;
    // The user hears of each outage once: the two notices alternate.
    let alternate = notices.windows(2).all(|pair| is_loss(&pair[0]) != is_loss(&pair[1]));
    assert!(alternate, "{notices:?}");
    assert!(provisional == 0 || out || lost > 0, "what is provisional was announced");
    seen.generations += 1;
    seen.committed += (generated as u64) - provisional;
    seen.provisional += provisional;
    seen.disconnections += stats.disconnections;
    seen.lost += lost as u64;
    seen.back += back as u64;
    seen.failed += u64::from(matches!(reason, FinishReason::Failed(_)));
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number is expected"))
}

/// Plays the schedules with `count` seeds from `first` on, or the one that is asked for.
fn play_all(kind: Kind, first: u64, count: u64) -> Option<(u64, Seen)> {
    let [one, many] = kind.variables();
    if let Some(seed) = number(one) {
        let mut seen = Seen::default();
        play(seed, kind, &mut seen);
        eprintln!("{seen:#?}");
        return None;
    }
    let schedules = number(many).unwrap_or(count);
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u64;
    let began = Instant::now();
    let workers: Vec<_> = (0..threads)
        .map(|worker| {
            std::thread::spawn(move || {
                let mut seen = Seen::default();
                for seed in (worker..schedules).step_by(threads as usize).map(|n| first.wrapping_add(n)) {
                    let played = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| play(seed, kind, &mut seen)));
                    assert!(
                        played.is_ok(),
                        "replay with: {one}={seed} cargo nextest run --release --workspace --test faults --no-capture"
                    );
                }
                seen
            })
        })
        .collect();
    let mut sum = Seen::default();
    for worker in workers {
        sum.add(&worker.join().expect("a schedule failed; the command to replay it is above"));
    }
    let seconds = began.elapsed().as_secs_f64();
    eprintln!("{schedules} schedules in {seconds:.1} s, {:.0} a second: {sum:?}", schedules as f64 / seconds);
    Some((schedules, sum))
}

#[test]
fn whatever_fails_no_committed_token_is_wrong_and_every_session_ends() {
    let Some((schedules, sum)) = play_all(Kind::Fixed, 0, SCHEDULES) else { return };
    // The schedules exercise what they are meant to.
    assert!(sum.committed > 10 * schedules && sum.provisional > schedules / 4, "{sum:?}");
    assert!(sum.resumed > schedules / 20 && sum.disconnections > schedules / 2, "{sum:?}");
    assert!(sum.lost > schedules / 4 && sum.back > schedules / 8 && sum.failed > schedules / 100, "{sum:?}");
}

#[test]
fn the_same_with_schedules_that_nobody_has_seen_yet() {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("it is after 1970");
    let first = since.as_nanos() as u64;
    eprintln!("seeds from {first} on");
    if let Some((schedules, sum)) = play_all(Kind::New, first, NEW_SCHEDULES) {
        assert!(sum.committed > 10 * schedules && sum.provisional > schedules / 8, "{sum:?}");
    }
}
