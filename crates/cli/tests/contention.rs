//! A real server and real devices beside programs that keep every core busy. The file comes from `make test`, which names it in
//! SLED_TEST_SMOLLM2.

#![allow(unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/agent.rs"]
mod agent;
#[path = "support/http.rs"]
mod http;
mod support;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use agent::Device;
use serde_json::{Value, json};
use support::{Server, file};

/// A thread for each core that never rests, until this is dropped.
struct Busy {
    enough: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Busy {
    fn everywhere() -> Self {
        let enough = Arc::new(AtomicBool::new(false));
        let cores = std::thread::available_parallelism().unwrap().get();
        let threads = (0..cores)
            .map(|_| {
                let enough = Arc::clone(&enough);
                std::thread::spawn(move || {
                    while !enough.load(Ordering::Relaxed) {
                        std::hint::spin_loop();
                    }
                })
            })
            .collect();
        Self { enough, threads }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.enough.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| thread.join().unwrap());
    }
}

/// Tokens of an answer.
const TOKENS: u64 = 64;

/// Threads that spin for one that is not running cost a factor of more than a hundred; shared cores as such, a small one. Between
/// them there is room for what else the machine does.
const SLOWER: u32 = 30;

/// A `sled run` whose drafts `server` verifies; how long its answer took. Nothing of it is lost, and nothing is provisional.
fn answer(server: &Server, draft: &Path) -> Duration {
    let output = Command::new(env!("CARGO_BIN_EXE_sled"))
        .args(["run", "--json", "-n", &TOKENS.to_string(), "--server", &server.url, "--draft"])
        .arg(draft)
        .arg("Tell a long story about a river.")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let of = |key: &str| report[key].as_u64().unwrap();
    assert_eq!((of("disconnections"), of("provisional_tokens"), of("completion_tokens")), (0, 0, TOKENS), "{said}");
    Duration::from_secs_f64(report["elapsed_s"].as_f64().unwrap())
}

/// How long an app on `device` waits for an answer, of which nothing is provisional.
fn wait(device: &Device) -> Duration {
    let question = json!([{ "role": "user", "content": "Tell a long story about a river." }]);
    let body = json!({ "messages": question, "max_tokens": TOKENS, "temperature": 0 });
    let began = Instant::now();
    let (status, answer) = device.ask("/v1/chat/completions", Some(&body));
    let took = began.elapsed();
    let report: Value = serde_json::from_str(&answer).unwrap_or_else(|_| panic!("{answer}"));
    let figures = (&report["usage"]["completion_tokens"], &report["sled"]["provisional_tokens"]);
    assert_eq!((status, figures), (200, (&json!(TOKENS), &json!(0))), "{answer}");
    took
}

#[test]
fn real_server_and_device_go_on_beside_programs_that_keep_every_core_busy() {
    let model = file("SLED_TEST_SMOLLM2");
    let server = Server::start(&model, &["-c", "1024", "-np", "2"]);
    let cache = tempfile::tempdir().unwrap();
    let device = Device::start(&server.url, cache.path(), &["--draft", model.to_str().unwrap()]);
    assert!(device.line.contains(" thread"), "{}", device.line);
    let alone = (answer(&server, &model), wait(&device));
    let busy = Busy::everywhere();
    let beside = (answer(&server, &model), wait(&device));
    // One that is started among them is no worse off.
    let late = Server::start(&model, &["-c", "1024", "-np", "2"]);
    let beside_late = answer(&late, &model);
    drop(busy);
    for (beside, alone) in [(beside.0, alone.0), (beside.1, alone.1), (beside_late, alone.0)] {
        assert!(beside < alone * SLOWER, "{beside:?} beside others, {alone:?} alone");
    }
}
