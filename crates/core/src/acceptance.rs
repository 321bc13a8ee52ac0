//! At which places of a block verdicts accept drafts.

use crate::message::MAX_BLOCK;

/// How many verdicts accepted a first draft, how many a second, and so on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcceptedAt([u64; MAX_BLOCK]);

impl Default for AcceptedAt {
    fn default() -> Self {
        Self([0; MAX_BLOCK])
    }
}

impl AcceptedAt {
    /// Counts a verdict that accepted so many drafts. Places beyond the longest block are not counted.
    pub fn add(&mut self, accepted: usize) {
        self.0.iter_mut().take(accepted).for_each(|count| *count += 1);
    }

    /// Counts an accepted draft at the place where it stood among those of its verdict, from 0.
    pub fn count(&mut self, place: usize) {
        if let Some(count) = self.0.get_mut(place) {
            *count += 1;
        }
    }

    /// The counts by place, from the first to the last where a draft was accepted.
    #[must_use]
    pub fn counts(&self) -> &[u64] {
        let len = self.0.iter().rposition(|&count| count > 0).map_or(0, |last| last + 1);
        self.0.get(..len).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_verdict_counts_at_all_places_that_it_accepted() {
        let mut accepted = AcceptedAt::default();
        assert_eq!(accepted.counts(), [0; 0]);
        [2, 0, 1, 4].into_iter().for_each(|drafts| accepted.add(drafts));
        assert_eq!(accepted.counts(), [3, 2, 1, 1]);
        accepted.add(MAX_BLOCK + 1);
        assert_eq!(accepted.counts().len(), MAX_BLOCK);
    }
}
