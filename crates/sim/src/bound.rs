//! How much faster than plain decoding a batch with drafts can be, by what passes cost and drafts are worth.
//!
//! A pass of `n` rows for `N` devices decides a token of each, and verifies `n - N` drafts: the likeliest, which are the first of
//! each device, then the second ones, and so on. It takes the time of the cheapest pass of at least `n` rows, as rows can be padded.
//! The best of these is a bound for drafts of average confidence that cost no time and while nobody's prompt is read. A scheduler
//! that prefers confident drafts can beat it; whoever waits for drafts stays below.

use serde::{Deserialize, Serialize};

use crate::recording::Recording;

/// The share of the places of the recorded outputs at which the next `k` drafts are all right, for `k` from 1 to `longest`.
#[must_use]
pub fn survival(recording: &Recording, longest: usize) -> Vec<f64> {
    let (mut right, mut all) = (vec![0usize; longest], vec![0usize; longest]);
    for output in &recording.outputs {
        let mut run = 0;
        // From the end, where a run of right drafts is one longer than that of the next place.
        for (left, (token, draft)) in (1..).zip(output.tokens.iter().zip(&output.drafts).rev()) {
            run = if draft.token == *token { run + 1 } else { 0 };
            right.iter_mut().take(run).for_each(|count| *count += 1);
            all.iter_mut().take(left).for_each(|count| *count += 1);
        }
    }
    right.iter().zip(all).map(|(&right, all)| right as f64 / all.max(1) as f64).collect()
}

/// What passes were measured to take.
#[derive(Clone, Debug)]
pub struct Passes {
    /// Rows and milliseconds, by rows.
    points: Vec<(usize, f64)>,
}

impl Passes {
    /// From `[rows, milliseconds]` in any order; what is no time is left out.
    #[must_use]
    pub fn new(points: &[[f64; 2]]) -> Self {
        let is_time = |[rows, ms]: &&[f64; 2]| *rows >= 1.0 && ms.is_finite() && *ms > 0.0;
        let mut points: Vec<_> = points.iter().filter(is_time).map(|&[rows, ms]| (rows as usize, ms)).collect();
        points.sort_by_key(|&(rows, _)| rows);
        Self { points }
    }

    /// Milliseconds of a pass of exactly so many rows, if one was measured.
    #[must_use]
    pub fn exactly(&self, rows: usize) -> Option<f64> {
        self.points.iter().find(|point| point.0 == rows).map(|point| point.1)
    }

    /// Rows and milliseconds of the cheapest measured pass that has room for so many rows.
    #[must_use]
    pub fn padded(&self, rows: usize) -> Option<(usize, f64)> {
        let with_room = self.points.iter().filter(|point| point.0 >= rows);
        with_room.min_by(|a, b| a.1.total_cmp(&b.1)).copied()
    }

    fn most(&self) -> usize {
        self.points.last().map_or(0, |point| point.0)
    }
}

/// The best pass for a number of devices, and what it is worth.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bound {
    /// Devices that generate.
    pub devices: usize,
    /// Rows of the pass: one for each device, and one for each draft.
    pub rows: usize,
    /// The rows that it is padded to.
    pub padded: usize,
    /// The tokens that it is expected to commit.
    pub tokens: f64,
    /// How long it takes, in milliseconds.
    pub ms: f64,
    /// Its tokens a second, over those of a pass without drafts that may be padded too.
    pub over_central: f64,
    /// The same over a pass without drafts that is not padded, if one was measured.
    pub over_unpadded: Option<f64>,
}

impl Bound {
    /// The best pass that `passes` and drafts with this `survival` allow; `None` if no measured pass has so many rows.
    #[must_use]
    pub fn new(devices: usize, passes: &Passes, survival: &[f64]) -> Option<Self> {
        let plain = |ms: f64| devices as f64 / ms;
        let central = plain(passes.padded(devices.max(1))?.1);
        let pass = |rows| {
            let (padded, ms) = passes.padded(rows)?;
            let tokens = value(devices, rows, survival);
            let over_unpadded = passes.exactly(devices).map(|unpadded| tokens / ms / plain(unpadded));
            Some(Self { devices, rows, padded, tokens, ms, over_central: tokens / ms / central, over_unpadded })
        };
        // Where two are as good, fewer rows.
        let all = (devices.max(1)..=passes.most()).rev().filter_map(pass);
        all.max_by(|a, b| a.over_central.total_cmp(&b.over_central))
    }
}

