//! The OpenAI-compatible HTTP API, over whatever generates: a device with its link to a server, or a server by itself.
//!
//! [`Api`] can be listened to at once ([`router`]) and answers that the model is loading until it is given a
//! [`Backend`](backend::Backend) to serve.
//!
//! | file | what it decides |
//! |---|---|
//! | `backend.rs` | what is asked of whatever generates |
//! | `listen/` | the ports: who is let in, and for how long |
//! | `router.rs`, `openapi.rs` | the routes, keys, and the document that describes them |
//! | `call.rs` | a request that was let in: its name, its place, its body |
//! | `condition.rs` | whether it can answer, and its figures |
//! | `body.rs` | how much memory requests may take |
//! | `origin.rs` | pages of other sites, which may not ask unless they are named |
//! | `openai/` | what requests may say, and what they are answered |
//! | `generation.rs` | how a job's events become text |
//! | `stream.rs` | answers in pieces, and readers that are slow or gone |
//! | `tools.rs`, `grammar.rs` | the syntax of tool calls: how they are read, and how they are forced |
//! | `metrics.rs` | figures about requests |
//! | `port.rs` | all of it on a port, from before there is a model to its end |

pub mod backend;
mod body;
mod call;
mod condition;
mod error;
mod generation;
mod grammar;
pub mod listen;
mod metrics;
mod openai;
mod openapi;
mod origin;
pub mod pages;
mod port;
mod router;
mod state;
mod stream;
mod tools;

pub use error::Error;
pub use origin::{NotAnOrigin, Origin};
pub use port::HttpPort;
pub use router::router;
pub use state::{Api, Settings};
