//! The sampler against the probabilities that it promises. All seeds are fixed, so that the outcomes are as well.

use super::{EMPTY, LOGITS, at, sampler};
use sled_core::sampler::SamplingParams;

fn softmax(logits: &[f32], temperature: f32) -> Vec<f64> {
    let weights: Vec<f64> = logits.iter().map(|&z| (f64::from(z) / f64::from(temperature)).exp()).collect();
    let total: f64 = weights.iter().sum();
    weights.iter().map(|weight| weight / total).collect()
}

/// Pearson's test: fails where counts so far from the probabilities would come up once in ten thousand times.
#[track_caller]
fn assert_distributed(counts: &[usize], probabilities: &[f64]) {
    let total = counts.iter().sum::<usize>() as f64;
    let mut statistic = 0.0;
    let mut freedom = -1.0;
    for (&count, &probability) in counts.iter().zip(probabilities) {
        if probability == 0.0 {
            assert_eq!(count, 0, "a token that is truncated away was chosen");
            continue;
        }
        let expected = probability * total;
        assert!(expected >= 5.0, "the test needs more samples");
        statistic += (count as f64 - expected).powi(2) / expected;
        freedom += 1.0;
    }
    // Wilson & Hilferty's approximation of the quantile; 3.72 is the normal distribution's.
    let spread = 2.0 / (9.0 * freedom);
    let critical = freedom * (1.0 - spread + 3.72 * f64::sqrt(spread)).powi(3);
    assert!(statistic < critical, "chi-square {statistic:.1}, critical {critical:.1}");
}

const SAMPLES: usize = 30_000;

#[test]
fn choices_follow_softmax_after_truncation() {
    let plain = SamplingParams { temperature: 1.0, ..SamplingParams::default() };
    let all: &[usize] = &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9];
    // Which tokens are left, worked out by hand: the weights at temperature 1 are, from the best, 7.39, 6.69, 4.06,
    // 2.72, 2.01, 1.22, 1.22, 1, 0.61 and 0.41, and 27.32 together.
    let settings = [
        (SamplingParams { temperature: 0.7, ..plain.clone() }, all),
        (plain.clone(), all),
        (SamplingParams { temperature: 2.5, ..plain.clone() }, all),
        (SamplingParams { temperature: 1.5, top_k: 4, ..plain.clone() }, &[3, 8, 5, 0]),
        // The sixth place is a tie of tokens 1 and 4.
        (SamplingParams { top_k: 6, ..plain.clone() }, &[3, 8, 5, 0, 7, 1]),
        (SamplingParams { temperature: 0.6, top_p: 0.6, ..plain.clone() }, &[3, 8, 5]),
        (SamplingParams { temperature: 2.0, min_p: 0.3, ..plain.clone() }, &[3, 8, 5, 0]),
        // Of the four that top-k leaves, the first two have 0.675 and the first three 0.870.
        (SamplingParams { top_k: 4, top_p: 0.7, ..plain.clone() }, &[3, 8, 5]),
        (SamplingParams { top_k: 4, top_p: 0.8, min_p: 0.9, ..plain }, &[3, 8]),
    ];
    for (params, left) in settings {
        let logits: Vec<f32> =
            LOGITS.iter().enumerate().map(|(i, &z)| if left.contains(&i) { z } else { f32::NEG_INFINITY }).collect();
        let probabilities = softmax(&logits, params.temperature);
        let mut over_seeds = [0; LOGITS.len()];
        let mut over_positions = [0; LOGITS.len()];
        let one_seed = sampler(&params, 42, LOGITS.len());
        for i in 0..SAMPLES {
            over_seeds[sampler(&params, i as u64, LOGITS.len()).choose(&LOGITS, at(7)) as usize] += 1;
            over_positions[one_seed.choose(&LOGITS, at(i)) as usize] += 1;
        }
        assert_distributed(&over_seeds, &probabilities);
        assert_distributed(&over_positions, &probabilities);
    }
}

