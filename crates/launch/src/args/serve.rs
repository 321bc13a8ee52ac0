//! `sled serve`.

use std::path::PathBuf;

use clap::Args;
use sled_core::server::{Assist, Batching};
use sled_llama::CacheType;
use sled_server::SharePrefixes;

use super::{ListenArgs, rate};
use crate::threads::Threads;

/// What is served to whom, and how.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// The target model: a name from `sled list`, hf:ORG/REPO/FILE.gguf, or a path
    #[arg(short, long, env = "SLED_MODEL", value_name = "MODEL")]
    pub model: String,

    /// The address to listen on; 0.0.0.0 lets other machines in
    #[arg(long, env = "SLED_HOST", default_value = "127.0.0.1")]
    pub host: std::net::IpAddr,

    /// The port to listen on; 0 takes any that is free
    #[arg(long, env = "SLED_PORT", default_value_t = 7600)]
    pub port: u16,

    /// Serve HTTP too, on this port: the OpenAI API, the dashboard, /events and /metrics; 0 takes any that is free [default:
    /// no HTTP]
    #[arg(long, env = "SLED_HTTP_PORT", value_name = "PORT")]
    pub http_port: Option<u16>,

    /// The key that requests to the API must have, as `Authorization: Bearer KEY` [default: everybody may ask]
    #[arg(long, env = "SLED_API_KEY", value_name = "KEY", hide_env_values = true)]
    pub api_key: Option<String>,

    /// Let web pages of this origin use the API, as in https://app.example.com; may be given several times [default: only the
    /// pages that come from here]
    #[arg(long, env = "SLED_CORS", value_name = "ORIGIN", value_delimiter = ',')]
    pub cors: Vec<sled_api::Origin>,

    /// Tokens that the KV cache holds, over all sessions
    #[arg(short, long, env = "SLED_CTX_SIZE", value_name = "TOKENS", default_value_t = 8192, value_parser = clap::value_parser!(u32).range(16..))]
    pub ctx_size: u32,

    /// Threads that the engine computes with: a number, or auto (one for each physical core that this process may use, by its
    /// affinity and by the quota of its control group)
    #[arg(short, long, env = "SLED_THREADS", value_name = "N|auto", default_value_t)]
    pub threads: Threads,

    /// Sessions that are in the KV cache at once; more take turns
    #[arg(long, visible_alias = "np", env = "SLED_PARALLEL", value_name = "SESSIONS", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub parallel: u32,

    /// How exactly the KV cache holds keys and values: f16, or q8_0 in half the memory
    #[arg(long, env = "SLED_CACHE_TYPE", value_name = "f16|q8_0", default_value = "f16", value_parser = cache_type)]
    pub cache_type: CacheType,

    /// Who is served when.
    #[command(flatten)]
    pub scheduling: SchedulingArgs,

    /// The most sessions at once; others are told to come back later
    #[arg(long, env = "SLED_MAX_SESSIONS", value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_sessions: u32,

    /// The most sessions of devices at one address (for IPv6 a network of 64 bits) [default: a quarter of --max-sessions, at
    /// least 64]
    #[arg(long, env = "SLED_MAX_SESSIONS_PER_CLIENT", value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_sessions_per_client: Option<u32>,

    /// Seconds that a device's session may be idle before it is closed; the device opens it again with its next prompt
    #[arg(long, env = "SLED_IDLE_TIMEOUT", value_name = "SECONDS", default_value_t = 1800, value_parser = clap::value_parser!(u32).range(1..))]
    pub idle_timeout: u32,

    /// The most prompts that may wait to be read, of new and open sessions, before devices are told to come back later
    #[arg(long, env = "SLED_MAX_QUEUE", value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_queue: u32,

    /// The longest draft that a device may send at once, in tokens
    #[arg(long, env = "SLED_MAX_DRAFT", value_name = "TOKENS", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub max_draft: u32,

    /// Layers to put on the GPU [default: all, if this build has a GPU backend]
    #[arg(long, visible_alias = "ngl", env = "SLED_GPU_LAYERS", value_name = "N")]
    pub gpu_layers: Option<u32>,

    /// A text file that prompts may begin with, such as the system prompt as the model's template writes it: what the KV cache
    /// holds of it is shared by everybody; may be given several times
    #[arg(long, env = "SLED_SHARED_PREFIX", value_name = "FILE")]
    pub shared_prefix: Vec<PathBuf>,

    /// Which requests over HTTP share what the KV cache holds of their own texts: those of one connection, or of one address
    #[arg(long, env = "SLED_SHARE_PREFIXES", value_name = "connection|address", default_value = "connection")]
    pub share_prefixes: SharePrefixes,

    /// Whom the ports let in.
    #[command(flatten)]
    pub listen: ListenArgs,
}

impl ServeArgs {
    /// A server of this process alone, with the defaults of the command line.
    pub fn local(model: &str, ctx_size: u32, parallel: u32) -> Self {
        Self {
            model: model.to_owned(),
            host: std::net::Ipv4Addr::LOCALHOST.into(),
            port: 0,
            http_port: None,
            api_key: None,
            cors: Vec::new(),
            ctx_size,
            threads: Threads::Auto,
            parallel,
            cache_type: CacheType::F16,
            scheduling: SchedulingArgs { batching: Batching::Continuous, assist: Assist::Auto, rate_goal: None },
            max_sessions: 1024,
            max_sessions_per_client: None,
            idle_timeout: 1800,
            max_queue: 256,
            max_draft: 64,
            gpu_layers: None,
            shared_prefix: Vec::new(),
            share_prefixes: SharePrefixes::Connection,
            listen: ListenArgs::default(),
        }
    }
}

/// How a server uses its engine.
#[derive(Clone, Debug, Args)]
pub struct SchedulingArgs {
    /// How requests become batches: continuous (whatever is ready, when it pays to launch), or static:SIZE:MS (wait for SIZE
    /// requests, or MS milliseconds, and pad; the paper's)
    #[arg(long, env = "SLED_BATCHING", value_name = "POLICY", default_value = "continuous")]
    pub batching: Batching,

    /// Who gets a token in a step without having sent a draft: auto (whoever is below the rate goal; without one, everybody),
    /// never, or always
    #[arg(long, env = "SLED_ASSIST", value_name = "auto|never|always", default_value = "auto")]
    pub assist: Assist,

    /// Tokens a second that each session is to get; the server leaves what is beyond to the devices [default: as many as
    /// possible]
    #[arg(long, env = "SLED_RATE_GOAL", value_name = "R", value_parser = rate)]
    pub rate_goal: Option<f64>,
}

fn cache_type(text: &str) -> Result<CacheType, String> {
    match text {
        "f16" => Ok(CacheType::F16),
        "q8_0" => Ok(CacheType::Q8_0),
        _ => Err("use f16 or q8_0".to_owned()),
    }
}
