//! What a pass costs: one of `n` rows takes about `a + b n`, and `b` is the price of one more.

use std::time::Duration;

/// How much a pass counts after the next one.
const KEPT: f64 = 0.98;

/// How much the mean size of passes is what it was after the next one.
const USUAL: f64 = 0.9;

/// Rows are priced at this many times the usual number: what is decided is rows beyond it.
const BEYOND: f64 = 1.5;

/// Passes are told apart where their numbers of rows differ by more than a factor of `e^(1/4)`.
const BINS_PER_E: f64 = 4.0;

/// A pass of twice as many rows counts 0.4 as much, one of four times as many 0.02.
const WIDTH: f64 = 0.5;

/// How many squared rows of evidence the first guess counts for, of the line through all passes.
const PRIOR: f64 = 16.0;

/// The same for the line near some number of rows; its guess is the line through all passes.
const PRIOR_NEAR: f64 = 4.0;

/// The first guess: that the fixed part of a pass costs as much as so many rows.
const FIXED_ROWS: f64 = 16.0;

/// What passes cost near a number of rows: least squares over the latest passes, each counting the less the longer it is ago and
/// the further its number of rows is away (Cleveland, *Robust locally weighted regression*, 1979). A line through all passes would
/// price the few rows of a decoding pass by what rows cost where prompts are read, which on some engines is half as much.
#[derive(Clone, Debug, Default)]
pub(super) struct StepCost {
    bins: Vec<Sums>,
    /// The logarithm of the number of rows that tokens of the latest passes were chosen at: its mean. `None` before the first.
    usual: Option<f64>,
    /// The line a little beyond it.
    line: Line,
}

/// Weighted sums over passes of about the same number of rows.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    weight: f64,
    rows: f64,
    seconds: f64,
    rows_rows: f64,
    rows_seconds: f64,
}

impl Sums {
    fn add(&mut self, weight: f64, other: &Self) {
        self.weight += weight * other.weight;
        self.rows += weight * other.rows;
        self.seconds += weight * other.seconds;
        self.rows_rows += weight * other.rows_rows;
        self.rows_seconds += weight * other.rows_seconds;
    }

    /// The line of least squares, with a first guess of its slope that counts for `prior` squared rows.
    fn line(&self, prior: f64, guess: impl Fn(f64, f64) -> f64) -> Line {
        if self.weight == 0.0 {
            return Line::default();
        }
        let (x, y) = (self.rows / self.weight, self.seconds / self.weight);
        let variance = self.rows_rows / self.weight - x * x;
        let covariance = self.rows_seconds / self.weight - x * y;
        let prior = prior / self.weight;
        let slope = (covariance + prior * guess(x, y)) / (variance + prior);
        Line { rows: x, seconds: y, slope: slope.clamp(0.0, y / x) }
    }
}

/// A line: what a pass of `rows` rows takes, and what another row adds, in seconds.
#[derive(Clone, Copy, Debug, Default)]
struct Line {
    rows: f64,
    seconds: f64,
    slope: f64,
}

impl StepCost {
    /// A pass of `rows` rows took `time`; `deciding` of them were no prompt rows.
    pub(super) fn observe(&mut self, rows: usize, deciding: usize, time: Duration) {
        let (x, y) = (rows.max(1) as f64, time.as_secs_f64());
        let bin = (BINS_PER_E * x.ln()) as usize;
        if self.bins.len() <= bin {
            self.bins.resize(bin + 1, Sums::default());
        }
        for (at, sums) in self.bins.iter_mut().enumerate() {
            let mut kept = Sums::default();
            kept.add(KEPT, sums);
            if at == bin {
                kept.add(1.0, &Sums { weight: 1.0, rows: x, seconds: y, rows_rows: x * x, rows_seconds: x * y });
            }
            *sums = kept;
        }
        if deciding > 0 {
            let ln = (deciding as f64).ln();
            self.usual = Some(self.usual.map_or(ln, |usual| USUAL * usual + (1.0 - USUAL) * ln));
        }
        self.line = self.near(BEYOND * self.usual.map_or(x, f64::exp));
    }

    /// Seconds that one more row adds to a pass like those of late; 0 before anything is known.
    pub(super) fn row(&self) -> f64 {
        self.line.slope
    }

    /// Seconds that a pass of `rows` rows takes; 0 before anything is known.
    pub(super) fn pass(&self, rows: f64) -> f64 {
        let line = self.near(rows);
        (line.seconds + line.slope * (rows - line.rows)).max(0.0)
    }

    /// The line through the passes of the size that passes have of late: seconds of a pass without rows, and of each row.
    pub(super) fn usual(&self) -> (f64, f64) {
        let line = self.line;
        ((line.seconds - line.slope * line.rows).max(0.0), line.slope)
    }

    /// The line near passes of `rows` rows.
    fn near(&self, rows: f64) -> Line {
        let known = || self.bins.iter().filter(|sums| sums.weight > 0.0);
        let distance = |sums: &Sums| ((sums.rows / sums.weight / rows.max(1.0)).ln() / WIDTH).powi(2);
        let nearest = known().map(distance).fold(f64::INFINITY, f64::min);
        let mut near = Sums::default();
        // The nearest count in full, however far they are.
        known().for_each(|sums| near.add((0.5 * (nearest - distance(sums))).exp(), sums));
        let mut all = Sums::default();
        known().for_each(|sums| all.add(1.0, sums));
        let through_all = all.line(PRIOR, |x, y| y / (x + FIXED_ROWS)).slope;
        near.line(PRIOR_NEAR, |_, _| through_all)
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
            cost.observe(1 + i % 9, 1 + i % 9, pass(1 + i % 9, 500));
        }
        assert!((cost.row() - 500e-6).abs() < 80e-6, "{}", cost.row());
        assert!((cost.pass(20.0) - 0.030).abs() < 0.002, "{}", cost.pass(20.0));
        for i in 0..300 {
            cost.observe(1 + i % 9, 1 + i % 9, pass(1 + i % 9, 5_000));
        }
        assert!((cost.row() - 5_000e-6).abs() < 300e-6, "{}", cost.row());
    }

    #[test]
    fn rows_are_priced_where_passes_are() {
        // 30 ms a row up to 8 rows, 10 ms a row beyond, as where a matrix kernel takes over.
        let pass =
            |rows: usize| Duration::from_millis(10 + 30 * rows.min(8) as u64 + 10 * rows.saturating_sub(8) as u64);
        let mut cost = StepCost::default();
        for i in 0..400 {
            let rows = if i % 5 == 0 { 63 } else { 3 + i % 3 };
            cost.observe(rows, rows.min(3), pass(rows));
        }
        assert!(cost.row() > 0.025, "{}", cost.row());
        assert!((cost.pass(4.0) - 0.130).abs() < 0.01, "{}", cost.pass(4.0));
        assert!((cost.pass(63.0) - 0.800).abs() < 0.01, "{}", cost.pass(63.0));
    }

    #[test]
    fn passes_of_one_size_leave_the_guess() {
        let mut cost = StepCost::default();
        (0..100).for_each(|_| cost.observe(4, 4, Duration::from_millis(20)));
        assert!(cost.row() > 0.0 && cost.row() <= 0.005, "{}", cost.row());
    }
}
