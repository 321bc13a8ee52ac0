//! The command line: every flag, its environment variable, and what it means.

#![allow(rustdoc::bare_urls, reason = "doc comments are what `--help` says")]

mod agent;
mod doctor;
mod models;
mod top;

pub use agent::AgentArgs;
use clap::{Args, Parser, Subcommand};
pub use doctor::DoctorArgs;
pub use models::{ListArgs, PullArgs, QuantizeArgs};
use sled_core::sampler::SamplingParams;
use sled_launch::args::{DeviceArgs, PairArgs, ServeArgs};
pub use top::TopArgs;

const LOG_HELP: &str = "What to log, to stderr: error, warn, info, debug, trace, or a filter like `info,llama=debug` \
    [default: warn; for serve also its sessions]";

const AFTER_HELP: &str = "\
Examples:
  sled pull qwen2.5-coder-1.5b                     download a target model
  sled serve -m qwen2.5-coder-1.5b                 serve it to devices on port 7600
  sled run --draft qwen2.5-coder-0.5b 'Say hello'  draft here, verify there
  sled device --draft qwen2.5-coder-0.5b           the same for every app here, as OpenAI's API on port 7700
  sled chat --server http://gpu-box:7600           chat, drafting without a model (n-grams)

Every flag has an environment variable, SLED_ and its name in capitals: SLED_SERVER, SLED_MAX_TOKENS, ...";

/// Serve a large language model to many small devices: each drafts with its own small model, one server verifies.
#[derive(Debug, Parser)]
#[command(name = "sled", version, max_term_width = 100, after_help = AFTER_HELP)]
pub struct Cli {
    #[arg(long, global = true, env = "SLED_LOG", value_name = "FILTER", help = LOG_HELP)]
    pub log: Option<String>,

    /// How to write the log: text, or json (one object a line)
    #[arg(
        long,
        global = true,
        env = "SLED_LOG_FORMAT",
        value_name = "text|json",
        value_enum,
        default_value = "text",
        hide_possible_values = true
    )]
    pub log_format: LogFormat,

    #[command(subcommand)]
    pub command: Command,
}

/// How a log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve a target model to devices
    Serve(ServeArgs),
    /// Answer the apps on this device over HTTP, as OpenAI's API does: draft here, verify on a server
    Device(AgentArgs),
    /// Generate one answer
    Run(RunArgs),
    /// Chat; the session's caches are kept between turns
    Chat(ChatArgs),
    /// Download a model
    Pull(PullArgs),
    /// List the sessions of a server
    Ps(PsArgs),
    /// Watch a server: rates, batches, step times, cache and sessions, once a second
    Top(TopArgs),
    /// Copy a model with its weights in another format: smaller, or one that this processor computes faster (see `sled doctor`)
    Quantize(QuantizeArgs),
    /// Check this device, or this server, and say what to do
    Doctor(DoctorArgs),
    /// List the models that are known, and those that are downloaded
    List(ListArgs),
    /// Show it all on this machine: one server, three devices with different drafters, and a check of their outputs
    Demo(DemoArgs),
    #[cfg(feature = "lab")]
    #[command(flatten)]
    Lab(sled_lab::Lab),
    /// Print a completion script for a shell
    Completions {
        /// The shell: bash, zsh, fish, elvish or powershell
        shell: clap_complete::Shell,
    },
}

impl Command {
    /// Whether it runs a model in this process.
    pub fn computes(&self) -> bool {
        match self {
            #[cfg(feature = "lab")]
            Self::Lab(command) => command.computes(),
            command => matches!(
                command,
                Self::Serve(_) | Self::Device(_) | Self::Run(_) | Self::Chat(_) | Self::Doctor(_) | Self::Demo(_)
            ),
        }
    }
}

/// How an answer looks on a terminal.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// Colour the answer by who proposed it: accepted drafts, corrections, bonus tokens
    #[arg(long, env = "SLED_SHOW_DRAFTS")]
    pub show_drafts: bool,
}

