//! The `goodput` policy: a token is drafted and sent while what it is worth exceeds what it costs.
//!
//! A device that commits `rate` tokens a second gives up `rate * t` tokens in `t` seconds. One more draft in a block brings
//! `survival` tokens, the probability that it and all before it are accepted. So it is worth its cost `t` while
//! `survival > rate * t`; the block that this rule ends has the best rate that any length can have (Dinkelbach, *On nonlinear
//! fractional programming*, 1967: the ratio is maximal where the parametrised difference is zero). The cost of a draft that
//! is there already is the row that verifies it: what a row adds to a step, once for each session that waits for the step.
//! A draft that is still to be made also takes the time to make it.

use std::time::Duration;

use crate::message::Load;

/// The longest block may be this much longer, or shorter, than what the last one turned out: cost models are noisy, and
/// lengths that follow them freely run away.
const MAX_CHANGE: usize = 2;

/// The longest block to begin with.
const FIRST_LONGEST: usize = 4;

/// How much of the past rate is kept for each committed token.
const RATE_KEPT: f64 = 0.95;

/// The gain of the running means of times.
const TIME_GAIN: f64 = 0.2;

/// What a device has measured of the costs, and how long its blocks may be.
#[derive(Clone, Debug)]
pub struct Goodput {
    tokens: f64,
    seconds: f64,
    draft: Mean,
    step: Mean,
    row: Mean,
    sharing: Mean,
    longest: usize,
}

/// How the next block will travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Travel {
    /// No other block follows until its verdict is there.
    Alone,
    /// It is the first of several.
    First,
    /// Others are under way before it.
    Behind,
}

impl Default for Goodput {
    fn default() -> Self {
        Self {
            tokens: 0.0,
            seconds: 0.0,
            draft: Mean(None),
            step: Mean(None),
            row: Mean(None),
            sharing: Mean(None),
            longest: FIRST_LONGEST,
        }
    }
}

impl Goodput {
    /// `tokens` were committed in the last `time`.
    pub fn on_commit(&mut self, tokens: usize, time: Duration) {
        let kept = RATE_KEPT.powi(i32::try_from(tokens).unwrap_or(i32::MAX));
        self.tokens = kept * self.tokens + tokens as f64;
        self.seconds = kept * self.seconds + time.as_secs_f64();
    }

    /// The server told how busy it is.
    pub fn on_load(&mut self, load: Load) {
        self.step.add(load.step.as_secs_f64());
        self.row.add(load.row.as_secs_f64());
        self.sharing.add(f64::from(load.sharing.max(1)));
    }

    /// A token took `time` to draft.
    pub fn on_draft(&mut self, time: Duration) {
        self.draft.add(time.as_secs_f64());
    }

    /// A block of `len` tokens goes out.
    pub fn on_block(&mut self, len: usize) {
        self.longest = (len + MAX_CHANGE).max(self.longest.saturating_sub(MAX_CHANGE));
    }

    /// The longest that the next block may be.
    #[must_use]
    pub fn longest(&self) -> usize {
        self.longest
    }

    /// Whether a draft that was made already is worth its row. `first` adds the row that every block has beside its drafts.
    #[must_use]
    pub fn pays(&self, survival: f64, first: bool) -> bool {
        survival > self.rate() * self.price() * if first { 2.0 } else { 1.0 }
    }

    /// Whether a draft that is not made yet is worth waiting for, with a block at hand that could go out.
    #[must_use]
    pub fn worth_waiting(&self, survival: f64, travel: Travel) -> bool {
        let draft = self.draft.or(0.0);
        match travel {
            Travel::Alone => survival > self.rate() * (draft + self.price()),
            // It could follow in a block of its own, a step later. To wait for it holds up the verdict on all before it.
            Travel::First => self.pays(survival, false) && survival * self.step.or(f64::MAX) > draft,
            // The server is busy with the block before; it takes together what arrives meanwhile. But where it is shared, every
            // block costs others a row.
            Travel::Behind => {
                self.sharing.or(1.0) > 1.5 && self.pays(survival, false) && survival * self.step.or(0.0) > draft
            }
        }
    }

    /// Whether it pays to draft at all rather than to let the server decode.
    #[must_use]
    pub fn pays_to_draft(&self, acceptance: f64) -> bool {
        acceptance > self.rate() * (self.draft.or(0.0) + self.price())
    }

    /// How long a step takes.
    #[must_use]
    pub fn step(&self) -> Duration {
        Duration::from_secs_f64(self.step.or(0.0))
    }

    /// Committed tokens a second, of late.
    fn rate(&self) -> f64 {
        if self.seconds > 0.0 { self.tokens / self.seconds } else { 0.0 }
    }

    /// Seconds that a row costs all sessions that share the step.
    fn price(&self) -> f64 {
        self.row.or(0.0) * self.sharing.or(1.0)
    }
}

/// A running mean.
#[derive(Clone, Copy, Debug)]
struct Mean(Option<f64>);

impl Mean {
    fn add(&mut self, x: f64) {
        self.0 = Some(self.0.map_or(x, |mean| mean + TIME_GAIN * (x - mean)));
    }

    fn or(self, unknown: f64) -> f64 {
        self.0.unwrap_or(unknown)
    }
}
