//! What the tests on real models share.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use sled_llama::{CacheType, EngineOptions, Format, LlamaEngine, LlamaModel, requantize};
use sled_model::reference::Difference;

pub fn file(variable: &str) -> PathBuf {
    std::env::var_os(variable).map(PathBuf::from).unwrap_or_else(|| panic!("{variable} is not set; run `make test`"))
}

/// By how many logits a committed token of a model in F32 may miss the choice of a one-by-one evaluation: its logits move by
/// about 0.01 with the shape of the batch, and hardly any token is so near a tie.
pub const NEAR_TIE_F32: f32 = 0.05;

/// A copy of SmolLM2 in F32, which evaluates a token nearly alike in any batch.
pub fn smollm2_f32() -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("smollm2-f32.gguf");
    if !path.exists() {
        let partial = path.with_extension(format!("{}.partial", std::process::id()));
        requantize(&file("SLED_TEST_SMOLLM2"), &partial, Format::F32, |_| ()).unwrap();
        std::fs::rename(&partial, &path).unwrap();
    }
    path
}

/// A `sled serve` process.
pub struct Server {
    pub process: Child,
    pub url: String,
}

impl Server {
    /// A server on a port of the system's choice.
    pub fn start(model: &Path, flags: &[&str]) -> Self {
        Self::start_at(0, model, flags)
    }

    /// A server on this port.
    pub fn start_at(port: u16, model: &Path, flags: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sled"));
        command.args(["serve", "--port", &port.to_string(), "-m"]).arg(model).args(flags);
        Self::of(command)
    }

    /// What `command` starts, once it listens.
    pub fn of(mut command: Command) -> Self {
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let url = line.trim().strip_prefix("listening on ").expect("the server says where it listens").to_owned();
        Self { process, url }
    }

    pub fn port(&self) -> u16 {
        self.url.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a URL ends with its port")
    }

    /// SIGTERM; what it said on stderr. It must end by itself and with success.
    pub fn terminate(mut self) -> String {
        let killed = Command::new("kill").arg(self.process.id().to_string()).status().unwrap();
        assert!(killed.success());
        let mut said = String::new();
        self.process.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert!(self.process.wait().unwrap().success(), "{said}");
        said
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ended = self.process.kill();
        let _reaped = self.process.wait();
    }
}

pub fn engine(model: &LlamaModel, rows: u32) -> LlamaEngine {
    LlamaEngine::new(model, &EngineOptions { context: 2048, sequences: 1, rows, threads: 2, cache: CacheType::F16 })
        .unwrap()
}

/// Asserts that whatever differs is a near-tie; returns how many do.
pub fn assert_near_ties(differences: &[Difference], limit: f32) -> usize {
    for difference in differences {
        assert!(difference.gap <= limit, "not the target's token: {difference:?}");
    }
    differences.len()
}
