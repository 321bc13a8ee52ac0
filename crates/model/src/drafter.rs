//! What proposes tokens: the drafter trait, and a model that drafts.

use sled_core::Token;
use sled_core::sampler::{Context, Draft, Sampler};
use sled_core::sequence::common_prefix;
use sled_core::step::{CacheOp, Row};

use crate::{Error, Model};

/// Proposes tokens.
pub trait Drafter: Send {
    /// Proposes the token after `context`, or nothing. The context may be any: a drafter keeps of its state what the
    /// context shares with the last one, and rolls the rest back.
    ///
    /// # Errors
    /// If the drafter's model fails; it can be asked again.
    fn draft(&mut self, context: Context<'_>, sampler: &Sampler) -> Result<Option<Draft>, Error>;
}

/// A model that drafts, with the same sampler as the target.
pub struct ModelDrafter<M> {
    model: M,
    /// What sequence 0 of the model's cache holds.
    cached: Vec<Token>,
}

impl<M: Model> ModelDrafter<M> {
    /// Drafts with sequence 0 of `model`, which must be empty.
    #[must_use]
    pub fn new(model: M) -> Self {
        Self { model, cached: Vec::new() }
    }

    /// The logits of the token after `tokens`, of which there must be one at least.
    ///
    /// # Errors
    /// If there are too many tokens for the model, or it fails.
    pub fn logits_after(&mut self, tokens: &[Token]) -> Result<&[f32], Error> {
        // A cache that cannot be rolled back any more, or is in doubt, is built anew, once.
        let row = self.evaluate(tokens).or_else(|_| self.evaluate(tokens))?;
        self.model.logits(row)
    }

    /// Evaluates `tokens`; the logits after the last are those of the returned row. An error leaves the cache in doubt:
    /// the next evaluation starts from an empty one.
    fn evaluate(&mut self, tokens: &[Token]) -> Result<usize, Error> {
        self.extend_cache(tokens).inspect_err(|_| self.cached.clear())
    }

    fn extend_cache(&mut self, tokens: &[Token]) -> Result<usize, Error> {
        // The last token is evaluated even if it is cached: its logits are wanted.
        let keep = common_prefix(&self.cached, tokens).min(tokens.len() - 1);
        self.model.apply(CacheOp::Truncate { sequence: 0, len: keep })?;
        self.cached.truncate(keep);
        let mut last_row = 0;
        while self.cached.len() < tokens.len() {
            let begin = self.cached.len();
            let end = tokens.len().min(begin + self.model.limits().rows);
            let row = |(i, &token): (usize, &Token)| Row {
                sequence: 0,
                position: begin + i,
                token,
                wants_logits: begin + i + 1 == tokens.len(),
            };
            let rows: Vec<Row> = tokens[begin..end].iter().enumerate().map(row).collect();
            self.model.forward(&rows)?;
            self.cached.extend(&tokens[begin..end]);
            last_row = rows.len() - 1;
        }
        Ok(last_row)
    }
}

impl<M: Model> Drafter for ModelDrafter<M> {
    fn draft(&mut self, context: Context<'_>, sampler: &Sampler) -> Result<Option<Draft>, Error> {
        if context.tokens.is_empty() || context.tokens.len() > self.model.limits().context {
            return Ok(None);
        }
        Ok(Some(sampler.draft(self.logits_after(context.tokens)?, context)))
    }
}
