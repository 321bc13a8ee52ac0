//! Files made from model files.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;
use std::{fs, thread};

use super::ffi::{self, Load, Weights};
use super::file::ModelFile;
use super::format::Format;
use crate::Error;

/// How often it is told how far a copy is.
const TELL: Duration = Duration::from_millis(200);

/// Writes a copy of the model file `input` to `output`, with the weights in another format, and tells `progress` now and then how
/// many bytes are written.
///
/// The weights of a quantised model stay as coarse as they are; in a larger format they only take more room, and compute
/// differently.
///
/// # Errors
/// If `input` is not a whole model file, or `output` is the same file or cannot be written.
pub fn requantize(input: &Path, output: &Path, format: Format, mut progress: impl FnMut(u64)) -> Result<(), Error> {
    let file = ModelFile::open(input)?;
    if !file.has_weights() {
        return Err(Error::NoWeights(input.to_owned()));
    }
    let failed = |reason: String| Error::Convert { path: input.to_owned(), reason };
    if file.has(output) {
        return Err(failed("the copy would take its place; name another file".to_owned()));
    }
    // llama.cpp's quantiser does not look at shapes, and ends the process over one that it does not expect.
    drop(Weights::load(input, Load::Shapes)?);
    replace(output, |partial| {
        thread::scope(|scope| {
            let (ended, end) = mpsc::channel::<()>();
            let work = || {
                let _ended = ended;
                ffi::quantize(input, partial, format.file_type()).map_err(|error| match error {
                    // The quantiser's only streams are to the copy.
                    Error::Convert { reason, .. } if reason.contains("iostream error") => {
                        failed("the copy cannot be written; check that the disk is not full".to_owned())
                    }
                    error => error,
                })
            };
            let worker = thread::Builder::new().spawn_scoped(scope, work);
            let worker = worker.map_err(|error| failed(format!("no thread can be started: {error}")))?;
            while end.recv_timeout(TELL) == Err(RecvTimeoutError::Timeout) {
                progress(fs::metadata(partial).map_or(0, |metadata| metadata.len()));
            }
            worker.join().unwrap_or_else(|_| Err(failed("it has panicked".to_owned())))
        })
    })
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
