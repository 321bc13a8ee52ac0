//! What computes logits: the engine trait, a synthetic model, drafters; vocabularies and what is made of them; and where models come
//! from.

pub mod catalog;
pub mod chat;
pub mod drafter;
pub mod error;
pub mod grammar;
pub mod ngram;
pub mod prompt;
mod pulse;
pub mod reference;
pub mod synthetic;
pub mod vocabulary;
pub mod workers;

pub use error::Error;
pub use pulse::Pulse;

use sled_core::Token;
use sled_core::server::{Assist, Batching, ServerConfig, Tuning};
use sled_core::step::{CacheOp, Row};

/// What an engine can hold and do at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How many tokens the vocabulary has: the length of a row of logits.
    pub vocab_size: usize,
    /// How many tokens the KV cache holds, over all sequences.
    pub cells: usize,
    /// How many sequences the KV cache tells apart.
    pub sequences: usize,
    /// How many rows one forward pass may have.
    pub rows: usize,
    /// How long a single sequence may get.
    pub context: usize,
}

impl Limits {
    /// A server of an engine with these limits, where `end_of_generation` end an answer: it lets in whoever comes, and batches and
    /// assists as servers do by default.
    #[must_use]
    pub fn server_config(self, end_of_generation: Vec<Token>) -> ServerConfig {
        let Self { vocab_size, cells, sequences, rows, context } = self;
        ServerConfig {
            vocab_size,
            cells,
            sequences,
            rows,
            context,
            end_of_generation,
            sessions: usize::MAX,
            queue: usize::MAX,
            batching: Batching::default(),
            assist: Assist::default(),
            rate_goal: None,
            tuning: Tuning::default(),
        }
    }
}

/// A model with a KV cache of many sequences: what the server verifies with and what a model drafter drafts with.
pub trait Model: Send {
    /// What it can hold and do at once.
    fn limits(&self) -> Limits;

    /// Changes the cache.
    ///
    /// # Errors
    /// If a sequence or a length is out of range, or the engine refuses.
    fn apply(&mut self, op: CacheOp) -> Result<(), Error>;

    /// Evaluates `rows`, of any number of sequences, in one forward pass, and adds them to the cache.
    ///
    /// # Errors
    /// If a row is out of range or does not extend its sequence's cache, or the engine fails. After an error the cache
    /// of every sequence in `rows` is undefined until it is truncated to 0.
    fn forward(&mut self, rows: &[Row]) -> Result<(), Error>;

    /// The logits that row `row` of the last pass computed, in place; one for each token of the vocabulary.
    ///
    /// # Errors
    /// If that row did not ask for logits.
    fn logits(&self, row: usize) -> Result<&[f32], Error>;

    /// Shows, while a pass runs, that it gets on; `None` if nothing does.
    fn pulse(&self) -> Option<Pulse> {
        None
    }
}
