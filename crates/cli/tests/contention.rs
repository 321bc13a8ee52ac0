//! A real server and a real device beside programs that keep every core busy. The file comes from `make test`, which names it in
//! SLED_TEST_SMOLLM2.

#![allow(unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

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

#[test]
fn real_server_and_device_go_on_beside_programs_that_keep_every_core_busy() {
    let _busy = Busy::everywhere();
    let model = file("SLED_TEST_SMOLLM2");
    let server = Server::start(&model, &["-c", "1024", "-np", "2"]);
    let output = Command::new(env!("CARGO_BIN_EXE_sled"))
        .args(["run", "--json", "-n", "96", "--server", &server.url, "--draft"])
        .arg(&model)
        .arg("Tell a long story about a river.")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let of = |key: &str| report[key].as_u64().unwrap();
    assert_eq!((of("disconnections"), of("provisional_tokens"), of("completion_tokens")), (0, 0, 96), "{said}");
}
