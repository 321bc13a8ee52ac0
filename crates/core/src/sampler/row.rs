//! One row of logits, as the law sees it, in chunks that the processor takes in at once.

use std::borrow::Cow;

use super::math::exp;
use crate::Token;

/// How many tokens are looked at, or passed over, together.
pub(super) const CHUNK: usize = 256;

/// How many numbers are summed or compared side by side.
const LANES: usize = 16;

/// The place of a token when tokens are ordered from the most to the least likely, equals by rising id.
///
/// A smaller rank is a better place. Every truncation keeps the tokens up to some rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank(u64);

impl Rank {
    /// Better than the place of any token.
    pub(super) const BEFORE_ALL: Self = Self(0);

    /// The last place that a token with a finite logit can have.
    pub(super) const LAST: Self = Self::new(f32::MIN, Token::MAX);

    /// The place of `token`, whose `logit` is neither NaN nor -0.
    pub(super) const fn new(logit: f32, token: Token) -> Self {
        // The bits of floats order like signed integers once those of negative numbers are inverted, all but the sign.
        let bits = logit.to_bits();
        let falling = if bits >> 31 == 0 { !(bits | 1 << 31) } else { bits };
        Self((falling as u64) << 32 | token as u64)
    }

    pub(super) const fn logit(self) -> f32 {
        let falling = (self.0 >> 32) as u32;
        f32::from_bits(if falling >> 31 == 0 { !falling & !(1 << 31) } else { falling })
    }

    pub(super) const fn token(self) -> Token {
        self.0 as u32
    }
}

/// The logits after penalties and biases. NaN counts as -inf, +inf as the largest finite number, -0 as 0.
#[derive(Debug)]
pub(super) struct Row<'a> {
    logits: Cow<'a, [f32]>,
    /// The largest logit of each chunk.
    peaks: Vec<f32>,
    /// The largest logit; -inf if no token can be chosen.
    max: f32,
}

impl<'a> Row<'a> {
    pub(super) fn new(logits: Cow<'a, [f32]>) -> Self {
        let peaks: Vec<f32> = logits.chunks(CHUNK).map(peak).collect();
        let max = peaks.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        Self { logits, peaks, max }
    }

    /// The most likely token, the lowest id among equals; `None` if no logit is above -inf.
    pub(super) fn best(&self) -> Option<Rank> {
        if self.max == f32::NEG_INFINITY {
            return None;
        }
        let chunk = self.peaks.iter().position(|&peak| peak == self.max)?;
        let inside = self.chunk(chunk, Rank::LAST).iter().position(|&logit| logit == self.max)?;
        Some(Rank::new(self.max, (chunk * CHUNK + inside) as Token))
    }

    /// The rank of `token`; `None` if it cannot be chosen.
    pub(super) fn rank(&self, token: Token) -> Option<Rank> {
        let logit = clean(*self.logits.get(token as usize)?);
        (logit > f32::NEG_INFINITY).then(|| Rank::new(logit, token))
    }

    /// The largest logit of each chunk.
    pub(super) fn peaks(&self) -> &[f32] {
        &self.peaks
    }

    /// The chunks that may hold tokens up to the rank `cut`.
    pub(super) fn chunks_within(&self, cut: Rank) -> impl Iterator<Item = usize> {
        let floor = cut.logit();
        self.peaks.iter().enumerate().filter(move |&(_, &peak)| peak >= floor).map(|(chunk, _)| chunk)
    }

    /// The logits of a chunk, -inf for tokens beyond the rank `cut` or the end of the row.
    pub(super) fn chunk(&self, chunk: usize, cut: Rank) -> [f32; CHUNK] {
        let logits = &self.logits[chunk * CHUNK..];
        let logits = &logits[..logits.len().min(CHUNK)];
        let mut kept = [f32::NEG_INFINITY; CHUNK];
        kept[..logits.len()].copy_from_slice(logits);
        let floor = cut.logit();
        for logit in &mut kept {
            let cleaned = clean(*logit);
            *logit = if cleaned >= floor { cleaned } else { f32::NEG_INFINITY };
        }
        // Of the tokens that tie with the last one, those beyond its id are out.
        let up_to_last = (cut.token() as usize).saturating_add(1).saturating_sub(chunk * CHUNK).min(CHUNK);
        for logit in &mut kept[up_to_last..] {
            *logit = if *logit > floor { *logit } else { f32::NEG_INFINITY };
        }
        kept
    }

    /// The ranks of all tokens up to the rank `cut`, in no order that matters.
    pub(super) fn ranks(&self, cut: Rank) -> Vec<Rank> {
        let mut ranks = Vec::new();
        for chunk in self.chunks_within(cut) {
            // Every token is written and hardly any kept: a branch that nobody can predict would cost more.
            let mut found = [cut; CHUNK];
            let mut len = 0;
            for (offset, logit) in self.chunk(chunk, cut).into_iter().enumerate() {
                found[len] = Rank::new(logit, (chunk * CHUNK + offset) as Token);
                len += usize::from(logit > f32::NEG_INFINITY);
            }
            ranks.extend_from_slice(&found[..len]);
        }
        ranks
    }

