//! How far something is that takes long.

use indicatif::{ProgressBar, ProgressStyle};

/// A progress bar of so many steps.
pub fn bar(len: usize, what: String) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg:32} {bar:40} {pos}/{len} {eta}");
    let bar = ProgressBar::new(len as u64).with_message(what);
    if let Ok(style) = style { bar.with_style(style) } else { bar }
}
