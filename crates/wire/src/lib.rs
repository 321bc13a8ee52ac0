//! SLED's messages on the wire: the gRPC service, and the one place where protobuf and core's messages meet.
//!
//! Core's messages become protobuf without fail; what comes from the other side becomes a core message only after every id
//! and length in it was checked against the session's [`Bounds`]. A round costs tens of bytes each way.
//!
//! | file | what it converts |
//! |---|---|
//! | `handshake.rs` | what both sides learn of each other before the first token |
//! | `request.rs` | what a device sends: prompts and draft blocks |
//! | `sampling.rs` | how tokens are to be chosen |
//! | `reply.rs` | what the server sends: commits, and what it lacks |
//! | `vocabulary.rs` | the file with the target's vocabulary, in pieces |
//! | `status.rs` | what the server's sessions are doing, and that it takes no more |
//! | `bounds.rs` | numbers, checked |

mod bounds;
mod error;
mod handshake;
pub mod pb;
mod reply;
mod request;
mod sampling;
mod status;
mod vocabulary;

use bytes::Bytes;
use tonic::body::Body;
use tonic::client::GrpcService;
use tonic::codegen::{Body as HttpBody, StdError};

pub use bounds::Bounds;
pub use error::WireError;
pub use handshake::{
    Description, Open, Opened, check_protocol, decode_description, encode_description, encode_open, encode_opened,
};
pub use pb::sled_client::SledClient;
pub use pb::sled_server::{Sled, SledServer};
pub use reply::{FromServer, decode_server, encode_reply};
pub use request::{FromDevice, decode_device, encode_request};
pub use status::{ListedSession, SessionList, Totals, busy, decode_sessions, encode_sessions, retry_after};
pub use vocabulary::{Checksum, MAX_VOCABULARY_BYTES, VocabularyFile, VocabularyPieces, vocabulary_chunks};

/// The version of the protocol; devices and servers of different versions do not talk.
pub const PROTOCOL: u32 = 5;

/// The largest message that either side sends or takes. Token ids below 2^21 take at most three bytes each, so that a
/// prompt of 128k tokens needs 384 KiB.
pub const MAX_MESSAGE_BYTES: usize = 1 << 20;

/// How many bytes `message` has on the wire, with gRPC's prefix, without HTTP/2's frames.
pub fn wire_bytes(message: &impl prost::Message) -> u64 {
    const PREFIX: u64 = 5;
    message.encoded_len() as u64 + PREFIX
}

/// A client over `transport` that keeps to [`MAX_MESSAGE_BYTES`].
pub fn client<T>(transport: T) -> SledClient<T>
where
    T: GrpcService<Body>,
    T::Error: Into<StdError>,
    T::ResponseBody: HttpBody<Data = Bytes> + Send + 'static,
    <T::ResponseBody as HttpBody>::Error: Into<StdError> + Send,
{
    SledClient::new(transport).max_decoding_message_size(MAX_MESSAGE_BYTES).max_encoding_message_size(MAX_MESSAGE_BYTES)
}

/// The gRPC service of `sled`, which keeps to [`MAX_MESSAGE_BYTES`].
pub fn server<T: Sled>(sled: T) -> SledServer<T> {
    SledServer::new(sled).max_decoding_message_size(MAX_MESSAGE_BYTES).max_encoding_message_size(MAX_MESSAGE_BYTES)
}
