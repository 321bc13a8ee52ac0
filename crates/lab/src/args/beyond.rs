//! What `sled beyond` is told.

use clap::Args;

#[derive(Debug, Args)]
pub struct BeyondArgs {
    /// The experiments to run: their names, or all of them; the page is written from the results that are there
    #[arg(value_name = "NAME")]
    pub experiments: Vec<String>,

    /// The recorded drafts
    #[arg(long, env = "SLED_DRAFTS", value_name = "FILE", default_value = "data/drafts.json")]
    pub drafts: std::path::PathBuf,

    /// How many seeds each point is simulated with
    #[arg(long, env = "SLED_SEEDS", value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub seeds: u32,

    /// The folder for results and pictures
    #[arg(long, env = "SLED_OUT", value_name = "FOLDER", default_value = "results/beyond")]
    pub out: std::path::PathBuf,

    /// The page
    #[arg(long, env = "SLED_PAGE", value_name = "FILE", default_value = "docs/beyond.md")]
    pub page: std::path::PathBuf,
}
