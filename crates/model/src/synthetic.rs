//! A pseudo-language-model whose logits are a hash of the last few tokens, and a drafter that agrees with it at a set
//! rate.
//!
//! It makes the law testable by exact equality, by the thousand: it is deterministic, indifferent to batching, and as
//! strict as a real engine.

mod vocabulary;

use std::sync::Arc;

use sled_core::Token;
use sled_core::sampler::{Context, Draft, Sampler};
use sled_core::splitmix;
use sled_core::step::{CacheOp, Row};

pub use vocabulary::{SyntheticToken, SyntheticVocab};

use crate::drafter::Drafter;
use crate::{Error, Limits, Model};

/// The spread of the logits: at temperature 1 a few tokens out of a small vocabulary are likely.
const SPREAD: f32 = 2.5;

/// How far a drafter's reliability strays from its mean, both ways.
const RELIABILITY_SPREAD: f32 = 0.3;

/// What a synthetic model is.
#[derive(Clone, Debug)]
pub struct SyntheticConfig {
    /// Another seed is another language.
    pub seed: u64,
    /// Tokens in the vocabulary.
    pub vocab_size: usize,
    /// How many of the last tokens decide the next.
    pub order: usize,
    /// Tokens that the cache holds, over all sequences; a copied prefix counts once.
    pub cells: usize,
    /// Sequences that the cache tells apart.
    pub sequences: usize,
    /// Rows that one pass may have.
    pub rows: usize,
    /// The longest that a sequence may get.
    pub context: usize,
}

impl SyntheticConfig {
    /// A hash of the tokens that decide the next.
    fn key(&self, tokens: &[Token]) -> u64 {
        let last = tokens.get(tokens.len().saturating_sub(self.order)..).unwrap_or_default();
        last.iter().fold(splitmix::hash(self.seed), |key, &token| splitmix::hash(key ^ (u64::from(token) + 1)))
    }
}

/// The synthetic model.
#[derive(Clone, Debug)]
pub struct SyntheticModel {
    config: Arc<SyntheticConfig>,
    cache: Vec<Vec<Token>>,
    /// The cell of each token in `cache`, and how many sequences have each cell.
    cells: Vec<Vec<usize>>,
    users: Vec<u32>,
    unused: Vec<usize>,
    /// The logits of the rows of the last pass that wanted them, one after the other.
    logits: Vec<f32>,
    /// Where in `logits` those of a row begin.
    offsets: Vec<Option<usize>>,
}

impl SyntheticModel {
    /// A model with an empty cache.
    #[must_use]
    pub fn new(config: SyntheticConfig) -> Self {
        let (cache, cells) = (vec![Vec::new(); config.sequences], vec![Vec::new(); config.sequences]);
        let config = Arc::new(config);
        Self { config, cache, cells, users: Vec::new(), unused: Vec::new(), logits: Vec::new(), offsets: Vec::new() }
    }

    /// How many cells of the cache are in use.
    #[must_use]
    pub fn used_cells(&self) -> usize {
        self.users.len() - self.unused.len()
    }

    /// The logits of the token after `tokens`.
    #[must_use]
    pub fn logits_after(&self, tokens: &[Token]) -> Vec<f32> {
        let mut logits = Vec::with_capacity(self.config.vocab_size);
        extend_logits(&mut logits, self.config.key(tokens), self.config.vocab_size);
        logits
    }

    /// What the model alone says after `prompt`: at most `max_tokens` tokens, ending with the first of
    /// `end_of_generation`.
    #[must_use]
    pub fn generate(
        &self,
        sampler: &Sampler,
        prompt: &[Token],
        max_tokens: usize,
        end_of_generation: &[Token],
    ) -> Vec<Token> {
        let mut tokens = prompt.to_vec();
        let mut logits = Vec::with_capacity(self.config.vocab_size);
        while tokens.len() - prompt.len() < max_tokens {
            let context = Context { tokens: &tokens, prompt_len: prompt.len() };
            logits.clear();
            extend_logits(&mut logits, self.config.key(&tokens), self.config.vocab_size);
            let token = sampler.choose(&logits, context);
            tokens.push(token);
            if end_of_generation.contains(&token) {
                break;
            }
        }
        tokens.split_off(prompt.len())
    }

    fn sequence(&mut self, sequence: u32) -> Result<&mut Vec<Token>, Error> {
        let sequences = self.config.sequences;
        usize::try_from(sequence)
            .ok()
            .and_then(|index| self.cache.get_mut(index))
            .ok_or(Error::UnknownSequence { sequence, sequences })
    }

    /// Whether the cache has room for `rows` more tokens.
    fn check_cells(&self, rows: usize) -> Result<(), Error> {
        let cells = self.config.cells;
        if self.used_cells() + rows > cells { Err(Error::CacheFull { rows, cells }) } else { Ok(()) }
    }

    /// Gives every token of `sequence` a cell, and takes back those of tokens that are gone.
    fn settle_cells(&mut self, sequence: u32) -> Result<(), Error> {
        let len = self.sequence(sequence)?.len();
        let cells = &mut self.cells[sequence as usize];
        for cell in cells.drain(len.min(cells.len())..) {
            self.users[cell] -= 1;
            if self.users[cell] == 0 {
                self.unused.push(cell);
            }
        }
        while cells.len() < len {
            let cell = self.unused.pop().unwrap_or(self.users.len());
            self.users.resize(self.users.len().max(cell + 1), 0);
            self.users[cell] = 1;
            cells.push(cell);
        }
        Ok(())
    }

