//! What passes of the target take, measured in this process between the windows.

use std::time::Duration;

use sled_launch::measure::{self, Effort};
use sled_launch::threads::{Threads, Work};
use sled_launch::{device, models, serve};
use sled_llama::{CacheType, EngineOptions, LlamaEngine, LlamaModel};

/// Tokens that each sequence has in the cache: about the half of a prompt of the set, as reading them takes most of the time.
const TOKENS: usize = 48;

/// How often each number of rows is measured in a round, but for the first time.
const REPEAT: usize = 2;

/// The numbers of rows to measure: those that were asked for, and those of passes without drafts.
pub fn rows(asked: &[u32], devices: &[usize]) -> Vec<usize> {
    let mut rows: Vec<usize> = asked.iter().map(|&rows| rows as usize).chain(devices.iter().copied()).collect();
    rows.sort_unstable();
    rows.dedup();
    rows
}

/// `[rows, milliseconds]` for each of `rows`, medians.
pub fn measure(model: &str, rows: &[usize], threads: Threads) -> anyhow::Result<Vec<[f64; 2]>> {
    let model = LlamaModel::load(&models::locate(model)?, &device::load_options(None))?;
    let sequences = rows.iter().copied().max().unwrap_or(1);
    let context = u32::try_from((sequences * (TOKENS + 1)).next_multiple_of(256))?;
    let options = EngineOptions {
        context,
        sequences: u32::try_from(sequences)?,
        rows: serve::ROWS.min(context),
        threads: threads.count(Work::Serving).threads,
        cache: CacheType::F16,
    };
    let effort = Effort { context: TOKENS, repeat: REPEAT, budget: Duration::MAX };
    measure::times(&mut LlamaEngine::new(&model, &options)?, rows, &effort, || {})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_without_drafts_are_always_measured() {
        assert_eq!(rows(&[1, 2, 16, 4], &[2, 6]), [1, 2, 4, 6, 16]);
    }
}
