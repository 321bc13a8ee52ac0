//! What was found out about a machine, a model and a server: plain data, as `--json` prints it.

use serde::Serialize;

/// All that was found out.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Facts {
    pub machine: Machine,
    /// Of a device.
    pub drafter: Option<Drafter>,
    /// Of a device; none if it is to have no server.
    pub server: Option<Server>,
    /// Of a device with a server that answers.
    pub trial: Option<Trial>,
    /// Of a server.
    pub target: Option<Target>,
    /// The formats of its model that are at hand, the fastest first.
    pub formats: Vec<Format>,
}

/// This machine.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Machine {
    pub cpu: String,
    /// As Rust calls it, such as `x86_64` or `aarch64`.
    pub architecture: String,
    /// Instruction sets that the engine was compiled for, as llama.cpp names them.
    pub features: Vec<String>,
    /// Those that the processor has besides, and the engine would use.
    pub unused_features: Vec<String>,
    /// Whether the processor computes BF16 natively.
    pub has_bf16: bool,
    /// Physical cores that this process may use.
    pub cores: u32,
    /// How many threads an engine gets, and why, unless as many were asked for.
    pub threads: u32,
    pub threads_why: String,
    /// How many programs want to compute, on average over the last minute.
    pub load: Option<f64>,
    pub memory_available: Option<u64>,
    /// Whether there is an NVIDIA driver.
    pub has_nvidia: bool,
    /// What the engine was compiled for, such as `CPU` and `CUDA`.
    pub backends: Vec<String>,
    pub gpus: Vec<Gpu>,
    /// Where models are kept, and how many bytes are free there.
    pub model_folder: String,
    pub disk_free: Option<u64>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Gpu {
    pub name: String,
    pub memory_free: u64,
    pub memory: u64,
}

/// Who drafts.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Drafter {
    /// As `--draft` names it.
    pub name: String,
    /// Whether the user named it.
    pub chosen_by_user: bool,
    /// If it is a model.
    pub model: Option<DraftModel>,
    /// Why it cannot be used.
    pub error: Option<String>,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct DraftModel {
    pub title: String,
    pub vocabulary_fingerprint: String,
    pub weights_bytes: u64,
    /// The KV cache for as many tokens as a session may have.
    pub cache_bytes: u64,
    /// One draft after the other; none if it was not measured.
    pub tokens_per_s: Option<f64>,
}

/// The server, from here.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Server {
    pub address: String,
    /// Whether it is on this machine, and computes on the same cores.
    pub is_here: bool,
    /// Why it cannot be used.
    pub error: Option<String>,
    pub found: Option<Found>,
}

/// A server that answers.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Found {
    pub version: String,
    pub protocol: u32,
    pub model: String,
    pub model_fingerprint: String,
    pub vocabulary_fingerprint: String,
    pub context: usize,
    /// The median of several.
    pub round_trip_ms: f64,
    /// Of a download, in megabits a second.
    pub download_mbit_per_s: f64,
    pub sessions: usize,
    /// Those of them that are being answered.
    pub busy_sessions: usize,
    pub cells_used: usize,
    pub cells: usize,
    /// Since the server was started; none before its first pass.
    pub step_ms: Option<f64>,
    pub rows_per_step: Option<f64>,
}

/// What came of short answers from the server.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Trial {
    /// Why there was none.
    pub error: Option<String>,
    /// What its passes took, `[rows, milliseconds]`, on average: of an answer without drafts, and of one with.
    pub passes: Vec<[f64; 2]>,
    pub plain_tokens_per_s: Option<f64>,
    /// Drafts sent and accepted, in blocks of so many.
    pub drafted: u64,
    pub accepted: u64,
    pub block: u32,
}

/// What this machine is to serve.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Target {
    /// As `-m` names it.
    pub name: String,
    pub title: String,
    /// Why it cannot be served.
    pub error: Option<String>,
    pub weights_bytes: u64,
    pub parameters: u64,
    /// The KV cache of `ctx_size` tokens, and what each of them takes.
    pub cache_bytes: u64,
    pub token_bytes: u64,
    /// The context that the model was trained with.
    pub context: u64,
    pub ctx_size: u32,
    pub parallel: u32,
    /// How many devices it is to be fast for.
    pub devices: u32,
    /// By how many threads its passes were measured; the fastest first.
    pub passes: Vec<Passes>,
}

/// What passes take.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Passes {
    pub threads: u32,
    /// `[rows, milliseconds]`.
    pub points: Vec<[f64; 2]>,
}

/// A file of a model in one of its formats.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Format {
    /// As `-m` names it.
    pub name: String,
    /// As model hubs call it, such as `Q4_K_M`.
    pub format: String,
    pub bytes: u64,
    /// Why it was not measured.
    pub error: Option<String>,
    /// `[rows, milliseconds]` of passes.
    pub points: Vec<[f64; 2]>,
    /// Tokens a second that each device has by these, with drafts and without.
    pub sled: Option<f64>,
    pub plain: Option<f64>,
}
