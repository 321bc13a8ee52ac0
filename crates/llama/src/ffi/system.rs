//! What llama.cpp was built for, and what it finds on this machine.

use std::ffi::{CStr, c_char};
use std::sync::OnceLock;

use llama_cpp_sys_2 as sys;

use super::start;

/// A device that llama.cpp can compute on.
#[derive(Debug)]
pub(crate) struct Device {
    /// Its name, such as `CUDA0`.
    pub(crate) name: String,
    /// What it is, for people.
    pub(crate) description: String,
    /// Whether it is a GPU, with memory of its own or without.
    pub(crate) is_gpu: bool,
    /// How many bytes of its memory are free.
    pub(crate) free: u64,
    /// How many bytes of memory it has.
    pub(crate) total: u64,
}

/// What every backend was built for, as llama.cpp writes it: `CPU : AVX2 = 1 | F16C = 1 | … | CUDA : … | `.
pub(crate) fn system_info() -> &'static str {
    static INFO: OnceLock<String> = OnceLock::new();
    INFO.get_or_init(|| {
        start();
        // SAFETY: the call has no arguments. The text lives in a buffer that each call writes anew, which `OnceLock` keeps from
        // happening twice.
        unsafe { text(sys::llama_print_system_info()) }
    })
}

/// The names of the backends that were compiled in, such as `CPU` and `CUDA`.
pub(crate) fn backends() -> Vec<String> {
    start();
    // SAFETY: the registry is complete once the backends are initialised; the indices are less than the number of its entries,
    // and the names live as long as the process.
    unsafe {
        (0..sys::ggml_backend_reg_count())
            .map(|i| text(sys::ggml_backend_reg_name(sys::ggml_backend_reg_get(i))))
            .collect()
    }
}

/// The devices that llama.cpp finds.
pub(crate) fn devices() -> Vec<Device> {
    start();
    let device = |i| {
        // SAFETY: the index is less than the number of devices, which live as long as the process; both numbers are written
        // before the call returns.
        unsafe {
            let device = sys::ggml_backend_dev_get(i);
            let (mut free, mut total) = (0, 0);
            sys::ggml_backend_dev_memory(device, &raw mut free, &raw mut total);
            let kind = sys::ggml_backend_dev_type(device);
            Device {
                name: text(sys::ggml_backend_dev_name(device)),
                description: text(sys::ggml_backend_dev_description(device)),
                is_gpu: kind == sys::GGML_BACKEND_DEVICE_TYPE_GPU || kind == sys::GGML_BACKEND_DEVICE_TYPE_IGPU,
                free: free as u64,
                total: total as u64,
            }
        }
    };
    // SAFETY: the call has no arguments and reads the registry.
    (0..unsafe { sys::ggml_backend_dev_count() }).map(device).collect()
}

/// A copy of a text of llama.cpp's.
///
/// # Safety
/// `text` is null or a C string.
unsafe fn text(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: it is a C string, as the caller says.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}
