//! What `sled bench page` is told.

use clap::Args;

#[derive(Debug, Args)]
pub struct PageArgs {
    /// The folder with README.md, `docs`, `results`, `profiles` and `data`
    #[arg(long, env = "SLED_ROOT", value_name = "FOLDER", default_value = ".")]
    pub root: std::path::PathBuf,
}
