//! What `sled doctor` is told.

use clap::Args;
use sled_launch::threads::Threads;

#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// The server that the device is to use, or `none`; the first of several that answers is looked at
    #[arg(
        long,
        env = "SLED_SERVER",
        value_name = "URL|none",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:7600"
    )]
    pub server: Vec<String>,

    /// Who is to draft: a model, `ngram` or `none` [default: the smallest downloaded model with the server's vocabulary, else
    /// ngram]
    #[arg(long, env = "SLED_DRAFT", value_name = "MODEL|ngram|none")]
    pub draft: Option<String>,

    /// Check this machine as a server of this model, instead of as a device; it is compared with its other formats that are
    /// downloaded, or given by another -m
    #[arg(short, long, env = "SLED_MODEL", value_name = "MODEL")]
    pub model: Vec<String>,

    /// As a server: the devices that it is to be fast for [default: as many as --parallel]
    #[arg(long, env = "SLED_DEVICES", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub devices: Option<u32>,

    /// As a server: tokens that the KV cache is to hold, over all sessions
    #[arg(short, long, env = "SLED_CTX_SIZE", value_name = "TOKENS", default_value_t = 8192, value_parser = clap::value_parser!(u32).range(16..))]
    pub ctx_size: u32,

    /// As a server: sessions that are to be in the KV cache at once
    #[arg(long, visible_alias = "np", env = "SLED_PARALLEL", value_name = "SESSIONS", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub parallel: u32,

    /// Threads to compute with: a number, or auto, as the commands that compute choose them
    #[arg(short, long, env = "SLED_THREADS", value_name = "N|auto", default_value_t)]
    pub threads: Threads,

    /// Print JSON
    #[arg(long, env = "SLED_JSON")]
    pub json: bool,
}
