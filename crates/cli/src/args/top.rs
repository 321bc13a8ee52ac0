//! `sled top`.

use clap::Args;

#[derive(Debug, Args)]
pub struct TopArgs {
    /// The server's HTTP address: what it was given as --http-port
    #[arg(long, env = "SLED_HTTP_SERVER", value_name = "URL", default_value = "http://127.0.0.1:7601")]
    pub server: String,

    /// Print the figures as they come, one JSON object a line, instead of drawing them
    #[arg(long, env = "SLED_JSON")]
    pub json: bool,
}
