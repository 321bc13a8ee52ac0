//! The coupled sampler: the token that a model chooses at a position.
//!
//! The choice is a function of logits, context, parameters, seed and position:
//!
//! 1. The logits of tokens that the grammar forbids, if there is one, become -inf.
//! 2. Penalties and biases change the logits of single tokens: the repetition penalty first, then presence and
//!    frequency, then the bias.
//! 3. At temperature 0 the largest logit `z` wins.
//! 4. Otherwise top-k, top-p and min-p leave some of the tokens, in this order. Top-p is measured at temperature 1 over
//!    what top-k left, min-p at temperature 1 against the most likely token. Among those left the largest
//!    `z_i / temperature + G_i` wins, where `G_i = -ln(-ln u_i)` and `u_i` in (0, 1) is a hash of seed, position and
//!    token.
//!
//! Equals are settled for the lowest id, in the truncations as well. By the Gumbel-max trick the tokens are chosen with
//! the probabilities of softmax. Two models with the same noise and similar logits mostly choose the same token, so a
//! device can propose what the server is going to choose, and the server need only compare (Daliri, Musco & Suresh,
//! *Coupling without communication and drafter-invariant speculative decoding*, 2024).
//!
//! Logits may be any numbers: NaN counts as -inf, +inf as the largest finite number. A token at -inf is never chosen; if
//! all are, the choice is token 0, or the first that the grammar allows. All results are the same on every machine that is given the same logits.

mod grammar;
mod logprobs;
mod math;
mod noise;
mod params;
mod penalty;
mod row;
mod token_set;
mod truncation;

use std::borrow::Cow;
use std::sync::Arc;

pub use grammar::{Constraint, Grammar, GrammarText, Matcher};
pub use logprobs::Logprobs;
pub use params::{SamplingError, SamplingParams};
pub use token_set::TokenSet;

use crate::Token;
use grammar::Follower;
use noise::Noise;
use row::{CHUNK, Rank, Row};

/// What is known of a sequence when its next token is chosen.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// All tokens before the position that is chosen for: prompt, committed tokens and, while drafting or verifying,
    /// the drafts before it.
    pub tokens: &'a [Token],
    /// How many of `tokens` are the prompt; the rest was generated.
    pub prompt_len: usize,
}

/// A token chosen by a drafter with the probability that its model gave it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Draft {
    /// The proposed token.
    pub token: Token,
    /// The drafter's probability of it, in `0..=1`.
    pub confidence: f32,
}

/// A checked set of sampling parameters for a vocabulary, ready to choose tokens.
///
/// `logits` are one row of a model's output, the logit of token `i` at index `i`. What is beyond the vocabulary is
/// ignored; tokens that a short row lacks are never chosen.
///
/// With a grammar it keeps what it has followed of an answer, and follows from there what the context adds; to ask about
/// another text than before is right and costs a little. Clones share that.
#[derive(Clone, Debug)]
pub struct Sampler {
    params: SamplingParams,
    vocab_size: usize,
    grammar: Option<Arc<Follower>>,
}

/// The winner and what it won with.
struct Choice {
    token: Token,
    /// `z / temperature + G`, or `z` at temperature 0.
    score: f64,
}

impl Sampler {
    /// Checks `params` for a vocabulary of `vocab_size` tokens.
    ///
    /// # Errors
    ///
    /// The first parameter that is out of its range, and which range that is; or that the grammar is not compiled.
    pub fn new(params: SamplingParams, vocab_size: usize) -> Result<Self, SamplingError> {
        params.check(vocab_size)?;
        let follow = |grammar: &Grammar| grammar.follow().map(Arc::new).ok_or(SamplingError::GrammarNotCompiled);
        let grammar = params.grammar.as_ref().map(follow).transpose()?;
        Ok(Self { params, vocab_size, grammar })
    }

    /// The checked parameters.
    pub fn params(&self) -> &SamplingParams {
        &self.params
    }

    /// The model's choice at position `context.tokens.len()`.
    pub fn choose(&self, logits: &[f32], context: Context<'_>) -> Token {
        let row = self.row(logits, context);
        match row.best() {
            Some(best) => self.pick(&row, best, self.cut(&row, best), context).token,
            None => self.fallback(context),
        }
    }

    /// Whether the grammar, if there is one, lets `token` follow.
    pub fn allows(&self, context: Context<'_>, token: Token) -> bool {
        self.grammar.as_ref().is_none_or(|grammar| {
            let allowed = grammar.allowed(context, |allowed| allowed.contains(token));
            allowed.unwrap_or(false)
        })
    }

    /// Why the grammar cannot be followed, if that has turned out; one sentence without a full stop. What was chosen since
    /// is not to be used.
    pub fn failure(&self) -> Option<String> {
        self.grammar.as_ref()?.failure()
    }

