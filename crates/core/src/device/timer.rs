//! When to give up waiting, and when to try again.

use std::time::Duration;

/// The least time that a server is given to answer.
const LEAST: Duration = Duration::from_millis(300);

/// The time that it is given before anything is known of it.
const FIRST: Duration = Duration::from_secs(3);

/// The longest that a timeout is doubled to. One that could not grow would give up on a slow server again and again, always
/// before it answers.
const LONGEST: Duration = Duration::from_secs(20);

/// The first delay before a reconnection, and the longest.
const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(5);

/// How long to wait for an answer before the question is asked again (RFC 6298: `SRTT + 4 RTTVAR`, doubled each time it
/// runs out, taken from answers to questions that were asked once: Karn's algorithm).
#[derive(Clone, Debug)]
pub(super) struct Timeout {
    most: Duration,
    smoothed: Option<Duration>,
    variation: Duration,
    doubled: u32,
}

impl Timeout {
    /// A timeout that begins at `most` at most.
    pub(super) fn new(most: Duration) -> Self {
        Self { most, smoothed: None, variation: Duration::ZERO, doubled: 0 }
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
        let plain = self.smoothed.map_or(FIRST, |smoothed| smoothed + self.variation * 4).max(LEAST).min(self.most);
        plain.saturating_mul(1 << self.doubled).min(self.most.max(LONGEST))
    }
}

/// Delays between attempts to connect: exponential, with jitter so that the devices of a server that comes back do not all
/// call at once.
#[derive(Clone, Debug)]
pub(super) struct Backoff {
    state: u64,
    attempts: u32,
}

impl Backoff {
    pub(super) fn new(seed: u64) -> Self {
        Self { state: seed, attempts: 0 }
    }

    /// An attempt succeeded.
    pub(super) fn reset(&mut self) {
        self.attempts = 0;
    }

    /// The delay before the next attempt, with `servers` to try: each is tried once before the delay grows.
    pub(super) fn next(&mut self, servers: usize) -> Duration {
        let round = self.attempts / u32::try_from(servers).unwrap_or(u32::MAX).max(1);
        self.attempts = self.attempts.saturating_add(1);
        let whole = FIRST_DELAY.saturating_mul(1 << round.min(16)).min(LONGEST_DELAY);
        // SplitMix64 (Steele, Lea & Flood, 2014).
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let share = ((z ^ (z >> 31)) >> 40) as f64 / (1u64 << 24) as f64;
        whole.mul_f64(0.5 + 0.5 * share)
    }
}

/// Time as the device counts it: what the shell says, except that a clock that is set back stands still instead.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Clock {
    shell: Duration,
    now: Duration,
}

impl Clock {
    pub(super) fn advance(&mut self, shell: Duration) {
        self.now += shell.saturating_sub(self.shell);
        self.shell = shell;
    }

    pub(super) fn now(self) -> Duration {
        self.now
    }

    /// The shell's time for a time of the device's.
    pub(super) fn to_shell(self, time: Duration) -> Duration {
        self.shell + time.saturating_sub(self.now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_timeout_follows_rfc_6298_and_keeps_its_bounds() {
        let ms = Duration::from_millis;
        let mut timeout = Timeout::new(ms(4000));
        assert_eq!(timeout.duration(), FIRST);
        timeout.sample(ms(200));
        assert_eq!(timeout.duration(), ms(200 + 4 * 100));
        for _ in 0..100 {
            timeout.sample(ms(200));
        }
        assert_eq!(timeout.duration(), LEAST, "a steady server is given the least time");
        timeout.double();
        assert_eq!(timeout.duration(), LEAST * 2);
        for _ in 0..100 {
            timeout.double();
        }
        assert_eq!(timeout.duration(), LONGEST);
        timeout.sample(ms(100_000));
        timeout.reset();
        assert_eq!(timeout.duration(), ms(4000), "what was asked for");
        let mut timeout = Timeout::new(ms(4000));
        (0..100).for_each(|_| timeout.sample(ms(20)));
        assert_eq!(timeout.duration(), LEAST);
    }

    #[test]
    fn delays_grow_within_bounds_and_differ_between_devices() {
        let delays = |seed, servers| {
            let mut backoff = Backoff::new(seed);
            std::iter::repeat_with(move || backoff.next(servers)).take(40).collect::<Vec<_>>()
        };
        let alone = delays(1, 1);
        assert!(alone[0] <= FIRST_DELAY && alone[39] <= LONGEST_DELAY && alone[39] >= LONGEST_DELAY / 2);
        assert_ne!(alone, delays(2, 1));
        assert!(delays(1, 3)[..3].iter().all(|&delay| delay <= FIRST_DELAY), "all servers are tried at once");
    }

    #[test]
    fn a_clock_that_is_set_back_stands_still() {
        let s = Duration::from_secs;
        let mut clock = Clock::default();
        clock.advance(s(100));
        clock.advance(s(40));
        assert_eq!((clock.now(), clock.to_shell(s(103))), (s(100), s(43)));
        clock.advance(s(43));
        assert_eq!(clock.now(), s(103));
    }
}
