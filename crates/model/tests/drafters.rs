//! The synthetic model is as strict as an engine, and the drafters draft what they should from any context.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use sled_core::Token;
use sled_core::sampler::{Context, Sampler, SamplingParams};
use sled_core::step::{CacheOp, Row};
use sled_model::drafter::{Drafter, ModelDrafter};
use sled_model::ngram::NgramDrafter;
use sled_model::synthetic::{SyntheticConfig, SyntheticDrafter, SyntheticModel};
use sled_model::{Error, Model};

const VOCAB: usize = 64;

fn model() -> SyntheticModel {
    SyntheticModel::new(SyntheticConfig {
        seed: 5,
        vocab_size: VOCAB,
        order: 3,
        cells: 120,
        sequences: 3,
        rows: 16,
        context: 60,
    })
}

fn sampler(temperature: f32, seed: u64) -> Sampler {
    Sampler::new(SamplingParams { temperature, seed, ..Default::default() }, VOCAB).unwrap()
}

/// A stream of numbers from a seed.
fn numbers(mut state: u64) -> impl FnMut(usize) -> usize {
    move |below| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    }
}

fn row(sequence: u32, position: usize, token: Token) -> Row {
    Row { sequence, position, token, wants_logits: true }
}

#[test]
fn a_ragged_batch_gives_what_each_text_gives_alone() {
    let mut model = model();
    model.forward(&[row(0, 0, 1), row(0, 1, 2), row(2, 0, 9), row(0, 2, 3), row(2, 1, 8)]).unwrap();
    assert_eq!(model.logits(1).unwrap(), model.logits_after(&[1, 2]));
    assert_eq!(model.logits(3).unwrap(), model.logits_after(&[1, 2, 3]));
    assert_eq!(model.logits(4).unwrap(), model.logits_after(&[9, 8]));
    model.apply(CacheOp::Truncate { sequence: 0, len: 1 }).unwrap();
    model.apply(CacheOp::CopyPrefix { from: 2, to: 1, len: 2 }).unwrap();
    model.forward(&[row(0, 1, 5), row(1, 2, 6)]).unwrap();
    assert_eq!(model.logits(0).unwrap(), model.logits_after(&[1, 5]));
    assert_eq!(model.logits(1).unwrap(), model.logits_after(&[9, 8, 6]));
}

#[test]
fn the_synthetic_model_refuses_what_an_engine_would() {
    let mut model = model();
    model.forward(&[row(0, 0, 1)]).unwrap();
    assert!(matches!(model.forward(&[row(0, 0, 1)]), Err(Error::Position { len: 1, .. })));
    assert!(matches!(model.forward(&[row(3, 0, 1)]), Err(Error::UnknownSequence { .. })));
    assert!(matches!(model.forward(&[row(1, 0, 64)]), Err(Error::UnknownToken { token: 64, .. })));
    assert!(matches!(model.forward(&[]), Err(Error::Rows { .. })));
    assert!(matches!(model.forward(&[row(1, 0, 1); 17]), Err(Error::Rows { .. })));
    assert!(matches!(model.apply(CacheOp::CopyPrefix { from: 0, to: 1, len: 2 }), Err(Error::CacheLength { .. })));
    let silent = Row { wants_logits: false, ..row(1, 0, 1) };
    model.forward(&[silent]).unwrap();
    assert!(matches!(model.logits(0), Err(Error::NoLogits(0))));
}

#[test]
fn a_model_drafter_chooses_as_its_model_would_from_any_context() {
    let reference = model();
    let mut drafter = ModelDrafter::new(model());
    let mut number = numbers(1);
    let mut tokens: Vec<Token> = vec![1];
    for round in 0..2_000 {
        if number(4) == 0 {
            tokens.truncate(1 + number(tokens.len()));
        }
        for _ in 0..number(20) {
            if tokens.len() < 60 {
                tokens.push(number(VOCAB) as Token);
            }
        }
        let sampler = sampler(if round % 2 == 0 { 0.0 } else { 1.0 }, round);
        let context = Context { tokens: &tokens, prompt_len: 1 };
        let draft = drafter.draft(context, &sampler).unwrap().unwrap();
        assert_eq!(draft, sampler.draft(&reference.logits_after(&tokens), context));
    }
    let context = Context { tokens: &[], prompt_len: 0 };
    assert_eq!(drafter.draft(context, &sampler(0.0, 0)).unwrap(), None);
}

