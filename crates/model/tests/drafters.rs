//! The synthetic model is as strict as an engine, and the drafters draft what they should from any context.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use sled_core::Token;
use sled_core::sampler::{Context, Draft, Sampler, SamplingParams};
use sled_core::step::{CacheOp, Row};
use sled_model::drafter::{Drafter, ModelDrafter};
use sled_model::ngram::NgramDrafter;
use sled_model::synthetic::{SyntheticConfig, SyntheticDrafter, SyntheticModel};
use sled_model::{Error, Limits, Model};

const VOCAB: usize = 64;

fn config() -> SyntheticConfig {
    SyntheticConfig { seed: 5, vocab_size: VOCAB, order: 3, cells: 120, sequences: 3, rows: 16, context: 60 }
}

fn model() -> SyntheticModel {
    SyntheticModel::new(config())
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
fn batching_and_rolling_back_change_no_logit() {
    let (mut model, mut number) = (model(), numbers(4));
    let mut texts: [Vec<Token>; 3] = Default::default();
    for _ in 0..1_000 {
        let sequence = number(3);
        let len = number(texts[sequence].len() + 1);
        texts[sequence].truncate(len);
        model.apply(CacheOp::Truncate { sequence: sequence as u32, len }).unwrap();
        let mut rows = Vec::new();
        let mut expected = Vec::new();
        for _ in 0..=number(15) {
            let sequence = number(3);
            let text = &mut texts[sequence];
            if text.len() < 40 {
                let token = number(VOCAB) as Token;
                let wants_logits = number(2) == 0;
                rows.push(Row { wants_logits, ..row(sequence as u32, text.len(), token) });
                text.push(token);
                expected.push(wants_logits.then(|| model.logits_after(text)));
            }
        }
        if rows.is_empty() {
            continue;
        }
        model.forward(&rows).unwrap();
        for (i, expected) in expected.iter().enumerate() {
            assert_eq!(model.logits(i).ok(), expected.as_deref());
        }
    }
}

#[test]
fn the_synthetic_model_refuses_what_an_engine_would() {
    let mut model = model();
    model.forward(&[row(0, 0, 1)]).unwrap();
    assert!(matches!(model.forward(&[row(0, 0, 1)]), Err(Error::Position { len: 1, .. })));
    assert!(matches!(model.forward(&[row(0, 2, 1)]), Err(Error::Position { len: 1, .. })));
    assert!(matches!(model.forward(&[row(3, 0, 1)]), Err(Error::UnknownSequence { .. })));
    assert!(matches!(model.forward(&[row(1, 0, 64)]), Err(Error::UnknownToken { token: 64, .. })));
    assert!(matches!(model.forward(&[]), Err(Error::Rows { .. })));
    assert!(matches!(model.forward(&[row(1, 0, 1); 17]), Err(Error::Rows { .. })));
    let silent = Row { wants_logits: false, ..row(1, 0, 1) };
    model.forward(&[silent]).unwrap();
    assert!(matches!(model.logits(0), Err(Error::NoLogits(0))));

    let truncate = |sequence, len| CacheOp::Truncate { sequence, len };
    let copy = |from, to, len| CacheOp::CopyPrefix { from, to, len };
    assert!(matches!(model.apply(truncate(3, 0)), Err(Error::UnknownSequence { .. })));
    assert!(matches!(model.apply(truncate(0, 2)), Err(Error::CacheLength { len: 2, have: 1, .. })));
    assert!(matches!(model.apply(copy(0, 2, 2)), Err(Error::CacheLength { len: 2, have: 1, .. })));
    assert!(matches!(model.apply(copy(0, 1, 1)), Err(Error::CopyTarget { sequence: 1, len: 1 })));
}

#[test]
fn a_pass_that_failed_has_no_logits() {
    let mut model = model();
    assert!(model.forward(&[row(0, 0, 1), row(0, 5, 1)]).is_err());
    assert!(matches!(model.logits(0), Err(Error::NoLogits(0))));
    model.apply(CacheOp::Truncate { sequence: 0, len: 0 }).unwrap();
    model.forward(&[row(0, 0, 1)]).unwrap();
    assert!(model.forward(&[]).is_err());
    assert!(matches!(model.logits(0), Err(Error::NoLogits(0))));
}

#[test]
fn the_synthetic_model_has_no_more_room_than_it_says() {
    let mut model = SyntheticModel::new(SyntheticConfig { cells: 8, context: 5, ..config() });
    let rows = |sequence, n| (0..n).map(|position| row(sequence, position, 1)).collect::<Vec<_>>();
    model.forward(&rows(0, 5)).unwrap();
    assert!(matches!(model.forward(&[row(0, 5, 1)]), Err(Error::SequenceFull { limit: 5, .. })));
    assert!(matches!(model.forward(&rows(1, 4)), Err(Error::CacheFull { rows: 4, cells: 8 })));
    let copy = |len| CacheOp::CopyPrefix { from: 0, to: 1, len };
    // What sequences share takes its cells once.
    model.apply(copy(4)).unwrap();
    model.forward(&rows(2, 3)).unwrap();
    assert!(matches!(model.forward(&[row(1, 4, 1)]), Err(Error::CacheFull { rows: 1, cells: 8 })));
}

#[test]
fn a_generation_is_a_chain_of_choices_up_to_its_end() {
    let (model, sampler, prompt) = (model(), sampler(1.0, 3), [1, 2]);
    let mut tokens = prompt.to_vec();
    for _ in 0..30 {
        let context = Context { tokens: &tokens, prompt_len: 2 };
        tokens.push(sampler.choose(&model.logits_after(&tokens), context));
    }
    let output = &tokens[2..];
    assert_eq!(model.generate(&sampler, &prompt, 30, &[]), output);
    let end = output[10];
    let first = output.iter().position(|&token| token == end).unwrap();
    assert_eq!(model.generate(&sampler, &prompt, 30, &[end]), output[..=first]);
    assert!(model.generate(&sampler, &prompt, 0, &[]).is_empty());
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
    for tokens in [vec![], vec![1; 61]] {
        assert_eq!(drafter.draft(Context { tokens: &tokens, prompt_len: 0 }, &sampler(0.0, 0)).unwrap(), None);
    }
}

/// An engine that fails now and then, and then leaves another text in its cache.
struct Faulty {
    model: SyntheticModel,
    fails: Box<dyn FnMut() -> bool + Send>,
}

impl Model for Faulty {
    fn limits(&self) -> Limits {
        self.model.limits()
    }

    fn apply(&mut self, op: CacheOp) -> Result<(), Error> {
        self.model.apply(op)
    }

    fn forward(&mut self, rows: &[Row]) -> Result<(), Error> {
        if !(self.fails)() {
            return self.model.forward(rows);
        }
        self.model.apply(CacheOp::Truncate { sequence: 0, len: 0 })?;
        for first in [0, 16, 32] {
            let junk: Vec<Row> = (first..first + 16).map(|position| row(0, position, 63)).collect();
            self.model.forward(&junk)?;
        }
        Err(Error::Pass("a test".to_owned()))
    }

    fn logits(&self, row: usize) -> Result<&[f32], Error> {
        self.model.logits(row)
    }
}

#[test]
fn a_model_drafter_recovers_from_any_failure_of_its_engine() {
    // Every token matters, so that what a failure left in the cache would show.
    let model = || SyntheticModel::new(SyntheticConfig { order: 60, ..config() });
    let reference = model();
    let (mut number, mut chance) = (numbers(6), numbers(7));
    let mut drafter = ModelDrafter::new(Faulty { model: model(), fails: Box::new(move || chance(3) == 0) });
    let mut tokens: Vec<Token> = vec![1];
    let (mut failures, mut drafts) = (0, 0);
    for seed in 0..3_000 {
        tokens.truncate(1 + number(tokens.len()));
        tokens.extend((0..number(40)).map(|_| number(VOCAB) as Token));
        tokens.truncate(60);
        let sampler = sampler(1.0, seed);
        let context = Context { tokens: &tokens, prompt_len: 1 };
        match drafter.draft(context, &sampler) {
            Ok(draft) => {
                drafts += 1;
                assert_eq!(draft, Some(sampler.draft(&reference.logits_after(&tokens), context)));
            }
            Err(error) => {
                failures += 1;
                assert!(matches!(error, Error::Pass(_)), "{error}");
            }
        }
    }
    assert!(failures > 300 && drafts > 300, "{failures} failures, {drafts} drafts");
}

#[test]
fn a_synthetic_drafter_agrees_at_its_rate_and_knows_when() {
    let model = model();
    let mut number = numbers(2);
    for (agreement, temperature) in [0.0, 0.3, 0.8, 1.0].into_iter().flat_map(|a| [0.0, 0.7, 1.5].map(|t| (a, t))) {
        let mut drafter = SyntheticDrafter::new(&model, agreement, 7);
        // By confidence: (drafts, agreed, sum of confidences).
        let mut bins = [(0.0, 0.0, 0.0); 10];
        for seed in 0..10_000 {
            let tokens = [number(VOCAB) as Token, number(VOCAB) as Token, number(VOCAB) as Token];
            let context = Context { tokens: &tokens, prompt_len: 1 };
            let sampler = sampler(temperature, seed);
            let draft = drafter.draft(context, &sampler).unwrap().unwrap();
            let right = f64::from(u8::from(draft.token == sampler.choose(&model.logits_after(&tokens), context)));
            let bin = &mut bins[(draft.confidence * 9.99) as usize];
            *bin = (bin.0 + 1.0, bin.1 + right, bin.2 + f64::from(draft.confidence));
        }
        let what = format!("agreement {agreement}, temperature {temperature}");
        let rate = bins.iter().map(|bin| bin.1).sum::<f64>() / 10_000.0;
        // Four standard deviations of a fair coin; a drafter that is always wrong, or right, is so without exception.
        let slack = if agreement == 0.0 || agreement == 1.0 { 0.0 } else { 0.02 };
        assert!((rate - f64::from(agreement)).abs() <= slack, "{what}: {rate}");
        for (drafts, agreed, confidence) in bins.into_iter().filter(|bin| bin.0 > 500.0) {
            let slack = 2.0 / f64::sqrt(drafts);
            assert!(f64::abs(agreed - confidence) / drafts <= slack, "{what}: {agreed} of {drafts}");
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
    assert_eq!(draft(&[1, 2, 3, 9, 1, 2, 3]), Some((9, 0.6)));
    assert_eq!(draft(&[1, 2, 3, 9, 1, 2, 3, 9, 1, 2, 3]), Some((9, 0.8)));
    assert_eq!(draft(&[5, 2, 3, 9, 1, 2, 3]), Some((9, 0.4)), "two tokens, where three are unknown");
    assert_eq!(draft(&[7, 3, 9, 1, 2, 3]), None, "one token is not enough");
    assert_eq!(draft(&[1, 2, 8, 1, 2, 9, 1, 2]), Some((9, 0.2)), "the latest, though another followed before");
    assert_eq!(draft(&[4; 40]), Some((4, 0.95)), "eight occurrences count, and may overlap");
}

#[test]
fn the_index_of_ngrams_agrees_with_a_search_of_the_text() {
    let search = |tokens: &[Token]| {
        [(3, 0.6), (2, 0.4)].into_iter().find_map(|(n, recurs)| {
            let last = tokens.get(tokens.len().checked_sub(n)?..)?;
            let occurrences = (n..tokens.len()).rev().filter(|&at| tokens[at - n..at] == *last);
            let followers: Vec<Token> = occurrences.map(|at| tokens[at]).take(8).collect();
            let &token = followers.first()?;
            let agreeing = followers[1..].iter().filter(|&&follower| follower == token).count();
            Some(Draft { token, confidence: (agreeing as f32 + recurs) / followers.len() as f32 })
        })
    };
    let mut number = numbers(3);
    let mut drafter = NgramDrafter::default();
    let mut tokens: Vec<Token> = Vec::new();
    let mut found = 0;
    for _ in 0..5_000 {
        if number(5) == 0 {
            tokens.truncate(number(tokens.len() + 1));
        }
        for _ in 0..number(6) {
            tokens.push(number(5) as Token);
        }
        let draft = drafter.draft(Context { tokens: &tokens, prompt_len: 0 }, &sampler(0.0, 0)).unwrap();
        assert_eq!(draft, search(&tokens), "{tokens:?}");
        found += usize::from(draft.is_some());
    }
    assert!(found > 1_000);
}
