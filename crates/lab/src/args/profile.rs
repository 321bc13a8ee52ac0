//! The arguments of `sled profile`.

use clap::Args;
use sled_launch::threads::Threads;

#[derive(Debug, Args)]
pub struct ProfileArgs {
    /// The target model: a name from `sled list`, hf:ORG/REPO/FILE.gguf, or a path
    #[arg(short, long, env = "SLED_MODEL", value_name = "MODEL")]
    pub model: String,

    /// A draft model, to measure how fast this machine drafts
    #[arg(long, env = "SLED_DRAFT", value_name = "MODEL")]
    pub draft: Option<String>,

    /// The numbers of rows whose passes are measured; each row is a token of another session
    #[arg(long, env = "SLED_ROWS", value_name = "N", value_delimiter = ',', default_value = "1,2,3,4,5,6,7,8,10,12,15,16,17,20,24,31,32", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub rows: Vec<u32>,

    /// How many tokens each session has in the cache already
    #[arg(short, long, env = "SLED_CTX_SIZE", value_name = "TOKENS", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub ctx_size: u32,

    /// How often each number is measured; the median counts
    #[arg(long, env = "SLED_REPEAT", value_name = "N", default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..))]
    pub repeat: u32,

    /// Threads to compute with: a number, or auto, as a server chooses them
    #[arg(short, long, env = "SLED_THREADS", value_name = "N|auto", default_value_t)]
    pub threads: Threads,

    /// Layers to put on the GPU [default: all, if this build has a GPU backend]
    #[arg(long, visible_alias = "ngl", env = "SLED_GPU_LAYERS", value_name = "N")]
    pub gpu_layers: Option<u32>,

    /// The profile to write, or to add to: its name is the machine's [default: none, only the table is printed]
    #[arg(long, env = "SLED_OUT", value_name = "FILE")]
    pub out: Option<std::path::PathBuf>,
}
