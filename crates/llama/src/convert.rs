//! Files made from model files.

use std::fs;
use std::path::{Path, PathBuf};

use llama_cpp_sys_2 as sys;
use sled_model::Error;

use super::ffi;
use super::file::ModelFile;

/// How the weights of a model file are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// 32 bits: a token's logits are then, for all practical purposes, the same in every batch.
    F32,
    /// 16 bits.
    F16,
}

/// Writes a copy of the model file `input` to `output`, with the weights in another precision.
///
/// The weights of a quantised model stay as coarse as they are; they only take more room, and compute differently.
///
/// # Errors
/// If `input` is not a whole model file, or `output` cannot be written.
pub fn requantize(input: &Path, output: &Path, precision: Precision) -> Result<(), Error> {
    if !ModelFile::open(input)?.has_weights() {
        return Err(Error::NoWeights(input.to_owned()));
    }
    let file_type = match precision {
        Precision::F32 => sys::LLAMA_FTYPE_ALL_F32,
        Precision::F16 => sys::LLAMA_FTYPE_MOSTLY_F16,
    };
    replace(output, |partial| ffi::quantize(input, partial, file_type))
}

/// Writes a GGUF file to `output` that has the metadata of the model file `model` and none of its weights: the
/// vocabulary and the chat template, a few megabytes. [`crate::load_vocabulary`] reads it.
///
/// # Errors
/// If `model` is not a whole GGUF file, or `output` cannot be written.
pub fn vocabulary_file(model: &Path, output: &Path) -> Result<(), Error> {
    let metadata = ModelFile::open(model)?.header().metadata();
    replace(output, |partial| {
        fs::write(partial, metadata).map_err(|source| Error::ModelFile { path: partial.to_owned(), source })
    })
}

/// Lets `write` make a file beside `output` and moves it there when it is complete, so that whoever finds the file
/// finds all of it.
fn replace(output: &Path, write: impl FnOnce(&Path) -> Result<(), Error>) -> Result<(), Error> {
    let mut partial = output.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let written = write(&partial).and_then(|()| {
        fs::rename(&partial, output).map_err(|source| Error::ModelFile { path: output.to_owned(), source })
    });
    if written.is_err() {
        // It may not even exist; what matters is the first error.
        let _ = fs::remove_file(&partial);
    }
    written
}
