//! How many tokens a second the server commits, prompt tokens that it reads counted like those: a draft takes the row from either;
//! and how many a session gets.

use std::time::Duration;

/// How much a pass counts after the next one.
const KEPT: f64 = 0.95;

/// How fast the worth of a token grows where a session falls behind: at 0.93 of its goal it is worth twice as much as at the goal.
/// Utility is then `pace^(1 - STEEPNESS)`, near to max-min fairness (Mo & Walrand, *Fair end-to-end window-based congestion
/// control*, 2000).
const STEEPNESS: f64 = 10.0;

/// A token is worth no more than this many of a session that has its goal.
const MOST_WORTH: f64 = 1000.0;

/// What a session got is forgotten after it got about so many tokens more: several answers, since drafts fit one worse than another.
const REMEMBERED: f64 = 600.0;

/// A session begins as if it had got so many tokens at its goal.
const BEGUN_WITH: f64 = 50.0;

/// How many tokens a session got of late, in how much time of waiting for them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    tokens: f64,
    seconds: f64,
    /// Up to when they are counted.
    until: Duration,
}

impl Pace {
    pub(super) fn new(now: Duration) -> Self {
        Self { tokens: 0.0, seconds: 0.0, until: now }
    }

    /// The session wanted nothing until `now`.
    pub(super) fn rest(&mut self, now: Duration) {
        self.until = now;
    }

    /// The session got `tokens`; it is to get `goal` a second.
    pub(super) fn observe(&mut self, goal: f64, now: Duration, tokens: usize) {
        let seconds = now.saturating_sub(self.until).as_secs_f64();
        let kept = (-seconds * goal / REMEMBERED).exp();
        self.tokens = kept * self.tokens + tokens as f64;
        self.seconds = kept * self.seconds + seconds;
        self.until = now;
    }

    /// What one more token is worth; `waiting` is the time, if the session waits for tokens.
    pub(super) fn worth(&self, goal: f64, waiting: Option<Duration>) -> f64 {
        let since = waiting.map_or(0.0, |now| now.saturating_sub(self.until).as_secs_f64());
        let pace = (self.tokens + BEGUN_WITH) / (self.seconds + since + BEGUN_WITH / goal);
        (goal / pace).max(1.0).powf(STEEPNESS).min(MOST_WORTH)
    }
}

/// Tokens a second of late, while somebody was served.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rate {
    tokens: f64,
    seconds: f64,
    /// The end of the last pass.
    last: Duration,
}

impl Rate {
    /// A pass that was planned at `planned` and is complete `now` brought what is worth so many tokens.
    pub(super) fn observe(&mut self, planned: Duration, now: Duration, worth: f64, was_idle: bool) {
        let since = if was_idle { planned } else { self.last.min(planned) };
        self.tokens = KEPT * self.tokens + worth;
        self.seconds = KEPT * self.seconds + now.saturating_sub(since).as_secs_f64();
        self.last = now;
    }

    pub(super) fn get(&self) -> f64 {
        if self.seconds > 0.0 { self.tokens / self.seconds } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_of_who_is_behind_are_worth_more() {
        let paced = |tokens| {
            let mut pace = Pace::new(Duration::ZERO);
            (1..=100).for_each(|second| pace.observe(5.0, Duration::from_secs(second), tokens));
            pace.worth(5.0, Some(Duration::from_secs(100)))
        };
        assert!((paced(5) - 1.0).abs() < 1e-6 && paced(8) == 1.0, "on time and ahead");
        assert!(paced(4) > 4.0 && paced(3) > 5.0 * paced(4) && paced(0) == MOST_WORTH);
        // Who wants nothing does not fall behind.
        let mut pace = Pace::new(Duration::ZERO);
        assert_eq!(pace.worth(5.0, None), 1.0);
        pace.rest(Duration::from_secs(1000));
        assert_eq!(pace.worth(5.0, Some(Duration::from_secs(1000))), 1.0);
        assert!(pace.worth(5.0, Some(Duration::from_secs(1005))) > 10.0);
    }
}
