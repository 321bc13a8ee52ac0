//! Looks at a model that this machine is to serve: what it takes of the memory, and what its passes take.

use std::path::Path;
use std::time::Duration;

use sled_llama::{CacheType, EngineOptions, Footprint, LlamaEngine, LlamaModel};

use super::facts::{Passes, Target};
use crate::args::DoctorArgs;
use sled_launch::measure::{self, Effort};
use sled_launch::threads::{Threads, Work};
use sled_launch::{device, models};

/// Passes are measured so often, with so many tokens of each session in the cache, and no longer than this.
const REPEAT: usize = 3;
const TEXT: usize = 64;
const BUDGET: Duration = Duration::from_secs(10);

/// The most rows that are measured.
const MOST: usize = 256;

/// How many passes are measured of one format for so many devices, on one number of threads.
pub fn steps(devices: u32) -> usize {
    rows(devices).len() * (REPEAT + 1)
}

/// The devices that the server is to be fast for.
pub fn devices(args: &DoctorArgs) -> u32 {
    args.devices.unwrap_or(args.parallel)
}

/// Reads the model's header, and measures it if it can be loaded.
pub fn look(args: &DoctorArgs, name: &str, mut done: impl FnMut()) -> Target {
    let mut target = Target {
        name: name.to_owned(),
        ctx_size: args.ctx_size,
        parallel: args.parallel,
        devices: devices(args),
        ..Target::default()
    };
    if let Err(error) = fill(args, &mut target, &mut done) {
        target.error = Some(error.to_string());
    }
    target
}

fn fill(args: &DoctorArgs, target: &mut Target, done: &mut impl FnMut()) -> anyhow::Result<()> {
    let path = models::locate(&target.name)?;
    let footprint = Footprint::read(&path)?;
    target.title.clone_from(&footprint.name);
    target.weights_bytes = footprint.bytes;
    target.parameters = footprint.parameters;
    target.token_bytes = footprint.cache_bytes(1, CacheType::F16);
    target.cache_bytes = footprint.cache_bytes(args.ctx_size.into(), CacheType::F16);
    target.context = footprint.context;
    let model = load(&path)?;
    target.title = model.description().to_string();
    for threads in threads(args.threads) {
        target.passes.push(Passes { threads, points: passes(&model, target.devices, threads, done)? });
    }
    let alone = |passes: &Passes| passes.points.first().map_or(f64::MAX, |[_, ms]| *ms);
    target.passes.sort_by(|a, b| alone(a).total_cmp(&alone(b)));
    Ok(())
}

/// The model of a file, as a server would load it.
pub fn load(path: &Path) -> anyhow::Result<LlamaModel> {
    Ok(LlamaModel::load(path, &device::load_options(None))?)
}

/// The numbers of threads that are compared: where there are many cores, half of them may be enough for the memory.
fn threads(asked: Threads) -> Vec<u32> {
    match (asked, asked.count(Work::Serving).threads) {
        (Threads::Auto, cores) if cores >= 4 => vec![cores, cores / 2],
        (_, threads) => vec![threads],
    }
}

/// The numbers of rows that are measured for so many devices: with drafts, passes have more rows than there are devices.
fn rows(devices: u32) -> Vec<usize> {
    let devices = devices as usize;
    let most = (2 * devices).clamp(8, MOST);
    let mut rows: Vec<usize> = (0..).map(|doublings| 1 << doublings).take_while(|&rows| rows <= most).collect();
    rows.extend([devices.min(MOST), most]);
    rows.sort_unstable();
    rows.dedup();
    rows
}

/// `[rows, milliseconds]` of passes of a model for so many devices.
pub fn passes(
    model: &LlamaModel,
    devices: u32,
    threads: u32,
    done: &mut impl FnMut(),
) -> anyhow::Result<Vec<[f64; 2]>> {
    let rows = rows(devices);
    let sequences = rows.last().copied().unwrap_or(1);
    let options = EngineOptions {
        context: u32::try_from((TEXT + sequences).next_multiple_of(256))?,
        sequences: u32::try_from(sequences)?,
        rows: 256,
        threads,
        cache: CacheType::F16,
    };
    let mut engine = LlamaEngine::new(model, &options)?;
    let effort = Effort { context: TEXT, repeat: REPEAT, budget: BUDGET };
    measure::times(&mut engine, &rows, &effort, done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_measured_where_passes_for_so_many_devices_have_theirs() {
        assert_eq!(rows(1), [1, 2, 4, 8]);
        assert_eq!(rows(6), [1, 2, 4, 6, 8, 12]);
        assert_eq!(rows(16), [1, 2, 4, 8, 16, 32]);
        assert_eq!(rows(256).last(), Some(&256));
    }
}
