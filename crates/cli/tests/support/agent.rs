//! `sled device` as a process.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::http::ask;

/// A `sled device` process, with a folder for caches of its own.
pub struct Device {
    pub process: Child,
    pub address: String,
    /// What it said of itself.
    pub line: String,
}

impl Device {
    pub fn start(server: &str, cache: &Path, flags: &[&str]) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_sled"))
            .args(["device", "--port", "0", "--timeout", "20", "--fallback-after", "2", "--server", server])
            .args(flags)
            .env("XDG_CACHE_HOME", cache)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.strip_prefix("listening on http://").and_then(|rest| rest.split(';').next());
        let address = address.unwrap_or_else(|| panic!("it does not say where it listens: {line:?}")).to_owned();
        Self { process, address, line }
    }

    /// The status and the body of what it answers.
    pub fn ask(&self, path: &str, body: Option<&Value>) -> (u16, String) {
        ask(&self.address, path, body)
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let _ended = self.process.kill();
        let _reaped = self.process.wait();
    }
}
