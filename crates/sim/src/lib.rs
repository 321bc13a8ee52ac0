//! Virtual time: the production state machines with cost models, faults and recorded drafts, from a seed.
//!
//! A figure from here is a statement about the shipped code: [`world`] drives `sled-core`'s own device and server, and decides
//! nothing that they decide.
//!
//! | module | what it is |
//! |---|---|
//! | [`world`] | the event loop: devices, servers, connections, faults |
//! | [`network`] | latency, jitter, bandwidth, loss, duplication, reordering |
//! | [`cost`] | how long a forward pass takes |
//! | [`texts`] | what targets generate and drafters propose: recorded, or drawn |
//! | [`recording`], [`replay`] | real drafts, recorded once and replayed |
//! | [`load`] | when devices ask |
//! | [`figures`] | what was measured, of a simulation or of a real server |
//! | [`scenario`] | experiments as files: who meets whom, for how long |
//! | [`experiment`] | devices that replay a recording, in a closed loop |
//! | [`bound`] | how much faster than plain decoding passes with drafts can be |
//! | [`oracle`] | how fast a device could be that knew which drafts are right |
//! | [`profile`] | what machines and models take, cost and draw, and where each number is from |
//! | [`economics`] | what tokens cost |
//! | [`plan`] | how many devices a server will carry, at what cost, and what limits it |
//! | [`theory`] | closed forms: rounds, capacity, queues |
//! | [`paper`] | the paper's tables and figures |
//! | [`rng`] | all the randomness |

pub mod bound;
pub mod cost;
pub mod economics;
mod error;
pub mod experiment;
pub mod figures;
pub mod load;
pub mod network;
pub mod oracle;
pub mod paper;
pub mod plan;
pub mod profile;
pub mod recording;
pub mod replay;
pub mod rng;
pub mod scenario;
pub mod texts;
pub mod theory;
pub mod world;

pub use error::Error;
