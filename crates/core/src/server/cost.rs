//! What a pass costs: one of `n` rows takes about `a + b n`, and `b` is the price of one more.

use std::time::Duration;

/// How much a pass counts after the next one.
const KEPT: f64 = 0.98;

/// How many squared rows of evidence the first guess counts for.
const PRIOR: f64 = 16.0;

/// The first guess: that the fixed part of a pass costs as much as so many rows.
const FIXED_ROWS: f64 = 16.0;

/// The line through the durations of the latest passes: least squares with exponential forgetting.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct StepCost {
    weight: f64,
    rows: f64,
    seconds: f64,
    rows_rows: f64,
    rows_seconds: f64,
}

impl StepCost {
    /// A pass of `rows` rows took `time`.
    pub(super) fn observe(&mut self, rows: usize, time: Duration) {
        let (x, y) = (rows as f64, time.as_secs_f64());
        self.weight = KEPT * self.weight + 1.0;
        self.rows = KEPT * self.rows + x;
        self.seconds = KEPT * self.seconds + y;
        self.rows_rows = KEPT * self.rows_rows + x * x;
        self.rows_seconds = KEPT * self.rows_seconds + x * y;
    }

    /// Seconds that one more row adds to a pass; 0 before anything is known.
    pub(super) fn row(&self) -> f64 {
        if self.weight == 0.0 || self.rows == 0.0 {
            return 0.0;
        }
        let (x, y) = (self.rows / self.weight, self.seconds / self.weight);
        let variance = self.rows_rows / self.weight - x * x;
        let covariance = self.rows_seconds / self.weight - x * y;
        let guess = y / (x + FIXED_ROWS);
        let prior = PRIOR / self.weight;
        let slope = (covariance + prior * guess) / (variance + prior);
        slope.clamp(0.0, y / x)
    }

    /// Seconds that a pass of `rows` rows takes; 0 before anything is known.
    pub(super) fn pass(&self, rows: f64) -> f64 {
        if self.weight == 0.0 {
            return 0.0;
        }
        let (x, y, row) = (self.rows / self.weight, self.seconds / self.weight, self.row());
        (y - row * x).max(0.0) + row * rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_line_and_follows_it() {
        let mut cost = StepCost::default();
        assert_eq!((cost.row(), cost.pass(4.0)), (0.0, 0.0));
        let pass = |rows: usize, row_us: u64| Duration::from_micros(20_000 + row_us * rows as u64);
        for i in 0..200 {
            cost.observe(1 + i % 9, pass(1 + i % 9, 500));
        }
        assert!((cost.row() - 500e-6).abs() < 80e-6, "{}", cost.row());
        assert!((cost.pass(20.0) - 0.030).abs() < 0.002, "{}", cost.pass(20.0));
        for i in 0..300 {
            cost.observe(1 + i % 9, pass(1 + i % 9, 5_000));
        }
        assert!((cost.row() - 5_000e-6).abs() < 300e-6, "{}", cost.row());
    }

    #[test]
    fn passes_of_one_size_leave_the_guess() {
        let mut cost = StepCost::default();
        (0..100).for_each(|_| cost.observe(4, Duration::from_millis(20)));
        assert!(cost.row() > 0.0 && cost.row() <= 0.005, "{}", cost.row());
    }
}
