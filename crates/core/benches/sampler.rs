//! What one row costs: the sampler runs once for each row of a target forward pass and once for each drafted token.

#![allow(missing_docs, reason = "criterion's macros")]
#![allow(clippy::expect_used)]

use criterion::{Criterion, criterion_group, criterion_main};
use sled_core::sampler::{Context, Sampler, SamplingParams};
use sled_core::{Token, splitmix};
use std::hint::black_box;

/// The vocabulary of Qwen 2.5.
const VOCAB_SIZE: usize = 151_936;

/// How many rows are taken in turn, so that neither caches nor branch predictors learn one by heart.
const ROWS: usize = 8;

/// Logits like a language model's: normal with a deviation of 3, and a head of a few likely tokens above.
fn row(seed: u64) -> Vec<f32> {
    let mut random = (0_u64..).map(move |i| {
        let x = splitmix::hash(seed << 32 | i);
        (x >> 40) as f32 / (1 << 24) as f32
    });
    // The sum of twelve uniform numbers is all but normal, with a variance of 1.
    let mut normal = || 3.0 * (random.by_ref().take(12).sum::<f32>() - 6.0);
    let mut logits: Vec<f32> = (0..VOCAB_SIZE).map(|_| normal()).collect();
    for rank in 0..20 {
        let token = (seed as usize * 7919 + rank * 6101) % VOCAB_SIZE;
        logits[token] = 22.0 - 0.6 * rank as f32 + 0.2 * normal();
    }
    logits
}

fn sampler(c: &mut Criterion) {
    let rows: Vec<Vec<f32>> = (0..ROWS as u64).map(row).collect();
    // A text of 2048 tokens, of which a few hundred differ.
    let tokens: Vec<Token> = (0..2048_u32).map(|i| i.wrapping_mul(i) % 1009 * 131).collect();
    let greedy = SamplingParams::default();
    let warm = SamplingParams { temperature: 0.8, ..greedy.clone() };
    let penalties =
        SamplingParams { repetition_penalty: 1.1, presence_penalty: 0.5, frequency_penalty: 0.1, ..warm.clone() };
    let settings = [
        ("greedy", greedy),
        ("t0.8", warm.clone()),
        ("t0.8 top_k=40 top_p=0.95", SamplingParams { top_k: 40, top_p: 0.95, ..warm.clone() }),
        ("t0.8 top_p=0.95", SamplingParams { top_p: 0.95, ..warm.clone() }),
        ("t0.8 min_p=0.05", SamplingParams { min_p: 0.05, ..warm.clone() }),
        ("t0.8 penalties over 2048 tokens", penalties),
    ];
    for (name, params) in settings {
        let sampler = Sampler::new(params, VOCAB_SIZE).expect("the parameters are valid");
        // The position moves on, so that every call has its own noise.
        let mut turns = (1024..=tokens.len()).cycle().zip(rows.iter().cycle());
        let mut next = || {
            let (len, logits) = turns.next().expect("a cycle does not end");
            (logits.as_slice(), Context { tokens: &tokens[..len], prompt_len: 512 })
        };
        c.bench_function(&format!("choose/{name}"), |b| {
            b.iter(|| {
                let (logits, context) = next();
                sampler.choose(black_box(logits), context)
            });
        });
        c.bench_function(&format!("draft/{name}"), |b| {
            b.iter(|| {
                let (logits, context) = next();
                sampler.draft(black_box(logits), context)
            });
        });
    }
}

criterion_group!(benches, sampler);
criterion_main!(benches);
