//! What passes cost and bring, measured: the seconds of a pass, and the tokens of a second.

use std::time::Duration;

use super::cost::StepCost;
use super::rate::{Brought, Rate};
use super::tuning::CostTuning;

/// What was learned of passes.
#[derive(Debug)]
pub(super) struct Costs {
    step: StepCost,
    rate: Rate,
    /// Whether nobody was served before the next pass.
    idle: bool,
}

impl Costs {
    /// Nothing is known of passes, which have `rows` rows at most.
    pub(super) fn new(tuning: CostTuning, rows: usize) -> Self {
        Self { step: StepCost::new(tuning, rows), rate: Rate::new(tuning.rate_kept), idle: true }
    }

    /// A pass of `rows` rows took `time`; `deciding` of them were no prompt rows.
    pub(super) fn observe(&mut self, rows: usize, deciding: usize, time: Duration) {
        self.step.observe(rows, deciding, time);
    }

    /// A pass of `rows` rows that was planned at `planned` and is complete `now` brought this.
    pub(super) fn on_brought(&mut self, planned: Duration, now: Duration, rows: usize, mut brought: Brought) {
        let without = self.step.pass(rows.saturating_sub(brought.read) as f64);
        brought.reading = 1.0 - (without / self.step.pass(rows as f64).max(f64::MIN_POSITIVE)).min(1.0);
        self.rate.observe(planned, now, brought, std::mem::take(&mut self.idle));
    }

    /// There is no pass until something comes; the time until then counts only if somebody `waits`.
    pub(super) fn pause(&mut self, waits: bool) {
        self.idle = !waits;
    }

    /// Seconds that a pass of `rows` rows takes, filled up where that makes it faster; 0 before anything is known.
    pub(super) fn pass(&self, rows: usize) -> f64 {
        self.step.filled(rows)
    }

    /// How many rows, at least `rows`, take least time.
    pub(super) fn full(&self, rows: usize) -> usize {
        self.step.full(rows)
    }

    /// How many rows besides `base` take no more than `seconds`; `None` before anything is known. `most` is the most that a pass may
    /// have.
    pub(super) fn rows_in(&self, seconds: f64, base: usize, most: usize) -> Option<usize> {
        if self.step.is_unknown() {
            return None;
        }
        let until = self.pass(base) + seconds;
        let within = |&rows: &usize| self.pass(rows) <= until;
        Some((base..=most).rev().find(within).map_or(0, |rows| rows - base))
    }

    /// Up to `more` rows are to be computed beside `base` others, in this pass and later ones: with how many now they are soonest
    /// done.
    pub(super) fn soonest(&self, base: usize, more: usize) -> usize {
        let row = |more: usize| self.pass(base + more) / more as f64;
        (1..=more).rev().min_by(|&a, &b| row(a).total_cmp(&row(b))).unwrap_or(more)
    }

    /// How many rows that decide a token passes have of late.
    pub(super) fn usual_rows(&self) -> usize {
        self.step.usual_rows().round() as usize
    }

    /// The line near the passes of the size that passes have of late: seconds of a pass without rows, and of each row.
    pub(super) fn usual(&self) -> (f64, f64) {
        self.step.usual()
    }

    /// The worth of what is committed in a second.
    pub(super) fn rate(&self) -> f64 {
        self.rate.get()
    }

    /// Prompt tokens that are read for each committed token.
    pub(super) fn prompt_share(&self) -> f64 {
        self.rate.prompt_share()
    }
}
