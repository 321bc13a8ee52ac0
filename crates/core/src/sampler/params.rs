//! Sampling parameters: what a user may ask for, checked once.

use super::Grammar;
use crate::Token;

/// What a user may ask of the sampler. Defaults are greedy decoding without penalties.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams {
    /// Divides the logits; 0 is greedy decoding. In `0..=100`.
    pub temperature: f32,
    /// Keep the `top_k` largest logits; 0 keeps all.
    pub top_k: u32,
    /// Keep the smallest set of tokens whose probabilities (at temperature 1) sum to at least `top_p`; 1 keeps all. In
    /// `0..=1`.
    pub top_p: f32,
    /// Keep tokens at least `min_p` times as probable (at temperature 1) as the most probable one; 0 keeps all. In
    /// `0..=1`.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of every token seen so far, prompt included (Keskar et al., CTRL,
    /// 2019); 1 is off. In `0.01..=100`.
    pub repetition_penalty: f32,
    /// Subtracted once from the logit of every generated token (OpenAI's definition); 0 is off. In `-100..=100`.
    pub presence_penalty: f32,
    /// Subtracted from the logit of a generated token once for each time it was generated; 0 is off. In `-100..=100`.
    pub frequency_penalty: f32,
    /// Added to the logits of single tokens, each in `-100..=100`; at most [`SamplingParams::MAX_LOGIT_BIAS`] of them.
    pub logit_bias: Vec<(Token, f32)>,
    /// What the answer must look like; it ends where the grammar does.
    pub grammar: Option<Grammar>,
    /// Which of the possible outputs is chosen.
    pub seed: u64,
}

/// Why sampling parameters are refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SamplingError {
    /// A parameter is outside its range (or not a number).
    #[error("{name} is {value}; it must be between {min} and {max}")]
    OutOfRange {
        /// The parameter, by its name in [`SamplingParams`].
        name: &'static str,
        /// What was asked for.
        value: f32,
        /// The least that is allowed.
        min: f32,
        /// The most that is allowed.
        max: f32,
    },
    /// Too many logit biases.
    #[error("logit_bias has {len} entries; at most {max} are allowed")]
    TooManyBiases {
        /// How many were asked for.
        len: usize,
        /// How many are allowed.
        max: usize,
    },
    /// A logit bias for a token that the vocabulary lacks.
    #[error("logit_bias names token {token}, but the vocabulary has {vocab_size} tokens")]
    UnknownToken {
        /// The token that was named.
        token: Token,
        /// How many tokens there are.
        vocab_size: usize,
    },
    /// A grammar that nobody has compiled.
    #[error("no grammar can be followed here, because nothing compiles it; ask without one")]
    GrammarNotCompiled,
}

impl SamplingParams {
    /// The most entries that `logit_bias` may have.
    pub const MAX_LOGIT_BIAS: usize = 1024;

    /// Whether every parameter is in its range, for a vocabulary of `vocab_size` tokens.
    pub(super) fn check(&self, vocab_size: usize) -> Result<(), SamplingError> {
        in_range("temperature", self.temperature, 0.0, 100.0)?;
        in_range("top_p", self.top_p, 0.0, 1.0)?;
        in_range("min_p", self.min_p, 0.0, 1.0)?;
        in_range("repetition_penalty", self.repetition_penalty, 0.01, 100.0)?;
        in_range("presence_penalty", self.presence_penalty, -100.0, 100.0)?;
        in_range("frequency_penalty", self.frequency_penalty, -100.0, 100.0)?;
        let (len, max) = (self.logit_bias.len(), Self::MAX_LOGIT_BIAS);
        if len > max {
            return Err(SamplingError::TooManyBiases { len, max });
        }
        for &(token, bias) in &self.logit_bias {
            in_range("logit_bias", bias, -100.0, 100.0)?;
            if token as usize >= vocab_size {
                return Err(SamplingError::UnknownToken { token, vocab_size });
            }
        }
        Ok(())
    }
}

fn in_range(name: &'static str, value: f32, min: f32, max: f32) -> Result<(), SamplingError> {
    if (min..=max).contains(&value) { Ok(()) } else { Err(SamplingError::OutOfRange { name, value, min, max }) }
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            grammar: None,
            seed: 0,
        }
    }
}
