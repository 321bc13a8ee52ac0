//! What a model will take, by the header of its file.

use std::path::Path;

use sled_core::names::{Fingerprint, PlainText};

use super::CacheType;
use super::ffi::Gguf;
use super::file::ModelFile;
use crate::Error;

/// What a model file says of the memory that its model needs, without loading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// What its authors call it, else the name of its file.
    pub name: String,
    /// How many bytes its files have: about what the weights take in memory.
    pub bytes: u64,
    /// How many layers it has.
    pub layers: u64,
    /// The heads that keep keys and values, over all layers.
    pub kv_heads: u64,
    /// The numbers that each of them keeps of a token: a key and a value.
    pub head_len: u64,
    /// The context that it was trained with, in tokens.
    pub context: u64,
    /// What identifies the file, as [`super::LlamaModel::fingerprint`] says it.
    pub fingerprint: Fingerprint,
}

impl Footprint {
    /// Reads the header of the GGUF file at `path`; of a model that comes in several files, the first.
    ///
    /// # Errors
    /// If the file is missing, not a model, or truncated.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let file = ModelFile::open(path)?;
        if !file.has_weights() {
            return Err(Error::NoWeights(path.to_owned()));
        }
        let header = Gguf::open(path)?;
        let architecture = header.text("general.architecture").unwrap_or_default();
        let numbers = |key: &str| header.numbers(&format!("{architecture}.{key}")).unwrap_or_default();
        let number = |key: &str| numbers(key).first().copied();
        let layers = number("block_count").unwrap_or(0);
        let heads = number("attention.head_count").unwrap_or(1).max(1);
        // Either one number for all layers or one for each; without any, every head has keys and values of its own.
        let kv_heads = match numbers("attention.head_count_kv").as_slice() {
            [] => layers * heads,
            [all] => layers * all,
            each => each.iter().sum(),
        };
        let usual = number("embedding_length").unwrap_or(0) / heads;
        let head_len = |key| number(key).unwrap_or(usual);
        let name = header.text("general.name").filter(|name| !name.trim().is_empty());
        Ok(Self {
            name: name.map_or_else(
                || path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
                |name| PlainText::from(name).into(),
            ),
            bytes: file.len(),
            layers,
            kv_heads,
            head_len: head_len("attention.key_length") + head_len("attention.value_length"),
            context: number("context_length").unwrap_or(0),
            fingerprint: file.fingerprint()?,
        })
    }

    /// How many bytes a KV cache of `tokens` tokens takes: `tokens * kv_heads * head_len` numbers of 16 or 8.5 bits.
    #[must_use]
    pub fn cache_bytes(&self, tokens: u64, cache: CacheType) -> u64 {
        let numbers = tokens.saturating_mul(self.kv_heads).saturating_mul(self.head_len);
        match cache {
            CacheType::F16 => numbers.saturating_mul(2),
            CacheType::Q8_0 => (numbers / 32).saturating_mul(34),
        }
    }
}
