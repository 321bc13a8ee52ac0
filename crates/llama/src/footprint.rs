//! What a model will take, by the header of its file.

use std::path::Path;

use sled_core::names::Fingerprint;

use super::file::ModelFile;
use super::format;
use crate::Error;

/// What llama.cpp rounds the cells of a cache up to a multiple of.
const STEP: u64 = 256;

/// What a cell takes beside its keys and values, in bytes: in masks, and where it is noted whose it is.
const BESIDE: u64 = 512;

/// How exactly a KV cache holds keys and values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CacheType {
    /// 16 bits.
    #[default]
    F16,
    /// 8.5 bits, in blocks of 32: about half the memory.
    Q8_0,
}

/// What a model file says of the memory that its model needs, without loading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// What its authors call it, else the name of its file.
    pub name: String,
    /// Its architecture as llama.cpp names it, such as `qwen2`.
    pub architecture: String,
    /// How its weights are stored, as model hubs call it, such as `Q4_K_M`; none if the header does not say it, or llama.cpp does
    /// not know it.
    pub format: Option<String>,
    /// How many weights its first file has.
    pub parameters: u64,
    /// How many bytes its files have: about what the weights take in memory.
    pub bytes: u64,
    /// How many layers it has.
    pub layers: u64,
    /// The heads that keep keys and values, over all layers.
    pub kv_heads: u64,
    /// The numbers that each of them keeps of a token: a key and a value.
    pub head_len: u64,
    /// The numbers that stand for a token between layers.
    pub width: u64,
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
        Self::of(&ModelFile::open(path)?, path)
    }

    /// What the header of `file`, which is at `path`, says.
    pub(super) fn of(file: &ModelFile, path: &Path) -> Result<Self, Error> {
        if !file.has_weights() {
            return Err(Error::NoWeights(path.to_owned()));
        }
        let header = file.header();
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
        let width = number("embedding_length").unwrap_or(0);
        let usual = width / heads;
        let head_len = |key| number(key).unwrap_or(usual);
        Ok(Self {
            format: header.numbers("general.file_type").and_then(|number| format::stored(*number.first()?)),
            parameters: header.elements(),
            name: file.name(),
            bytes: file.len(),
            layers,
            kv_heads,
            head_len: head_len("attention.key_length") + head_len("attention.value_length"),
            width,
            context: number("context_length").unwrap_or(0),
            fingerprint: file.fingerprint()?,
            architecture,
        })
    }

    /// Whether `other` is the same model, if in another format: of the same name and shape.
    #[must_use]
    pub fn is_same_model(&self, other: &Self) -> bool {
        let shape = |it: &Self| [it.layers, it.kv_heads, it.head_len, it.width, it.context];
        (&self.name, &self.architecture, shape(self)) == (&other.name, &other.architecture, shape(other))
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

    /// Refuses a cache of `tokens` tokens that takes more than `available` bytes: the operating system promises more memory than
    /// there is, and ends the process when it is used. Unknown memory is taken to suffice.
    pub(super) fn check_cache(&self, tokens: u64, cache: CacheType, available: Option<u64>) -> Result<(), Error> {
        let needed = |tokens| self.cache_bytes(tokens, cache).saturating_add(tokens.saturating_mul(BESIDE));
        let rounded = tokens.next_multiple_of(STEP);
        match available {
            Some(available) if needed(rounded) > available => Err(Error::ContextTooLarge {
                name: self.name.clone(),
                tokens,
                needed: needed(rounded),
                available,
                most: available / needed(STEP) * STEP,
            }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    /// 23,040 bytes a token, as SmolLM2 135M.
    fn footprint() -> Footprint {
        Footprint {
            name: "SmolLM2".to_owned(),
            architecture: "llama".to_owned(),
            format: Some("Q4_1".to_owned()),
            parameters: 135_000_000,
            bytes: 100 << 20,
            layers: 30,
            kv_heads: 90,
            head_len: 128,
            width: 576,
            context: 8192,
            fingerprint: Fingerprint::new(0),
        }
    }

    #[test]
    fn a_model_is_the_same_in_every_format() {
        let copy = Footprint {
            format: Some("BF16".to_owned()),
            bytes: 270 << 20,
            fingerprint: Fingerprint::new(1),
            ..footprint()
        };
        assert!(copy.is_same_model(&footprint()));
        assert!(!Footprint { layers: 29, ..footprint() }.is_same_model(&footprint()));
        assert!(!Footprint { name: "SmolLM2 Instruct".to_owned(), ..footprint() }.is_same_model(&footprint()));
        assert!(!Footprint { architecture: "qwen2".to_owned(), ..footprint() }.is_same_model(&footprint()));
    }

    #[test]
    fn a_cache_larger_than_the_free_memory_is_refused_in_one_sentence_that_says_what_fits() {
        let check = |tokens, available| footprint().check_cache(tokens, CacheType::F16, available);
        assert_eq!(
            check(100_000_000, Some(8 << 30)).unwrap_err().to_string(),
            "a context of 100000000 tokens takes 2193.5 GiB of memory with SmolLM2 and 8.0 GiB are available; 364544 tokens would \
             fit, see -c"
        );
        assert!(check(364_544, Some(8 << 30)).is_ok());
        assert!(check(364_545, Some(8 << 30)).is_err());
        assert!(check(u64::from(u32::MAX), None).is_ok());
        let huge = Footprint { kv_heads: u64::MAX, ..footprint() };
        assert!(huge.check_cache(1, CacheType::Q8_0, Some(u64::MAX - 1)).is_err());
    }
}
