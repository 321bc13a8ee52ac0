//! How many tokens a second the server commits, prompt tokens that it reads counted like those: a draft takes the row from either.

use std::time::Duration;

/// How much a pass counts after the next one.
const KEPT: f64 = 0.95;

/// Tokens a second of late, while somebody was served.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rate {
    tokens: f64,
    seconds: f64,
    /// The end of the last pass.
    last: Duration,
}

impl Rate {
    /// A pass that was planned at `planned` and is complete `now` brought so many tokens.
    pub(super) fn observe(&mut self, planned: Duration, now: Duration, tokens: usize, was_idle: bool) {
        let since = if was_idle { planned } else { self.last.min(planned) };
        self.tokens = KEPT * self.tokens + tokens as f64;
        self.seconds = KEPT * self.seconds + now.saturating_sub(since).as_secs_f64();
        self.last = now;
    }

    pub(super) fn get(&self) -> f64 {
        if self.seconds > 0.0 { self.tokens / self.seconds } else { 0.0 }
    }
}
