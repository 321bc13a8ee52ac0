//! What `sled bench` is told.

use clap::{Args, Subcommand};
use sled_core::policy::Policy;
use sled_launch::args::{PairArgs, SchedulingArgs, not_negative, rate, share};
use sled_launch::threads::Threads;

use super::{PageArgs, ValidateArgs};

#[derive(Debug, Args)]
pub struct BenchArgs {
    #[command(subcommand)]
    pub bench: Bench,
}

#[derive(Debug, Subcommand)]
pub enum Bench {
    /// The real pair over real sockets: rounds, acceptance, bytes on the wire, the server's overhead
    Pair(PairBenchArgs),
    /// Record what the draft model proposes along the target's outputs, for the benchmarks that replay it
    Record(RecordArgs),
    /// Compare draft lengths on recorded drafts, in virtual time: idle and loaded servers, fast and slow links
    Policy(PolicyArgs),
    /// One device at growing distance from its server: real sockets, a relay that delays, replayed drafts
    Rtt(RttArgs),
    /// Many emulated devices on a real server process, beside thin clients and other servers
    Serve(ServeBenchArgs),
    /// The most devices that each get a rate
    Capacity(CapacityArgs),
    /// The scheduler and the server by themselves, with an engine that costs nothing
    Overhead(OverheadArgs),
    /// What `serve` measured, beside what the simulator says of the same fleet
    Validate(ValidateArgs),
    /// Write docs/serving.md, and what the README says of it, from the results
    Page(PageArgs),
    /// What honest clients notice while strangers attack a real server process in each way that sockets offer
    Attack(AttackArgs),
}

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// Devices that draft
    Sled,
    /// Thin clients of the same server
    Central,
    /// Clients of a llama-server
    LlamaServer,
    /// Thin clients once more: what the machine's noise does to a ratio
    Control,
}

impl Mode {
    pub fn name(self) -> &'static str {
        match self {
            Self::Sled => "sled",
            Self::Central => "central",
            Self::LlamaServer => "llama-server",
            Self::Control => "control",
        }
    }
}

/// What is put on the server.
#[derive(Debug, Args)]
pub struct LoadArgs {
    /// Who is measured
    #[arg(
        long,
        env = "SLED_MODES",
        value_name = "MODE",
        value_enum,
        value_delimiter = ',',
        default_value = "central,sled"
    )]
    pub modes: Vec<Mode>,

    /// The prompts: a JSON array of objects with `kind` and `text`
    #[arg(long, env = "SLED_PROMPTS", value_name = "FILE", default_value = "data/prompts.json")]
    pub prompts: std::path::PathBuf,

    /// How many tokens a second each device drafts
    #[arg(long, env = "SLED_DRAFT_RATE", value_name = "R", default_value = "50", value_parser = rate)]
    pub draft_rate: f64,

    /// The round trip between devices and server, in milliseconds
    #[arg(long, env = "SLED_RTT", value_name = "MS", default_value = "0", value_parser = not_negative)]
    pub rtt: f64,

    /// The mean pause between an answer and the next prompt of a device, in seconds
    #[arg(long, env = "SLED_THINK", value_name = "SECONDS", default_value = "0", value_parser = not_negative)]
    pub think: f64,

    /// Let prompts come at random instead, so many a second for each device
    #[arg(long, env = "SLED_POISSON", value_name = "RATE", value_parser = rate)]
    pub poisson: Option<f64>,

    /// How long a draft gets: goodput, fixed:K, or confidence:C:KMAX
    #[arg(long, env = "SLED_POLICY", value_name = "POLICY", default_value = "goodput")]
    pub policy: Policy,

    #[command(flatten)]
    pub scheduling: SchedulingArgs,

    /// Threads that the server computes with: a number, or auto, as it chooses them
    #[arg(short, long, env = "SLED_THREADS", value_name = "N|auto", default_value_t)]
    pub threads: Threads,

    /// Seconds before the measurement begins; where devices ask without a pause, it waits until each has had a token
    #[arg(long, env = "SLED_WARMUP", value_name = "SECONDS", default_value = "15", value_parser = not_negative)]
    pub warmup: f64,

    /// Seconds that are measured
    #[arg(long, env = "SLED_WINDOW", value_name = "SECONDS", default_value = "60", value_parser = rate)]
    pub window: f64,

    /// A llama-server program, for the mode of that name
    #[arg(long, env = "SLED_LLAMA_SERVER", value_name = "PATH")]
    pub llama_server: Option<std::path::PathBuf>,

    /// Decides when devices begin, and how long they pause
    #[arg(short, long, env = "SLED_SEED", value_name = "S", default_value_t = 0)]
    pub seed: u64,

    /// Where to write the results
    #[arg(long, env = "SLED_OUT", value_name = "FILE", default_value = "results/serve.json")]
    pub out: std::path::PathBuf,
}

