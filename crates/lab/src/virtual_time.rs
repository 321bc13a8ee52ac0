//! Simulations that take long: on all cores, with a bar.

use indicatif::ProgressBar;
use sled_launch::progress::bar;

/// The bar of a simulation has so many steps.
const STEPS: f64 = 1000.0;

/// As many threads as there are cores.
pub fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Does `work` and shows how far it is; the work tells what share it has done since it told last.
pub fn with_bar<T>(what: &str, work: impl FnOnce(&(dyn Fn(f64) + Sync)) -> T) -> T {
    let bar: ProgressBar = bar(STEPS as usize, what.to_owned());
    let done = std::sync::Mutex::new(0.0);
    let result = work(&|share| {
        let mut done = done.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *done += share;
        bar.set_position((*done * STEPS) as u64);
    });
    bar.finish_and_clear();
    result
}
