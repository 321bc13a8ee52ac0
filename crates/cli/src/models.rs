//! `sled pull` and `sled list`, and models by name.

use std::io::IsTerminal;
use std::path::PathBuf;

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use sled_model::catalog::{self, ModelRef, Progress, Store};

use crate::args::{ListArgs, PullArgs};
use sled_launch::models::parse;

/// `sled pull`.
pub fn pull(args: &PullArgs) -> anyhow::Result<()> {
    let reference = parse(&args.model)?;
    let path = Store::from_env()?.pull(&reference, &mut Bar::default())?;
    println!("{}", path.display());
    Ok(())
}

/// `sled list`.
pub fn list(args: &ListArgs) -> anyhow::Result<()> {
    let store = Store::from_env()?;
    let mut rows = Vec::new();
    for entry in catalog::entries()? {
        let path = store.locate(&ModelRef::Known(Box::new(entry.clone()))).ok();
        rows.push(Row { name: entry.name, bytes: entry.bytes, path, description: entry.description });
    }
    for (name, path) in store.others() {
        let bytes = std::fs::metadata(&path).map_or(0, |metadata| metadata.len());
        rows.push(Row { name, bytes, path: Some(path), description: String::new() });
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
        return Ok(());
    }
    let width = rows.iter().map(|row| row.name.len()).max().unwrap_or_default();
    println!("{:<width$}  {:>10}  {:<10}  DESCRIPTION", "NAME", "SIZE", "DOWNLOADED");
    for Row { name, bytes, path, description } in rows {
        let there = if path.is_some() { "yes" } else { "no" };
        println!("{name:<width$}  {:>10}  {there:<10}  {description}", HumanBytes(bytes).to_string());
    }
    Ok(())
}

#[derive(serde::Serialize)]
struct Row {
    name: String,
    bytes: u64,
    path: Option<PathBuf>,
    description: String,
}

/// A bar on a terminal; elsewhere a line when something begins.
#[derive(Default)]
struct Bar(Option<ProgressBar>);

impl Progress for Bar {
    fn begin(&mut self, what: &str, done: u64, total: Option<u64>) {
        if !std::io::stderr().is_terminal() {
            let total = total.map_or_else(|| "an unknown size".to_owned(), |total| HumanBytes(total).to_string());
            eprintln!("{what}: {} of {total} there", HumanBytes(done));
            return;
        }
        let bar = total.map_or_else(ProgressBar::no_length, ProgressBar::new);
        let template = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(what.to_owned());
        bar.set_position(done);
        bar.reset_eta();
        self.0 = Some(bar);
    }

    fn advance(&mut self, bytes: u64) {
        if let Some(bar) = &self.0 {
            bar.inc(bytes);
        }
    }

    fn end(&mut self) {
        if let Some(bar) = self.0.take() {
            bar.finish_and_clear();
        }
    }
}
