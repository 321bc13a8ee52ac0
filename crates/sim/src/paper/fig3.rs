//! Fig. 3: how often drafts are accepted, by how sure the drafter was. From recorded drafts, nothing is simulated.

use serde::{Deserialize, Serialize};

use super::lab::Lab;
use crate::Error;
use crate::recording::Recording;

/// The recordings.
const RECORDINGS: [&str; 2] = ["drafts.json", "drafts-f16.json"];

/// Bins of confidence.
const BINS: usize = 10;

/// The 0.975 quantile of the normal distribution.
const Z: f64 = 1.959_964;

/// How far the confidence of a drafter tells what becomes of its drafts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reliability {
    /// The recording's file.
    pub recording: String,
    /// The draft model.
    pub draft: String,
    /// The target model.
    pub target: String,
    /// The share of all drafts that is accepted.
    pub acceptance: f64,
    /// By rising confidence, without empty ones.
    pub bins: Vec<Bin>,
}

/// The drafts of one range of confidence.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bin {
    /// The least confidence.
    pub from: f64,
    /// The mean confidence.
    pub confidence: f64,
    /// How many drafts there are.
    pub drafts: usize,
    /// The share that is accepted.
    pub acceptance: f64,
    /// Its 95 % interval (Wilson).
    pub interval: [f64; 2],
}

pub(super) fn reliability(lab: &Lab<'_>) -> Result<Vec<Reliability>, Error> {
    RECORDINGS.into_iter().map(|name| Ok(of(name, &Recording::load(&lab.recording(name))?))).collect()
}

fn of(name: &str, recording: &Recording) -> Reliability {
    let pairs = || recording.outputs.iter().flat_map(|output| output.drafts.iter().zip(&output.tokens));
    let drafts: Vec<(f64, bool)> =
        pairs().map(|(draft, token)| (f64::from(draft.confidence), draft.token == *token)).collect();
    let share = |drafts: &[(f64, bool)]| {
        drafts.iter().filter(|(_, accepted)| *accepted).count() as f64 / drafts.len().max(1) as f64
    };
    let bin = |at: usize| {
        let within = |(confidence, _): &&(f64, bool)| (confidence * BINS as f64).min(BINS as f64 - 1.0) as usize == at;
        let drafts: Vec<(f64, bool)> = drafts.iter().filter(within).copied().collect();
        let (count, acceptance) = (drafts.len(), share(&drafts));
        (count > 0).then(|| Bin {
            from: at as f64 / BINS as f64,
            confidence: drafts.iter().map(|(confidence, _)| confidence).sum::<f64>() / count as f64,
            drafts: count,
            acceptance,
            interval: wilson(acceptance, count as f64),
        })
    };
    Reliability {
        recording: name.to_owned(),
        draft: recording.draft.clone(),
        target: recording.target.clone(),
        acceptance: share(&drafts),
        bins: (0..BINS).filter_map(bin).collect(),
    }
}

/// The interval of a share `p` of `n` (Wilson, *Probable inference*, 1927).
fn wilson(p: f64, n: f64) -> [f64; 2] {
    let centre = p + Z * Z / (2.0 * n);
    let width = Z * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    let scale = 1.0 + Z * Z / n;
    [(centre - width) / scale, (centre + width) / scale]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recording::{Output, Proposal};

    #[test]
    fn drafts_are_counted_in_their_bins() {
        let draft = |token, confidence| Proposal { token, confidence, second: 0, entropy: 0.0, margin: 0.0 };
        let output = Output {
            kind: String::new(),
            prompt_len: 1,
            tokens: vec![1, 2, 3, 4],
            drafts: vec![draft(1, 1.0), draft(2, 0.95), draft(9, 0.92), draft(9, 0.05)],
            detours: vec![Vec::new(); 4],
        };
        let recording =
            Recording { command: String::new(), target: String::new(), draft: String::new(), outputs: vec![output] };
        let found = of("r", &recording);
        assert_eq!(found.bins.iter().map(|bin| (bin.from, bin.drafts)).collect::<Vec<_>>(), [(0.0, 1), (0.9, 3)]);
        assert_eq!((found.acceptance, found.bins[0].acceptance), (0.5, 0.0));
        assert!((found.bins[1].acceptance - 2.0 / 3.0).abs() < 1e-12);
    }

    #[test]
    fn intervals_of_shares() {
        let [low, high] = wilson(0.5, 100.0);
        assert!((low - 0.4038).abs() < 1e-3 && (high - 0.5962).abs() < 1e-3, "{low} {high}");
        let [low, high] = wilson(1.0, 20.0);
        assert!((low - 0.8389).abs() < 1e-3 && high <= 1.0 + 1e-12, "{low} {high}");
    }
}
