//! What can be known of drafts before their verdict: whether the target takes them, and what it says if not.

use sled_core::calibration::Calibration;
use sled_sim::recording::{Output, Proposal, Recording};

/// How many drafts after a correction a device could have made beforehand, while it waited.
const PREPARED: usize = 4;

/// How many drafts from the last correction on are looked at for the likeliest miss.
const WINDOW: usize = 8;

/// How well something predicts whether the target takes a draft.
#[derive(serde::Serialize)]
pub struct CalibrationResult {
    pub predictor: &'static str,
    /// Mean of minus the logarithm of the probability given to what happened; each prediction made before it was known.
    pub log_loss: f64,
}

/// What preparing for the likeliest miss could bring: drafts after the draft model's second choice, at the position that is most
/// likely the first to be rejected, made in the time that a device has while a verdict is under way.
#[derive(serde::Serialize)]
pub struct PreparationResult {
    pub misses: usize,
    /// The share of misses at the position that was the likeliest.
    pub position_guessed: f64,
    /// The share of those where the target's token was the second choice as well.
    pub hit: f64,
    /// The share of the whole time that the prepared drafts would save if they cost nothing.
    pub most_saved: f64,
}

/// Predictors compared on the recording, in its order, each learning as it goes.
pub fn calibration(recording: &Recording) -> Vec<CalibrationResult> {
    let outputs = || recording.outputs.iter();
    let seen: Vec<(Proposal, bool)> =
        outputs().flat_map(|o| o.drafts.iter().zip(&o.tokens).map(|(d, &token)| (*d, d.token == token))).collect();
    let log_loss = |predict: &mut dyn FnMut(&Proposal, bool) -> f64| {
        let loss = |(draft, accepted): &(Proposal, bool)| {
            let p = predict(draft, *accepted).clamp(1e-3, 1.0 - 1e-3);
            -(if *accepted { p } else { 1.0 - p }).ln()
        };
        seen.iter().map(loss).sum::<f64>() / seen.len().max(1) as f64
    };
    let odds = |confidence: f32| {
        let p = f64::from(confidence).clamp(1e-4, 1.0 - 1e-4);
        (p / (1.0 - p)).ln()
    };
    let mut shipped = Calibration::default();
    let mut rate = (1.0, 2.0);
    let mut alone = Logistic::new();
    let mut all = Logistic::new();
    vec![
        CalibrationResult {
            predictor: "the mean rate of acceptance",
            log_loss: log_loss(&mut |_, accepted| {
                let p = rate.0 / rate.1;
                rate = (rate.0 + f64::from(u8::from(accepted)), rate.1 + 1.0);
                p
            }),
        },
        CalibrationResult { predictor: "confidence as it is", log_loss: log_loss(&mut |d, _| f64::from(d.confidence)) },
        CalibrationResult {
            predictor: "confidence, calibrated online (what sled does)",
            log_loss: log_loss(&mut |d, accepted| {
                let p = shipped.acceptance(d.confidence);
                shipped.observe(d.confidence, accepted);
                p
            }),
        },
        CalibrationResult {
            predictor: "logistic regression on confidence",
            log_loss: log_loss(&mut |d, accepted| alone.learn([1.0, odds(d.confidence), 0.0, 0.0], accepted)),
        },
        CalibrationResult {
            predictor: "logistic regression on confidence, entropy and margin",
            log_loss: log_loss(&mut |d, accepted| {
                all.learn([1.0, odds(d.confidence), f64::from(d.entropy), f64::from(d.margin)], accepted)
            }),
        },
    ]
}

/// Logistic regression, learned online (AdaGrad: Duchi, Hazan & Singer, 2011).
struct Logistic {
    weights: [f64; 4],
    squares: [f64; 4],
}

impl Logistic {
    fn new() -> Self {
        Self { weights: [0.0, 1.0, 0.0, 0.0], squares: [1.0; 4] }
    }

    /// The prediction for `features`, made before learning from what happened.
    fn learn(&mut self, features: [f64; 4], happened: bool) -> f64 {
        let z: f64 = self.weights.iter().zip(features).map(|(w, x)| w * x).sum();
        let p = 1.0 / (1.0 + (-z).exp());
        let error = p - f64::from(u8::from(happened));
        for ((weight, square), x) in self.weights.iter_mut().zip(&mut self.squares).zip(features) {
            let gradient = error * x;
            *square += gradient * gradient;
            *weight -= 0.15 * gradient / square.sqrt();
        }
        p
    }
}

/// Counts, over the recording, how often the likeliest miss happened. A device drafts in `draft_ms` and commits `rate` tokens a
/// second.
pub fn preparation(recording: &Recording, draft_ms: f64, rate: f64) -> PreparationResult {
    let (mut misses, mut guessed, mut hits, mut saved) = (0, 0, 0, 0);
    for output in &recording.outputs {
        let right = |at: usize| output.drafts.get(at).zip(output.tokens.get(at)).is_some_and(|(d, &t)| d.token == t);
        let mut begin = 0;
        while let Some(miss) = (begin..output.tokens.len()).find(|&at| !right(at)) {
            misses += 1;
            if likeliest_miss(output, begin, miss) == miss {
                guessed += 1;
                if output.drafts.get(miss).map(|draft| draft.second) == output.tokens.get(miss).copied() {
                    hits += 1;
                    saved += (miss + 1..).take_while(|&at| right(at)).take(PREPARED).count();
                }
            }
            begin = miss + 1;
        }
    }
    let tokens: usize = recording.outputs.iter().map(|output| output.tokens.len()).sum();
    let share = |count: usize| count as f64 / misses.max(1) as f64;
    let seconds = tokens as f64 / rate.max(f64::MIN_POSITIVE);
    PreparationResult {
        misses,
        position_guessed: share(guessed),
        hit: share(hits),
        most_saved: saved as f64 * draft_ms / 1e3 / seconds,
    }
}

/// Where, of the drafts from `begin` on that a device would have made, the first wrong one most likely is. The miss is at
/// `miss`; behind it the drafts are those of the detour.
fn likeliest_miss(output: &Output, begin: usize, miss: usize) -> usize {
    let before = output.drafts.get(begin..=miss).unwrap_or_default().iter().map(|draft| draft.confidence);
    let after = output.detours.get(miss).into_iter().flatten().map(|(_, confidence)| *confidence);
    let mut survival = 1.0;
    let mut best = (begin, f64::MIN);
    for (i, confidence) in before.chain(after).take(WINDOW.max(miss - begin + 1)).enumerate() {
        let confidence = f64::from(confidence);
        let first_wrong = survival * (1.0 - confidence);
        if first_wrong > best.1 {
            best = (begin + i, first_wrong);
        }
        survival *= confidence;
    }
    best.0
}
