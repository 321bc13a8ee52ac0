//! How far verdicts accept drafts.

use crate::device::Provenance;
use crate::policy::Policy;

/// How many verdicts accepted a first draft, how many a second, and so on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcceptedAt([u64; Policy::MAX_LENGTH]);

impl Default for AcceptedAt {
    fn default() -> Self {
        Self([0; Policy::MAX_LENGTH])
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

/// What verdicts made of the drafts of one answer, counted by the tokens that the answer has: what comes after its end counts
/// for nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Acceptance {
    /// Verdicts on at least one draft.
    pub drafts: u64,
    /// Drafts that were accepted.
    pub accepted: u64,
    /// The same by their place in a verdict.
    pub accepted_at: AcceptedAt,
    /// How many the last verdict accepted.
    last: usize,
}

impl Acceptance {
    /// Counts the next token of the answer.
    pub fn count(&mut self, provenance: Provenance, opens_verdict: bool) {
        if opens_verdict {
            self.last = 0;
            self.drafts += u64::from(matches!(provenance, Provenance::Accepted | Provenance::Corrected));
        }
        if provenance == Provenance::Accepted {
            self.accepted += 1;
            self.accepted_at.count(self.last);
            self.last += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_ends_inside_of_a_verdict_has_what_it_has_of_it() {
        use Provenance::{Accepted, Bonus, Corrected, Provisional};
        let tokens = [
            (Bonus, true),
            (Accepted, true),
            (Accepted, false),
            (Bonus, false),
            (Provisional, false),
            (Corrected, true),
            // The bonus of this verdict was drafted too.
            (Accepted, true),
            (Accepted, false),
            (Accepted, true),
            (Corrected, false),
        ];
        let mut acceptance = Acceptance::default();
        let mut seen = Vec::new();
        for (provenance, opens) in tokens {
            acceptance.count(provenance, opens);
            seen.push((acceptance.drafts, acceptance.accepted));
        }
        assert_eq!(seen, [(0, 0), (1, 1), (1, 2), (1, 2), (1, 2), (2, 2), (3, 3), (3, 4), (4, 5), (4, 5)]);
        assert_eq!(acceptance.accepted_at.counts(), [3, 2]);
    }

    #[test]
    fn each_verdict_counts_at_all_places_that_it_accepted() {
        let mut accepted = AcceptedAt::default();
        assert_eq!(accepted.counts(), [0; 0]);
        [2, 0, 1, 4].into_iter().for_each(|drafts| accepted.add(drafts));
        assert_eq!(accepted.counts(), [3, 2, 1, 1]);
        accepted.add(Policy::MAX_LENGTH + 1);
        assert_eq!(accepted.counts().len(), Policy::MAX_LENGTH);
    }
}
