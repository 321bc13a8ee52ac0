//! What repetitions come to.

use serde::{Deserialize, Serialize};

/// The median of all repetitions, the least and the most.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    pub median: f64,
    pub least: f64,
    pub most: f64,
}

impl Spread {
    /// Of these values; all 0 if there are none.
    pub fn new(values: Vec<f64>) -> Self {
        let values = sorted(values);
        Self { median: quantile(&values, 0.5), least: quantile(&values, 0.0), most: quantile(&values, 1.0) }
    }

    /// Of these values, if there are any that are numbers.
    pub fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let values: Vec<f64> = values.filter(|value| value.is_finite()).collect();
        (!values.is_empty()).then(|| Self::new(values))
    }
}

pub fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values
}

/// The value that this share of the others is below; 0 of none.
pub fn quantile(sorted: &[f64], share: f64) -> f64 {
    let at = (share * sorted.len() as f64) as usize;
    sorted.get(at.min(sorted.len().saturating_sub(1))).copied().unwrap_or(0.0)
}
