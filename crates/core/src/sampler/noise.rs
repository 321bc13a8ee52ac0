//! The shared randomness: what makes two models that see the same context choose the same token.
//!
//! Every token of every position has its own uniform number, a hash of (seed, position, token). Nothing is drawn from
//! a stream, so the device and the server agree on it without exchanging anything and in any order.
//!
//! The hash is [`SplitMix64`](crate::splitmix): token `i` gets the `i`-th number of the generator whose starting point is itself a
//! hash of seed and position.

use super::math::ln;
use crate::splitmix::{STEP, finalise as mix};
use crate::{Position, Token};

/// More than the rounding of [`ln`] can put two values of [`gumbel`] out of order.
const ROUNDING: f64 = 1e-9;

/// How many hashes are computed side by side.
const LANES: usize = 8;

/// The noise of all tokens at one position.
#[derive(Clone, Copy, Debug)]
pub(super) struct Noise {
    key: u64,
}

impl Noise {
    /// A number that no token's noise exceeds, at any position: 53 ln 2, rounded up.
    pub(super) const CEILING: f64 = 37.0;

    pub(super) fn new(seed: u64, position: Position) -> Self {
        let start = mix(seed.wrapping_add(STEP));
        Self { key: mix(start.wrapping_add((position as u64).wrapping_mul(STEP))) }
    }

    /// The standard Gumbel noise of `token`.
    pub(super) fn of(self, token: Token) -> f64 {
        gumbel(mix(self.state(token)) >> 12)
    }

    /// A number barely above the noise of each of the `N` tokens from `first` on: as the noise rises with the hash, it
    /// takes the logarithms of the largest hash only.
    pub(super) fn ceiling_of<const N: usize>(self, first: Token) -> f64 {
        const { assert!(N.is_multiple_of(LANES)) }
        let mut states = [0; LANES];
        for (lane, state) in states.iter_mut().enumerate() {
            *state = self.state(first).wrapping_add(STEP.wrapping_mul(lane as u64));
        }
        let mut largest = [0; LANES];
        for _ in 0..N / LANES {
            for (largest, state) in largest.iter_mut().zip(&mut states) {
                *largest = (*largest).max(mix(*state) >> 12);
                *state = state.wrapping_add(STEP.wrapping_mul(LANES as u64));
            }
        }
        gumbel(largest.into_iter().fold(0, u64::max)) + ROUNDING
    }

    fn state(self, token: Token) -> u64 {
        self.key.wrapping_add(u64::from(token).wrapping_mul(STEP))
    }
}

/// -ln(-ln u) with u = (2 `bits` + 1) / 2^53, the middle of one of 2^52 intervals: never 0, never 1, and exact.
fn gumbel(bits: u64) -> f64 {
    let uniform = (bits << 1 | 1) as f64 * (f64::EPSILON / 2.0);
    -ln(-ln(uniform))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_finite_and_below_its_ceiling() {
        let last = (1 << 52) - 1;
        assert!((gumbel(0) + 53_f64.ln() + 2_f64.ln().ln()).abs() < 1e-12);
        assert!((gumbel(last) - 53.0 * 2_f64.ln()).abs() < 1e-9);
        assert!(gumbel(last) < Noise::CEILING);
    }

    #[test]
    fn ceiling_is_the_largest_noise_of_the_tokens() {
        for position in 0..200 {
            let noise = Noise::new(7, position);
            let first = 1000 * position as Token;
            let largest = (first..first + 256).map(|token| noise.of(token)).fold(f64::MIN, f64::max);
            let ceiling = noise.ceiling_of::<256>(first);
            assert!(largest <= ceiling && ceiling <= largest + 1e-8);
        }
    }

    /// Flipping any one bit of seed, position or token flips every bit of the hash about half of the time.
    #[test]
    fn every_input_bit_reaches_every_output_bit() {
        let hash = |seed: u64, position: u64, token: u32| mix(Noise::new(seed, position as Position).state(token));
        let samples = 4000_u32;
        for input in 0..64 + 20 + 18 {
            let mut flips = [0_u32; 64];
            for sample in 0..samples {
                let (seed, position, token) = (u64::from(sample), u64::from(sample % 97), sample % 151);
                let flipped = match input {
                    0..64 => hash(seed ^ (1 << input), position, token),
                    64..84 => hash(seed, position ^ (1 << (input - 64)), token),
                    _ => hash(seed, position, token ^ (1 << (input - 84))),
                };
                let change = hash(seed, position, token) ^ flipped;
                for (bit, flips) in flips.iter_mut().enumerate() {
                    *flips += (change >> bit & 1) as u32;
                }
            }
            // Six standard deviations of a fair coin.
            let slack = 3.0 * f64::from(samples).sqrt();
            assert!(flips.iter().all(|&n| (f64::from(n) - f64::from(samples) / 2.0).abs() < slack), "bit {input}");
        }
    }
}
