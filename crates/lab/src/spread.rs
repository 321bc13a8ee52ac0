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
        // The middle one, or the middle of the two that are in the middle.
        let upper = quantile(&values, 0.5);
        let lower = values.get((values.len() / 2).saturating_sub(1)).copied().unwrap_or_default();
        let median = if values.len().is_multiple_of(2) { f64::midpoint(lower, upper) } else { upper };
        Self { median, least: quantile(&values, 0.0), most: quantile(&values, 1.0) }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_is_between_the_two_in_the_middle() {
        assert_eq!(Spread::new(vec![4.0, 1.0, 2.0, 8.0]), Spread { median: 3.0, least: 1.0, most: 8.0 });
        assert_eq!(Spread::new(vec![4.0, 1.0, 2.0]).median, 2.0);
        assert_eq!(Spread::of([f64::NAN, 2.0].into_iter()), Some(Spread { median: 2.0, least: 2.0, most: 2.0 }));
        assert_eq!((Spread::of([f64::NAN].into_iter()), Spread::new(Vec::new()).median), (None, 0.0));
    }
}
