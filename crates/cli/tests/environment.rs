//! How the program sees to it that its threads do not spin in vain and freed memory goes back: it starts itself again with the
//! libraries told so, and nobody notices.

#![cfg(all(target_os = "linux", target_env = "gnu"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

const PROGRAM: &str = env!("CARGO_BIN_EXE_sled");

/// A command without what a user may have set.
fn sled(args: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    for name in ["GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "GLIBC_TUNABLES"] {
        command.env_remove(name);
    }
    command.args(args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// An agent that waits for a server that is not there, until it is dropped.
struct Agent(Child);

impl Agent {
    fn start(variables: &[(&str, &str)]) -> Self {
        let mut command = sled(&["device", "--port", "0", "--draft", "none", "--server", "http://127.0.0.1:1"]);
        let mut agent = Self(command.envs(variables.iter().copied()).arg0("by/another/name").spawn().unwrap());
        let mut line = String::new();
        BufReader::new(agent.0.stderr.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert!(line.contains("trying again until it answers"), "{line}");
        agent
    }

    /// A file of the system about the process with the number that was started.
    fn look(&self, file: &str) -> String {
        String::from_utf8(std::fs::read(format!("/proc/{}/{file}", self.0.id())).unwrap()).unwrap()
    }

    /// What its environment says of threads, or of memory: the variables with one of these beginnings.
    fn settings(&self, beginnings: &[&str]) -> Vec<String> {
        let environment = self.look("environ");
        let about = |entry: &&str| beginnings.iter().any(|beginning| entry.starts_with(beginning));
        environment.split('\0').filter(about).map(str::to_owned).collect()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

#[test]
fn threads_spin_briefly_unless_the_user_says_otherwise() {
    let settings = |variables| Agent::start(variables).settings(&["GOMP_", "OMP_"]);
    assert_eq!(settings(&[]), ["GOMP_SPINCOUNT=1000"]);
    assert_eq!(settings(&[("GOMP_SPINCOUNT", "7")]), ["GOMP_SPINCOUNT=7"]);
    assert_eq!(settings(&[("OMP_WAIT_POLICY", "active")]), ["OMP_WAIT_POLICY=active"]);
}

#[test]
fn openmp_itself_says_that_its_threads_spin_briefly() {
    // It says so when it is loaded: into the program as it was started, and as it has started itself again.
    let mut command = sled(&["run", "--server", "http://127.0.0.1:1", "a prompt"]);
    let said = String::from_utf8(command.env("OMP_DISPLAY_ENV", "verbose").output().unwrap().stderr).unwrap();
    let mut spins = said.lines().filter_map(|line| line.trim().strip_prefix("GOMP_SPINCOUNT = "));
    assert_eq!(spins.next_back(), Some("'1000'"), "{said}");
}

#[test]
fn threads_of_tests_spin_briefly_too() {
    // Cargo tells whatever it runs so, before a library is loaded.
    assert_eq!(std::env::var("GOMP_SPINCOUNT").unwrap(), "1000");
}

#[test]
fn freed_memory_goes_back_unless_the_user_says_otherwise() {
    let settings = |variables| {
        let mut settings = Agent::start(variables).settings(&["MALLOC_", "GLIBC_"]);
        settings.sort();
        settings
    };
    let thresholds = ["MALLOC_MMAP_THRESHOLD_=131072", "MALLOC_TRIM_THRESHOLD_=131072"];
    assert_eq!(settings(&[]), [&["MALLOC_ARENA_MAX=2"][..], &thresholds].concat());
    assert_eq!(settings(&[("MALLOC_ARENA_MAX", "7")]), [&["MALLOC_ARENA_MAX=7"][..], &thresholds].concat());
    assert_eq!(settings(&[("GLIBC_TUNABLES", "")]), ["GLIBC_TUNABLES="]);
}

#[test]
fn a_program_that_starts_itself_again_is_the_same_process_by_the_same_name_and_ends_when_told() {
    let mut agent = Agent::start(&[]);
    let line = agent.look("cmdline");
    let words: Vec<&str> = line.trim_end_matches('\0').split('\0').collect();
    assert_eq!(
        words,
        ["by/another/name", "device", "--port", "0", "--draft", "none", "--server", "http://127.0.0.1:1"]
    );
    assert_eq!(agent.look("comm"), "sled\n");
    assert!(Command::new("kill").arg(agent.0.id().to_string()).status().unwrap().success());
    assert!(agent.0.wait().unwrap().success());
}

#[test]
fn standard_input_is_not_lost() {
    let mut process = sled(&["run", "--server", "http://127.0.0.1:1", "-"]).spawn().unwrap();
    process.stdin.take().unwrap().write_all(b"a prompt").unwrap();
    let mut said = String::new();
    process.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    process.wait().unwrap();
    assert!(said.contains("cannot reach the server"), "{said}");
}
