//! Fault schedules: the production state machines in virtual time, with everything going wrong that can.
//!
//! `SLED_FAULT_SEED=N cargo nextest run --release --workspace --test faults --no-capture` replays the schedule with seed `N`
//! alone; `SLED_FAULT_SCHEDULES=N` plays so many.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use sled_core::Token;
use sled_core::device::{Ahead, DeviceConfig, Fallback, FinishReason, Notice, Provenance, Resilience};
use sled_core::policy::Policy;
use sled_core::sampler::{Context, Sampler, SamplingParams};
use sled_core::server::{Assist, Batching, ServerConfig};
use sled_model::drafter::Drafter;
use sled_model::synthetic::{SyntheticConfig, SyntheticDrafter, SyntheticModel};
use sled_model::{Limits, Model};
use sled_sim::cost::StepCost;
use sled_sim::network::Path;
use sled_sim::rng::Rng;
use sled_sim::world::{DeviceSetup, Drafting, Fault, Outcome, ServerSetup, Turn, World};

const SCHEDULES: u64 = 100_000;

/// When the last fault is over.
const HEALED: Duration = Duration::from_secs(60);

/// When every session must have ended. A device that has lost much waits 20 s for an answer, three times before it gives up a
/// connection that is dead, and 5 s before each attempt to make another.
const ENDED: Duration = Duration::from_secs(60 + 180);

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

fn device(rng: &mut Rng, model: &SyntheticModel, servers: usize, context: usize) -> DeviceSetup {
    let agreement = rng.pick(&[0.3, 0.8, 1.0]);
    let drafter: Option<Box<dyn Drafter>> =
        rng.chance(0.85).then(|| Box::new(SyntheticDrafter::new(model, agreement, rng.bits())) as Box<dyn Drafter>);
    let policy = rng.pick(&[
        Policy::Goodput,
        Policy::Goodput,
        Policy::Fixed { k: 3 },
        Policy::Confidence { threshold: 0.6, k_max: 6 },
    ]);
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
            max_draft: rng.pick(&[4, 64]),
            end_of_generation: Arc::from([END]),
            resilience: Resilience {
                servers,
                timeout: rng.pick(&[ms(400), ms(2000), ms(10_000)]),
                fallback: rng.pick(&[Fallback::Release, Fallback::Release, Fallback::Wait, Fallback::Error]),
                fallback_after: rng.pick(&[1, 2, 3]),
                seed: rng.bits(),
            },
        },
        drafter,
        draft_time: ms(rng.within(1..=60)),
        drafting: Drafting::Steady,
        up: path(rng, faulty),
        down: path(rng, faulty),
        turns,
    }
}

fn fault(rng: &mut Rng, servers: usize, devices: usize) -> Fault {
    let server = rng.within(0..=servers - 1);
    let device = rng.within(0..=devices - 1);
    let lasts = rng.pick(&[ms(5), ms(200), ms(1500), ms(8000), ms(20_000)]);
    match rng.within(0..=7) {
        0 | 1 => Fault::Crash { server, lasts },
        2 => Fault::Stall { server, lasts },
        3 => Fault::Forget { device },
        4 => Fault::Partition { device, lasts },
        5 => Fault::Reboot { device, lasts },
        6 => Fault::Cut { device },
        _ => Fault::ClockJump { device, by: lasts, back: rng.chance(0.5) },
    }
}

