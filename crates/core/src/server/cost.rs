//! What passes cost, learned: a table of the time that a pass takes for every number of rows.
//!
//! Each number of rows has a bin of its own, beyond [`EXACT`] rows numbers that are near each other share one. A bin remembers what
//! its passes took, the latest most; between bins that know something the table goes on by straight lines, and beyond them by the
//! line of least squares. Where everything becomes slower at once, a pass tells of the others too: all bins follow it, a little.
//!
//! What was measured wrongly would be avoided for ever if it seemed dear: the longer a number of rows was not seen, the more is believed
//! of it what those beside it say, so that it is tried again.

use std::time::Duration;

use super::tuning::CostTuning;
use crate::cost::CostTable;

/// Up to here each number of rows has a bin; kernels' tiles are not larger where passes decode.
const EXACT: usize = 64;

/// Bins for each doubling of the rows beyond.
const BINS_A_DOUBLING: f64 = 8.0;

/// Passes that are worth measuring before anybody is served, by their rows, those first that matter most: few rows, as of few devices;
/// then full tiles, which take 8, 16, 32 or 64 rows; then what is around and between them. Of more rows most read prompts: nobody wants
/// their logits, for which an engine would keep memory, 600 KiB a row where a vocabulary has 150,000 tokens.
pub const CALIBRATION: [usize; 26] =
    [1, 2, 3, 4, 6, 8, 16, 32, 12, 10, 14, 15, 17, 20, 24, 28, 5, 7, 9, 33, 40, 48, 63, 64, 65, 128];

/// The table is not made longer than this; beyond it, the last line goes on.
const LONGEST: usize = 4096;

/// The least that a pass takes, in seconds: of a time of nothing there is no ratio.
const LEAST: f64 = 1e-9;

/// What passes take, as far as it is known.
#[derive(Clone, Debug)]
pub(super) struct StepCost {
    tuning: CostTuning,
    bins: Vec<Bin>,
    /// Seconds by rows, from none to the most that a pass may have; empty before anything is known.
    seconds: Vec<f64>,
    /// By rows: how many at least as many take least time.
    full: Vec<usize>,
    most: usize,
    /// The logarithm of the number of rows that tokens of the latest passes were chosen at: its mean. `None` before the first.
    usual: Option<f64>,
}

/// What is known of passes of about the same number of rows.
#[derive(Clone, Copy, Debug, Default)]
struct Bin {
    /// How many passes it rests on, older ones counting less; 0 if it knows nothing.
    weight: f64,
    rows: f64,
    seconds: f64,
}

impl Bin {
    fn is_known(&self) -> bool {
        self.weight > 0.0
    }

    fn observe(&mut self, rows: f64, seconds: f64, tuning: &CostTuning) {
        if self.is_known() {
            let gain = (1.0 / (self.weight + 1.0)).max(tuning.cost_gain);
            self.rows += gain * (rows - self.rows);
            // What hardly rests on anything is not defended.
            let surprise =
                if self.weight < 1.0 { (seconds / self.seconds).ln() } else { surprise(seconds, self.seconds, tuning) };
            self.seconds *= (gain * surprise).exp();
        } else {
            (self.rows, self.seconds) = (rows, seconds);
        }
        self.weight += 1.0;
    }
}

/// By how much more than expected something took, as a logarithm; a single pass that was held up says little.
fn surprise(seconds: f64, expected: f64, tuning: &CostTuning) -> f64 {
    let most = tuning.most_surprise.ln();
    (seconds / expected).ln().clamp(-most, most)
}

fn bin(rows: usize) -> usize {
    let beyond = (rows as f64 / EXACT as f64).log2() * BINS_A_DOUBLING;
    if rows <= EXACT { rows } else { EXACT + 1 + beyond as usize }
}

