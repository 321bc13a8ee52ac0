//! `sled bench`: measurements that write their results, and a picture of them.

mod attack;
mod emulate;
mod meter;
mod overhead;
mod pair;
mod policy;
mod predict;
mod record;
mod rtt;
mod serve;
mod validate;

use std::path::Path;

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
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

/// A progress bar of so many steps.
pub fn bar(len: usize, what: String) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg:32} {bar:40} {pos}/{len} {eta}");
    let bar = ProgressBar::new(len as u64).with_message(what);
    if let Ok(style) = style { bar.with_style(style) } else { bar }
}

/// The command line that this process was started with.
pub fn command() -> String {
    let arguments = std::env::args().skip(1);
    std::iter::once("sled".to_owned()).chain(arguments).collect::<Vec<_>>().join(" ")
}

/// Writes results as readable JSON.
pub fn write_json(path: &Path, results: &impl serde::Serialize) -> anyhow::Result<()> {
    write_text(path, &(serde_json::to_string_pretty(results)? + "\n"))
}

/// Writes a text, and the folder for it.
pub fn write_text(path: &Path, text: &str) -> anyhow::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot make the folder {}; check --out", folder.display()))?;
    }
    std::fs::write(path, text).with_context(|| format!("cannot write {}; check --out", path.display()))
}
