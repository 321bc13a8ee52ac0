//! llama.cpp's log, line by line, as `tracing` events of target `llama`.

use std::cell::RefCell;
use std::ffi::{CStr, c_char, c_void};
use std::mem;

use llama_cpp_sys_2 as sys;

/// What the current thread has logged so far. llama.cpp writes a line in pieces, and several threads write at once.
struct Pending {
    level: sys::ggml_log_level,
    line: String,
    first_error: Option<String>,
}

thread_local! {
    static PENDING: RefCell<Pending> =
        const { RefCell::new(Pending { level: sys::GGML_LOG_LEVEL_NONE, line: String::new(), first_error: None }) };
}

/// Sends llama.cpp's log here. To be called before anything else of llama.cpp runs.
pub(super) fn install() {
    // SAFETY: `receive` has the signature that is asked for, lives as long as the process, and ignores its user data.
    unsafe { sys::llama_log_set(Some(receive), std::ptr::null_mut()) };
}

/// Runs `call`, and tells with its result what the first error was that it logged on this thread.
///
/// The first one names the cause ("missing tensor"), the later ones its consequences ("failed to load model").
pub(super) fn watch<R>(call: impl FnOnce() -> R) -> (R, String) {
    PENDING.with_borrow_mut(|pending| pending.first_error = None);
    let result = call();
    let error = PENDING.with_borrow_mut(|pending| pending.first_error.take());
    (result, error.unwrap_or_else(|| "it gives no reason".to_owned()))
}

unsafe extern "C" fn receive(level: sys::ggml_log_level, text: *const c_char, _user_data: *mut c_void) {
    // SAFETY: llama.cpp passes a string that ends in a NUL and lives until this function returns.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    // A thread that is ending has lost its buffer already, and a subscriber may itself run llama.cpp: such lines are
    // not worth a panic, which must not cross into C.
    let _ = PENDING.try_with(|pending| {
        if let Ok(mut pending) = pending.try_borrow_mut() {
            pending.add(level, &text);
        }
    });
}

impl Pending {
    fn add(&mut self, level: sys::ggml_log_level, text: &str) {
        if level != sys::GGML_LOG_LEVEL_CONT {
            self.flush();
            self.level = level;
        }
        self.line.push_str(text);
        if self.line.ends_with('\n') {
            self.flush();
        }
    }

    fn flush(&mut self) {
        let line = mem::take(&mut self.line);
        let line = line.trim_end();
        if line.is_empty() {
            return;
        }
        match self.level {
            sys::GGML_LOG_LEVEL_ERROR => {
                self.first_error.get_or_insert_with(|| without_function(line).to_owned());
                tracing::warn!(target: "llama", "{line}");
            }
            sys::GGML_LOG_LEVEL_WARN => tracing::warn!(target: "llama", "{line}"),
            sys::GGML_LOG_LEVEL_INFO => tracing::debug!(target: "llama", "{line}"),
            _ => tracing::trace!(target: "llama", "{line}"),
        }
    }
}

/// `line` without the name of the C++ function that llama.cpp puts before it.
fn without_function(line: &str) -> &str {
    match line.split_once(": ") {
        Some((function, rest)) if !function.contains(' ') => rest,
        _ => line,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    fn log(level: sys::ggml_log_level, text: &CStr) {
        // SAFETY: the text is a C string that outlives the call.
        unsafe { receive(level, text.as_ptr(), std::ptr::null_mut()) };
    }

    #[test]
    fn the_first_error_of_a_call_is_its_reason() {
        let ((), reason) = watch(|| {
            log(sys::GGML_LOG_LEVEL_INFO, c"load: ");
            log(sys::GGML_LOG_LEVEL_CONT, c"...\n");
            log(sys::GGML_LOG_LEVEL_ERROR, c"load: missing ");
            log(sys::GGML_LOG_LEVEL_CONT, c"tensor 'a'\n");
            log(sys::GGML_LOG_LEVEL_ERROR, c"load: failed\n");
        });
        assert_eq!(reason, "missing tensor 'a'");
        assert_eq!(watch(|| ()).1, "it gives no reason");
    }
}