impl StepCost {
    /// Nothing is known of passes, which have `most` rows at most.
    pub(super) fn new(tuning: CostTuning, most: usize) -> Self {
        let most = most.min(LONGEST);
        Self { tuning, bins: Vec::new(), seconds: Vec::new(), full: Vec::new(), most, usual: None }
    }

    /// A pass of `rows` rows took `time`; `deciding` of them were no prompt rows.
    pub(super) fn observe(&mut self, rows: usize, deciding: usize, time: Duration) {
        let (rows, seconds) = (rows.max(1), time.as_secs_f64().max(LEAST));
        let at = bin(rows);
        if self.bins.len() <= at {
            self.bins.resize(at + 1, Bin::default());
        }
        if let Some(own) = self.bins.get(at).filter(|bin| bin.is_known()) {
            let drift = self.tuning.drift * own.weight.min(1.0);
            let drift = (drift * surprise(seconds, own.seconds, &self.tuning)).exp();
            self.bins.iter_mut().for_each(|bin| bin.seconds *= drift);
        }
        self.bins.iter_mut().for_each(|bin| bin.weight *= self.tuning.weight_kept);
        if let Some(own) = self.bins.get_mut(at) {
            own.observe(rows as f64, seconds, &self.tuning);
        }
        if deciding > 0 {
            let (ln, kept) = ((deciding as f64).ln(), self.tuning.size_kept);
            self.usual = Some(self.usual.map_or(ln, |usual| kept * usual + (1.0 - kept) * ln));
        }
        self.tabulate();
    }

    /// Seconds that a pass of `rows` rows takes; 0 before anything is known.
    pub(super) fn pass(&self, rows: f64) -> f64 {
        let below = rows.max(0.0) as usize;
        match (self.seconds.get(below), self.seconds.get(below + 1), &self.seconds[..]) {
            (Some(&low), Some(&high), _) => low + (high - low) * (rows - below as f64).clamp(0.0, 1.0),
            (_, _, [.., before, last]) => last + (last - before).max(0.0) * (rows - self.most as f64).max(0.0),
            _ => 0.0,
        }
    }

    /// How many rows, at least `rows` and no more than a pass may have, take least time: with as many the pass is full, whether the
    /// others are of use or not.
    pub(super) fn full(&self, rows: usize) -> usize {
        self.full.get(rows).copied().unwrap_or(rows)
    }

    /// Seconds that a pass takes which is filled up where that makes it faster.
    pub(super) fn filled(&self, rows: usize) -> f64 {
        self.pass(self.full(rows) as f64)
    }

    /// Whether nothing is known.
    pub(super) fn is_unknown(&self) -> bool {
        self.seconds.is_empty()
    }

    /// How many rows that decide a token passes have of late; 1 before the first.
    pub(super) fn usual_rows(&self) -> f64 {
        self.usual.map_or(1.0, f64::exp)
    }

    /// The line near the passes of the size that passes have of late: seconds of a pass without rows, and of each row.
    pub(super) fn usual(&self) -> (f64, f64) {
        let rows = self.usual_rows();
        let row = ((self.pass(2.0 * rows) - self.pass(rows)) / rows).max(0.0);
        ((self.pass(rows) - row * rows).max(0.0), row)
    }

    /// Makes the table anew from what the bins know.
    fn tabulate(&mut self) {
        let known: Vec<Bin> = self.bins.iter().copied().filter(Bin::is_known).collect();
        let (Some(first), Some(last)) = (known.first(), known.last()) else { return };
        let slope = slope(&known, &self.tuning);
        let before = slope.min(first.seconds / first.rows);
        let mut points = vec![(0.0, first.seconds - before * first.rows)];
        points.extend((0..known.len()).map(|at| believed(&known, at, self.tuning.beside)));
        points.push((last.rows + 1.0, last.seconds + slope));
        let Some(table) = CostTable::new(points) else { return };
        self.seconds = table.tabulate(self.most);
        self.full = full(&self.seconds, self.tuning.least_gain);
    }
}

