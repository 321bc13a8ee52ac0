//! The one place with `unsafe`: a thin wrapper of the llama.cpp calls that SLED needs.
//!
//! What llama.cpp hands out lives in types that free it. Everything here is memory safe whatever the arguments, but
//! llama.cpp answers some of them with an assertion that ends the process, so the modules above check every id,
//! position and length first; the functions that rely on it say so.

#![allow(unsafe_code)]

mod context;
mod exit;
mod gguf;
mod log;
mod system;
mod weights;

pub(crate) use context::{Context, ContextOptions, Failure};
pub(crate) use exit::leave;
pub(crate) use gguf::{Gguf, file_type_name, quantize};
pub(crate) use system::{Device, backends, devices, system_info};
pub(crate) use weights::{Load, Weights};

use std::ffi::CString;
use std::io;
use std::path::Path;
use std::sync::Once;

use llama_cpp_sys_2 as sys;

use crate::Error;

/// How many sequences a context can have at most (`LLAMA_MAX_SEQ`).
pub(crate) const MAX_SEQUENCES: u32 = 256;
/// How many threads a context can have at most (`GGML_MAX_N_THREADS`).
pub(crate) const MAX_THREADS: u32 = 512;

/// Starts llama.cpp, once, with its log going to `tracing`.
fn start() {
    static START: Once = Once::new();
    START.call_once(|| {
        log::install();
        // SAFETY: the call has no arguments, and `Once` keeps it from running twice or beside itself.
        unsafe { sys::llama_backend_init() };
    });
}

/// Whether llama.cpp was built with a GPU backend and finds a GPU.
pub(crate) fn has_gpu() -> bool {
    start();
    // SAFETY: the call has no arguments and reads a registry that is complete once the backends are initialised.
    unsafe { sys::llama_supports_gpu_offload() }
}

/// `path` as llama.cpp wants it: UTF-8 on every platform.
fn c_path(path: &Path) -> Result<CString, Error> {
    let bytes = path.to_str().map(str::as_bytes).unwrap_or_default();
    match CString::new(bytes) {
        Ok(text) if !bytes.is_empty() => Ok(text),
        _ => Err(Error::ModelFile {
            path: path.to_owned(),
            source: io::Error::new(io::ErrorKind::InvalidInput, "the path is not valid UTF-8; rename the file"),
        }),
    }
}
