//! Penalties and biases: what the context and the user change about a model's logits.

use std::borrow::Cow;

use super::{Context, SamplingParams, TokenSet};
use crate::Token;

/// The logits with the penalties and biases of `params` applied, in this order: repetition, presence and frequency,
/// bias. A copy is made only if there are any. Tokens beyond the end of `logits` are passed over.
pub(super) fn apply<'a>(mut logits: Cow<'a, [f32]>, context: Context<'_>, params: &SamplingParams) -> Cow<'a, [f32]> {
    let generated = context.tokens.get(context.prompt_len..).unwrap_or_default();
    if params.repetition_penalty != 1.0 && !context.tokens.is_empty() {
        penalise_repetition(logits.to_mut(), context.tokens, params.repetition_penalty);
    }
    if (params.presence_penalty != 0.0 || params.frequency_penalty != 0.0) && !generated.is_empty() {
        penalise_generated(logits.to_mut(), generated, params.presence_penalty, params.frequency_penalty);
    }
    if !params.logit_bias.is_empty() {
        let logits = logits.to_mut();
        for &(token, bias) in &params.logit_bias {
            if let Some(logit) = logits.get_mut(token as usize) {
                *logit += bias;
            }
        }
    }
    logits
}

fn penalise_repetition(logits: &mut [f32], tokens: &[Token], penalty: f32) {
    let mut seen = TokenSet::empty(logits.len());
    for &token in tokens {
        if let Some(logit) = logits.get_mut(token as usize)
            && seen.insert(token)
        {
            *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
        }
    }
}

fn penalise_generated(logits: &mut [f32], generated: &[Token], presence: f32, frequency: f32) {
    let mut seen = TokenSet::empty(logits.len());
    for &token in generated {
        if let Some(logit) = logits.get_mut(token as usize) {
            if seen.insert(token) {
                *logit -= presence;
            }
            *logit -= frequency;
        }
    }
}