#[derive(Debug, Args)]
pub struct ServeBenchArgs {
    /// The target model, or the same model in several formats
    #[arg(
        short,
        long,
        env = "SLED_MODEL",
        value_name = "MODEL",
        value_delimiter = ',',
        default_value = "qwen2.5-coder-1.5b"
    )]
    pub model: Vec<String>,

    /// What was recorded for the prompts: for all models, or for each
    #[arg(long, env = "SLED_DRAFTS", value_name = "FILE", value_delimiter = ',', default_value = "data/drafts.json")]
    pub drafts: Vec<std::path::PathBuf>,

    /// How many devices; each number is measured
    #[arg(long, env = "SLED_DEVICES", value_name = "N", value_delimiter = ',', default_value = "1,2,4,8,16,32", value_parser = clap::value_parser!(u32).range(1..))]
    pub devices: Vec<u32>,

    /// How often everything is measured, round after round; medians count
    #[arg(long, env = "SLED_REPEAT", value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub repeat: u32,

    /// The numbers of rows whose passes are measured in each round, for the bound beside the ratio of `sled` over `central`
    #[arg(long, env = "SLED_ROWS", value_name = "N", value_delimiter = ',', default_value = "1,2,3,4,5,6,8,10,12,14,15,16,17,20,24,28,32,40,48", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub rows: Vec<u32>,

    /// The share of the devices that hangs up in the middle of the measurement
    #[arg(long, env = "SLED_LEAVE", value_name = "SHARE", default_value = "0", value_parser = share)]
    pub leave: f64,

    #[command(flatten)]
    pub load: LoadArgs,
}

#[derive(Debug, Args)]
pub struct OverheadArgs {
    /// Sessions of the scheduler alone
    #[arg(long, env = "SLED_SESSIONS", value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub sessions: u32,

    /// Devices of the whole server
    #[arg(long, env = "SLED_DEVICES", value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    pub devices: u32,

    /// Seconds that each is measured
    #[arg(long, env = "SLED_WINDOW", value_name = "SECONDS", default_value = "5", value_parser = rate)]
    pub window: f64,

    /// Where to write the results
    #[arg(long, env = "SLED_OUT", value_name = "FILE", default_value = "results/overhead.json")]
    pub out: std::path::PathBuf,
}

#[derive(Debug, Args)]
pub struct CapacityArgs {
    /// The target model
    #[arg(short, long, env = "SLED_MODEL", value_name = "MODEL", default_value = "qwen2.5-coder-1.5b")]
    pub model: String,

    /// What was recorded for the prompts
    #[arg(long, env = "SLED_DRAFTS", value_name = "FILE", default_value = "data/drafts.json")]
    pub drafts: std::path::PathBuf,

    /// How many tokens a second each device is to get; each rate is measured
    #[arg(long, env = "SLED_RATE", value_name = "R", value_delimiter = ',', default_value = "5", value_parser = rate)]
    pub rate: Vec<f64>,

    /// The most devices to try
    #[arg(long, env = "SLED_MOST", value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    pub most: u32,

    /// How often each number of devices is tried; the middle result counts
    #[arg(long, env = "SLED_REPEAT", value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub repeat: u32,

    #[command(flatten)]
    pub load: LoadArgs,
}

#[derive(Debug, Args)]
pub struct AttackArgs {
    /// The target model
    #[arg(short, long, env = "SLED_MODEL", value_name = "MODEL", default_value = "smollm2-135m")]
    pub model: String,

