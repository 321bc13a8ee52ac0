//! Sampling parameters: what a user may ask for, checked once.

use crate::Token;

/// What a user may ask of the sampler. Defaults are greedy decoding without penalties.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams {
    /// Divides the logits; 0 is greedy decoding. In `0..=100`.
    pub temperature: f32,
    /// Keep the `top_k` largest logits; 0 keeps all.
    pub top_k: u32,
    /// Keep the smallest set of tokens whose probabilities (at temperature 1) sum to at least `top_p`; 1 keeps all. In `0..=1`.
    pub top_p: f32,
    /// Keep tokens at least `min_p` times as probable (at temperature 1) as the most probable one; 0 keeps all. In `0..=1`.
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
    /// Which of the possible outputs is chosen.
    pub seed: u64,
}

impl SamplingParams {
    /// The most entries that `logit_bias` may have.
    pub const MAX_LOGIT_BIAS: usize = 1024;
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
            seed: 0,
        }
    }
}
