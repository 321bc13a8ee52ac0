//! The flags of `sled device`.

use clap::Args;

use sled_launch::args::{DeviceArgs, ListenArgs};

#[derive(Debug, Args)]
pub struct AgentArgs {
    #[command(flatten)]
    pub device: DeviceArgs,

    /// The address to listen on; 0.0.0.0 lets other machines in
    #[arg(long, env = "SLED_HOST", default_value = "127.0.0.1")]
    pub host: std::net::IpAddr,

    /// The port to listen on; 0 takes any that is free
    #[arg(long, env = "SLED_PORT", default_value_t = 7700)]
    pub port: u16,

    /// The key that requests to the API must have, as `Authorization: Bearer KEY` [default: everybody may ask]
    #[arg(long, env = "SLED_API_KEY", value_name = "KEY", hide_env_values = true)]
    pub api_key: Option<String>,

    /// Let web pages of this origin use the API, as in https://app.example.com; may be given several times [default: only the
    /// pages that come from here]
    #[arg(long, env = "SLED_CORS", value_name = "ORIGIN", value_delimiter = ',')]
    pub cors: Vec<sled_api::Origin>,

    /// Requests that are answered at once; more take turns
    #[arg(long, visible_alias = "np", env = "SLED_PARALLEL", value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub parallel: u32,

    /// The most requests that may wait for their turn; others are told to come back later
    #[arg(long, env = "SLED_MAX_QUEUE", value_name = "N", default_value_t = 64)]
    pub max_queue: u32,

    #[command(flatten)]
    pub listen: ListenArgs,
}
