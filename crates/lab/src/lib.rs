//! The laboratory: what measures SLED, and what simulates it, with results as JSON, plots and pages.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "commands of a command-line tool print")]
#![allow(unreachable_pub, reason = "one name of it is reachable")]

mod args;
mod bench;
mod beyond;
mod numbers;
mod output;
mod paper;
mod plan;
mod profile;
mod sim;
mod spread;
mod template;
mod virtual_time;

pub use args::Lab;

/// Carries out a command of the laboratory.
///
/// # Errors
/// A sentence for the user; [`sled_launch::Usage`] if it is about the flags.
pub async fn run(command: Lab) -> anyhow::Result<()> {
    match command {
        Lab::Bench(args) => bench::bench(args).await,
        Lab::Sim(args) => sim::run(&args),
        Lab::Plan(args) => plan::run(&args),
        Lab::Beyond(args) => beyond::run(&args),
        Lab::Paper(args) => paper::paper(&args),
        Lab::Profile(args) => profile::profile(&args),
    }
}
