//! The `fixed` policy: blocks of one length.

use super::{DraftPolicy, NextBlock};
use crate::tuning::Tuning;

/// Blocks of `k` drafts.
#[derive(Debug)]
pub(super) struct Fixed {
    k: usize,
    /// The least survival of the first draft of a block behind another.
    least: f64,
}

impl Fixed {
    pub(super) fn new(k: usize, tuning: &Tuning) -> Self {
        Self { k, least: tuning.even }
    }
}

impl DraftPolicy for Fixed {
    fn takes(&self, block: &NextBlock, acceptance: f64) -> bool {
        block.len < self.k && (!block.begins_behind() || block.survival * acceptance >= self.least)
    }

    fn waits_for(&self, block: &NextBlock, _acceptance: f64) -> bool {
        block.len < self.k
    }
}
