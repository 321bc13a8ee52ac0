//! The device: an async shell around the core's device side.
//!
//! `link` reaches a server, `connection` is an open stream to it, `vocabulary` makes sure that text means the same on both
//! sides, `drafting` is the thread that the drafter runs on, and `session` carries out what the core's [`Device`](sled_core::device::Device) decides.

mod connection;
mod drafting;
mod error;
mod link;
mod local;
mod session;
mod vocabulary;

pub use error::Error;
pub use link::Link;
pub use local::decode_locally;
pub use session::{Generation, Session, SessionOptions};
pub use vocabulary::{download_vocabulary, obtain_vocabulary};
