//! What `sled sim` is told.

use clap::Args;

#[derive(Debug, Args)]
pub struct SimArgs {
    /// The scenario: a TOML file, such as those in scenarios/
    #[arg(value_name = "FILE")]
    pub scenario: std::path::PathBuf,

    /// How many seeds to run it with, beginning with the scenario's own
    #[arg(long, env = "SLED_SEEDS", value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    pub seeds: u32,

    /// Print JSON
    #[arg(long, env = "SLED_JSON")]
    pub json: bool,

    /// Where to write the results, as JSON and beside it as a picture
    #[arg(long, env = "SLED_OUT", value_name = "FILE")]
    pub out: Option<std::path::PathBuf>,
}
