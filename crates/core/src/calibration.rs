//! What a drafter's confidence is worth: the probability that the target chooses the same token, learned as verdicts come in.

use crate::tuning::Tuning;

/// Confidence is told apart in so many steps.
const BINS: usize = 12;

/// A map from confidence to the probability of acceptance, learned online for one drafter and target.
///
/// Confidence is binned by its logarithmic odds, in which the calibration error of language models is smooth, and each bin
/// keeps a decaying count of what became of its tokens.
#[derive(Clone, Debug)]
pub struct Calibration {
    bins: [Bin; BINS],
    mean: f64,
    /// How much is kept from one observation of a bin to its next.
    kept: f64,
    mean_gain: f64,
}

#[derive(Clone, Copy, Debug)]
struct Bin {
    accepted: f64,
    seen: f64,
}

impl Default for Calibration {
    fn default() -> Self {
        Self::new(&Tuning::DEFAULT)
    }
}

/// The range of logarithmic odds that is told apart.
const SMALLEST: f64 = -3.0;
const LARGEST: f64 = 6.0;

impl Calibration {
    /// Nothing is observed yet.
    #[must_use]
    pub fn new(tuning: &Tuning) -> Self {
        let Tuning { prior, calibration_kept: kept, mean_gain, first_mean: mean, .. } = *tuning;
        let bins = std::array::from_fn(|i| {
            let odds = SMALLEST + (i as f64 + 0.5) * (LARGEST - SMALLEST) / BINS as f64;
            Bin { accepted: prior / (1.0 + (-odds).exp()), seen: prior }
        });
        Self { bins, mean, kept, mean_gain }
    }

    /// The probability that a token drafted with `confidence` is what the target chooses, given that all before it are.
    #[must_use]
    pub fn acceptance(&self, confidence: f32) -> f64 {
        let of = |bin: usize| self.bins.get(bin).map_or(0.5, |bin| bin.accepted / bin.seen);
        neighbours(confidence).into_iter().map(|(bin, share)| share * of(bin)).sum()
    }

    /// The probability for a token that is not drafted yet.
    #[must_use]
    pub fn mean(&self) -> f64 {
        self.mean
    }

    /// Learns from a token whose predecessors were all right.
    pub fn observe(&mut self, confidence: f32, accepted: bool) {
        let accepted = f64::from(u8::from(accepted));
        self.mean += self.mean_gain * (accepted - self.mean);
        for (bin, share) in neighbours(confidence) {
            if let Some(bin) = self.bins.get_mut(bin) {
                let kept = 1.0 - (1.0 - self.kept) * share;
                bin.accepted = kept * bin.accepted + share * accepted;
                bin.seen = kept * bin.seen + share;
            }
        }
    }
}

/// The two bins whose middles a confidence lies between, and its share in each: without steps, a policy does not jump.
fn neighbours(confidence: f32) -> [(usize, f64); 2] {
    // `max` first: a confidence that is no number counts as none.
    let p = f64::from(confidence.max(0.0)).clamp(1e-4, 1.0 - 1e-4);
    let odds = (p / (1.0 - p)).ln();
    let at = (odds - SMALLEST) / (LARGEST - SMALLEST) * BINS as f64 - 0.5;
    let at = at.clamp(0.0, BINS as f64 - 1.0);
    let low = at as usize;
    [(low, 1.0 - at.fract()), ((low + 1).min(BINS - 1), at.fract())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn before_anything_is_seen_confidence_is_believed() {
        let calibration = Calibration::default();
        for confidence in [0.1, 0.3, 0.5, 0.8, 0.95] {
            assert!((calibration.acceptance(confidence) - f64::from(confidence)).abs() < 0.05, "{confidence}");
        }
        for odd in [f32::NAN, -1.0, 2.0, f32::INFINITY] {
            assert!((0.0..=1.0).contains(&calibration.acceptance(odd)), "{odd}");
        }
    }

    #[test]
    fn a_drafter_that_is_too_sure_is_seen_through() {
        let mut calibration = Calibration::default();
        for i in 0..400 {
            calibration.observe(0.9, i % 2 == 0);
            calibration.observe(0.3, i % 4 != 0);
        }
        assert!((calibration.acceptance(0.9) - 0.5).abs() < 0.06);
        assert!((calibration.acceptance(0.3) - 0.75).abs() < 0.06);
        assert!((calibration.mean() - 0.625).abs() < 0.2);
    }
}
