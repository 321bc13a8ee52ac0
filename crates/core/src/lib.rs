//! The law of SLED, in code, without IO.
//!
//! *The output depends on the target model, the prompt, the sampling parameters and the seed, and on nothing else*:
//! not on the draft model, the draft length, batching, the network, a retry or a restart. This crate holds everything
//! that the law rests on, as state machines that take time and results as arguments and hand actions out: no clock, no
//! socket, no thread, no model. The server, the device, the simulator and the tests all drive these same machines.
//!
//! | module | what it decides |
//! |---|---|
//! | [`sampler`] | the token that a model chooses at a position |
//! | [`sequence`] | what the tokens of a session are, and how a prefix is named in a message |
//! | [`message`] | what devices and the server say to each other |
//! | [`policy`], [`calibration`] | how long a draft block gets |
//! | [`acceptance`] | how far verdicts accept drafts, counted |
//! | [`device`] | the device's side of a session |
//! | [`server`] | the server's side: sessions, acceptance, the next forward pass |
//! | [`names`] | nothing: names and texts from outside, which can do no harm |
//! | [`suspicion`] | whose fault it is that a pass failed which many shared |
//! | [`splitmix`] | hashes and random numbers |
//! | [`text`] | where committed bytes become text, and where a stop string ends it |

pub mod acceptance;
pub mod calibration;
pub mod cost;
pub mod device;
pub mod message;
pub mod names;
pub mod policy;
pub mod sampler;
pub mod sequence;
pub mod server;
pub mod splitmix;
pub mod step;
pub mod suspicion;
pub mod text;
mod tuning;

/// A token id in the target's vocabulary.
pub type Token = u32;

/// An absolute index of a token in its sequence; the first prompt token has position 0.
pub type Position = usize;
