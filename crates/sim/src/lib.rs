//! Virtual time: the production state machines with cost models, faults and recorded drafts, from a seed.

mod error;
pub mod recording;

pub use error::Error;