    /// The model's log probabilities at one position: of `token`, and of the `top` most likely tokens.
    pub fn logprobs(&self, logits: &[f32], token: Token, top: u8) -> Logprobs {
        let row = Row::new(Cow::Borrowed(self.known(logits)));
        logprobs::logprobs(&row, token, top.min(Logprobs::MAX_TOP).into())
    }

    /// The choice, with the probability that the model gives it: of those left by the truncations and at the
    /// temperature asked for, or of all tokens and at temperature 1 where the choice is greedy; 0 if no token can be
    /// chosen.
    pub fn draft(&self, logits: &[f32], context: Context<'_>) -> Draft {
        let row = self.row(logits, context);
        let Some(best) = row.best() else { return Draft { token: self.fallback(context), confidence: 0.0 } };
        let cut = self.cut(&row, best);
        let token = self.pick(&row, best, cut, context).token;
        let temperature = if self.is_greedy() { 1.0 } else { self.params.temperature };
        let weight = row.rank(token).map_or(0.0, |rank| row.weight(rank.logit(), temperature));
        Draft { token, confidence: (weight / row.mass(cut, temperature)) as f32 }
    }

    /// How far `token` is behind the choice, in logits: by how much its logit would have to rise for a tie. 0 for the
    /// choice, infinite for a token that cannot be chosen.
    pub fn shortfall(&self, logits: &[f32], context: Context<'_>, token: Token) -> f32 {
        let row = self.row(logits, context);
        let Some(best) = row.best() else {
            return if token == self.fallback(context) { 0.0 } else { f32::INFINITY };
        };
        let cut = self.cut(&row, best);
        let Some(rank) = row.rank(token).filter(|&rank| rank <= cut) else { return f32::INFINITY };
        let behind = self.pick(&row, best, cut, context).score - self.score(rank, context);
        let logits = if self.is_greedy() { behind } else { behind * f64::from(self.params.temperature) };
        logits.min(f64::from(f32::MAX)) as f32
    }

    fn is_greedy(&self) -> bool {
        self.params.temperature == 0.0
    }

    fn noise(&self, context: Context<'_>) -> Noise {
        Noise::new(self.params.seed, context.tokens.len())
    }

    /// The logits of the tokens that the vocabulary has.
    fn known<'a>(&self, logits: &'a [f32]) -> &'a [f32] {
        &logits[..logits.len().min(self.vocab_size)]
    }

    fn row<'a>(&self, logits: &'a [f32], context: Context<'_>) -> Row<'a> {
        let mut logits = Cow::Borrowed(self.known(logits));
        if let Some(grammar) = &self.grammar {
            let logits = logits.to_mut();
            if grammar.allowed(context, |allowed| allowed.keep_only(logits)).is_none() {
                logits.fill(f32::NEG_INFINITY);
            }
        }
        Row::new(penalty::apply(logits, context, &self.params))
    }

    /// The choice where no logit is above -inf.
    fn fallback(&self, context: Context<'_>) -> Token {
        let grammar = self.grammar.as_ref();
        grammar.and_then(|grammar| grammar.allowed(context, TokenSet::first).flatten()).unwrap_or(0)
    }

    /// The rank of the last token that may be chosen.
    fn cut(&self, row: &Row<'_>, best: Rank) -> Rank {
        if self.is_greedy() { Rank::LAST } else { truncation::cut(row, best, &self.params) }
    }

    /// What the token of this rank competes with.
    fn score(&self, rank: Rank, context: Context<'_>) -> f64 {
        let logit = f64::from(rank.logit());
        if self.is_greedy() {
            return logit;
        }
        logit / f64::from(self.params.temperature) + self.noise(context).of(rank.token())
    }

    /// The token with the largest score of those up to the rank `cut`.
    ///
    /// The score of a token costs two logarithms; hardly any is computed. The most likely token sets the mark. A chunk
    /// whose largest logit and largest noise together miss it holds no winner, and where they reach it, the same goes
    /// for the single tokens.
    fn pick(&self, row: &Row<'_>, best: Rank, cut: Rank, context: Context<'_>) -> Choice {
        let mut choice = Choice { token: best.token(), score: self.score(best, context) };
        if self.is_greedy() {
            return choice;
        }
        let noise = self.noise(context);
        let temperature = f64::from(self.params.temperature);
        for chunk in row.chunks_within(cut) {
            let first = chunk * CHUNK;
            let peak = f64::from(row.peaks()[chunk]) / temperature;
            if peak + Noise::CEILING < choice.score {
                continue;
            }
            let ceiling = noise.ceiling_of::<CHUNK>(first as Token);
            if peak + ceiling < choice.score {
                continue;
            }
            for (offset, &logit) in row.chunk(chunk, cut).iter().enumerate() {
                let scaled = f64::from(logit) / temperature;
                if scaled + ceiling < choice.score {
                    continue;
                }
                let token = (first + offset) as Token;
                let score = scaled + noise.of(token);
                if score > choice.score || (score == choice.score && token < choice.token) {
                    choice = Choice { token, score };
                }
            }
        }
        choice
    }
}
