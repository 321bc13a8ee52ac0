//! What any bytes must not do to SLED: each function turns bytes into input of one kind, hands it over, and panics where a
//! promise is broken.
//!
//! `fuzz/` runs them under a coverage-guided fuzzer; `tests/replay.rs` runs them over the inputs that were kept in
//! `fuzz/corpus/`.
//!
//! | function | what the bytes become | what is asserted |
//! |---|---|---|
//! | [`wire`] | messages of either side | what is taken is within bounds, and the same after another journey |
//! | [`server`] | sessions that open, send anything, and leave, between passes that run or fail | the law, by digest; the cache's limits; replies that the wire takes |
//! | [`cache`] | what befalls the prefix cache alone | what it finds, gives, gives up and counts, beside a plain list; no text is shown to another owner |
//! | [`device`] | a server that says anything, a drafter, a clock | tokens come in order; what it sends is within bounds; it comes to rest |
//! | [`grammar`], [`template`] | a grammar; a chat template and a message | they end, without a panic, within their bounds |
//! | [`header`] | a GGUF file | it is refused, or loaded and used, and the engine does not end the process |
#![allow(clippy::panic, clippy::expect_used, reason = "a broken promise ends the run")]

mod bytes;
mod cache;
mod device;
mod server;
mod texts;
mod wire;

pub use cache::cache;
pub use device::device;
pub use server::server;
pub use texts::{grammar, header, template};
pub use wire::wire;
