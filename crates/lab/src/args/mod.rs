//! The commands of the laboratory: every flag, its environment variable, and what it means.

mod bench;
mod beyond;
mod page;
mod paper;
mod plan;
mod profile;
mod sim;
mod validate;

pub use bench::{
    AttackArgs, Bench, BenchArgs, CapacityArgs, LoadArgs, Mode, OverheadArgs, PairBenchArgs, PolicyArgs, RecordArgs,
    RttArgs, ServeBenchArgs,
};
pub use beyond::BeyondArgs;
use clap::Subcommand;
pub use page::PageArgs;
pub use paper::PaperArgs;
pub use plan::PlanArgs;
pub use profile::ProfileArgs;
pub use sim::SimArgs;
pub use validate::ValidateArgs;

/// What measures and simulates.
#[derive(Debug, Subcommand)]
pub enum Lab {
    /// Measure the real pair: rounds, acceptance, bytes on the wire, the server's overhead
    Bench(BenchArgs),
    /// Simulate what a file describes: devices, a server, the network and what goes wrong, in virtual time
    Sim(SimArgs),
    /// Plan a server: how many devices, with which policy, at what cost, and what limits it
    Plan(PlanArgs),
    /// Answer what the paper leaves open, by simulation: results/beyond and docs/beyond.md
    Beyond(BeyondArgs),
    /// The paper's tables and figures, simulated: data, plots and a page
    Paper(PaperArgs),
    /// Measure this machine and a model on it: a profile for the simulator
    Profile(ProfileArgs),
}

impl Lab {
    /// Whether it runs a model in this process.
    pub fn computes(&self) -> bool {
        matches!(self, Self::Bench(_) | Self::Profile(_))
    }
}
