//! All the randomness of a simulation comes from its seed.

use std::ops::RangeInclusive;
use std::time::Duration;

/// By how much the state grows.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// A hash of 64 bits: the output of SplitMix64 in this state.
#[must_use]
pub(crate) fn mix(state: u64) -> u64 {
    let mut z = state.wrapping_add(STEP);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// 64 bits as a number in `0..1`.
#[must_use]
pub(crate) fn unit(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

/// SplitMix64 (Steele, Lea & Flood, 2014).
#[derive(Clone, Debug)]
pub struct Rng(pub u64);

impl Rng {
    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        let bits = mix(self.0);
        self.0 = self.0.wrapping_add(STEP);
        bits
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
