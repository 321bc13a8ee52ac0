//! The sampler: by hand here, against its definition and against its probabilities in the modules.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod agreement;
mod distribution;
mod reference;

use sled_core::Token;
use sled_core::sampler::{Context, Sampler, SamplingError, SamplingParams};

const LOGITS: [f32; 10] = [1.0, 0.2, -0.5, 2.0, 0.2, 1.4, -0.9, 0.7, 1.9, 0.0];
const EMPTY: Context<'_> = Context { tokens: &[], prompt_len: 0 };

/// A context whose next position is `position`, for parameters that do not look at its tokens.
fn at(position: usize) -> Context<'static> {
    static TOKENS: [Token; 50_000] = [0; 50_000];
    Context { tokens: &TOKENS[..position], prompt_len: position }
}

fn sampler(params: &SamplingParams, seed: u64, vocab_size: usize) -> Sampler {
    Sampler::new(SamplingParams { seed, ..params.clone() }, vocab_size).expect("valid parameters")
}

#[test]
fn penalties_and_biases_by_hand() {
    let params = SamplingParams {
        repetition_penalty: 2.0,
        presence_penalty: 0.25,
        frequency_penalty: 0.5,
        logit_bias: vec![(2, 0.75), (2, 0.25)],
        ..SamplingParams::default()
    };
    let sampler = Sampler::new(params, 5).expect("valid parameters");
    let logits = [4.0, 3.0, 2.0, -1.0, -1.0];
    // Token 0 is in the prompt, 1 was generated twice and 3 once, 9 is no token of the vocabulary:
    // 4 / 2 = 2, 3 / 2 - 0.25 - 2 * 0.5 = 0.25, 2 + 1 = 3, -1 * 2 - 0.25 - 0.5 = -2.75, -1.
    let context = Context { tokens: &[0, 9, 1, 3, 1], prompt_len: 2 };
    assert_eq!(sampler.choose(&logits, context), 2);
    let shortfalls = [0, 1, 2, 3, 4, 9].map(|token| sampler.shortfall(&logits, context, token));
    assert_eq!(shortfalls, [1.0, 2.75, 0.0, 5.75, 4.0, f32::INFINITY]);
    // A prompt is not penalised for being there: only repetition counts it.
    let all_prompt = Context { prompt_len: 5, ..context };
    let shortfalls = [0, 1, 2, 3, 4].map(|token| sampler.shortfall(&logits, all_prompt, token));
    assert_eq!(shortfalls, [1.0, 1.5, 0.0, 5.0, 4.0]);
}

#[test]
fn ties_are_settled_for_the_lowest_ids() {
    let greedy = SamplingParams::default();
    assert_eq!(sampler(&greedy, 0, 600).choose(&[1.0; 600], EMPTY), 0);
    let mut logits = vec![1.0; 600];
    (logits[300], logits[500]) = (2.0, 2.0);
    assert_eq!(sampler(&greedy, 0, 600).choose(&logits, EMPTY), 300);
    let warm = SamplingParams { temperature: 1.0, ..greedy };
    // Of 600 equals, those that a truncation leaves are the first; exactly half of them have half of the mass.
    let truncations = [
        (SamplingParams { top_k: 300, ..warm.clone() }, 300),
        (SamplingParams { top_p: 0.5, ..warm.clone() }, 300),
        (SamplingParams { top_k: 300, top_p: 0.5, ..warm.clone() }, 150),
        (SamplingParams { top_p: 0.0, ..warm.clone() }, 1),
        (SamplingParams { min_p: 1.0, ..warm }, 600),
    ];
    for (params, left) in truncations {
        let sampler = sampler(&params, 0, 600);
        let can_be_chosen = |token: &Token| sampler.shortfall(&[1.0; 600], EMPTY, *token).is_finite();
        assert_eq!((0..600).filter(can_be_chosen).collect::<Vec<_>>(), (0..left).collect::<Vec<_>>());
    }
}

/// The choices are part of the law: on every machine and in every version the same seed gives the same output.
#[test]
fn choices_are_pinned() {
    let logits: Vec<f32> = (0..1000_usize).map(|i| LOGITS[i * i % 10]).collect();
    let params = SamplingParams { temperature: 1.0, top_p: 0.9, ..SamplingParams::default() };
    let sampler = sampler(&params, 2026, logits.len());
    let choices: Vec<Token> = (0..12).map(|position| sampler.choose(&logits, at(position))).collect();
    assert_eq!(choices, [339, 617, 559, 891, 537, 95, 433, 303, 750, 959, 845, 298]);
}

#[test]
fn parameters_out_of_range_are_refused() {
    let refused = |change: fn(&mut SamplingParams)| {
        let mut params = SamplingParams::default();
        change(&mut params);
        Sampler::new(params, 100).expect_err("out of range").to_string()
    };
    assert_eq!(refused(|p| p.temperature = 200.0), "temperature is 200; it must be between 0 and 100");
    assert_eq!(refused(|p| p.temperature = -0.1), "temperature is -0.1; it must be between 0 and 100");
    assert_eq!(refused(|p| p.temperature = f32::NAN), "temperature is NaN; it must be between 0 and 100");
    assert_eq!(refused(|p| p.top_p = 1.1), "top_p is 1.1; it must be between 0 and 1");
    assert_eq!(refused(|p| p.min_p = f32::NAN), "min_p is NaN; it must be between 0 and 1");
    assert_eq!(refused(|p| p.repetition_penalty = 0.0), "repetition_penalty is 0; it must be between 0.01 and 100");
    assert_eq!(
        refused(|p| p.presence_penalty = f32::INFINITY),
        "presence_penalty is inf; it must be between -100 and 100"
    );
    assert_eq!(refused(|p| p.frequency_penalty = -101.0), "frequency_penalty is -101; it must be between -100 and 100");
    assert_eq!(
        refused(|p| p.logit_bias = vec![(1, 0.0), (2, 1e9)]),
        "logit_bias is 1000000000; it must be between -100 and 100"
    );
    assert_eq!(
        refused(|p| p.logit_bias = vec![(100, 1.0)]),
        "logit_bias names token 100, but the vocabulary has 100 tokens"
    );
    let many = SamplingParams { logit_bias: vec![(1, 1.0); 1025], ..SamplingParams::default() };
    assert_eq!(Sampler::new(many, 100).err(), Some(SamplingError::TooManyBiases { len: 1025, max: 1024 }));
    let extremes = SamplingParams {
        temperature: 100.0,
        top_p: 0.0,
        min_p: 1.0,
        repetition_penalty: 0.01,
        presence_penalty: -100.0,
        frequency_penalty: 100.0,
        logit_bias: vec![(99, -100.0); SamplingParams::MAX_LOGIT_BIAS],
        ..SamplingParams::default()
    };
    assert!(Sampler::new(extremes, 100).is_ok());
}