/// The tokens that a pass of so many rows is expected to commit: one of each device, and its likeliest drafts.
fn value(devices: usize, rows: usize, survival: &[f64]) -> f64 {
    let mut drafts = rows.saturating_sub(devices);
    let mut tokens = devices as f64;
    for &survives in survival {
        let of_place = drafts.min(devices);
        tokens += of_place as f64 * survives;
        drafts -= of_place;
    }
    tokens
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::recording::{Output, Proposal};

    fn near(value: f64, expected: f64) {
        assert!((value - expected).abs() < 1e-9, "{value} is not {expected}");
    }

    /// An output of tokens 0, 1, ..., of which the drafts are right as told.
    fn output(right: &[bool]) -> Output {
        let draft = |token| Proposal { token, confidence: 1.0, second: 0, entropy: 0.0, margin: 1.0 };
        Output {
            kind: String::new(),
            prompt_len: 1,
            tokens: (0..).take(right.len()).collect(),
            drafts: (0..).zip(right).map(|(token, &right)| draft(if right { token } else { 99 })).collect(),
            detours: vec![Vec::new(); right.len()],
        }
    }

    #[test]
    fn survival_counts_runs_of_right_drafts_from_every_place() {
        let outputs = vec![output(&[true, true, false, true]), output(&[true, true])];
        let recording = Recording { command: String::new(), target: String::new(), draft: String::new(), outputs };
        // One: 5 of 6 places. Two: 2 of the 4 that have two left. Three: 0 of 2. Four: 0 of 1. Five: of none.
        assert_eq!(survival(&recording, 5), [5.0 / 6.0, 0.5, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn a_line_with_dear_rows_allows_no_drafts() {
        let passes = Passes::new(&[[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]]);
        let bound = Bound::new(1, &passes, &[0.8, 0.6]).unwrap();
        assert_eq!((bound.rows, bound.padded, bound.tokens, bound.ms), (1, 1, 1.0, 10.0));
        near(bound.over_central, 1.0);
    }

    #[test]
    fn cheap_rows_are_filled_with_first_drafts_then_with_second_ones() {
        // Two devices. Of two rows 2 tokens in 10 ms, of three 2.8 in 12, of four 3.6 in 14, of five 4.2 in 20, of six 4.8 in 20.
        let passes = Passes::new(&[[2.0, 10.0], [3.0, 12.0], [4.0, 14.0], [6.0, 20.0]]);
        let bound = Bound::new(2, &passes, &[0.8, 0.6]).unwrap();
        assert_eq!((bound.rows, bound.padded), (4, 4));
        near(bound.tokens, 3.6);
        near(bound.over_central, 3.6 / 14.0 / (2.0 / 10.0));
        near(value(2, 5, &[0.8, 0.6]), 4.2);
        near(value(2, 9, &[0.8, 0.6]), 4.8);
    }

    #[test]
    fn a_staircase_is_padded_up_and_plain_decoding_with_it() {
        // As on a processor whose tiles have four rows: four take less than three.
        let passes = Passes::new(&[[4.0, 40.0], [1.0, 20.0], [3.0, 50.0], [8.0, 100.0]]);
        let bound = Bound::new(3, &passes, &[0.5]).unwrap();
        // Three plain rows take 40 ms as four, 50 as three; the fourth is a draft for nothing.
        assert_eq!((bound.rows, bound.padded, bound.tokens, bound.ms), (4, 4, 3.5, 40.0));
        near(bound.over_central, 3.5 / 3.0);
        near(bound.over_unpadded.unwrap(), 3.5 / 40.0 / (3.0 / 50.0));
        assert_eq!(passes.padded(5), Some((8, 100.0)));
        assert_eq!((passes.padded(9), passes.exactly(5)), (None, None));
    }

    #[test]
    fn what_was_not_measured_has_no_bound() {
        let passes = Passes::new(&[[1.0, 10.0], [4.0, f64::NAN]]);
        assert_eq!(Bound::new(2, &passes, &[0.5]), None);
        assert_eq!(Bound::new(1, &Passes::new(&[]), &[0.5]), None);
        assert_eq!(Bound::new(1, &passes, &[0.5]).unwrap().over_unpadded, Some(1.0));
    }
}
