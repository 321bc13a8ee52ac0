//! The sampler against the reference, over parameters, rows and contexts of every kind.

use super::{EMPTY, reference};
use proptest::collection::{SizeRange, vec};
use proptest::prelude::*;
use proptest::sample::select;
use sled_core::Token;
use sled_core::sampler::{Context, Sampler, SamplingParams};

/// Everything that one choice depends on.
#[derive(Clone, Debug)]
struct Case {
    logits: Vec<f32>,
    vocab_size: usize,
    tokens: Vec<Token>,
    prompt_len: usize,
    params: SamplingParams,
}

fn any_logit() -> impl Strategy<Value = f32> {
    prop_oneof![
        8 => -12.0..12.0_f32,
        4 => (-3..3_i32).prop_map(|logit| logit as f32),
        1 => select(vec![f32::NEG_INFINITY, f32::NAN, f32::INFINITY, -0.0, 1e-40, -300.0, f32::MIN, f32::MAX]),
    ]
}

/// Logits that all differ, logits with many ties, logits of every kind, and nothing to choose from.
fn any_logits(size: impl Into<SizeRange> + Clone) -> impl Strategy<Value = Vec<f32>> {
    let none = select(vec![f32::NEG_INFINITY, f32::NAN]);
    prop_oneof![
        8 => vec(-12.0..12.0_f32, size.clone()),
        6 => vec((-8..8_i32).prop_map(|logit| logit as f32 / 2.0), size.clone()),
        6 => vec(any_logit(), size.clone()),
        1 => vec(none, size),
    ]
}

fn any_params(vocab_size: usize) -> impl Strategy<Value = SamplingParams> {
    let temperature = prop_oneof![Just(0.0), 0.05..2.5_f32, select(vec![1e-30, 1e-3, 100.0])];
    let top_k = prop_oneof![Just(0), 1..20_u32, 1..=vocab_size as u32 + 2];
    let top_p = prop_oneof![Just(1.0), 0.0..1.0_f32, select(vec![0.0, 0.95, 0.999])];
    let min_p = prop_oneof![2 => Just(0.0), 2 => 0.0..0.3_f32, 1 => select(vec![1.0, 1e-40])];
    let penalty = prop_oneof![Just(1.0), 0.5..2.0_f32, select(vec![0.01, 100.0])];
    let presence = prop_oneof![Just(0.0), -2.0..2.0_f32];
    let frequency = prop_oneof![Just(0.0), -1.0..1.0_f32];
    let bias = vec((0..vocab_size as Token, -5.0..5.0_f32), 0..4);
    (temperature, top_k, top_p, min_p, penalty, presence, frequency, bias, any::<u64>()).prop_map(
        |(temperature, top_k, top_p, min_p, repetition, presence, frequency, logit_bias, seed)| SamplingParams {
            temperature,
            top_k,
            top_p,
            min_p,
            repetition_penalty: repetition,
            presence_penalty: presence,
            frequency_penalty: frequency,
            logit_bias,
            grammar: None,
            seed,
        },
    )
}

/// Cases with rows of these sizes, which may differ from the vocabulary's, and contexts with tokens beyond both.
fn any_case(sizes: std::ops::Range<usize>) -> impl Strategy<Value = Case> {
    (sizes, 0..4_usize, any::<bool>()).prop_flat_map(|(vocab_size, difference, longer)| {
        let len = if longer { vocab_size + difference } else { vocab_size.saturating_sub(difference) };
        let tokens = vec(0..vocab_size as Token + 5, 0..24);
        (any_logits(len), tokens, 0..26_usize, any_params(vocab_size)).prop_map(
            move |(logits, tokens, prompt_len, params)| Case { logits, vocab_size, tokens, prompt_len, params },
        )
    })
}

fn agrees_with_the_reference(case: &Case) -> Result<(), TestCaseError> {
    let sampler = Sampler::new(case.params.clone(), case.vocab_size).expect("valid parameters");
    let context = Context { tokens: &case.tokens, prompt_len: case.prompt_len };
    let known = &case.logits[..case.logits.len().min(case.vocab_size)];
    // Rejected cases are counted: a test of rejects alone would fail.
    let Some(expected) = reference::answer(known, context, &case.params) else {
        return Err(TestCaseError::reject("a truncation falls on a token"));
    };
    prop_assert_eq!(sampler.choose(&case.logits, context), expected.token);
    let draft = sampler.draft(&case.logits, context);
    prop_assert_eq!(draft.token, expected.token);
    let confidence = f64::from(draft.confidence);
    prop_assert!((confidence - expected.confidence).abs() < 1e-5, "{confidence} for {}", expected.confidence);
    for (token, &expected) in expected.shortfalls.iter().enumerate().step_by(1 + known.len() / 50) {
        let shortfall = f64::from(sampler.shortfall(&case.logits, context, token as Token));
        let expected = if expected.is_finite() { expected.min(f64::from(f32::MAX)) } else { expected };
        let close = shortfall == expected || (shortfall - expected).abs() <= 1e-6 * (1.0 + expected);
        prop_assert!(close && (shortfall == 0.0) == (expected == 0.0), "token {token}: {shortfall} for {expected}");
    }
    prop_assert_eq!(sampler.shortfall(&case.logits, context, expected.token), 0.0);
    let beyond = case.vocab_size.min(case.logits.len()).max(1) as Token;
    prop_assert_eq!(sampler.shortfall(&case.logits, context, beyond), f32::INFINITY);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6000, max_global_rejects: 100, ..ProptestConfig::default() })]

    #[test]
    fn small_rows_agree_with_the_reference(case in any_case(1..40)) {
        agrees_with_the_reference(&case)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, max_global_rejects: 100, max_shrink_iters: 2000, ..ProptestConfig::default() })]

    #[test]
    fn rows_of_many_chunks_agree_with_the_reference(case in any_case(200..3000)) {
        agrees_with_the_reference(&case)?;
    }

    /// What `shortfall` means: with so much more the token is chosen, with less it is not.
    #[test]
    fn shortfall_is_what_the_logit_lacks(
        logits in vec(-5.0..5.0_f32, 2..300),
        pick in any::<prop::sample::Index>(),
        temperature in prop_oneof![Just(0.0), 0.1..3.0_f32],
        seed in any::<u64>(),
    ) {
        let params = SamplingParams { temperature, seed, ..SamplingParams::default() };
        let sampler = Sampler::new(params, logits.len()).expect("valid parameters");
        let token = pick.index(logits.len());
        let shortfall = sampler.shortfall(&logits, EMPTY, token as Token);
        let with = |more: f32| {
            let mut logits = logits.clone();
            logits[token] += more;
            sampler.choose(&logits, EMPTY) == token as Token
        };
        prop_assert!(with(shortfall + 1e-4));
        prop_assert!(shortfall == 0.0 || !with(shortfall - 1e-4));
    }
}
