//! What a device sends.

use sled_core::message::{ContextUpdate, DraftBlock, Request};
use sled_core::sampler::Logprobs;
use sled_core::sequence::Digest;

use crate::bounds::{narrow, widen};
use crate::handshake::{check_name, decode_open};
use crate::pb::device_message::Body;
use crate::sampling::{decode_sampling, encode_sampling};
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
        logprobs: update.logprobs.map(u32::from),
        request_id: update.request_id.unwrap_or_default(),
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
    let logprobs = update.logprobs.map(decode_top).transpose()?;
    let request_id = update.request_id;
    check_name("request's id", &request_id)?;
    if request_id.chars().any(char::is_control) {
        return Err(WireError::Unprintable { what: "request's id" });
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
        logprobs,
        request_id: (!request_id.is_empty()).then_some(request_id),
    })
}

/// How many of the most likely tokens are wanted.
fn decode_top(wanted: u32) -> Result<u8, WireError> {
    let max = Logprobs::MAX_TOP;
    u8::try_from(wanted).ok().filter(|&top| top <= max).ok_or(WireError::TooManyLogprobs { len: widen(wanted), max })
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
