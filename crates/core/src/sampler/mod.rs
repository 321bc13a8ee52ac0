//! The coupled sampler (see params.rs); API fixed, body to be written.
mod params;
pub use params::SamplingParams;
use crate::{Position, Token};

/// What is known of a sequence when its next token is chosen.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// All tokens before the position that is chosen for: prompt, committed tokens and, while drafting or verifying, the drafts before it.
    pub tokens: &'a [Token],
    /// How many of `tokens` are the prompt; the rest was generated.
    pub prompt_len: usize,
}

/// A checked set of sampling parameters for a vocabulary, ready to choose tokens.
#[derive(Clone, Debug)]
pub struct Sampler { params: SamplingParams, vocab_size: usize }

/// Why sampling parameters are refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SamplingError {
    /// A parameter is outside its range (or not a number).
    #[error("{name} is {value}; it must be between {min} and {max}")]
    OutOfRange { name: &'static str, value: f32, min: f32, max: f32 },
    /// Too many logit biases.
    #[error("logit_bias has {len} entries; at most {max} are allowed")]
    TooManyBiases { len: usize, max: usize },
    /// A logit bias for a token that the vocabulary lacks.
    #[error("logit_bias names token {token}, but the vocabulary has {vocab_size} tokens")]
    UnknownToken { token: Token, vocab_size: usize },
}

/// A token chosen by a drafter with the probability that its model gave it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Draft {
    /// The proposed token.
    pub token: Token,
    /// The drafter's probability of it, in `0..=1`.
    pub confidence: f32,
}

impl Sampler {
    /// Checks `params` for a vocabulary of `vocab_size` tokens.
    pub fn new(params: SamplingParams, vocab_size: usize) -> Result<Self, SamplingError> { Ok(Self { params, vocab_size }) }
    /// The checked parameters.
    pub fn params(&self) -> &SamplingParams { &self.params }
    /// The model's choice at `position` = `context.tokens.len()`.
    pub fn choose(&self, logits: &[f32], context: Context<'_>) -> Token { let _ = (logits, context); 0 }
    /// The choice with its confidence.
    pub fn draft(&self, logits: &[f32], context: Context<'_>) -> Draft { Draft { token: self.choose(logits, context), confidence: 1.0 } }
    /// How far `token` is behind the choice, in logits.
    pub fn shortfall(&self, logits: &[f32], context: Context<'_>, token: Token) -> f32 { let _ = (logits, context, token); 0.0 }
}
