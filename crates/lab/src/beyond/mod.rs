//! `sled beyond`: the questions that the paper leaves open, answered in virtual time, with a page that is written from the data.
//!
//! | file | what it is |
//! |---|---|
//! | `setting.rs` | the servers, drafters and fleets that are asked about |
//! | `series.rs` | experiments that are lines over one number |
//! | `capacity.rs` | the most devices that each get a rate |
//! | `map.rs` | where speculation over a network pays |
//! | `page.rs`, `page.md.jinja` | docs/beyond.md |
//! | `goals.rs` | which goals were met |
//! | `plot.rs` | the pictures |

mod capacity;
mod goals;
mod map;
mod page;
mod plot;
mod series;
mod setting;

use std::path::Path;

use anyhow::Context;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::args::BeyondArgs;
use crate::output::{write_json, write_text};
use capacity::Capacities;
use map::Map;
pub use series::Series;
use sled_launch::Usage;

/// The file name of the map, and of the capacities.
const MAP: &str = "map";
const CAPACITY: &str = "capacity";

/// What the page is written from.
struct Findings {
    series: Vec<Series>,
    capacity: Capacities,
    map: Map,
}

impl Findings {
    fn load(folder: &Path) -> anyhow::Result<Self> {
        let series = series::NAMES.iter().map(|name| read(folder, name)).collect::<anyhow::Result<_>>()?;
        Ok(Self { series, capacity: read(folder, CAPACITY)?, map: read(folder, MAP)? })
    }
}

/// Simulates, writes the results, their pictures, and the page.
pub fn run(args: &BeyondArgs) -> anyhow::Result<()> {
    let known: Vec<&str> = series::NAMES.into_iter().chain([CAPACITY, MAP]).collect();
    if let Some(unknown) = args.experiments.iter().find(|name| !known.contains(&name.as_str())) {
        return Err(Usage(format!("there is no experiment `{unknown}`; use {}", known.join(", "))).into());
    }
    let wanted = |name: &str| args.experiments.is_empty() || args.experiments.iter().any(|other| other == name);
    for name in series::NAMES.into_iter().filter(|name| wanted(name)) {
        let series = series::run(name, args)?;
        save(args, name, &series, |path| plot::lines(path, &series))?;
    }
    if wanted(CAPACITY) {
        let capacities = capacity::run(args)?;
        save(args, CAPACITY, &capacities, |path| plot::capacities(path, &capacities))?;
    }
    if wanted(MAP) {
        let map = map::run(args)?;
        save(args, MAP, &map, |path| plot::map(path, &map))?;
    }
    write_text(&args.page, &page::render(&Findings::load(&args.out)?)?)?;
    println!("written to {} and {}", args.out.display(), args.page.display());
    Ok(())
}

fn save(
    args: &BeyondArgs,
    name: &str,
    results: &impl Serialize,
    draw: impl FnOnce(&Path) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let path = args.out.join(name).with_extension("json");
    write_json(&path, results)?;
    let picture = path.with_extension("svg");
    draw(&picture).with_context(|| format!("cannot draw {}; check --out", picture.display()))
}

fn read<T: DeserializeOwned>(folder: &Path, name: &str) -> anyhow::Result<T> {
    let path = folder.join(name).with_extension("json");
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}; make it with `sled beyond {name}`", path.display()))?;
    serde_json::from_str(&text)
        .with_context(|| format!("{} is of another version; make it again with `sled beyond {name}`", path.display()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_page_says_what_the_data_say() {
        let root = Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("../..");
        let findings = Findings::load(&root.join("results/beyond")).unwrap();
        let page = std::fs::read_to_string(root.join("docs/beyond.md")).unwrap();
        assert!(
            page == page::render(&findings).unwrap(),
            "docs/beyond.md is not what `sled beyond` writes; run it again"
        );
    }
}
