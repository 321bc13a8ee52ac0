//! The flags of whatever is a device.

use clap::Args;
use sled_core::device::Fallback;
use sled_core::policy::Policy;

use crate::threads::Threads;

/// Where to generate, and with which drafter.
#[derive(Debug, Args)]
pub struct DeviceArgs {
    /// The server, or `none` to decode with the draft model alone; may be given several times: if one is lost, the next is
    /// tried
    #[arg(
        long,
        env = "SLED_SERVER",
        value_name = "URL|none",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:7600"
    )]
    pub server: Vec<String>,

    /// Who drafts: a model (a name, hf:ORG/REPO/FILE.gguf or a path), `ngram` (repeats of the text, no model), or `none`
    /// (the server decodes)
    #[arg(long, env = "SLED_DRAFT", value_name = "MODEL|ngram|none", default_value = "ngram")]
    pub draft: String,

    /// How long a draft gets: goodput (as long as another token is worth its cost), fixed:K, or confidence:C:KMAX (draft
    /// while the draft model's confidence is at least C)
    #[arg(long, env = "SLED_POLICY", value_name = "POLICY", default_value = "goodput")]
    pub policy: Policy,

    /// Threads that the draft model computes with: a number, or auto (one for each physical core that this process may use;
    /// where there are more than two, one is left to the apps)
    #[arg(short, long, env = "SLED_THREADS", value_name = "N|auto", default_value_t)]
    pub threads: Threads,

    /// When no server can be reached: release (show the drafts, marked as provisional, until one is back), wait, or error
    #[arg(long, env = "SLED_FALLBACK", value_name = "release|wait|error", default_value = "release", value_parser = fallback)]
    pub fallback: Fallback,

    /// Failures in a row, of servers that do not answer or cannot be connected to, before the fallback
    #[arg(long, env = "SLED_FALLBACK_AFTER", value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub fallback_after: u32,

    /// The longest that a server may take to answer, in seconds, before it is asked again; doubled each time
    #[arg(long, env = "SLED_TIMEOUT", value_name = "SECONDS", default_value = "10", value_parser = timeout, allow_negative_numbers = true)]
    pub timeout: std::time::Duration,
}

/// A target model, and the model that drafts for it.
#[derive(Debug, Args)]
pub struct PairArgs {
    /// The target model
    #[arg(long, env = "SLED_TARGET", value_name = "MODEL", default_value = "qwen2.5-coder-1.5b")]
    pub target: String,

    /// The draft model
    #[arg(long, env = "SLED_DRAFT", value_name = "MODEL", default_value = "qwen2.5-coder-0.5b")]
    pub draft: String,
}

fn fallback(text: &str) -> Result<Fallback, String> {
    match text {
        "release" => Ok(Fallback::Release),
        "wait" => Ok(Fallback::Wait),
        "error" => Ok(Fallback::Error),
        _ => Err("use release, wait or error".to_owned()),
    }
}

fn timeout(text: &str) -> Result<std::time::Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.1..=3600.0).contains(&seconds) => Ok(std::time::Duration::from_secs_f64(seconds)),
        _ => Err("use a number of seconds from 0.1 to 3600".to_owned()),
    }
}