#[test]
fn a_synthetic_drafter_agrees_at_its_rate_and_knows_when() {
    let model = model();
    let mut number = numbers(2);
    for agreement in [0.0, 0.3, 0.8, 1.0] {
        let mut drafter = SyntheticDrafter::new(&model, agreement, 7);
        let (mut agreed, mut asked) = (0.0, 0.0);
        // By confidence: (drafts, agreed, sum of confidences).
        let mut bins = [(0.0, 0.0, 0.0); 10];
        for _ in 0..20_000 {
            let tokens = [number(VOCAB) as Token, number(VOCAB) as Token, number(VOCAB) as Token];
            let context = Context { tokens: &tokens, prompt_len: 1 };
            let sampler = sampler(0.0, 0);
            let draft = drafter.draft(context, &sampler).unwrap().unwrap();
            let right = f64::from(u8::from(draft.token == sampler.choose(&model.logits_after(&tokens), context)));
            asked += 1.0;
            agreed += right;
            let bin = &mut bins[(draft.confidence * 9.99) as usize];
            *bin = (bin.0 + 1.0, bin.1 + right, bin.2 + f64::from(draft.confidence));
        }
        // A drafter that is wrong still agrees by chance, once in about `VOCAB` times.
        assert!((agreed / asked - f64::from(agreement)).abs() < 0.03, "{agreement}: {}", agreed / asked);
        for (drafts, agreed, confidence) in bins.into_iter().filter(|bin| bin.0 > 500.0) {
            assert!((agreed / drafts - confidence / drafts).abs() < 0.06, "{agreement}: {agreed} of {drafts}");
        }
    }
}

#[test]
fn ngrams_propose_what_followed_the_last_time() {
    let mut drafter = NgramDrafter::default();
    let mut draft = |tokens: &[Token]| {
        let context = Context { tokens, prompt_len: 0 };
        drafter.draft(context, &sampler(0.0, 0)).unwrap().map(|draft| (draft.token, draft.confidence))
    };
    assert_eq!(draft(&[]), None);
    assert_eq!(draft(&[1, 2, 3, 9, 1, 2, 3]), Some((9, 0.75)));
    assert_eq!(draft(&[1, 2, 3, 9, 1, 2, 3, 9, 1, 2, 3]), Some((9, 2.5 / 3.0)));
    assert_eq!(draft(&[5, 2, 3, 9, 1, 2, 3]), Some((9, 0.75)), "two tokens, where three are unknown");
    assert_eq!(draft(&[7, 3, 9, 1, 2, 3]), None, "one token is not enough");
    assert_eq!(draft(&[1, 2, 8, 1, 2, 9, 1, 2]), Some((9, 0.5)), "the latest, though another followed before");
}

#[test]
fn the_index_of_ngrams_agrees_with_a_search_of_the_text() {
    let mut number = numbers(3);
    let mut drafter = NgramDrafter::default();
    let mut tokens: Vec<Token> = Vec::new();
    let search = |tokens: &[Token]| {
        [3, 2].into_iter().find_map(|n| {
            let last = tokens.get(tokens.len().checked_sub(n)?..)?;
            (n..tokens.len()).rev().find(|&at| tokens[at - n..at] == *last).map(|at| tokens[at])
        })
    };
    let mut found = 0;
    for _ in 0..5_000 {
        if number(5) == 0 {
            tokens.truncate(number(tokens.len() + 1));
        }
        for _ in 0..number(6) {
            tokens.push(number(5) as Token);
        }
        let draft = drafter.draft(Context { tokens: &tokens, prompt_len: 0 }, &sampler(0.0, 0)).unwrap();
        assert_eq!(draft.map(|draft| draft.token), search(&tokens), "{tokens:?}");
        found += usize::from(draft.is_some());
    }
    assert!(found > 1_000);
}
