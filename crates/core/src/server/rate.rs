//! How many tokens a second the server commits, and how many a session gets.

use std::time::Duration;

use super::tuning::FairnessTuning;

/// Tokens a second that each session is to get, if possible; 0 where nobody is protected.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Goal {
    rate: f64,
    steepness: f64,
    tuning: FairnessTuning,
}

impl Goal {
    /// What the operator asked for.
    pub(super) fn asked(rate: f64, tuning: FairnessTuning) -> Self {
        Self { rate, steepness: tuning.asked, tuning }
    }

    /// What plain batching would give each session, so that nobody pays for the drafts of others.
    pub(super) fn plain(rate: f64, tuning: FairnessTuning) -> Self {
        Self { rate, steepness: tuning.plain, tuning }
    }
}

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

    /// The session got `tokens`.
    pub(super) fn observe(&mut self, goal: Goal, now: Duration, tokens: usize) {
        let seconds = now.saturating_sub(self.until).as_secs_f64();
        let kept = (-seconds * goal.rate / goal.tuning.remembered).exp();
        self.tokens = kept * self.tokens + tokens as f64;
        self.seconds = kept * self.seconds + seconds;
        self.until = now;
    }

    /// What one more token is worth beside one of a session that has the goal; `waiting` is the time, if the session waits for
    /// tokens.
    pub(super) fn worth(&self, goal: Goal, waiting: Option<Duration>) -> f64 {
        if goal.rate <= 0.0 {
            return 1.0;
        }
        let FairnessTuning { most_worth, begun_with, .. } = goal.tuning;
        let since = waiting.map_or(0.0, |now| now.saturating_sub(self.until).as_secs_f64());
        let pace = (self.tokens + begun_with) / (self.seconds + since + begun_with / goal.rate);
        (goal.rate / pace).max(1.0).powf(goal.steepness).min(most_worth)
    }
}

/// Tokens a second of late, while somebody was served. What reading prompts takes is left out: it is to be done whatever becomes of
/// drafts, so that a row that is saved brings tokens at the rate that they come at between prompts.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rate {
    /// How much a pass counts after the next one.
    kept: f64,
    worth: f64,
    seconds: f64,
    committed: f64,
    read: f64,
    /// The end of the last pass.
    last: Duration,
}

impl Rate {
    pub(super) fn new(kept: f64) -> Self {
        Self { kept, ..Self::default() }
    }

    /// A pass that was planned at `planned` and is complete `now` brought this.
    pub(super) fn observe(&mut self, planned: Duration, now: Duration, brought: Brought, was_idle: bool) {
        let since = if was_idle { planned } else { self.last.min(planned) };
        self.last = now;
        self.read += brought.read as f64;
        if brought.committed > 0 {
            let seconds = now.saturating_sub(since).as_secs_f64() * (1.0 - brought.reading);
            self.worth = self.kept * self.worth + brought.worth;
            self.seconds = self.kept * self.seconds + seconds;
            self.committed = self.kept * self.committed + brought.committed as f64;
            self.read *= self.kept;
        }
    }

    /// The worth of what is committed in a second.
    pub(super) fn get(&self) -> f64 {
        if self.seconds > 0.0 { self.worth / self.seconds } else { 0.0 }
    }

    /// Prompt tokens that are read for each committed token.
    pub(super) fn prompt_share(&self) -> f64 {
        if self.committed > 0.0 { self.read / self.committed } else { 0.0 }
    }
}

/// What a pass brought.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Brought {
    /// Tokens committed, each by what it is worth.
    pub(super) worth: f64,
    /// Tokens committed.
    pub(super) committed: usize,
    /// Prompt tokens read.
    pub(super) read: usize,
    /// The share of the pass that reading them took.
    pub(super) reading: f64,
}

impl Brought {
    /// `tokens` were committed, each worth `worth`.
    pub(super) fn add(&mut self, worth: f64, tokens: usize) {
        self.worth += worth * tokens as f64;
        self.committed += tokens;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_of_who_is_behind_are_worth_more() {
        let goal = Goal::asked(5.0, FairnessTuning::default());
        let paced = |tokens| {
            let mut pace = Pace::new(Duration::ZERO);
            (1..=100).for_each(|second| pace.observe(goal, Duration::from_secs(second), tokens));
            pace.worth(goal, Some(Duration::from_secs(100)))
        };
        assert!((paced(5) - 1.0).abs() < 1e-6 && paced(8) == 1.0, "on time and ahead");
        assert!(paced(4) > 4.0 && paced(3) > 5.0 * paced(4) && paced(0) == 1000.0);
        // Who wants nothing does not fall behind.
        let mut pace = Pace::new(Duration::ZERO);
        assert_eq!(pace.worth(goal, None), 1.0);
        pace.rest(Duration::from_secs(1000));
        assert_eq!(pace.worth(goal, Some(Duration::from_secs(1000))), 1.0);
        assert!(pace.worth(goal, Some(Duration::from_secs(1005))) > 10.0);
        assert_eq!(pace.worth(Goal::default(), Some(Duration::from_secs(1005))), 1.0);
    }
}
