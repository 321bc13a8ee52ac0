//! The arguments of `sled paper`.

use clap::Args;

#[derive(Debug, Args)]
pub struct PaperArgs {
    /// The folder with `profiles` and `data`
    #[arg(long, env = "SLED_ROOT", value_name = "FOLDER", default_value = ".")]
    pub root: std::path::PathBuf,

    /// The seeds; every simulation is run with each
    #[arg(long, env = "SLED_SEEDS", value_name = "S", value_delimiter = ',', default_value = "1,2,3,4,5")]
    pub seeds: Vec<u64>,

    /// Where to write data and plots
    #[arg(long, env = "SLED_OUT", value_name = "FOLDER", default_value = "results/paper")]
    pub out: std::path::PathBuf,

    /// Where to write the page
    #[arg(long, env = "SLED_PAGE", value_name = "FILE", default_value = "docs/paper.md")]
    pub page: std::path::PathBuf,
}