    fn evaluate(&mut self, rows: &[Row]) -> Result<(), Error> {
        let config = Arc::clone(&self.config);
        let (vocab_size, limit) = (config.vocab_size, config.rows);
        if rows.is_empty() || rows.len() > limit {
            return Err(Error::Rows { rows: rows.len(), limit });
        }
        self.check_cells(rows.len())?;
        self.logits.clear();
        self.offsets.clear();
        for &Row { sequence, position, token, wants_logits } in rows {
            if token as usize >= vocab_size {
                return Err(Error::UnknownToken { token, vocab_size });
            }
            let cached = self.sequence(sequence)?;
            let len = cached.len();
            if position != len {
                return Err(Error::Position { sequence, position, len });
            }
            if len >= config.context {
                return Err(Error::SequenceFull { sequence, limit: config.context });
            }
            cached.push(token);
            let key = wants_logits.then(|| config.key(cached));
            self.settle_cells(sequence)?;
            self.offsets.push(key.map(|_| self.logits.len()));
            if let Some(key) = key {
                extend_logits(&mut self.logits, key, vocab_size);
            }
        }
        Ok(())
    }
}

impl Model for SyntheticModel {
    fn limits(&self) -> Limits {
        let SyntheticConfig { vocab_size, cells, sequences, rows, context, .. } = *self.config;
        Limits { vocab_size, cells, sequences, rows, context }
    }

    fn apply(&mut self, op: CacheOp) -> Result<(), Error> {
        match op {
            CacheOp::Truncate { sequence, len } => {
                let cached = self.sequence(sequence)?;
                if len > cached.len() {
                    return Err(Error::CacheLength { sequence, len, have: cached.len() });
                }
                cached.truncate(len);
                self.settle_cells(sequence)?;
            }
            CacheOp::CopyPrefix { from, to, len } => {
                let donor = self.sequence(from)?;
                let have = donor.len();
                let prefix = donor.get(..len).ok_or(Error::CacheLength { sequence: from, have, len })?.to_vec();
                let occupied = self.sequence(to)?.len();
                if occupied > 0 {
                    return Err(Error::CopyTarget { sequence: to, len: occupied });
                }
                *self.sequence(to)? = prefix;
                let cells = self.cells[from as usize][..len].to_vec();
                cells.iter().for_each(|&cell| self.users[cell] += 1);
                self.cells[to as usize] = cells;
            }
        }
        Ok(())
    }

    fn forward(&mut self, rows: &[Row]) -> Result<(), Error> {
        self.evaluate(rows).inspect_err(|_| self.offsets.clear())
    }

    fn logits(&self, row: usize) -> Result<&[f32], Error> {
        let begin = self.offsets.get(row).copied().flatten().ok_or(Error::NoLogits(row))?;
        self.logits.get(begin..begin + self.config.vocab_size).ok_or(Error::NoLogits(row))
    }
}

/// A drafter that agrees with a synthetic model at a set rate and knows its own confidence.
///
/// After every context it has a reliability `r`, spread evenly around the rate. With probability `r` it makes the
/// model's own choice, else another, out of other logits; and it reports `r` as its confidence. Whether it is right
/// hangs on the tokens that decide the model's next.
#[derive(Clone, Debug)]
pub struct SyntheticDrafter {
    config: Arc<SyntheticConfig>,
    agreement: f32,
    seed: u64,
    logits: Vec<f32>,
}

impl SyntheticDrafter {
    /// A drafter for `model` with a mean reliability of `agreement`, in `0..=1`. Its seed decides where it is right.
    #[must_use]
    pub fn new(model: &SyntheticModel, agreement: f32, seed: u64) -> Self {
        let config = Arc::clone(&model.config);
        Self { config, agreement: agreement.clamp(0.0, 1.0), seed, logits: Vec::new() }
    }

    fn fill_logits(&mut self, key: u64) {
        self.logits.clear();
        extend_logits(&mut self.logits, key, self.config.vocab_size);
    }
}

impl Drafter for SyntheticDrafter {
    fn draft(&mut self, context: Context<'_>, sampler: &Sampler) -> Result<Option<Draft>, Error> {
        let key = self.config.key(context.tokens);
        let own = splitmix::hash(key ^ splitmix::hash(self.seed));
        let spread = RELIABILITY_SPREAD.min(self.agreement).min(1.0 - self.agreement);
        let reliability = self.agreement + spread * (2.0 * unit(own) - 1.0);
        self.fill_logits(key);
        let mut token = sampler.choose(&self.logits, context);
        if unit(splitmix::hash(own)) >= reliability {
            self.fill_logits(own);
            // The noise of sampling is shared: it would make the same choice of quite different logits, up to a quarter
            // of the time.
            if let Some(logit) = self.logits.get_mut(token as usize) {
                *logit = f32::NEG_INFINITY;
            }
            token = sampler.choose(&self.logits, context);
        }
        Ok(Some(Draft { token, confidence: reliability }))
    }
}

fn extend_logits(logits: &mut Vec<f32>, key: u64, vocab_size: usize) {
    logits.extend((0..vocab_size as u64).map(|token| {
        let hash = splitmix::hash(key ^ token.wrapping_mul(splitmix::STEP));
        // The sum of three even numbers (Irwin-Hall) is near enough to a normal distribution, of deviation 1/2.
        let sum = unit(hash) + unit(hash << 16) + unit(hash << 32);
        SPREAD * 2.0 * (sum - 1.5)
    }));
}

/// The first 16 bits as a number in `0..1`.
fn unit(hash: u64) -> f32 {
    (hash >> 48) as f32 / 65536.0
}
