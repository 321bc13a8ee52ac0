//! From the command line to running servers and devices: what the commands and the laboratory both start.

#![allow(clippy::print_stderr, reason = "what a command-line tool starts tells its user")]

pub mod args;
pub mod device;
pub mod measure;
pub mod models;
pub mod passes;
pub mod ports;
pub mod progress;
pub mod serve;
pub mod templates;
pub mod threads;
mod usage;

pub use usage::Usage;
