//! llama.cpp as an engine: GGUF models, their vocabularies, and a KV cache of many sequences.
//!
//! | item | what it is |
//! |---|---|
//! | [`LlamaModel`] | loaded weights, shared between threads and contexts |
//! | [`LlamaEngine`] | a context on them: a [`Model`](sled_model::Model) with a cache of its own |
//! | [`load_vocabulary`] | the [`Vocab`](sled_model::vocabulary::Vocab) of a model file or of a vocabulary file |
//! | [`vocabulary_file`] | makes a vocabulary file: what a device needs to tokenise for a target that it does not hold |
//! | [`Footprint`] | what a model will take of the memory, by the header of its file |
//! | [`System`] | what llama.cpp was built for, and what it finds here |
//! | [`requantize`] | makes a copy of a model file in another [`Format`] |

mod charsmap;
mod convert;
mod engine;
mod error;
mod ffi;
mod file;
mod footprint;
mod format;
mod header;
mod memory;
mod model;
mod parts;
mod runs;
mod system;
mod vocab;

pub use convert::{requantize, vocabulary_file};
pub use engine::{EngineOptions, LlamaEngine};
pub use error::Error;
pub use footprint::{CacheType, Footprint};
pub use format::Format;
pub use model::{Description, LlamaModel, LoadOptions};
pub use system::{Gpu, System, leave};
pub use vocab::load_vocabulary;

#[cfg(test)]
extern crate self as sled_llama;
#[cfg(test)]
#[path = "../tests/support/vocabulary.rs"]
#[allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used)]
mod vocabulary;
