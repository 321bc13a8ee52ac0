//! How tokens are to be chosen.

use sled_core::sampler::{Grammar, GrammarText, SamplingParams};

use crate::pb::grammar::Text;
use crate::{Bounds, WireError, pb};

pub(crate) fn encode_sampling(params: SamplingParams) -> pb::SamplingParams {
    let (logit_bias_tokens, logit_bias_values) = params.logit_bias.into_iter().unzip();
    pb::SamplingParams {
        temperature: params.temperature,
        top_k: params.top_k,
        top_p: unless_one(params.top_p),
        min_p: params.min_p,
        repetition_penalty: unless_one(params.repetition_penalty),
        presence_penalty: params.presence_penalty,
        frequency_penalty: params.frequency_penalty,
        logit_bias_tokens,
        logit_bias_values,
        seed: params.seed,
        grammar: params.grammar.map(|grammar| encode_grammar(grammar.text())),
    }
}

pub(crate) fn decode_sampling(params: pb::SamplingParams, bounds: &Bounds) -> Result<SamplingParams, WireError> {
    let (tokens, values) = (params.logit_bias_tokens, params.logit_bias_values);
    if tokens.len() != values.len() {
        return Err(WireError::UnpairedLogitBias { tokens: tokens.len(), values: values.len() });
    }
    bounds.check_tokens(&tokens)?;
    Ok(SamplingParams {
        temperature: params.temperature,
        top_k: params.top_k,
        top_p: params.top_p.unwrap_or(1.0),
        min_p: params.min_p,
        repetition_penalty: params.repetition_penalty.unwrap_or(1.0),
        presence_penalty: params.presence_penalty,
        frequency_penalty: params.frequency_penalty,
        logit_bias: tokens.into_iter().zip(values).collect(),
        seed: params.seed,
        grammar: params.grammar.map(decode_grammar).transpose()?,
    })
}

fn encode_grammar(text: &GrammarText) -> pb::Grammar {
    let text = match text.clone() {
        GrammarText::JsonObject => Text::JsonObject(pb::AnyObject {}),
        GrammarText::JsonSchema(schema) => Text::JsonSchema(schema),
        GrammarText::Lark(source) => Text::Lark(source),
        GrammarText::Regex(expression) => Text::Regex(expression),
    };
    pb::Grammar { text: Some(text) }
}

/// A grammar that is still to be compiled.
fn decode_grammar(grammar: pb::Grammar) -> Result<Grammar, WireError> {
    let text = match grammar.text.ok_or(WireError::Empty)? {
        Text::JsonObject(pb::AnyObject {}) => GrammarText::JsonObject,
        Text::JsonSchema(schema) => GrammarText::JsonSchema(schema),
        Text::Lark(source) => GrammarText::Lark(source),
        Text::Regex(expression) => GrammarText::Regex(expression),
    };
    let (len, max) = (text.len(), GrammarText::MAX_BYTES);
    if len > max { Err(WireError::GrammarTooLong { len, max }) } else { Ok(Grammar::new(text)) }
}

/// Leaves out a parameter at its default of 1, which protobuf would spell out.
fn unless_one(value: f32) -> Option<f32> {
    (value != 1.0).then_some(value)
}
