//! Models by name: what is known, what is downloaded, and how to get the rest.
//!
//! Files are kept as Hugging Face's tools keep them (`models--ORG--REPO/{blobs,snapshots,refs}`), so that one download serves
//! all. A file gets its place only when it is complete and its SHA-256 is right.

mod download;
mod pip;
mod store;

use std::path::PathBuf;

use serde::Deserialize;

pub use store::Store;

use crate::Error;

/// How alike a misspelt name must be to be suggested (Jaro-Winkler).
const ALIKE: f64 = 0.8;

/// A model that is known by name.
#[derive(Clone, Debug, Deserialize)]
pub struct Entry {
    /// What users call it.
    pub name: String,
    /// One line about it.
    pub description: String,
    /// Its repository on Hugging Face, `ORG/REPO`, if it is there.
    pub repo: Option<String>,
    /// The name of its file.
    pub file: String,
    /// How many bytes it has.
    pub bytes: u64,
    /// Its SHA-256, in hexadecimal digits.
    pub sha256: String,
    /// Where else it is.
    pub mirror: Mirror,
}

/// A file cut into parts, one in each of several Python packages: the largest file of each is the part.
#[derive(Clone, Debug, Deserialize)]
pub struct Mirror {
    /// The packages' name; `{n}` stands for the number of the part, from 1.
    pub package: String,
    /// How many parts there are.
    pub parts: u32,
    /// The packages' version.
    pub version: String,
}

/// The models that are known by name.
///
/// # Errors
/// If the catalogue that was built into the program is broken.
pub fn entries() -> Result<Vec<Entry>, Error> {
    #[derive(Deserialize)]
    struct Catalog {
        model: Vec<Entry>,
    }
    let catalog: Catalog = toml::from_str(include_str!("../../catalog.toml")).map_err(Error::Catalog)?;
    Ok(catalog.model)
}

/// What a user may call a model.
#[derive(Clone, Debug)]
pub enum ModelRef {
    /// A name from the catalogue.
    Known(Box<Entry>),
    /// `hf:ORG/REPO/FILE.gguf`.
    HuggingFace {
        /// `ORG/REPO`.
        repo: String,
        /// `FILE.gguf`, with folders if it is in one.
        file: String,
    },
    /// A file.
    Path(PathBuf),
}

impl ModelRef {
    /// Reads what a user calls a model.
    ///
    /// # Errors
    /// If it is no known name and looks like nothing else; the message suggests the nearest name.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let entries = entries()?;
        if let Some(entry) = entries.iter().find(|entry| entry.name == text) {
            return Ok(Self::Known(Box::new(entry.clone())));
        }
        if let Some(place) = text.strip_prefix("hf:") {
            let mut parts = place.splitn(3, '/');
            return match (parts.next(), parts.next(), parts.next()) {
                (Some(org), Some(repo), Some(file))
                    if [org, repo].iter().all(|part| is_plain(part))
                        && file.ends_with(".gguf")
                        && file.split('/').all(is_plain) =>
                {
                    Ok(Self::HuggingFace { repo: format!("{org}/{repo}"), file: file.to_owned() })
                }
                _ => Err(Error::BadReference(text.to_owned())),
            };
        }
        if text.ends_with(".gguf") || text.contains(std::path::MAIN_SEPARATOR) {
            return Ok(Self::Path(PathBuf::from(text)));
        }
        let alike = |entry: &Entry| strsim::jaro_winkler(&entry.name, text);
        let nearest = entries.iter().max_by(|a, b| alike(a).total_cmp(&alike(b))).filter(|entry| alike(entry) >= ALIKE);
        Err(Error::UnknownModel { name: text.to_owned(), nearest: nearest.map(|entry| entry.name.clone()) })
    }

    /// What to call it in a message.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Known(entry) => entry.name.clone(),
            Self::HuggingFace { repo, file } => format!("hf:{repo}/{file}"),
            Self::Path(path) => path.display().to_string(),
        }
    }
}

/// Whether a part of a reference can be a part of a path without leading elsewhere.
fn is_plain(part: &str) -> bool {
    !part.is_empty() && part != "." && part != ".." && !part.contains(['\\', '?', '#', '%', ' '])
}

/// Hears how a download goes.
pub trait Progress {
    /// Something begins: `done` of `total` bytes are there already.
    fn begin(&mut self, what: &str, done: u64, total: Option<u64>);
    /// So many bytes more.
    fn advance(&mut self, bytes: u64);
    /// It is over.
    fn end(&mut self);
}
