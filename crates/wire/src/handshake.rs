//! What device and server learn of each other before the first token.

use bytes::Bytes;

use crate::bounds::{narrow, widen};
use crate::pb::device_message::Body as DeviceBody;
use crate::pb::server_message::Body as ServerBody;
use crate::{Bounds, PROTOCOL, WireError, pb};

/// The longest name or fingerprint that is taken from the other side.
const MAX_NAME_BYTES: usize = 256;

/// The vocabulary travels in pieces of this size.
const VOCABULARY_CHUNK_BYTES: usize = 256 << 10;

/// What a server serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// The version of the server's program.
    pub version: String,
    /// What requests call the target model; empty if the server has no name for it.
    pub name: String,
    /// What the target model is, for people.
    pub model: String,
    /// Names the target model by its content: 16 hexadecimal digits.
    pub model_fingerprint: String,
    /// Names the vocabulary by its content: 16 hexadecimal digits.
    pub vocabulary_fingerprint: String,
    /// What sessions are bound to.
    pub bounds: Bounds,
}

/// A device's first message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// What the device calls itself, for logs.
    pub device: String,
    /// The vocabulary that the device's token ids are from.
    pub vocabulary_fingerprint: String,
    /// The target that the device expects; `None` if any will do.
    pub model_fingerprint: Option<String>,
}

/// The server's first message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The most tokens that this session may have.
    pub context: usize,
    /// The longest draft block that the server takes, in tokens.
    pub max_draft: usize,
}

/// Checks that the other side speaks this version of the protocol.
///
/// # Errors
/// [`WireError::Protocol`] if it does not.
pub fn check_protocol(theirs: u32) -> Result<(), WireError> {
    if theirs == PROTOCOL { Ok(()) } else { Err(WireError::Protocol { theirs }) }
}

/// What a server answers to `Describe`.
#[must_use]
pub fn encode_description(description: Description) -> pb::ServerDescription {
    pb::ServerDescription {
        protocol: PROTOCOL,
        version: description.version,
        name: description.name,
        model: description.model,
        model_fingerprint: description.model_fingerprint,
        vocabulary_fingerprint: description.vocabulary_fingerprint,
        vocabulary_size: narrow(description.bounds.vocabulary_size),
        context: narrow(description.bounds.context),
        max_draft: narrow(description.bounds.max_draft),
    }
}

/// Reads what a server answered to `Describe`.
///
/// # Errors
/// If the server speaks another version of the protocol, or a name is too long.
pub fn decode_description(message: pb::ServerDescription) -> Result<Description, WireError> {
    check_protocol(message.protocol)?;
    Ok(Description {
        version: name("server's version", message.version)?,
        name: name("model's name", message.name)?,
        model: name("model's description", message.model)?,
        model_fingerprint: name("model's fingerprint", message.model_fingerprint)?,
        vocabulary_fingerprint: name("vocabulary's fingerprint", message.vocabulary_fingerprint)?,
        bounds: Bounds {
            vocabulary_size: widen(message.vocabulary_size),
            context: widen(message.context),
            max_draft: widen(message.max_draft),
        },
    })
}

/// A device's first message.
#[must_use]
pub fn encode_open(open: Open) -> pb::DeviceMessage {
    let body = pb::Open {
        protocol: PROTOCOL,
        device: open.device,
        vocabulary_fingerprint: open.vocabulary_fingerprint,
        model_fingerprint: open.model_fingerprint.unwrap_or_default(),
    };
    pb::DeviceMessage { body: Some(DeviceBody::Open(body)) }
}

pub(crate) fn decode_open(open: pb::Open) -> Result<Open, WireError> {
    check_protocol(open.protocol)?;
    let model_fingerprint = name("model's fingerprint", open.model_fingerprint)?;
    Ok(Open {
        device: name("device's name", open.device)?,
        vocabulary_fingerprint: name("vocabulary's fingerprint", open.vocabulary_fingerprint)?,
        model_fingerprint: (!model_fingerprint.is_empty()).then_some(model_fingerprint),
    })
}

/// The server's first message.
#[must_use]
pub fn encode_opened(opened: Opened) -> pb::ServerMessage {
    let body = pb::Opened { context: narrow(opened.context), max_draft: narrow(opened.max_draft) };
    pb::ServerMessage { body: Some(ServerBody::Opened(body)) }
}

pub(crate) fn decode_opened(opened: pb::Opened) -> Opened {
    Opened { context: widen(opened.context), max_draft: widen(opened.max_draft) }
}

/// Cuts a vocabulary file into messages, without copying it.
pub fn vocabulary_chunks(mut file: Bytes) -> impl Iterator<Item = pb::VocabularyChunk> {
    std::iter::from_fn(move || {
        let len = file.len().min(VOCABULARY_CHUNK_BYTES);
        (len > 0).then(|| pb::VocabularyChunk { data: file.split_to(len) })
    })
}

pub(crate) fn name(what: &'static str, name: String) -> Result<String, WireError> {
    if name.len() > MAX_NAME_BYTES {
        return Err(WireError::NameTooLong { what, len: name.len(), max: MAX_NAME_BYTES });
    }
    Ok(name)
}
