//! What can go wrong on a device.

use std::path::PathBuf;

use sled_core::names::{Fingerprint, PlainText};
use tonic::{Code, Status};

use crate::remedy::{Phase, Remedy};

/// What can go wrong on a device; each message is one sentence for the user.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What was given as a server is no address.
    #[error("`{0}` is not a server address; use http://HOST:PORT, say http://127.0.0.1:7600")]
    Address(String),
    /// Nobody answers.
    #[error("cannot reach the server at {url} ({reason}); start it with `sled serve -m MODEL`, or check --server")]
    Unreachable {
        /// The address that was tried.
        url: String,
        /// What the transport says.
        reason: PlainText,
    },
    /// None of several servers can be used for now.
    #[error("no server can be used ({0}); start one with `sled serve -m MODEL`, or check --server")]
    NoServer(PlainText),
    /// The server refused, or ended the session.
    #[error("{0}")]
    Refused(PlainText),
    /// The server takes no more sessions for now.
    #[error("{reason}; try again in {} s", .after.as_secs().max(1))]
    Busy {
        /// What the server says.
        reason: PlainText,
        /// How long it asks to be left alone.
        after: std::time::Duration,
    },
    /// The connection broke in the middle of a session.
    #[error("the connection to the server broke ({0}); run the command again")]
    Broken(PlainText),
    /// The server sent what cannot be.
    #[error("the server sent what cannot be: {0}")]
    Wire(#[from] sled_wire::WireError),
    /// The vocabulary cannot be kept.
    #[error("cannot write the server's vocabulary to {}: {source}; check that the folder is writable", .path.display())]
    VocabularyFile {
        /// Where it should go.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The vocabulary that the server sent is not the one that it announced.
    #[error("the server announced the vocabulary {announced} but sent {sent}; run the same version of sled on both")]
    VocabularyMismatch {
        /// The fingerprint that the server gave.
        announced: Fingerprint,
        /// The fingerprint of what came.
        sent: Fingerprint,
    },
    /// The vocabulary comes too slowly.
    #[error("the server sends its vocabulary too slowly or not at all; check the network, or look for another server")]
    SlowVocabulary,
    /// The vocabulary could not be read to its end.
    #[error("the vocabulary could not be read to its end; run the command again")]
    Interrupted,
    /// The file with the vocabulary is not one that the engine reads.
    #[error(transparent)]
    UnreadableVocabulary(Box<dyn std::error::Error + Send + Sync>),
    /// The drafter's thread is gone.
    #[error("the draft model stopped working; run the command again")]
    DrafterGone,
    /// The drafter's thread cannot be started.
    #[error("cannot start the drafting thread: {0}; the system may be out of memory or threads")]
    Thread(#[source] std::io::Error),
    /// The model failed, or cannot be used.
    #[error(transparent)]
    Model(#[from] sled_model::Error),
    /// A sampling parameter is out of range.
    #[error(transparent)]
    Sampling(#[from] sled_core::sampler::SamplingError),
}

impl Error {
    /// What went wrong with a server, without advice.
    pub(crate) fn in_brief(&self) -> String {
        match self {
            Self::Unreachable { url, reason } => format!("{url}: {reason}"),
            Self::Broken(reason) | Self::Refused(reason) | Self::Busy { reason, .. } => reason.to_string(),
            other => other.to_string(),
        }
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        match Remedy::of(&status, Phase::Opening) {
            Remedy::Later(after) => Self::Busy { reason: reason_of(&status), after },
            Remedy::Reconnect => Self::Broken(reason_of(&status)),
            Remedy::Elsewhere | Remedy::End if status.code() == Code::Unimplemented => {
                Self::Refused("what answers there is not a SLED server; check --server".into())
            }
            Remedy::Elsewhere | Remedy::End => Self::Refused(reason_of(&status)),
        }
    }
}

/// Why a server, or the transport in its place, ended a call.
pub(crate) fn reason_of(status: &Status) -> PlainText {
    if std::error::Error::source(status).is_some() { brief(status) } else { status.message().into() }
}

/// The innermost cause, which is what a user can make sense of.
pub(crate) fn brief(error: &(dyn std::error::Error + 'static)) -> PlainText {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string().into()
}
