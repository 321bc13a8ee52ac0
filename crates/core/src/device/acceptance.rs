//! What verdicts made of the drafts of one answer.

use super::Provenance;
use crate::acceptance::AcceptedAt;

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
}
