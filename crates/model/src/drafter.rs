//! What proposes tokens: the drafter trait, and a model behind it.
use sled_core::Token;
use sled_core::sampler::{Context, Draft, Sampler};
use sled_core::sequence::common_prefix;
use sled_core::step::{CacheOp, Row};
use crate::{Error, Model};
/// Drafter.
pub trait Drafter: Send {
    /// Draft.
    fn draft(&mut self, context: Context<'_>, sampler: &Sampler) -> Result<Option<Draft>, Error>;
}
/// Model drafter.
pub struct ModelDrafter<M> { model: M, cached: Vec<Token> }
impl<M: Model> ModelDrafter<M> {
    /// New.
    pub fn new(model: M) -> Self { Self { model, cached: Vec::new() } }
}
impl<M: Model> Drafter for ModelDrafter<M> {
    fn draft(&mut self, context: Context<'_>, sampler: &Sampler) -> Result<Option<Draft>, Error> {
        let n = context.tokens.len();
        let keep = common_prefix(&self.cached, context.tokens).min(n.saturating_sub(1));
        self.model.apply(CacheOp::Truncate { sequence: 0, len: keep })?;
        let rows: Vec<Row> = (keep..n).map(|i| Row { sequence: 0, position: i, token: context.tokens[i], wants_logits: i + 1 == n }).collect();
        self.model.forward(&rows)?;
        self.cached = context.tokens.to_vec();
        Ok(Some(sampler.draft(self.model.logits(rows.len() - 1)?, context)))
    }
}
