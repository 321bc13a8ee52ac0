//! The law by equality: whatever drafts, however long, in whatever company and order, a device's output is the target's own.
//!
//! `SLED_LAW_SEED=N cargo nextest run --release --workspace --test law` replays the case with seed `N` alone.

#![allow(unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

mod pair;

use pair::{CONTINUOUS, Network, Pair, Rng, Script, Turn};
use sled_core::Token;
use sled_core::device::{Ahead, FinishReason};
use sled_core::policy::Policy;
use sled_core::sampler::{Sampler, SamplingParams};
use sled_core::server::{Assist, Batching};
use sled_model::drafter::Drafter;
use sled_model::ngram::NgramDrafter;
use sled_model::synthetic::{SyntheticConfig, SyntheticDrafter, SyntheticModel};
use std::time::Duration;

/// Generations whose output is compared, over all cases.
const GENERATIONS: usize = 20_000;

fn sampling(rng: &mut Rng, vocab_size: usize) -> SamplingParams {
    let mut params = SamplingParams { seed: rng.next(), ..SamplingParams::default() };
    if rng.chance(3) {
        return params;
    }
    params.temperature = rng.pick(&[0.3, 0.7, 1.0, 1.5]);
    if rng.chance(3) {
        params.top_k = rng.within(1..=vocab_size) as u32;
    }
    if rng.chance(3) {
        params.top_p = rng.pick(&[0.5, 0.9, 0.99]);
    }
    if rng.chance(4) {
        params.min_p = rng.pick(&[0.01, 0.1]);
    }
    if rng.chance(4) {
        params.repetition_penalty = rng.pick(&[0.9, 1.1, 1.5]);
        params.presence_penalty = rng.pick(&[0.0, 0.5]);
        params.frequency_penalty = rng.pick(&[0.0, 0.3, -0.2]);
    }
    if rng.chance(6) {
        params.logit_bias = vec![(rng.within(0..=vocab_size - 1) as Token, rng.pick(&[-100.0, 2.0]))];
    }
    params
}

fn tokens(rng: &mut Rng, len: usize, vocab_size: usize) -> Vec<Token> {
    (0..len).map(|_| rng.within(0..=vocab_size - 1) as Token).collect()
}

fn script(rng: &mut Rng, model: &SyntheticModel, vocab_size: usize, shared: &[Token]) -> Script {
    let drafter: Option<Box<dyn Drafter>> = match rng.within(0..=5) {
        0 => None,
        1 => Some(Box::new(NgramDrafter::default())),
        _ => Some(Box::new(SyntheticDrafter::new(model, rng.pick(&[0.0, 0.3, 0.8, 1.0]), rng.next()))),
    };
    let policy = match rng.within(0..=2) {
        0 => Policy::Goodput,
        1 => Policy::Fixed { k: rng.within(1..=9) },
        _ => Policy::Confidence { threshold: rng.pick(&[0.0, 0.3, 0.5, 0.9]), k_max: rng.within(1..=9) },
    };
    let ahead = rng.pick(&[Ahead::Nothing, Ahead::Drafts, Ahead::Blocks]);
    let turns = (0..rng.within(1..=3))
        .map(|turn| {
            let len = rng.within(1..=30);
            let mut text = tokens(rng, len, vocab_size);
            if turn == 0 && rng.chance(2) {
                text.splice(0..0, shared.iter().copied());
            }
            Turn {
                keep: if turn > 0 && rng.chance(4) { rng.within(1..=20) } else { usize::MAX },
                text: if turn > 0 && rng.chance(5) { Vec::new() } else { text },
                max_tokens: rng.within(0..=24),
                sampling: sampling(rng, vocab_size),
                stop_after: rng.chance(4).then(|| rng.within(0..=vocab_size - 1) as Token),
                logprobs: None,
            }
        })
        .collect();
    Script { drafter, policy, ahead, turns }
}

