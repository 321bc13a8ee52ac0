//! The server under attack, as the system sees it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;

use super::super::serve::process::{ServerProcess, cpu_seconds};

/// How often a process is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// A process that computes less than this share of a core is at rest.
const REST: f64 = 0.1;

/// How long a server may have to come to rest after an attack.
const PATIENCE: Duration = Duration::from_secs(60);

/// The most that a process had of what it could run out of.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Peak {
    pub memory_mib: u64,
    pub threads: u64,
    pub descriptors: u64,
}

impl Peak {
    /// Of each the larger.
    pub fn max(self, other: Self) -> Self {
        Self {
            memory_mib: self.memory_mib.max(other.memory_mib),
            threads: self.threads.max(other.threads),
            descriptors: self.descriptors.max(other.descriptors),
        }
    }

    fn of(process: u32) -> Self {
        let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
        let figure = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0)
        };
        let descriptors = std::fs::read_dir(format!("/proc/{process}/fd")).map_or(0, Iterator::count);
        Self {
            memory_mib: figure("VmRSS:") >> 10,
            threads: figure("Threads:"),
            descriptors: u64::try_from(descriptors).unwrap_or(u64::MAX),
        }
    }
}

/// Looks at a process until it is asked for the peak.
pub struct Watch {
    enough: Arc<AtomicBool>,
    looking: JoinHandle<Peak>,
}

impl Watch {
    pub fn start(process: u32) -> Self {
        let enough = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&enough);
        let looking = std::thread::spawn(move || {
            let mut peak = Peak::default();
            while !told.load(Ordering::Relaxed) {
                peak = peak.max(Peak::of(process));
                std::thread::sleep(LOOK);
            }
            peak
        });
        Self { enough, looking }
    }

    pub fn peak(self) -> anyhow::Result<Peak> {
        self.enough.store(true, Ordering::Relaxed);
        self.looking.join().ok().context("the server could not be watched")
    }
}

/// Waits until an attack is over for the server too, and returns the memory that it has then, in MiB.
pub async fn rest(server: &mut ServerProcess) -> anyhow::Result<u64> {
    let id = server.id().context("the server has ended")?;
    let (since, process) = (Instant::now(), id.to_string());
    loop {
        let (before, began) = (cpu_seconds(&process), Instant::now());
        tokio::time::sleep(10 * LOOK).await;
        if cpu_seconds(&process) - before < REST * began.elapsed().as_secs_f64() {
            return Ok(Peak::of(id).memory_mib);
        }
        anyhow::ensure!(since.elapsed() < PATIENCE, "the server is busy a minute after an attack has ended");
    }
}
