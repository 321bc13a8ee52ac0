//! Flags that several commands have: every flag, its environment variable, and what it means.

#![allow(rustdoc::bare_urls, reason = "doc comments are what `--help` says")]

mod device;
mod listen;
mod numbers;
mod serve;

pub use device::{DeviceArgs, PairArgs};
pub use listen::ListenArgs;
pub use numbers::{not_negative, rate, share};
pub use serve::{SchedulingArgs, ServeArgs};
