//! Looks at a model that this machine is to serve: what it takes of the memory, and what its passes take.

use std::time::Duration;

use sled_llama::{CacheType, EngineOptions, Footprint, LlamaEngine, LlamaModel};

use super::facts::{Passes, Target};
use crate::args::DoctorArgs;
use sled_launch::measure::{self, Effort};
use sled_launch::{device, models};

/// Passes of so many rows are measured, so often, with so many tokens of each session in the cache.
const ROWS: [usize; 4] = [1, 2, 4, 8];
const REPEAT: usize = 3;
const TEXT: usize = 64;
const BUDGET: Duration = Duration::from_secs(20);

/// How many measurements there are at most.
pub const STEPS: usize = 2 * ROWS.len() * (REPEAT + 1);

/// Reads the model's header, and measures it if it can be loaded.
pub fn look(args: &DoctorArgs, name: &str, mut done: impl FnMut()) -> Target {
    let mut target =
        Target { name: name.to_owned(), ctx_size: args.ctx_size, parallel: args.parallel, ..Target::default() };
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
    target.token_bytes = footprint.cache_bytes(1, CacheType::F16);
    target.cache_bytes = footprint.cache_bytes(args.ctx_size.into(), CacheType::F16);
    target.context = footprint.context;
    let model = LlamaModel::load(&path, &device::load_options(None))?;
    target.title = model.description().to_string();
    for threads in threads(args.threads) {
        target.passes.push(Passes { threads, points: passes(&model, threads, done)? });
    }
    let alone = |passes: &Passes| passes.points.first().map_or(f64::MAX, |[_, ms]| *ms);
    target.passes.sort_by(|a, b| alone(a).total_cmp(&alone(b)));
    Ok(())
}

/// The numbers of threads that are compared: where there are many cores, half of them may be the same cores seen twice.
fn threads(asked: Option<u32>) -> Vec<u32> {
    match (asked, device::threads(asked)) {
        (None, cores) if cores >= 4 => vec![cores, cores / 2],
        (_, threads) => vec![threads],
    }
}

fn passes(model: &LlamaModel, threads: u32, done: &mut impl FnMut()) -> anyhow::Result<Vec<[f64; 2]>> {
    let sequences = ROWS[ROWS.len() - 1];
    let cells = (sequences * (TEXT + 1)).next_multiple_of(256);
    let options = EngineOptions {
        context: u32::try_from(cells)?,
        sequences: u32::try_from(sequences)?,
        rows: 64,
        threads,
        cache: CacheType::F16,
    };
    let mut engine = LlamaEngine::new(model, &options)?;
    let effort = Effort { context: TEXT, repeat: REPEAT, budget: BUDGET };
    measure::times(&mut engine, &ROWS, &effort, done)
}
