//! What can go wrong with an agent.

use std::net::SocketAddr;

use sled_core::names::Fingerprint;

/// What can go wrong with an agent; each message is one sentence for the user.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The draft model speaks another vocabulary than the target.
    #[error(
        "the draft model's vocabulary {ours} is not the vocabulary {theirs} of {model}; use a draft model of the same family, or \
         --draft ngram"
    )]
    OtherVocabulary {
        /// The fingerprint of the draft model's.
        ours: Fingerprint,
        /// The fingerprint of the target's.
        theirs: Fingerprint,
        /// The target.
        model: String,
    },
    /// The address for HTTP cannot be listened on.
    #[error("cannot listen on {address}: {}; choose another --port or --host", reason(.source))]
    Bind {
        /// The address that was asked for.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// The target cannot be served over HTTP.
    #[error(transparent)]
    Api(#[from] sled_api::Error),
    /// A session fails, or no server can be used.
    #[error(transparent)]
    Device(#[from] sled_device::Error),
}

impl Error {
    /// Whether it is about servers that are not there, or busy, and may pass.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Device(error) if error.is_passing())
    }
}

fn reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => "another program is using it".to_owned(),
        _ => error.to_string(),
    }
}