fn play(seed: u64, seen: &mut Seen) {
    let mut rng = Rng(seed);
    let servers = rng.within(1..=2);
    let devices = rng.within(1..=3);
    let context = rng.within(30..=70);
    // From one for each device down to one for all: sessions take turns in the cache.
    let sequences = rng.within(1..=devices);
    let config = SyntheticConfig {
        seed: rng.bits(),
        vocab_size: VOCAB,
        order: rng.within(1..=2),
        cells: rng.pick(&[context + 8, context * 4]),
        sequences,
        rows: rng.pick(&[6, 80]),
        context,
    };
    let reference = SyntheticModel::new(config.clone());
    let mut world = World::new(rng.bits());
    world.check_after_each_event();
    for _ in 0..servers {
        let Limits { vocab_size, cells, sequences, rows, context } = reference.limits();
        let end_of_generation = vec![END];
        let batching = match rng.within(0..=4) {
            0 => Batching::Static { batch_size: rng.within(1..=3), max_wait: ms(rng.within(0..=80)) },
            _ => Batching::Continuous,
        };
        let assist = rng.pick(&[Assist::Auto, Assist::Auto, Assist::Never, Assist::Always]);
        let rate_goal = rng.pick(&[None, None, Some(2.0), Some(30.0)]);
        let model = config.clone();
        world.add_server(ServerSetup {
            config: ServerConfig {
                vocab_size,
                cells,
                sequences,
                rows,
                context,
                end_of_generation,
                sessions: usize::MAX,
                queue: usize::MAX,
                batching,
                assist,
                rate_goal,
            },
            shared: Vec::new(),
            model: Box::new(move || Box::new(SyntheticModel::new(model.clone()))),
            cost: StepCost { fixed: ms(rng.within(1..=150)), row: ms(rng.within(0..=10)) }.into(),
        });
    }
    for _ in 0..devices {
        world.add_device(device(&mut rng, &reference, servers, context)).expect("valid parameters");
    }
    let faults = rng.within(0..=8);
    for _ in 0..faults {
        // Most of the work is done in the first seconds.
        let most = rng.pick(&[2_000, 8_000, 40_000]);
        let time = ms(rng.within(0..=most));
        world.fault(time, fault(&mut rng, servers, devices));
    }
    world.fault(HEALED, Fault::Heal);
    let ended = world.run(ENDED).expect("nothing is asked of the model that cannot be");
    assert!(ended, "every session ends once the network has healed, by {HEALED:?}:\n{}", world.describe());
    for outcomes in world.outcomes() {
        let mut out = false;
        for outcome in outcomes {
            check(&reference, outcome, context, out, seen);
            out = outcome.notices.last().map_or(out, |notice| matches!(notice, Notice::Lost(_)));
        }
    }
}

/// Every committed token is what the target chooses after the text before it, whatever that text has come to. `out`: when the
/// turn began, the user knew that the server was lost.
fn check(reference: &SyntheticModel, outcome: &Outcome, context: usize, out: bool, seen: &mut Seen) {
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
    match reason {
        FinishReason::Stop => assert_eq!(text.last(), Some(&END)),
        FinishReason::Length => assert_eq!(generated, turn.max_tokens.min(context.saturating_sub(prompt.len()))),
        FinishReason::Failed(reason) => assert!(reason.contains("the server is lost"), "{reason}"),
    }
    assert_eq!(stats.provisional_tokens, provisional, "provisional tokens are counted");
    let lost = notices.iter().filter(|notice| matches!(notice, Notice::Lost(_))).count();
    let back = notices.len() - lost;
    // The user hears of each outage once: the two notices alternate.
    let alternate =
        notices.windows(2).all(|pair| matches!(pair[0], Notice::Lost(_)) != matches!(pair[1], Notice::Lost(_)));
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

#[test]
fn whatever_fails_no_committed_token_is_wrong_and_every_session_ends() {
    if let Some(seed) = number("SLED_FAULT_SEED") {
        let mut seen = Seen::default();
        play(seed, &mut seen);
        eprintln!("{seen:#?}");
        return;
    }
    let schedules = number("SLED_FAULT_SCHEDULES").unwrap_or(SCHEDULES);
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u64;
    let began = Instant::now();
    let workers: Vec<_> = (0..threads)
        .map(|worker| {
            std::thread::spawn(move || {
                let mut seen = Seen::default();
                for seed in (worker..schedules).step_by(threads as usize) {
                    let played = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| play(seed, &mut seen)));
                    assert!(
                        played.is_ok(),
                        "replay with: SLED_FAULT_SEED={seed} cargo nextest run --release --workspace --test faults --no-capture"
                    );
                }
                seen
            })
        })
        .collect();
    let mut sum = Seen::default();
    for worker in workers {
        let seen = worker.join().expect("a schedule failed; the command to replay it is above");
        sum.generations += seen.generations;
        sum.committed += seen.committed;
        sum.provisional += seen.provisional;
        sum.resumed += seen.resumed;
        sum.disconnections += seen.disconnections;
        sum.lost += seen.lost;
        sum.back += seen.back;
        sum.failed += seen.failed;
    }
    let seconds = began.elapsed().as_secs_f64();
    eprintln!("{schedules} schedules in {seconds:.1} s, {:.0} a second: {sum:?}", schedules as f64 / seconds);
    // The schedules exercise what they are meant to.
    assert!(sum.committed > 10 * schedules && sum.provisional > schedules / 4, "{sum:?}");
    assert!(sum.resumed > schedules / 20 && sum.disconnections > schedules / 2, "{sum:?}");
    assert!(sum.lost > schedules / 4 && sum.back > schedules / 8 && sum.failed > schedules / 100, "{sum:?}");
}
