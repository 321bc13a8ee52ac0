//! What things take in virtual time.

use std::time::Duration;

/// The time of a forward pass of the target: `fixed + row * rows`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepCost {
    /// Reading the weights, launching, everything that does not depend on the rows.
    pub fixed: Duration,
    /// What each row adds.
    pub row: Duration,
}

impl StepCost {
    /// A cost in milliseconds.
    #[must_use]
    pub fn from_millis(fixed: f64, row: f64) -> Self {
        let time = |ms: f64| Duration::from_secs_f64(ms.max(0.0) / 1e3);
        Self { fixed: time(fixed), row: time(row) }
    }

    /// How long a pass of `rows` rows takes.
    #[must_use]
    pub fn of(&self, rows: usize) -> Duration {
        self.fixed + self.row * u32::try_from(rows).unwrap_or(u32::MAX)
    }
}