/// The rows of the bin `at` of those that know something, and the seconds that are believed of it, where the bins beside it count for
/// `beside` passes.
fn believed(known: &[Bin], at: usize, beside: f64) -> (f64, f64) {
    let own = known[at];
    let (Some(before), Some(after)) = (at.checked_sub(1).and_then(|at| known.get(at)), known.get(at + 1)) else {
        return (own.rows, own.seconds);
    };
    let between =
        before.seconds + (after.seconds - before.seconds) * (own.rows - before.rows) / (after.rows - before.rows);
    (own.rows, (own.weight * own.seconds + beside * between) / (own.weight + beside))
}

/// What a row costs over all `bins`: the slope of least squares, with a first guess that counts for some squared rows.
fn slope(bins: &[Bin], tuning: &CostTuning) -> f64 {
    let sum = |f: fn(&Bin) -> f64| bins.iter().map(|bin| bin.weight * f(bin)).sum::<f64>();
    let weight = sum(|_| 1.0).max(f64::MIN_POSITIVE);
    let (x, y) = (sum(|bin| bin.rows) / weight, sum(|bin| bin.seconds) / weight);
    let variance = sum(|bin| bin.rows * bin.rows) / weight - x * x;
    let covariance = sum(|bin| bin.rows * bin.seconds) / weight - x * y;
    let prior = tuning.prior / weight;
    let guess = y / (x + tuning.fixed_rows);
    ((covariance + prior * guess) / (variance + prior)).clamp(0.0, y / x)
}