/// How tokens are chosen.
#[derive(Debug, Args)]
pub struct SamplingArgs {
    /// The most tokens to generate
    #[arg(short = 'n', long, env = "SLED_MAX_TOKENS", value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_tokens: u32,

    /// Randomness: 0 takes the likeliest token each time
    #[arg(long, env = "SLED_TEMPERATURE", value_name = "T", default_value_t = 0.0, value_parser = in_range::<0, 100>)]
    pub temperature: f32,

    /// Choose among the likeliest tokens that together have this probability; 1 is off
    #[arg(long, env = "SLED_TOP_P", value_name = "P", default_value_t = 1.0, value_parser = in_range::<0, 1>)]
    pub top_p: f32,

    /// Choose among the K likeliest tokens; 0 is off
    #[arg(long, env = "SLED_TOP_K", value_name = "K", default_value_t = 0)]
    pub top_k: u32,

    /// Choose among tokens at least this fraction as likely as the likeliest; 0 is off
    #[arg(long, env = "SLED_MIN_P", value_name = "P", default_value_t = 0.0, value_parser = in_range::<0, 1>)]
    pub min_p: f32,

    /// Make tokens of the text so far less likely; 1 is off
    #[arg(long, env = "SLED_REPEAT_PENALTY", value_name = "X", default_value_t = 1.0)]
    pub repeat_penalty: f32,

    /// Lower the logits of generated tokens, once; 0 is off
    #[arg(long, env = "SLED_PRESENCE_PENALTY", value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    pub presence_penalty: f32,

    /// Lower the logits of generated tokens, each time; 0 is off
    #[arg(
        long,
        env = "SLED_FREQUENCY_PENALTY",
        value_name = "X",
        default_value_t = 0.0,
        allow_negative_numbers = true
    )]
    pub frequency_penalty: f32,

    /// The same seed gives the same answer, whatever drafts
    #[arg(short, long, env = "SLED_SEED", value_name = "S", default_value_t = 0)]
    pub seed: u64,

    /// End the answer before this text; may be given several times
    #[arg(long, env = "SLED_STOP", value_name = "TEXT")]
    pub stop: Vec<String>,
}

impl SamplingArgs {
    /// The parameters for the sampler, which checks them.
    pub fn params(&self) -> SamplingParams {
        SamplingParams {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repeat_penalty,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            logit_bias: Vec::new(),
            grammar: None,
            seed: self.seed,
        }
    }
}

#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub device: DeviceArgs,

    #[command(flatten)]
    pub sampling: SamplingArgs,

    #[command(flatten)]
    pub show: ShowArgs,

    /// Continue the prompt as it is, without the model's chat template
    #[arg(long, env = "SLED_RAW")]
    pub raw: bool,

    /// Print one JSON object when the answer is complete; with --show-drafts its text streams to stderr
    #[arg(long, env = "SLED_JSON")]
    pub json: bool,

    /// What to answer; `-` reads it from standard input
    pub prompt: String,
}

#[derive(Debug, Args)]
pub struct ChatArgs {
    #[command(flatten)]
    pub device: DeviceArgs,

    #[command(flatten)]
    pub sampling: SamplingArgs,

    #[command(flatten)]
    pub show: ShowArgs,

    /// A system prompt
    #[arg(long, env = "SLED_SYSTEM", value_name = "TEXT")]
    pub system: Option<String>,
}

#[derive(Debug, Args)]
pub struct PsArgs {
    /// The server
    #[arg(long, env = "SLED_SERVER", value_name = "URL", default_value = "http://127.0.0.1:7600")]
    pub server: String,

    /// Print JSON
    #[arg(long, env = "SLED_JSON")]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct DemoArgs {
    #[command(flatten)]
    pub pair: PairArgs,

    /// The most tokens that each device generates
    #[arg(short = 'n', long, env = "SLED_MAX_TOKENS", value_name = "N", default_value_t = 96, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_tokens: u32,
}

fn in_range<const MIN: u8, const MAX: u8>(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(value) if (f32::from(MIN)..=f32::from(MAX)).contains(&value) => Ok(value),
        _ => Err(format!("use a number from {MIN} to {MAX}")),
    }
}
