//! Whose fault it is that a pass failed.
//!
//! Many share a pass, and its failure does not tell which of them it is from. Whoever was in it is run by itself from then on, until
//! it has passed or has failed too often, so that nobody is given up for another's sake.

/// Whoever fails so often in a row, the first time perhaps in company, is given up.
const MOST_FAILURES: u32 = 3;

/// What is held against one of those who share passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Suspicion {
    failures: u32,
}

impl Suspicion {
    /// Whether it is to be run by itself.
    #[must_use]
    pub fn is_raised(self) -> bool {
        self.failures > 0
    }

    /// A pass with it failed; `alone` if it can be from nobody else. Returns whether it is to be given up.
    pub fn on_failure(&mut self, alone: bool) -> bool {
        self.failures = if alone { self.failures + 1 } else { self.failures.max(1) };
        self.failures >= MOST_FAILURES
    }

    /// It was run by itself, up to what it wanted, and nothing failed.
    pub fn clear(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_in_company_raise_a_suspicion_and_never_prove_it() {
        let mut suspicion = Suspicion::default();
        assert!((0..10).all(|_| !suspicion.on_failure(false)) && suspicion.is_raised());
        assert_eq!([suspicion.on_failure(true), suspicion.on_failure(true)], [false, true]);
        suspicion.clear();
        assert_eq!(suspicion, Suspicion::default());
    }
}
