//! Many runs, and how sure they make us.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Report, Scenario, Simulation};
use crate::Error;

/// The mean of some runs, and how far it may be from the truth.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// Half the width of the 95 % confidence interval (Student's t); no number for a single run.
    pub ci95: Option<f64>,
}

impl Estimate {
    /// The estimate from independent samples, at least one.
    #[must_use]
    pub fn of(samples: &[f64]) -> Self {
        let n = samples.len() as f64;
        let mean = samples.iter().sum::<f64>() / n;
        let variance = samples.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0);
        let ci95 = (samples.len() > 1).then(|| student(samples.len() - 1) * (variance / n).sqrt());
        Self { mean, ci95 }
    }
}

/// The 0.975 quantile of Student's t distribution with `freedom` degrees of freedom.
fn student(freedom: usize) -> f64 {
    const TABLE: [f64; 10] = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228];
    if let Some(&t) = freedom.checked_sub(1).and_then(|at| TABLE.get(at)) {
        return t;
    }
    // Abramowitz & Stegun 26.7.5, from the quantile of the normal distribution.
    let (z, v) = (1.959_964_f64, freedom as f64);
    let first = (z.powi(3) + z) / (4.0 * v);
    let second = (5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z) / (96.0 * v * v);
    let third = (3.0 * z.powi(7) + 19.0 * z.powi(5) + 17.0 * z.powi(3) - 15.0 * z) / (384.0 * v.powi(3));
    z + first + second + third
}

/// The runs of a scenario with several seeds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Summary {
    /// What was simulated.
    pub scenario: Scenario,
    /// The seeds.
    pub seeds: Vec<u64>,
    /// A [`Report`] in which every number is replaced by its [`Estimate`].
    pub estimates: Value,
    /// What each seed brought.
    pub runs: Vec<Report>,
}

impl Summary {
    /// The estimate of a number of the [`Report`], by its path, such as `figures.output_throughput` or `classes.0.drafting`.
    /// `None` if there is no such number, or a run had none.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<Estimate> {
        let pointer = format!("/{}", path.replace('.', "/"));
        serde_json::from_value(self.estimates.pointer(&pointer)?.clone()).ok()
    }
}

/// Runs a scenario with each of `seeds`, on so many threads. `progress` is told what share of all is done since it was told
/// last.
///
/// # Errors
/// If the scenario says what cannot be, or names a file that cannot be used.
pub fn run_seeds(
    scenario: &Scenario,
    seeds: &[u64],
    threads: usize,
    progress: &(dyn Fn(f64) + Sync),
) -> Result<Summary, Error> {
    let simulation = Simulation::new(scenario)?;
    let runs = parallel(seeds, threads, |&seed| {
        let mut told = 0.0;
        simulation.run(seed, &mut |done| {
            progress((done - told) / seeds.len() as f64);
            told = done;
        })
    });
    let runs = runs.into_iter().collect::<Result<Vec<Report>, Error>>()?;
    let values: Vec<Value> = runs.iter().filter_map(|report| serde_json::to_value(report).ok()).collect();
    let estimates = estimate(&values.iter().collect::<Vec<_>>());
    Ok(Summary { scenario: scenario.clone(), seeds: seeds.to_vec(), estimates, runs })
}

/// What `work` makes of each item, on so many threads, in the order of the items.
pub fn parallel<I: Sync, T: Send>(items: &[I], threads: usize, work: impl Fn(&I) -> T + Sync) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<Option<T>>> = Mutex::new(items.iter().map(|_| None).collect());
    std::thread::scope(|scope| {
        for _ in 0..threads.clamp(1, items.len().max(1)) {
            scope.spawn(|| {
                while let Some((at, item)) = {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    items.get(at).map(|item| (at, item))
                } {
                    let result = work(item);
                    let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
                    if let Some(place) = results.get_mut(at) {
                        *place = Some(result);
                    }
                }
            });
        }
    });
    results.into_inner().unwrap_or_else(PoisonError::into_inner).into_iter().flatten().collect()
}

/// The shape of the values with every number replaced by its estimate. What is no number in a run has none.
fn estimate(values: &[&Value]) -> Value {
    match values.first() {
        Some(Value::Object(first)) => {
            let of = |key: &String| estimate(&values.iter().filter_map(|value| value.get(key)).collect::<Vec<_>>());
            // The seed and how many passes had which size are no figures. In which order the others come depends on what other
            // crates ask of serde_json.
            let keys: BTreeSet<_> =
                first.keys().filter(|key| !["seed", "batch_sizes"].contains(&key.as_str())).collect();
            Value::Object(keys.into_iter().map(|key| (key.clone(), of(key))).collect())
        }
        Some(Value::Array(first)) => {
            let of = |at: usize| estimate(&values.iter().filter_map(|value| value.get(at)).collect::<Vec<_>>());
            Value::Array((0..first.len()).map(of).collect())
        }
        Some(Value::String(text)) => Value::String(text.clone()),
        _ => {
            let samples: Vec<f64> = values.iter().filter_map(|value| value.as_f64()).collect();
            let known = !samples.is_empty() && samples.len() == values.len();
            if known { serde_json::to_value(Estimate::of(&samples)).unwrap_or(Value::Null) } else { Value::Null }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn students_intervals() {
        // Two samples 1 apart: 12.706 * 0.7071 / 1.4142.
        let estimate = Estimate::of(&[1.0, 2.0]);
        assert!((estimate.mean - 1.5).abs() < 1e-12 && (estimate.ci95.unwrap_or(0.0) - 6.353).abs() < 1e-3);
        assert_eq!(Estimate::of(&[3.0]), Estimate { mean: 3.0, ci95: None });
        for (freedom, t) in [(10, 2.228), (11, 2.201), (20, 2.086), (30, 2.042), (120, 1.980)] {
            assert!((student(freedom) - t).abs() < 2e-3, "{freedom}: {}", student(freedom));
        }
    }

    #[test]
    fn items_keep_their_order_on_any_number_of_threads() {
        let items: Vec<usize> = (0..50).collect();
        for threads in [0, 1, 3, 99] {
            assert_eq!(
                parallel(&items, threads, |item| item * 2),
                items.iter().map(|item| item * 2).collect::<Vec<_>>()
            );
        }
    }
}
