//! The device: an async shell around the core's device side.
//!
//! `remedy` decides what a failure means, `race` asks several servers at once, `remote` reaches a server, `connection` is an open
//! stream to it, `vocabulary` makes sure that text means the same on both sides, `drafting` is the thread that the drafter runs on,
//! for one session or for many, and `session` carries out what the core's [`Device`](sled_core::device::Device) decides.

mod connection;
mod counters;
mod drafting;
mod error;
mod race;
mod remedy;
mod remote;
mod session;
mod vocabulary;

pub use counters::Counters;
pub use drafting::{Drafts, SharedDrafter};
pub use error::Error;
pub use remote::RemoteServer;
pub use session::{Generation, Progress, Session, SessionOptions};
pub use vocabulary::{ReadVocabulary, Vocabularies, download_vocabulary};
