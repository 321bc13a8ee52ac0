//! `sled bench`: measurements that write their results, and a picture of them.

mod attack;
mod emulate;
mod meter;
mod overhead;
mod page;
mod pair;
mod policy;
mod predict;
mod record;
mod rtt;
mod serve;
mod validate;

use std::path::Path;

use anyhow::Context;
pub use serve::ABOVE;

use crate::args::{Bench, BenchArgs};

/// Measures what was asked for.
pub async fn bench(args: BenchArgs) -> anyhow::Result<()> {
    match args.bench {
        Bench::Pair(args) => pair::run(args).await,
        Bench::Record(args) => record::run(&args),
        Bench::Policy(args) => policy::run(&args),
        Bench::Rtt(args) => rtt::run(args).await,
        Bench::Serve(args) => serve::run(args).await,
        Bench::Overhead(args) => overhead::run(args).await,
        Bench::Capacity(args) => serve::capacity(args).await,
        Bench::Validate(args) => validate::run(&args),
        Bench::Page(args) => page::run(&args),
        Bench::Attack(args) => attack::run(args).await,
    }
}

/// A prompt of the set that is measured with.
#[derive(serde::Deserialize)]
struct Prompt {
    kind: String,
    text: String,
}

fn prompts(path: &Path) -> anyhow::Result<Vec<Prompt>> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}; check --prompts", path.display()))?;
    serde_json::from_str(&text)
        .with_context(|| format!("{} is no JSON array of objects with `kind` and `text`", path.display()))
}
