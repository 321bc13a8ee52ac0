//! The `confidence` policy: the paper's Eq. 1.

use super::{DraftPolicy, NextBlock};

/// Goes on while the drafter's confidence in its last token is at least `threshold`.
#[derive(Debug)]
pub(super) struct Confidence {
    threshold: f32,
    k_max: usize,
}

impl Confidence {
    pub(super) fn new(threshold: f32, k_max: usize) -> Self {
        Self { threshold, k_max }
    }
}

impl DraftPolicy for Confidence {
    fn takes(&self, block: &NextBlock, _acceptance: f64) -> bool {
        let is_sure = |confidence| confidence >= self.threshold || (block.len == 0 && !block.begins_behind());
        block.len < self.k_max && block.confidence.is_none_or(is_sure)
    }

    fn waits_for(&self, block: &NextBlock, acceptance: f64) -> bool {
        self.takes(block, acceptance)
    }
}