/// Plays one case and compares every generation; returns how many there were, and what they had in them.
fn play(seed: u64) -> (usize, [u64; 4]) {
    let mut rng = Rng(seed);
    let vocab_size = rng.pick(&[24, 48, 96]);
    let devices = rng.within(1..=6);
    let context = rng.within(60..=160);
    let config = SyntheticConfig {
        seed: rng.next(),
        vocab_size,
        order: rng.within(1..=3),
        // From "all fit" down to "hardly two fit": the latter evicts all the time.
        cells: rng.within(context..=context * (devices + 1)),
        // Fewer sequences than devices: sessions take turns in the cache.
        sequences: rng.within(devices.div_ceil(2)..=devices),
        rows: rng.within(2..=80),
        context,
    };
    let network = Network {
        duplicates: rng.pick(&[0, 0, 5]),
        overtakes: rng.pick(&[0, 0, 5]),
        unasked: rng.chance(3),
        engine_failures: rng.pick(&[0, 0, 2]),
    };
    let end = if rng.chance(2) { vec![] } else { tokens(&mut rng, 2, vocab_size) };
    let batching = match rng.within(0..=3) {
        0 => Batching::Static { batch_size: rng.within(1..=4), max_wait: Duration::from_millis(20) },
        _ => Batching::Continuous,
    };
    let assist = rng.pick(&[Assist::Auto, Assist::Never, Assist::Always]);
    let rate_goal = rng.pick(&[None, None, Some(20.0), Some(1000.0)]);
    let shared = tokens(&mut rng, 24, vocab_size);
    let reference = SyntheticModel::new(config.clone());
    let mut pair = Pair::new(Rng(rng.next()), config, (batching, assist, rate_goal), &end, network);
    let mut scripts = Vec::new();
    for _ in 0..devices {
        let script = script(&mut rng, &reference, vocab_size, &shared);
        scripts.push(script.turns.clone());
        pair.join(script);
    }
    let (outcomes, pair) = pair.run();

    let mut seen = [0; 4];
    let mut generations = 0;
    for (turns, outcomes) in scripts.iter().zip(outcomes) {
        assert_eq!(turns.len(), outcomes.len(), "every turn ends");
        for (turn, outcome) in turns.iter().zip(outcomes) {
            let sampler = Sampler::new(turn.sampling.clone(), vocab_size).expect("valid parameters");
            let room = pair.context.saturating_sub(outcome.prompt.len());
            let mut expected = reference.generate(&sampler, &outcome.prompt, turn.max_tokens.min(room), &end);
            let ends = |token: &Token| turn.stop_after == Some(*token) || end.contains(token);
            if let Some(at) = expected.iter().position(ends) {
                expected.truncate(at + 1);
            }
            let reason = if expected.last().is_some_and(ends) { FinishReason::Stop } else { FinishReason::Length };
            assert_eq!((outcome.output, outcome.reason), (expected, reason.clone()), "the output is the target's own");
            generations += 1;
            seen[0] += outcome.stats.draft_tokens;
            seen[1] += outcome.stats.accepted_tokens;
            seen[2] += outcome.stats.rounds;
            seen[3] += u64::from(reason == FinishReason::Stop);
        }
    }
    (generations, seen)
}

#[test]
fn output_is_the_targets_own_whatever_drafts_batches_and_network_do() {
    if let Ok(seed) = std::env::var("SLED_LAW_SEED") {
        play(seed.parse().expect("SLED_LAW_SEED is a number"));
        return;
    }
    let mut generations = 0;
    let mut seen = [0; 4];
    for seed in 0.. {
        let (count, what) = std::panic::catch_unwind(|| play(seed)).unwrap_or_else(|_| {
            panic!("replay with: SLED_LAW_SEED={seed} cargo nextest run --release --workspace --test law")
        });
        generations += count;
        seen.iter_mut().zip(what).for_each(|(sum, x)| *sum += x);
        if generations >= GENERATIONS {
            break;
        }
    }
    let [drafted, accepted, rounds, stopped] = seen;
    eprintln!(
        "{generations} generations, {rounds} rounds, {accepted} of {drafted} drafts accepted, {stopped} stopped early"
    );
    // The cases exercise what they are meant to: both verdicts, and both ways to end.
    assert!(accepted > drafted / 4 && accepted < drafted * 9 / 10);
    assert!(stopped > generations as u64 / 10 && stopped < generations as u64 * 9 / 10);
}

#[test]
fn a_perfect_drafter_is_always_accepted() {
    for seed in 0..200 {
        let mut rng = Rng(seed);
        let config =
            SyntheticConfig { seed, vocab_size: 64, order: 3, cells: 400, sequences: 1, rows: 64, context: 200 };
        let model = SyntheticModel::new(config.clone());
        let mut pair = Pair::new(Rng(seed), config, (Batching::Continuous, Assist::Never, None), &[], Network::CALM);
        let mut params = sampling(&mut rng, 64);
        params.temperature = params.temperature.max(0.5);
        pair.join(Script {
            drafter: Some(Box::new(SyntheticDrafter::new(&model, 1.0, seed))),
            policy: Policy::Fixed { k: 4 },
            ahead: Ahead::Nothing,
            turns: vec![Turn {
                keep: 0,
                text: vec![1, 2, 3],
                max_tokens: 50,
                sampling: params,
                stop_after: None,
                logprobs: None,
            }],
        });
        let (outcomes, pair) = pair.run();
        let stats = outcomes[0][0].stats;
        assert_eq!((stats.rounds, stats.draft_tokens, stats.accepted_tokens), (10, 40, 40), "coupling wastes nothing");
        assert_eq!((stats.drafts, stats.accepted_at.counts()), (10, [10; 4].as_slice()));
        assert!((5..=7).contains(&pair.largest_step), "4 drafts, and up to 3 prompt tokens");
    }
}

