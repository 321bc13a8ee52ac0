//! What the target alone would have said: the reference that an output is compared with.

use sled_core::Token;
use sled_core::sampler::{Context, Sampler};
use sled_core::step::{CacheOp, Row};

use crate::{Error, Model};

/// A token of an output that the target alone, evaluating token by token, would not have chosen.
///
/// Floating point makes an engine's logits move a little with the shape of the batch, so that near-ties can flip. The gap
/// tells a near-tie from a wrong token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    /// Which token of the output, from 0.
    pub index: usize,
    /// What the target alone chooses there.
    pub expected: Token,
    /// By how many logits (with the noise of sampling) the output's token misses the choice.
    pub gap: f32,
}

/// Compares `output`, the continuation of `prompt`, with what `model` chooses at each position when it evaluates the same
/// text one token at a time. Uses, and clears, sequence 0 of `model`.
///
/// # Errors
/// If the text does not fit the model, or the engine fails.
pub fn compare(
    model: &mut dyn Model,
    sampler: &Sampler,
    prompt: &[Token],
    output: &[Token],
) -> Result<Vec<Difference>, Error> {
    let clear = CacheOp::Truncate { sequence: 0, len: 0 };
    model.apply(clear)?;
    let mut text = prompt.to_vec();
    let chunk = model.limits().rows.max(1);
    let (last, before) = prompt.split_last().ok_or(Error::EmptyPrompt)?;
    for (i, tokens) in before.chunks(chunk).enumerate() {
        let row = |(j, &token)| Row { sequence: 0, position: i * chunk + j, token, wants_logits: false };
        model.forward(&tokens.iter().enumerate().map(row).collect::<Vec<_>>())?;
    }
    let mut differences = Vec::new();
    let mut previous = *last;
    for (index, &token) in output.iter().enumerate() {
        model.forward(&[Row { sequence: 0, position: text.len() - 1, token: previous, wants_logits: true }])?;
        let context = Context { tokens: &text, prompt_len: prompt.len() };
        let logits = model.logits(0)?;
        let expected = sampler.choose(logits, context);
        if expected != token {
            differences.push(Difference { index, expected, gap: sampler.shortfall(logits, context, token) });
        }
        text.push(token);
        previous = token;
    }
    model.apply(clear)?;
    Ok(differences)
}
