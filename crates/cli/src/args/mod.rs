//! The command line: every flag, its environment variable, and what it means.

mod agent;
mod bench;
mod beyond;
mod doctor;
mod listen;
mod models;
mod paper;
mod plan;
mod profile;
mod serve;
mod sim;
mod top;
mod validate;

pub use agent::AgentArgs;
pub use bench::{
    Bench, BenchArgs, CapacityArgs, LoadArgs, Mode, OverheadArgs, PairArgs, PairBenchArgs, PolicyArgs, RecordArgs,
    RttArgs, ServeBenchArgs,
};
pub use beyond::BeyondArgs;
use clap::{Args, Parser, Subcommand};
pub use doctor::DoctorArgs;
pub use listen::ListenArgs;
pub use models::{ConvertArgs, ListArgs, PullArgs};
pub use paper::PaperArgs;
pub use plan::PlanArgs;
pub use profile::ProfileArgs;
pub use serve::{SchedulingArgs, ServeArgs};
pub use sim::SimArgs;
use sled_core::device::Fallback;
use sled_core::policy::Policy;
use sled_core::sampler::SamplingParams;
pub use top::TopArgs;
pub use validate::ValidateArgs;

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
    /// Copy a model with its weights in another precision: a large copy of the same model, to see how a memory-bound target
    /// behaves
    Convert(ConvertArgs),
    /// Check this device, or this server, and say what to do
    Doctor(DoctorArgs),
    /// List the models that are known, and those that are downloaded
    List(ListArgs),
    /// Show it all on this machine: one server, three devices with different drafters, and a check of their outputs
    Demo(DemoArgs),
    /// Measure the real pair: rounds, acceptance, bytes on the wire, the server's overhead
    Bench(BenchArgs),
    /// Simulate what a file describes: devices, a server, the network and what goes wrong, in virtual time
    Sim(SimArgs),
    /// Plan a server: how many devices, with which policy, at what cost, and what limits it
    Plan(PlanArgs),
    /// Answer what the paper leaves open, by simulation: results/beyond and docs/beyond.md
    Beyond(BeyondArgs),
    /// The paper's tables and figures, simulated: data, plots and a page
    Paper(PaperArgs),
    /// Measure this machine and a model on it: a profile for the simulator
    Profile(ProfileArgs),
    /// Print a completion script for a shell
    Completions {
        /// The shell: bash, zsh, fish, elvish or powershell
        shell: clap_complete::Shell,
    },
}

impl Command {
    /// Whether it runs a model in this process.
    pub fn computes(&self) -> bool {
        matches!(
            self,
            Self::Serve(_)
                | Self::Device(_)
                | Self::Run(_)
                | Self::Chat(_)
                | Self::Doctor(_)
                | Self::Demo(_)
                | Self::Bench(_)
                | Self::Profile(_)
        )
    }
}

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

    /// Threads that the draft model computes with [default: one for each core]
    #[arg(short, long, env = "SLED_THREADS", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: Option<u32>,

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

fn fallback(text: &str) -> Result<Fallback, String> {
    match text {
        "release" => Ok(Fallback::Release),
        "wait" => Ok(Fallback::Wait),
        "error" => Ok(Fallback::Error),
        _ => Err("use release, wait or error".to_owned()),
    }
}

fn not_negative(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value >= 0.0 && value.is_finite() => Ok(value),
        _ => Err("use a number of at least 0".to_owned()),
    }
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if (0.0..=1.0).contains(&value) => Ok(value),
        _ => Err("use a number from 0 to 1".to_owned()),
    }
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate > 0.0 && rate.is_finite() => Ok(rate),
        _ => Err("use a number above 0".to_owned()),
    }
}

fn timeout(text: &str) -> Result<std::time::Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.1..=3600.0).contains(&seconds) => Ok(std::time::Duration::from_secs_f64(seconds)),
        _ => Err("use a number of seconds from 0.1 to 3600".to_owned()),
    }
}

fn in_range<const MIN: u8, const MAX: u8>(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(value) if (f32::from(MIN)..=f32::from(MAX)).contains(&value) => Ok(value),
        _ => Err(format!("use a number from {MIN} to {MAX}")),
    }
}
