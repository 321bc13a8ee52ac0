//! The end of a process in which an engine may be computing.

use std::io::Write;

/// Ends the process at once with `status`. Nothing is taken down: another thread may be in the middle of a forward pass, and what
/// `exit` destroys would be pulled from under it.
#[cfg(unix)]
pub(crate) fn leave(status: u8) -> ! {
    // SAFETY: this is how POSIX declares the function, which touches no memory of the process.
    unsafe extern "C" {
        safe fn _exit(status: std::ffi::c_int) -> !;
    }
    flush();
    _exit(status.into())
}

/// Ends the process with `status`.
#[cfg(not(unix))]
pub(crate) fn leave(status: u8) -> ! {
    flush();
    std::process::exit(status.into())
}

/// Writes what was printed and waits to be written; nobody is left to hear of an error.
fn flush() {
    let _lost = std::io::stdout().flush();
    let _lost = std::io::stderr().flush();
}
