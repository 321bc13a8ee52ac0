//! What a device sends.

use sled_core::message::{ContextUpdate, DraftBlock, Request};
use sled_core::sampler::SamplingParams;
use sled_core::sequence::Digest;

use crate::bounds::{narrow, widen};
use crate::handshake::decode_open;
use crate::pb::device_message::Body;
use crate::{Bounds, Open, WireError, pb};

/// A device's message.
#[derive(Clone, Debug, PartialEq)]
pub enum FromDevice {
    /// The first one of a session.
    Open(Open),
    /// Any later one.
    Request(Request),
}

/// A request as a message.
#[must_use]
pub fn encode_request(request: Request) -> pb::DeviceMessage {
    let body = match request {
        Request::Context(update) => Body::Context(encode_context(update)),
        Request::Draft(block) => Body::Draft(encode_draft(block)),
        Request::Stop(turn) => Body::Stop(pb::Stop { turn }),
    };
    pb::DeviceMessage { body: Some(body) }
}

/// Reads a device's message.
///
/// # Errors
/// If anything in it is outside `bounds`, or it is of no known kind or protocol. Sampling parameters are checked by
/// [`sled_core::sampler::Sampler::new`] for their ranges.
pub fn decode_device(message: pb::DeviceMessage, bounds: &Bounds) -> Result<FromDevice, WireError> {
    match message.body.ok_or(WireError::Empty)? {
        Body::Open(open) => decode_open(open).map(FromDevice::Open),
        Body::Context(update) => Ok(FromDevice::Request(Request::Context(decode_context(update, bounds)?))),
        Body::Stop(pb::Stop { turn }) => Ok(FromDevice::Request(Request::Stop(turn))),
        Body::Draft(block) => Ok(FromDevice::Request(Request::Draft(decode_draft(block, bounds)?))),
    }
}

fn encode_context(update: ContextUpdate) -> pb::ContextUpdate {
    pb::ContextUpdate {
        turn: update.turn,
        from: narrow(update.from),
        built_on: update.built_on.0,
        tokens: update.tokens,
        prompt_len: narrow(update.prompt_len),
        sampling: Some(encode_sampling(update.sampling)),
        limit: narrow(update.limit),
    }
}

fn decode_context(update: pb::ContextUpdate, bounds: &Bounds) -> Result<ContextUpdate, WireError> {
    let from = widen(update.from);
    let len = from.saturating_add(update.tokens.len());
    bounds.check_len(len)?;
    bounds.check_tokens(&update.tokens)?;
    let prompt_len = widen(update.prompt_len);
    if prompt_len > len {
        return Err(WireError::PromptBeyondText { prompt_len, len });
    }
    Ok(ContextUpdate {
        turn: update.turn,
        from,
        built_on: Digest(update.built_on),
        tokens: update.tokens,
        prompt_len,
        // No sequence gets longer than the context: to ask for more is to ask for all of it.
        limit: widen(update.limit).min(bounds.context),
        sampling: decode_sampling(update.sampling.unwrap_or_default(), bounds)?,
    })
}

fn encode_draft(block: DraftBlock) -> pb::DraftBlock {
    pb::DraftBlock {
        turn: block.turn,
        from: narrow(block.from),
        built_on: block.built_on.0,
        tokens: block.tokens,
        until: narrow(block.until),
    }
}

fn decode_draft(block: pb::DraftBlock, bounds: &Bounds) -> Result<DraftBlock, WireError> {
    let len = block.tokens.len();
    if len > bounds.max_draft {
        return Err(WireError::DraftTooLong { len, max_draft: bounds.max_draft });
    }
    let from = widen(block.from);
    bounds.check_len(from.saturating_add(len))?;
    bounds.check_tokens(&block.tokens)?;
    Ok(DraftBlock {
        turn: block.turn,
        from,
        built_on: Digest(block.built_on),
        tokens: block.tokens,
        until: widen(block.until).min(bounds.context),
    })
}

fn encode_sampling(params: SamplingParams) -> pb::SamplingParams {
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
    }
}

fn decode_sampling(params: pb::SamplingParams, bounds: &Bounds) -> Result<SamplingParams, WireError> {
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
    })
}

/// Leaves out a parameter at its default of 1, which protobuf would spell out.
fn unless_one(value: f32) -> Option<f32> {
    (value != 1.0).then_some(value)
}