/// Over a vocabulary of many chunks all ids are treated alike, whether grouped by their low or by their high bits.
#[test]
fn choices_follow_softmax_over_a_large_vocabulary() {
    let logits: Vec<f32> = (0..4000_usize).map(|i| LOGITS[i * i % 10] + (i % 3) as f32).collect();
    let params = SamplingParams { temperature: 1.3, ..SamplingParams::default() };
    let one_seed = sampler(&params, 1, logits.len());
    let probabilities = softmax(&logits, params.temperature);
    for group in [|token: usize| token % 64, |token: usize| token / 63] {
        let mut expected = [0.0; 64];
        for (token, probability) in probabilities.iter().enumerate() {
            expected[group(token)] += probability;
        }
        let mut counts = [0; 64];
        for i in 0..SAMPLES {
            counts[group(one_seed.choose(&logits, at(i)) as usize)] += 1;
        }
        assert_distributed(&counts, &expected);
    }
}

#[test]
fn neighbouring_positions_and_seeds_are_independent() {
    /// Which other seed and position a seed and a position are paired with.
    type Partner = fn(u64, usize) -> (u64, usize);

    let logits = &LOGITS[..4];
    let params = SamplingParams { temperature: 1.0, ..SamplingParams::default() };
    let single = softmax(logits, 1.0);
    let joint: Vec<f64> = single.iter().flat_map(|p| single.iter().map(move |q| p * q)).collect();
    let choice = |seed: u64, position: usize| sampler(&params, seed, 4).choose(logits, at(position)) as usize;
    let partners: [Partner; 5] = [
        |seed, position| (seed, position + 1),
        |seed, position| (seed, position + 1024),
        |seed, position| (seed + 1, position),
        |seed, position| (seed | 1 << 40, position),
        |seed, position| (seed + 1, position - 1),
    ];
    for partner in partners {
        let mut counts = [0; 16];
        for i in 0..SAMPLES {
            let (seed, position) = (i as u64 / 100, 1 + i % 100);
            let (other_seed, other_position) = partner(seed, position);
            counts[4 * choice(seed, position) + choice(other_seed, other_position)] += 1;
        }
        assert_distributed(&counts, &joint);
    }
}

/// Two models that share the noise choose token i both with probability 1 / sum over j of max(p_j/p_i, q_j/q_i).
#[test]
fn similar_models_agree_as_often_as_theory_says() {
    let params = SamplingParams { temperature: 0.8, ..SamplingParams::default() };
    for difference in [0.0, 0.2, 1.0, 3.0] {
        let other: Vec<f32> =
            LOGITS.iter().enumerate().map(|(i, z)| z + difference * LOGITS[(7 * i + 3) % 10]).collect();
        let (p, q) = (softmax(&LOGITS, params.temperature), softmax(&other, params.temperature));
        let variation: f64 = p.iter().zip(&q).map(|(p, q)| (p - q).abs()).sum::<f64>() / 2.0;
        let both = |i: usize| 1.0 / (0..p.len()).map(|j| (p[j] / p[i]).max(q[j] / q[i])).sum::<f64>();
        let theory: f64 = (0..p.len()).map(both).sum();
        assert!((1.0 - variation) / (1.0 + variation) - 1e-9 <= theory && theory <= 1.0 - variation + 1e-9);
        let sampler = sampler(&params, 3, LOGITS.len());
        let agree = (0..SAMPLES).filter(|&i| sampler.choose(&LOGITS, at(i)) == sampler.choose(&other, at(i))).count();
        let rate = agree as f64 / SAMPLES as f64;
        let deviation = (theory * (1.0 - theory) / SAMPLES as f64).max(0.0).sqrt();
        assert!((rate - theory).abs() <= 4.0 * deviation + 1e-9, "{rate} agree, {theory} expected");
    }
}

/// Softmax does not notice a constant, so models that differ by one only are the same model.
#[test]
fn a_constant_changes_no_choice() {
    let shifted = LOGITS.map(|logit| logit + 8.0);
    let settings = SamplingParams { temperature: 1.2, top_k: 9, top_p: 0.9, min_p: 0.01, ..SamplingParams::default() };
    for seed in 0..SAMPLES as u64 {
        let sampler = sampler(&settings, seed, LOGITS.len());
        assert_eq!(sampler.choose(&LOGITS, EMPTY), sampler.choose(&shifted, EMPTY));
    }
}
