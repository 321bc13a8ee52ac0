//! Looks for other formats of the model that is to be served, and at what their passes take.

use std::path::{Path, PathBuf};

use sled_core::names::Fingerprint;
use sled_llama::Footprint;

use super::expect;
use super::facts::{Format, Target};
use super::target;
use sled_launch::models;

/// A model file that may be another format.
struct File {
    name: String,
    path: PathBuf,
    footprint: Footprint,
}

/// The formats of `target` that are at hand, the fastest first: its own, those of the files called `named`, and those that are
/// downloaded.
pub fn look(target: &Target, named: &[String], mut begin: impl FnMut(&str), mut done: impl FnMut()) -> Vec<Format> {
    let Some(passes) = target.passes.first().filter(|_| target.error.is_none()) else { return Vec::new() };
    let Ok(own) = models::locate(&target.name).and_then(|path| Ok(Footprint::read(&path)?)) else { return Vec::new() };
    let mut formats = vec![rated(format(&target.name, &own), Ok(passes.points.clone()), target.devices)];
    let mut seen = vec![own.fingerprint];
    for (name, file) in named.iter().map(|name| (name, open(name))) {
        match file {
            Ok(file) if !file.footprint.is_same_model(&own) => formats.push(Format {
                error: Some(format!("it is another model, {}", file.footprint.name)),
                ..format(name, &file.footprint)
            }),
            Ok(file) => formats.extend(measure(&file, target, passes.threads, &mut seen, &mut begin, &mut done)),
            Err(error) => {
                formats.push(Format { name: name.clone(), error: Some(error.to_string()), ..Format::default() });
            }
        }
    }
    for (name, path) in models::downloaded().unwrap_or_default() {
        if let Ok(footprint) = Footprint::read(&path)
            && footprint.is_same_model(&own)
        {
            let file = File { name, path, footprint };
            formats.extend(measure(&file, target, passes.threads, &mut seen, &mut begin, &mut done));
        }
    }
    formats.sort_by(|a, b| b.sled.unwrap_or(0.0).total_cmp(&a.sled.unwrap_or(0.0)));
    formats
}

fn open(name: &str) -> anyhow::Result<File> {
    let path = models::locate(name)?;
    let footprint = Footprint::read(&path)?;
    Ok(File { name: name.to_owned(), path, footprint })
}

/// Measures a file whose like was not `seen`.
fn measure(
    file: &File,
    target: &Target,
    threads: u32,
    seen: &mut Vec<Fingerprint>,
    begin: &mut impl FnMut(&str),
    done: &mut impl FnMut(),
) -> Option<Format> {
    if seen.contains(&file.footprint.fingerprint) {
        return None;
    }
    seen.push(file.footprint.fingerprint);
    let format = format(&file.name, &file.footprint);
    begin(&format.format);
    let points = points(&file.path, target.devices, threads, done);
    Some(rated(format, points, target.devices))
}

fn points(path: &Path, devices: u32, threads: u32, done: &mut impl FnMut()) -> anyhow::Result<Vec<[f64; 2]>> {
    target::passes(&target::load(path)?, devices, threads, done)
}

fn format(name: &str, footprint: &Footprint) -> Format {
    Format {
        name: name.to_owned(),
        format: footprint.format.clone().unwrap_or_else(|| "unnamed".to_owned()),
        bytes: footprint.bytes,
        ..Format::default()
    }
}

/// With what follows from its passes, or why there are none.
fn rated(format: Format, points: anyhow::Result<Vec<[f64; 2]>>, devices: u32) -> Format {
    let rates = points.and_then(|points| Ok((expect::each(&points, devices as usize)?, points)));
    match rates {
        Ok(((sled, plain), points)) => Format { points, sled: Some(sled), plain: Some(plain), ..format },
        Err(error) => Format { error: Some(error.to_string()), ..format },
    }
}