/// For each number of rows, the one from there on that takes least time, if it takes less by more than the share `least_gain`.
fn full(seconds: &[f64], least_gain: f64) -> Vec<usize> {
    let mut full: Vec<usize> = (0..seconds.len()).collect();
    let mut least = seconds.len().saturating_sub(1);
    for rows in (0..seconds.len()).rev() {
        if seconds[rows] <= seconds[least] {
            least = rows;
        }
        if seconds[least] < (1.0 - least_gain) * seconds[rows] {
            full[rows] = least;
        }
    }
    full
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn unknown() -> StepCost {
        StepCost::new(CostTuning::default(), 512)
    }

    #[test]
    fn finds_a_line_and_follows_it() {
        let mut cost = unknown();
        assert_eq!((cost.usual(), cost.pass(4.0)), ((0.0, 0.0), 0.0));
        let pass = |rows: usize, row_us: u64| Duration::from_micros(20_000 + row_us * rows as u64);
        for i in 0..200 {
            cost.observe(1 + i % 9, 1 + i % 9, pass(1 + i % 9, 500));
        }
        assert!((cost.usual().1 - 500e-6).abs() < 80e-6, "{:?}", cost.usual());
        assert!((cost.pass(20.0) - 0.030).abs() < 0.002, "{}", cost.pass(20.0));
        for i in 0..500 {
            cost.observe(1 + i % 9, 1 + i % 9, pass(1 + i % 9, 5_000));
        }
        assert!((cost.usual().1 - 5_000e-6).abs() < 300e-6, "{:?}", cost.usual());
    }

    #[test]
    fn a_staircase_stays_one() {
        // Tiles of sixteen rows: the sixteenth is cheaper than the twelfth.
        let pass = |rows: usize| MS * (40 + 250 * (rows / 16) as u32 + 22 * (rows % 16) as u32);
        let mut cost = unknown();
        (0..30 * 40).map(|i| 1 + i % 40).for_each(|rows| cost.observe(rows, rows, pass(rows)));
        for rows in 1..=40 {
            let ratio = cost.pass(rows as f64) / pass(rows).as_secs_f64();
            assert!((ratio - 1.0).abs() < 0.05, "{rows}: {ratio}");
        }
        assert_eq!([1, 9, 12, 15, 16, 17, 28].map(|rows| cost.full(rows)), [1, 9, 16, 16, 16, 17, 32]);
        assert_eq!(cost.filled(12), cost.pass(16.0));
    }

    #[test]
    fn what_was_measured_wrongly_at_first_is_corrected() {
        let pass = |rows: usize| MS * (100 + 10 * rows as u32);
        let mut cost = unknown();
        for rows in [1, 2, 4, 8, 16] {
            cost.observe(rows, rows, if rows == 4 { 4 * pass(rows) } else { pass(rows) });
        }
        (0..60).for_each(|_| cost.observe(4, 4, pass(4)));
        assert!((cost.pass(4.0) / pass(4).as_secs_f64() - 1.0).abs() < 0.05, "{}", cost.pass(4.0));
        (0..5).flat_map(|_| [1, 2, 4, 8, 16]).for_each(|rows| cost.observe(rows, rows, pass(rows)));
        for rows in [1, 2, 4, 8, 16] {
            let ratio = cost.pass(rows as f64) / pass(rows).as_secs_f64();
            assert!((ratio - 1.0).abs() < 0.15, "{rows}: {ratio}");
        }
    }

    #[test]
    fn what_is_avoided_for_a_wrong_measurement_is_tried_again() {
        let pass = |rows: usize| MS * (20 + 20 * rows as u32);
        let mut cost = unknown();
        for rows in (0..3 * 8).map(|i| 1 + i % 8) {
            cost.observe(rows, rows, if rows == 2 { 5 * pass(rows) } else { pass(rows) });
        }
        assert!(cost.full(2) > 2, "two rows seem to take longer than more");
        for _ in 0..1000 {
            let rows = cost.full(2);
            cost.observe(rows, 2, pass(rows));
        }
        assert_eq!(cost.full(2), 2);
        assert!((cost.pass(2.0) / pass(2).as_secs_f64() - 1.0).abs() < 0.05, "{}", cost.pass(2.0));
    }

    #[test]
    fn where_all_slows_down_the_table_follows_as_a_whole() {
        let pass = |rows: usize| MS * (100 + 10 * rows as u32);
        let mut cost = unknown();
        (0..48).map(|i| 1 + i % 16).for_each(|rows| cost.observe(rows, rows, pass(rows)));
        (0..400).for_each(|_| cost.observe(4, 4, 3 * pass(4)));
        let ratio = cost.pass(12.0) / pass(12).as_secs_f64();
        assert!(ratio > 1.2, "{ratio}");
        assert!((cost.pass(4.0) / pass(4).as_secs_f64() - 3.0).abs() < 0.01);
    }

    #[test]
    fn passes_of_one_size_leave_the_guess() {
        let mut cost = unknown();
        (0..100).for_each(|_| cost.observe(4, 4, 20 * MS));
        let row = cost.pass(5.0) - cost.pass(4.0);
        assert!(row > 0.0 && row <= 0.005, "{row}");
    }

    proptest! {
        #[test]
        fn any_staircase_is_learned(steps in prop::collection::vec(1_u64..500, 40)) {
            let mut cost = unknown();
            (0..30 * 40).map(|i| i % 40).for_each(|at| cost.observe(at + 1, at + 1, Duration::from_millis(steps[at])));
            let ms = |at: usize| steps[at] as f64;
            for at in 0..40 {
                let seconds = cost.pass((at + 1) as f64);
                // Those beside it have a say, a small one.
                let between = if at == 0 || at == 39 { ms(at) } else { (ms(at - 1) + ms(at + 1)) / 2.0 };
                let most = 0.1 * (between - ms(at)).abs() + 1e-3;
                prop_assert!((1e3 * seconds - ms(at)).abs() <= most, "{} rows: {} s, {} ms", at + 1, seconds, ms(at));
                let full = cost.full(at + 1);
                prop_assert!(full > at && cost.filled(at + 1) <= seconds);
                prop_assert!((at..40).all(|other| cost.filled(at + 1) * 0.97 <= cost.pass((other + 1) as f64)));
            }
        }
    }
}