    /// How likely a token with this logit is, as a multiple of the probability of the best.
    ///
    /// The weight is a multiple of 2^-34. Sums of up to 2^19 of them are exact, so it does not matter in which order
    /// they are taken.
    pub(super) fn weight(&self, logit: f32, temperature: f32) -> f64 {
        on_grid(exp((logit - self.max) * sharpness(temperature)))
    }

    /// The sum of the weights of all tokens up to the rank `cut`.
    pub(super) fn mass(&self, cut: Rank, temperature: f32) -> f64 {
        let sharpness = sharpness(temperature);
        let mut sums = [0.0; LANES];
        for chunk in self.chunks_within(cut) {
            // In two steps, as single and double precision are vectorised in different widths.
            let mut weights = self.chunk(chunk, cut);
            for weight in &mut weights {
                *weight = exp((*weight - self.max) * sharpness);
            }
            for weights in weights.chunks_exact(LANES) {
                for (sum, &weight) in sums.iter_mut().zip(weights) {
                    *sum += on_grid(weight);
                }
            }
        }
        sums.iter().sum()
    }
}

/// What logits are multiplied with at this temperature; finite, so that 0 stays 0.
fn sharpness(temperature: f32) -> f32 {
    (1.0 / temperature).min(f32::MAX)
}

/// Rounds a number in `0..=1` to a multiple of 2^-34.
#[inline(always)]
fn on_grid(weight: f32) -> f64 {
    // Doubles of this size are multiples of 2^-34, so that the sum is rounded to one.
    const SHIFT: f64 = 393_216.0;
    f64::from(weight) + SHIFT - SHIFT
}

/// The largest logit of a chunk.
fn peak(logits: &[f32]) -> f32 {
    let mut largest = [f32::NEG_INFINITY; LANES];
    let (lanes, rest) = logits.as_chunks::<LANES>();
    for logits in lanes {
        for (largest, &logit) in largest.iter_mut().zip(logits) {
            *largest = if logit > *largest { logit } else { *largest };
        }
    }
    let largest = largest.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max);
    clean(largest)
}

/// The logit as the law sees it.
#[inline(always)]
fn clean(logit: f32) -> f32 {
    let number = if logit > f32::NEG_INFINITY { logit } else { f32::NEG_INFINITY };
    let finite = if number < f32::MAX { number } else { f32::MAX };
    finite + 0.0
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn ranks_order_by_falling_logit_then_rising_token() {
        let ordered = [(f32::MAX, 3), (2.5, 9), (1e-40, 1), (0.0, 0), (0.0, 1), (-1e-40, 0), (-2.5, 0), (f32::MIN, 7)];
        let ranks = ordered.map(|(logit, token)| Rank::new(logit, token));
        assert!(ranks.is_sorted());
        assert_eq!(ranks.map(|rank| (rank.logit(), rank.token())), ordered);
        assert!(ranks.iter().all(|&rank| rank <= Rank::LAST));
        assert!(Rank::new(f32::NEG_INFINITY, 0) > Rank::LAST);
    }

    #[test]
    fn odd_numbers_are_cleaned_wherever_they_stand() {
        for (odd, counts_as) in [(f32::NAN, None), (f32::NEG_INFINITY, None), (f32::INFINITY, Some(f32::MAX))] {
            for place in 0..CHUNK + 20 {
                let mut logits = vec![-1.0; CHUNK + 20];
                logits[place] = odd;
                let row = Row::new(Cow::Borrowed(&logits));
                assert_eq!(row.rank(place as Token).map(Rank::logit), counts_as);
                let other = if place == 0 { 1 } else { 0 };
                let best = counts_as.map_or(Rank::new(-1.0, other), |logit| Rank::new(logit, place as Token));
                assert_eq!(row.best().unwrap(), best);
                assert_eq!(row.ranks(Rank::LAST).len(), logits.len() - usize::from(counts_as.is_none()));
            }
        }
        assert!(Row::new(Cow::Borrowed(&[f32::NAN, f32::NEG_INFINITY])).best().is_none());
        assert!(Row::new(Cow::Borrowed(&[])).best().is_none());
    }

    #[test]
    fn mass_does_not_depend_on_the_order() {
        let logits: Vec<f32> = (0..40_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 * 1e-6).collect();
        let reversed: Vec<f32> = logits.iter().rev().copied().collect();
        let mass = |logits: &[f32]| Row::new(Cow::Borrowed(logits)).mass(Rank::LAST, 0.9);
        assert_eq!(mass(&logits), mass(&reversed));
        let max = f64::from(logits.iter().copied().fold(f32::MIN, f32::max));
        let exact: f64 = logits.iter().map(|&z| ((f64::from(z) - max) / f64::from(0.9_f32)).exp()).sum();
        assert!((mass(&logits) / exact - 1.0).abs() < 1e-6);
    }
}