#[test]
fn a_device_that_leaves_disturbs_nobody() {
    for seed in 0..300 {
        let mut rng = Rng(seed);
        let config =
            SyntheticConfig { seed, vocab_size: 48, order: 2, cells: 300, sequences: 4, rows: 32, context: 100 };
        let model = SyntheticModel::new(config.clone());
        let mut pair = Pair::new(Rng(rng.next()), config, CONTINUOUS, &[], Network::CALM);
        let mut scripts = Vec::new();
        for _ in 0..4 {
            let script = script(&mut rng, &model, 48, &[]);
            scripts.push(script.turns.clone());
            pair.join(script);
        }
        for _ in 0..rng.within(0..=400) {
            pair.tick();
        }
        pair.kill(1);
        scripts.remove(1);
        let (outcomes, _) = pair.run();
        for (turns, outcomes) in scripts.iter().zip(outcomes) {
            for (turn, outcome) in turns.iter().zip(outcomes) {
                let sampler = Sampler::new(turn.sampling.clone(), 48).expect("valid parameters");
                let most = turn.max_tokens.min(100usize.saturating_sub(outcome.prompt.len()));
                let mut expected = model.generate(&sampler, &outcome.prompt, most, &[]);
                if let Some(at) = expected.iter().position(|&token| turn.stop_after == Some(token)) {
                    expected.truncate(at + 1);
                }
                assert_eq!(outcome.output, expected, "seed {seed}");
            }
        }
    }
}

#[test]
fn sampling_through_drafts_follows_the_targets_distribution() {
    const VOCAB: usize = 16;
    const SEEDS: u64 = 8_000;
    let config =
        SyntheticConfig { seed: 7, vocab_size: VOCAB, order: 2, cells: 64, sequences: 1, rows: 32, context: 64 };
    let model = SyntheticModel::new(config.clone());
    let prompt = vec![3, 1];
    // The first two tokens of the output, jointly: 256 cells, of which the likely ones are compared.
    let mut counts = vec![0u64; VOCAB * VOCAB];
    for seed in 0..SEEDS {
        let mut pair = Pair::new(Rng(seed), config.clone(), CONTINUOUS, &[], Network::CALM);
        let sampling = SamplingParams { temperature: 1.0, seed, ..SamplingParams::default() };
        pair.join(Script {
            drafter: Some(Box::new(SyntheticDrafter::new(&model, 0.6, 99))),
            policy: Policy::Fixed { k: 3 },
            ahead: Ahead::Blocks,
            turns: vec![Turn {
                keep: 0,
                text: prompt.clone(),
                max_tokens: 2,
                sampling,
                stop_after: None,
                logprobs: None,
            }],
        });
        let (outcomes, _) = pair.run();
        let output = &outcomes[0][0].output;
        counts[output[0] as usize * VOCAB + output[1] as usize] += 1;
    }
    let softmax = |tokens: &[Token]| {
        let logits = model.logits_after(tokens);
        let max = logits.iter().copied().fold(f32::MIN, f32::max);
        let weights: Vec<f64> = logits.iter().map(|&z| f64::from(z - max).exp()).collect();
        let sum: f64 = weights.iter().sum();
        weights.into_iter().map(|w| w / sum).collect::<Vec<f64>>()
    };
    let mut chi_square = 0.0;
    let mut cells = 0;
    let (mut rest_expected, mut rest_seen) = (0.0, 0.0);
    for (a, p) in softmax(&prompt).into_iter().enumerate() {
        for (b, q) in softmax(&[3, 1, a as Token]).into_iter().enumerate() {
            let (expected, seen) = (p * q * SEEDS as f64, counts[a * VOCAB + b] as f64);
            if expected >= 10.0 {
                chi_square += (seen - expected).powi(2) / expected;
                cells += 1;
            } else {
                rest_expected += expected;
                rest_seen += seen;
            }
        }
    }
    chi_square += (rest_seen - rest_expected).powi(2) / rest_expected.max(1.0);
    // Wilson & Hilferty's cube-root approximation of the 99.99 % quantile of chi-square with `cells` degrees of freedom.
    let degrees = f64::from(cells);
    let limit = degrees * (1.0 - 2.0 / (9.0 * degrees) + 3.719 * (2.0 / (9.0 * degrees)).sqrt()).powi(3);
    eprintln!("chi-square {chi_square:.1} over {cells} cells and the rest; limit {limit:.1}");
    assert!(cells > 20 && chi_square < limit);
}
