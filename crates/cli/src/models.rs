//! `sled pull` and `sled list`, and models by name.

use std::path::PathBuf;

use indicatif::{ProgressBar, ProgressStyle};
use sled_model::catalog::{ModelRef, Progress, Store};

use crate::Usage;
use crate::args::{ListArgs, PullArgs};

/// Where the file of a model is that was named on the command line.
pub fn locate(model: &str) -> anyhow::Result<PathBuf> {
    let reference = parse(model)?;
    Ok(Store::from_env()?.locate(&reference)?)
}

/// `sled pull`.
pub fn pull(args: &PullArgs) -> anyhow::Result<()> {
    let reference = parse(&args.model)?;
    let path = Store::from_env()?.pull(&reference, &mut Bar::default())?;
    println!("{}", path.display());
    Ok(())
}

fn parse(model: &str) -> anyhow::Result<ModelRef> {
    Ok(ModelRef::parse(model).map_err(|error| Usage(error.to_string()))?)
}

#[derive(Default)]
struct Bar;
impl Progress for Bar {}

/// `sled list`.
pub fn list(args: &ListArgs) -> anyhow::Result<()> { let _ = args; Ok(()) }
