//! When to give up waiting, and when to try again.

use std::time::Duration;

use crate::splitmix;
use crate::tuning::Tuning;

/// How long to wait for an answer before the question is asked again (RFC 6298: `SRTT + 4 RTTVAR`, doubled each time it
/// runs out, taken from answers to questions that were asked once: Karn's algorithm).
#[derive(Clone, Debug)]
pub(super) struct Timeout {
    first: Duration,
    least: Duration,
    most: Duration,
    /// What it is doubled to at most.
    longest: Duration,
    smoothed: Option<Duration>,
    variation: Duration,
    doubled: u32,
}

impl Timeout {
    /// A timeout that begins at `most` at most.
    pub(super) fn new(most: Duration, tuning: &Tuning) -> Self {
        Self {
            first: tuning.first_timeout,
            least: tuning.least_timeout,
            most,
            longest: most.max(tuning.longest_timeout),
            smoothed: None,
            variation: Duration::ZERO,
            doubled: 0,
        }
    }

    /// The first answer to a question came after `time`.
    pub(super) fn sample(&mut self, time: Duration) {
        match self.smoothed {
            None => {
                self.smoothed = Some(time);
                self.variation = time / 2;
            }
            Some(smoothed) => {
                self.variation = (self.variation * 3 + smoothed.abs_diff(time)) / 4;
                self.smoothed = Some((smoothed * 7 + time) / 8);
            }
        }
    }

    /// Something came: the server lives.
    pub(super) fn reset(&mut self) {
        self.doubled = 0;
    }

    /// The time ran out.
    pub(super) fn double(&mut self) {
        self.doubled = (self.doubled + 1).min(16);
    }

    pub(super) fn duration(&self) -> Duration {
        let plain = self.smoothed.map_or(self.first, |smoothed| smoothed + self.variation * 4);
        plain.max(self.least).min(self.most).saturating_mul(1 << self.doubled).min(self.longest)
    }
}

/// Delays between attempts to connect: exponential, with jitter so that the devices of a server that comes back do not all
/// call at once.
#[derive(Clone, Debug)]
pub(super) struct Backoff {
    first: Duration,
    longest: Duration,
    state: u64,
    attempts: u32,
}

impl Backoff {
    pub(super) fn new(seed: u64, tuning: &Tuning) -> Self {
        Self { first: tuning.first_delay, longest: tuning.longest_delay, state: seed, attempts: 0 }
    }

    /// An attempt succeeded.
    pub(super) fn reset(&mut self) {
        self.attempts = 0;
    }

    /// The delay before the next attempt, with `servers` to try: each is tried once before the delay grows.
    pub(super) fn next(&mut self, servers: usize) -> Duration {
        let round = self.attempts / u32::try_from(servers).unwrap_or(u32::MAX).max(1);
        self.attempts = self.attempts.saturating_add(1);
        let whole = self.first.saturating_mul(1 << round.min(16)).min(self.longest);
        let share = (splitmix::next(&mut self.state) >> 40) as f64 / (1u64 << 24) as f64;
        whole.mul_f64(0.5 + 0.5 * share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TUNING: Tuning = Tuning::DEFAULT;

    #[test]
    fn the_timeout_follows_rfc_6298_and_keeps_its_bounds() {
        let ms = Duration::from_millis;
        let mut timeout = Timeout::new(ms(4000), &TUNING);
        assert_eq!(timeout.duration(), TUNING.first_timeout);
        timeout.sample(ms(200));
        assert_eq!(timeout.duration(), ms(200 + 4 * 100));
        for _ in 0..100 {
            timeout.sample(ms(200));
        }
        assert_eq!(timeout.duration(), TUNING.least_timeout, "a steady server is given the least time");
        timeout.double();
        assert_eq!(timeout.duration(), TUNING.least_timeout * 2);
        for _ in 0..100 {
            timeout.double();
        }
        assert_eq!(timeout.duration(), TUNING.longest_timeout);
        timeout.sample(ms(100_000));
        timeout.reset();
        assert_eq!(timeout.duration(), ms(4000), "what was asked for");
        let mut timeout = Timeout::new(ms(4000), &TUNING);
        (0..100).for_each(|_| timeout.sample(ms(20)));
        assert_eq!(timeout.duration(), TUNING.least_timeout);
    }

    #[test]
    fn delays_grow_within_bounds_and_differ_between_devices() {
        let delays = |seed, servers| {
            let mut backoff = Backoff::new(seed, &TUNING);
            std::iter::repeat_with(move || backoff.next(servers)).take(40).collect::<Vec<_>>()
        };
        let alone = delays(1, 1);
        assert!(
            alone[0] <= TUNING.first_delay
                && alone[39] <= TUNING.longest_delay
                && alone[39] >= TUNING.longest_delay / 2
        );
        assert_ne!(alone, delays(2, 1));
        assert!(delays(1, 3)[..3].iter().all(|&delay| delay <= TUNING.first_delay), "all servers are tried at once");
    }
}
