//! What a session's past says of its next draft: when it comes, how long it is, how much of it is right.

use std::time::Duration;

use super::tuning::ForecastTuning;

/// The history of one session, in a few numbers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Forecast {
    tuning: ForecastTuning,
    acceptance: f64,
    length: f64,
    /// Seconds from a commit that left the session without a draft to its next draft, and how much they vary.
    gap: Option<(f64, f64)>,
    /// Whether there ever was a draft.
    drafts: bool,
    /// Since when a draft is expected.
    since: Option<Duration>,
}

impl Forecast {
    pub(super) fn new(tuning: ForecastTuning) -> Self {
        Self { tuning, acceptance: tuning.acceptance, length: tuning.length, gap: None, drafts: false, since: None }
    }

    /// A draft of `len` tokens came.
    pub(super) fn on_draft(&mut self, now: Duration, len: usize) {
        self.drafts |= len > 0;
        let gain = self.tuning.gain;
        self.length += gain * (len as f64 - self.length);
        if let Some(since) = self.since.take() {
            let gap = now.saturating_sub(since).as_secs_f64();
            self.gap = Some(self.gap.map_or((gap, gap / 2.0), |(mean, deviation)| {
                (mean + gain * (gap - mean), deviation + gain * ((gap - mean).abs() - deviation))
            }));
        }
    }

    /// The session has no draft any more; the device knows of it from now on.
    pub(super) fn expect(&mut self, now: Duration) {
        self.since.get_or_insert(now);
    }

    /// Nothing is expected: the device has what it wanted.
    pub(super) fn forget(&mut self) {
        self.since = None;
    }

    /// Of `verified` drafts the first `accepted` were right.
    pub(super) fn on_verdict(&mut self, verified: usize, accepted: usize) {
        for i in 0..verified.min(accepted + 1) {
            let right = f64::from(u8::from(i < accepted));
            self.acceptance += self.tuning.gain / 4.0 * (right - self.acceptance);
        }
    }

    /// When the next draft is due, in time from `now`; `None` if there is no telling, or it is overdue.
    pub(super) fn due(&self, now: Duration) -> Option<f64> {
        let waited = now.saturating_sub(self.since?).as_secs_f64();
        let (mean, deviation) = self.gap?;
        if waited > mean + self.tuning.late * deviation {
            return None;
        }
        Some((mean - waited).max(deviation / 2.0))
    }

    /// The probability that a draft is right, as far as it is known; a drafter that had bad luck is still asked.
    pub(super) fn hope(&self) -> Option<f64> {
        self.drafts.then(|| self.acceptance.max(self.tuning.acceptance))
    }

    /// The probability that the first `len` drafts are all right.
    pub(super) fn survival(&self, len: usize) -> f64 {
        self.acceptance.powi(i32::try_from(len).unwrap_or(i32::MAX))
    }

    /// How many drafts the next block will have.
    pub(super) fn length(&self) -> f64 {
        self.length
    }

    /// How many tokens a verdict on `len` drafts is to be expected to commit: `(1 - p^(len+1)) / (1 - p)` (Leviathan,
    /// Kalman & Matias, *Fast inference from transformers via speculative decoding*, 2023, Eq. 1).
    pub(super) fn tokens(&self, len: f64) -> f64 {
        let p = self.acceptance.clamp(0.01, 0.99);
        (1.0 - p.powf(len + 1.0)) / (1.0 - p)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_regular_device_is_due_when_it_always_was() {
        let mut forecast = Forecast::new(ForecastTuning::default());
        assert_eq!(forecast.due(Duration::ZERO), None);
        for i in 0..40 {
            forecast.expect(1000 * i * MS);
            forecast.on_draft((1000 * i + 60) * MS, 4);
        }
        forecast.expect(100_000 * MS);
        let due = forecast.due(100_020 * MS).unwrap_or_default();
        assert!((due - 0.040).abs() < 0.005, "{due}");
        assert_eq!(forecast.due(100_200 * MS), None, "overdue");
        assert!((forecast.length() - 4.0).abs() < 0.01);
    }

    #[test]
    fn acceptance_follows_verdicts() {
        let mut forecast = Forecast::new(ForecastTuning::default());
        (0..200).for_each(|_| forecast.on_verdict(4, 4));
        assert!(forecast.survival(1) > 0.95 && forecast.tokens(4.0) > 4.5);
        (0..200).for_each(|_| forecast.on_verdict(4, 0));
        assert!(forecast.survival(1) < 0.05 && forecast.tokens(4.0) < 1.1);
    }
}
