//! When devices ask.

use std::time::Duration;

use crate::rng::Rng;

/// Devices do not begin in step: each waits up to this long before its first prompt.
const STAGGER: Duration = Duration::from_millis(500);

/// When the prompts of a device come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arrivals {
    /// The next prompt comes when the last is answered, and a pause of this mean, exponentially distributed, is over.
    Closed {
        /// The mean pause.
        think: Duration,
    },
    /// Prompts come independently of the answers, at exponentially distributed intervals: each device is a Poisson process.
    Poisson {
        /// Prompts a second of each device.
        rate: f64,
    },
}

/// When the next prompt of one device comes.
#[derive(Clone, Debug)]
pub struct Schedule {
    arrivals: Arrivals,
    rng: Rng,
    next: Duration,
}

impl Schedule {
    /// The schedule of the device `index`.
    #[must_use]
    pub fn new(arrivals: Arrivals, seed: u64, index: usize) -> Self {
        let mut rng = Rng(seed.wrapping_add(index as u64));
        let next = rng.time(STAGGER);
        Self { arrivals, rng, next }
    }

    /// When the next prompt comes, all before being answered by `now`. In the past, if the device was busy when it came.
    pub fn next(&mut self, now: Duration) -> Duration {
        match self.arrivals {
            Arrivals::Closed { think } => self.next.max(now) + self.rng.exponential(think),
            Arrivals::Poisson { rate } => {
                self.next += self.rng.exponential(Duration::from_secs(1)).div_f64(rate);
                self.next
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn poisson_intervals_have_their_mean_and_wait_for_nobody() {
        let mut schedule = Schedule::new(Arrivals::Poisson { rate: 4.0 }, 1, 0);
        let last = (0..40_000).map(|_| schedule.next(Duration::from_secs(1_000_000))).last().unwrap_or_default();
        assert!((last.as_secs_f64() / 10_000.0 - 1.0).abs() < 0.02, "{last:?}");
    }

    #[test]
    fn a_closed_loop_waits_for_the_answer() {
        let mut schedule = Schedule::new(Arrivals::Closed { think: Duration::ZERO }, 1, 3);
        assert!(schedule.next(Duration::ZERO) <= STAGGER);
        assert_eq!(schedule.next(Duration::from_secs(7)), Duration::from_secs(7));
    }
}