    /// Threads that the server computes with: a number, or auto, as it chooses them
    #[arg(short, long, env = "SLED_THREADS", value_name = "N|auto", default_value_t)]
    pub threads: Threads,

    /// Tokens of the server's KV cache
    #[arg(short, long, env = "SLED_CTX_SIZE", value_name = "TOKENS", default_value_t = 8192, value_parser = clap::value_parser!(u32).range(1024..))]
    pub ctx_size: u32,

    /// The prompts: a JSON array of objects with `kind` and `text`
    #[arg(long, env = "SLED_PROMPTS", value_name = "FILE", default_value = "data/prompts.json")]
    pub prompts: std::path::PathBuf,

    /// The most tokens for each answer
    #[arg(short = 'n', long, env = "SLED_MAX_TOKENS", value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(2..))]
    pub max_tokens: u32,

    /// The kinds of attack by their names [default: all]
    #[arg(long, env = "SLED_ATTACKS", value_name = "NAME", value_delimiter = ',')]
    pub attacks: Vec<String>,

    /// Seconds that honest clients are measured with each attack, and as long without
    #[arg(long, env = "SLED_WINDOW", value_name = "SECONDS", default_value = "4", value_parser = rate)]
    pub window: f64,

    /// How often each attack is measured; the median counts
    #[arg(long, env = "SLED_REPEAT", value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub repeat: u32,

    /// Decides in which order the attacks come
    #[arg(short, long, env = "SLED_SEED", value_name = "S", default_value_t = 0)]
    pub seed: u64,

    /// Where to write the results
    #[arg(long, env = "SLED_OUT", value_name = "FILE", default_value = "results/attack.json")]
    pub out: std::path::PathBuf,
}

#[derive(Debug, Args)]
pub struct PairBenchArgs {
    #[command(flatten)]
    pub pair: PairArgs,

    /// The most tokens for each prompt
    #[arg(short = 'n', long, env = "SLED_MAX_TOKENS", value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_tokens: u32,

    /// Where to write the results
    #[arg(long, env = "SLED_OUT", value_name = "FILE", default_value = "results/pair.json")]
    pub out: std::path::PathBuf,
}

#[derive(Debug, Args)]
pub struct RecordArgs {
    #[command(flatten)]
    pub pair: PairArgs,

    /// The prompts: a JSON array of objects with `kind` and `text`
    #[arg(long, env = "SLED_PROMPTS", value_name = "FILE", default_value = "data/prompts.json")]
    pub prompts: std::path::PathBuf,

    /// The most tokens for each prompt
    #[arg(short = 'n', long, env = "SLED_MAX_TOKENS", value_name = "N", default_value_t = 96, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_tokens: u32,

    /// Where to write the recording
    #[arg(long, env = "SLED_OUT", value_name = "FILE", default_value = "data/drafts.json")]
    pub out: std::path::PathBuf,
}

#[derive(Debug, Args)]
pub struct PolicyArgs {
    /// The recorded drafts
    #[arg(long, env = "SLED_DRAFTS", value_name = "FILE", default_value = "data/drafts.json")]
    pub drafts: std::path::PathBuf,

    /// Decides when devices begin
    #[arg(short, long, env = "SLED_SEED", value_name = "S", default_value_t = 0)]
    pub seed: u64,

    /// Where to write the results
    #[arg(long, env = "SLED_OUT", value_name = "FILE", default_value = "results/policy.json")]
    pub out: std::path::PathBuf,
}

#[derive(Debug, Args)]
pub struct RttArgs {
    /// The recorded drafts
    #[arg(long, env = "SLED_DRAFTS", value_name = "FILE", default_value = "data/drafts.json")]
    pub drafts: std::path::PathBuf,

    /// How many of the recorded outputs each device generates
    #[arg(long, env = "SLED_OUTPUTS", value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub outputs: u32,

    /// Where to write the results
    #[arg(long, env = "SLED_OUT", value_name = "FILE", default_value = "results/rtt.json")]
    pub out: std::path::PathBuf,
}
