//! The models that have a name.

use std::num::NonZeroU64;

use serde::Deserialize;

use crate::Error;

/// How much of a name must be right for it to be taken for a misspelling (Jaro-Winkler, from 0 to 1).
const SIMILAR: f64 = 0.7;

/// A model that has a name: what its file is and where to fetch it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// What users call it.
    pub name: String,
    /// What it is, in one line.
    pub description: String,
    /// How many parameters it has, for people to read: `1.5B`.
    pub parameters: String,
    /// The name of its file.
    pub file: String,
    /// The size of its file.
    pub bytes: u64,
    /// The SHA-256 of its file, in lower-case hexadecimal.
    pub sha256: String,
    /// The Hugging Face repository that has the file, as `organisation/repository`.
    pub hf: Option<String>,
    /// Where else the file can be had.
    pub mirror: Option<Mirror>,
}

/// A file in parts, one in each of a row of Python packages.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mirror {
    /// The name of a package, with `{n}` for the number of its part, counted from 1.
    pub package: String,
    /// The version of the packages.
    pub version: String,
    /// The path of the part within its package, with `*` for any run of characters.
    pub member: String,
    /// The size of every part but the last.
    pub part_bytes: NonZeroU64,
}

#[derive(Deserialize)]
struct Catalog {
    model: Vec<Entry>,
}

impl Entry {
    /// All models that have a name, the most useful first.
    ///
    /// # Errors
    /// If the catalogue that is built in is not valid.
    pub fn all() -> Result<Vec<Self>, Error> {
        match toml::from_str::<Catalog>(include_str!("../../catalog.toml")) {
            Ok(catalog) => Ok(catalog.model),
            Err(error) => Err(Error::Catalog(error.message().to_owned())),
        }
    }

    /// The model of that name.
    ///
    /// # Errors
    /// If there is none.
    pub fn named(name: &str) -> Result<Self, Error> {
        let mut entries = Self::all()?;
        if let Some(index) = entries.iter().position(|entry| entry.name == name) {
            return Ok(entries.swap_remove(index));
        }
        let nearest = entries
            .into_iter()
            .map(|entry| (strsim::jaro_winkler(name, &entry.name), entry.name))
            .filter(|(similarity, _)| *similarity >= SIMILAR)
            .max_by(|(a, _), (b, _)| a.total_cmp(b));
        Err(Error::UnknownModel { name: name.to_owned(), nearest: nearest.map(|(_, name)| name) })
    }

    /// The repository whose folder in the cache has the file: one of its own if Hugging Face does not have it.
    pub(super) fn repository(&self) -> String {
        self.hf.clone().unwrap_or_else(|| format!("{OWN_ORGANISATION}/{}", self.name))
    }
}

/// In whose name the cache keeps what Hugging Face does not have.
pub(super) const OWN_ORGANISATION: &str = "sled";
