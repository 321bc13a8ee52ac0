//! Results as files.

use std::path::Path;

use anyhow::Context;

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
