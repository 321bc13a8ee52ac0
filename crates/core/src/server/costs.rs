//! What passes cost and bring, measured: the seconds of a pass, and the tokens of a second.

use std::time::Duration;

use super::cost::StepCost;
use super::rate::{Brought, Rate};

/// What was learned of passes.
#[derive(Debug)]
pub(super) struct Costs {
    step: StepCost,
    rate: Rate,
    /// Whether nobody was served before the next pass.
    idle: bool,
}

impl Default for Costs {
    fn default() -> Self {
        Self { step: StepCost::default(), rate: Rate::default(), idle: true }
    }
}

impl Costs {
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

    /// Seconds that one more row adds to a pass like those of late; 0 before anything is known.
    pub(super) fn row(&self) -> f64 {
        self.step.row()
    }

    /// Seconds that a pass of `rows` rows takes; 0 before anything is known.
    pub(super) fn pass(&self, rows: f64) -> f64 {
        self.step.pass(rows)
    }

    /// How many rows take `seconds`; `None` before anything is known.
    pub(super) fn rows_in(&self, seconds: f64) -> Option<usize> {
        let row = self.row();
        (row > 0.0).then(|| (seconds / row) as usize)
    }

    /// The line through the passes of the size that passes have of late: seconds of a pass without rows, and of each row.
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
