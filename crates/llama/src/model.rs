//! Loaded weights.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use sled_core::names::Fingerprint;
use sled_model::vocabulary::Vocab;

use super::ffi::{self, Load, Weights};
use super::file::{self, ModelFile};
use super::footprint::Footprint;
use super::memory;
use super::vocab;
use crate::Error;

/// How a model is loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoadOptions {
    /// How many layers go to the GPU; by default all if there is one, else none.
    pub gpu_layers: Option<u32>,
}

/// What a model is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// What its authors call it, else the name of its file.
    pub name: String,
    /// Its architecture as llama.cpp names it, such as `qwen2`.
    pub architecture: String,
    /// How its weights are stored, such as `Q4_K - Medium`.
    pub quantization: String,
    /// How many parameters it has.
    pub parameters: u64,
    /// How many bytes its files have.
    pub bytes: u64,
}

impl fmt::Display for Description {
    #[allow(clippy::cast_precision_loss)] // for people, with one decimal
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (millions, mebibytes) = (self.parameters as f64 / 1e6, self.bytes as f64 / f64::from(1 << 20));
        write!(f, "{} ({millions:.0}M parameters, {}, {mebibytes:.0} MiB)", self.name, self.quantization)
    }
}

/// Loaded weights; cloning shares them, between threads too.
#[derive(Clone, Debug)]
pub struct LlamaModel {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    weights: Arc<Weights>,
    vocab: Vocab,
    description: Description,
    footprint: Footprint,
    on_gpu: bool,
}

impl LlamaModel {
    /// Loads the GGUF file at `path`; of a model that comes in several files, the first.
    ///
    /// # Errors
    /// If the file is missing, not a model, truncated, larger than the memory, or refused by llama.cpp.
    pub fn load(path: &Path, options: &LoadOptions) -> Result<Self, Error> {
        let file = ModelFile::open(path)?;
        let footprint = Footprint::of(&file, path)?;
        let gpu_layers = if ffi::has_gpu() { options.gpu_layers.unwrap_or(u32::MAX) } else { 0 };
        if gpu_layers == 0 {
            file::check_memory(path, file.len(), memory::available())?;
        }
        let weights = Arc::new(Weights::load(path, Load::Weights { gpu_layers })?);
        let description = Description {
            name: footprint.name.clone(),
            architecture: weights.metadata(c"general.architecture").unwrap_or_default(),
            quantization: weights.quantization(),
            parameters: weights.parameters(),
            bytes: file.len(),
        };
        let vocab = vocab::vocabulary(Arc::clone(&weights), &description.name)?;
        let inner = Inner { weights, vocab, description, footprint, on_gpu: gpu_layers > 0 };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// What it is.
    #[must_use]
    pub fn description(&self) -> &Description {
        &self.inner.description
    }

    /// What identifies the model *file*: part of a hash over its length, its metadata and samples of
    /// its weights. Another quantisation of the same weights has another fingerprint, as it has other logits.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.inner.footprint.fingerprint
    }

    /// The context that the model was trained with, in tokens.
    #[must_use]
    pub fn train_context(&self) -> usize {
        self.inner.weights.train_context()
    }

    /// Its vocabulary.
    #[must_use]
    pub fn vocab(&self) -> Vocab {
        self.inner.vocab.clone()
    }

    pub(super) fn weights(&self) -> &Arc<Weights> {
        &self.inner.weights
    }

    /// What a cache takes of this machine's own memory; `None` if it goes to the GPU.
    pub(super) fn footprint(&self) -> Option<&Footprint> {
        (!self.inner.on_gpu).then_some(&self.inner.footprint)
    }
}
