//! What device and server learn of each other before the first token.

use sled_core::names::{Fingerprint, PlainText};

use crate::bounds::{narrow, widen};
use crate::pb::device_message::Body as DeviceBody;
use crate::pb::server_message::Body as ServerBody;
use crate::{Bounds, PROTOCOL, VocabularyFile, WireError, pb};

/// The longest name that is taken from the other side.
const MAX_NAME_BYTES: usize = 256;

/// More than any model has: tokens in a vocabulary, and tokens in a text.
const MAX_VOCABULARY: usize = 1 << 24;
const MAX_CONTEXT: usize = 1 << 28;

/// What a server serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// The version of the server's program.
    pub version: PlainText,
    /// What requests call the target model; empty if the server has no name for it.
    pub name: PlainText,
    /// What the target model is, for people.
    pub model: PlainText,
    /// Names the target model by its content.
    pub model_fingerprint: Fingerprint,
    /// Names the vocabulary by its content.
    pub vocabulary_fingerprint: Fingerprint,
    /// The file with the vocabulary.
    pub vocabulary_file: VocabularyFile,
    /// What sessions are bound to.
    pub bounds: Bounds,
}

/// A device's first message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// What the device calls itself, for logs.
    pub device: PlainText,
    /// The vocabulary that the device's token ids are from.
    pub vocabulary_fingerprint: Fingerprint,
    /// The target that the device expects; `None` if any will do.
    pub model_fingerprint: Option<Fingerprint>,
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
        version: description.version.into(),
        name: description.name.into(),
        model: description.model.into(),
        model_fingerprint: description.model_fingerprint.to_string(),
        vocabulary_fingerprint: description.vocabulary_fingerprint.to_string(),
        vocabulary_bytes: description.vocabulary_file.bytes,
        vocabulary_sha256: description.vocabulary_file.encode_checksum(),
        vocabulary_size: narrow(description.bounds.vocabulary_size),
        context: narrow(description.bounds.context),
        max_draft: narrow(description.bounds.max_draft),
    }
}

/// Reads what a server answered to `Describe`.
///
/// # Errors
/// If the server speaks another version of the protocol, or what it says of itself cannot be.
pub fn decode_description(message: pb::ServerDescription) -> Result<Description, WireError> {
    check_protocol(message.protocol)?;
    Ok(Description {
        version: name("server's version", message.version)?,
        name: name("model's name", message.name)?,
        model: name("model's description", message.model)?,
        model_fingerprint: fingerprint("model's fingerprint", &message.model_fingerprint)?,
        vocabulary_fingerprint: fingerprint("vocabulary's fingerprint", &message.vocabulary_fingerprint)?,
        vocabulary_file: VocabularyFile::decode(message.vocabulary_bytes, &message.vocabulary_sha256)?,
        bounds: Bounds {
            vocabulary_size: plausible("a vocabulary", message.vocabulary_size, MAX_VOCABULARY)?,
            context: plausible("a context", message.context, MAX_CONTEXT)?,
            max_draft: widen(message.max_draft),
        },
    })
}

/// A device's first message.
#[must_use]
pub fn encode_open(open: Open) -> pb::DeviceMessage {
    let body = pb::Open {
        protocol: PROTOCOL,
        device: open.device.into(),
        vocabulary_fingerprint: open.vocabulary_fingerprint.to_string(),
        model_fingerprint: open.model_fingerprint.map(|expected| expected.to_string()).unwrap_or_default(),
    };
    pb::DeviceMessage { body: Some(DeviceBody::Open(body)) }
}

pub(crate) fn decode_open(open: pb::Open) -> Result<Open, WireError> {
    check_protocol(open.protocol)?;
    let expected = (!open.model_fingerprint.is_empty()).then_some(open.model_fingerprint);
    Ok(Open {
        device: name("device's name", open.device)?,
        vocabulary_fingerprint: fingerprint("vocabulary's fingerprint", &open.vocabulary_fingerprint)?,
        model_fingerprint: expected.map(|expected| fingerprint("model's fingerprint", &expected)).transpose()?,
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

fn fingerprint(what: &'static str, text: &str) -> Result<Fingerprint, WireError> {
    text.parse().map_err(|_none| WireError::WrongFingerprint { what })
}

fn plausible(what: &'static str, value: u32, max: usize) -> Result<usize, WireError> {
    let value = widen(value);
    if value > max { Err(WireError::Implausible { what, value, max }) } else { Ok(value) }
}

/// A name, fit to be shown.
pub(crate) fn name(what: &'static str, name: String) -> Result<PlainText, WireError> {
    check_name(what, &name)?;
    Ok(name.into())
}

pub(crate) fn check_name(what: &'static str, name: &str) -> Result<(), WireError> {
    if name.len() > MAX_NAME_BYTES {
        return Err(WireError::NameTooLong { what, len: name.len(), max: MAX_NAME_BYTES });
    }
    Ok(())
}
