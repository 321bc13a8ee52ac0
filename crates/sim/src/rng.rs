//! All the randomness of a simulation comes from its seed.

use std::ops::RangeInclusive;
use std::time::Duration;

use sled_core::splitmix;
pub(crate) use sled_core::splitmix::hash as mix;

/// 64 bits as a number in `0..1`.
#[must_use]
pub(crate) fn unit(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

/// The generator, by its state.
#[derive(Clone, Debug)]
pub struct Rng(pub u64);

impl Rng {
    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        splitmix::next(&mut self.0)
    }

    /// A number in `0..1`.
    pub fn unit(&mut self) -> f64 {
        unit(self.bits())
    }

    /// An exponentially distributed time of this mean, by inverse transform.
    pub fn exponential(&mut self, mean: Duration) -> Duration {
        mean.mul_f64(-(1.0 - self.unit()).ln())
    }

    /// A number in `range`.
    pub fn within(&mut self, range: RangeInclusive<usize>) -> usize {
        let span = (range.end() - range.start()) as u64 + 1;
        range.start() + (self.bits() % span) as usize
    }

    /// True with this probability.
    pub fn chance(&mut self, probability: f64) -> bool {
        probability > 0.0 && self.unit() < probability
    }

    /// One of `of`, which must not be empty.
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.within(0..=of.len() - 1)]
    }

    /// A time up to `most`.
    pub fn time(&mut self, most: Duration) -> Duration {
        most.mul_f64(self.unit())
    }
}
