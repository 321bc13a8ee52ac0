//! Real servers that are killed while a real device generates. The files come from `make test`, which names them in
//! SLED_TEST_*.

#![allow(unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

mod support;

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};

use sled_core::Token;
use sled_core::sampler::{Sampler, SamplingParams};
use sled_llama::{LlamaModel, LoadOptions};
use sled_model::Model;
use sled_model::reference;
use support::{NEAR_TIE_F32, Server, assert_near_ties, engine, file, smollm2_f32};

const PROMPT: &str = "Count from one to one hundred in words, and then tell a long story about a river.";

/// A `sled run --json --show-drafts`: its text streams to stderr, its report comes on stdout at the end.
struct Device {
    process: Child,
    stream: BufReader<ChildStderr>,
    shown: Vec<u8>,
}

impl Device {
    fn start(servers: &[&str], flags: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sled"));
        // A killed server is noticed at once; the timeout is only for a machine that is busy with something else.
        command.args(["run", "--json", "--show-drafts", "-t", "1", "--timeout", "20"]);
        for server in servers {
            command.args(["--server", server]);
        }
        let mut process =
            command.args(flags).arg(PROMPT).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stream = BufReader::new(process.stderr.take().unwrap());
        Self { process, stream, shown: Vec::new() }
    }

    /// Waits until it has shown something more; false if it will not any more.
    fn shows_more(&mut self) -> bool {
        let bytes = self.stream.fill_buf().unwrap().to_vec();
        self.stream.consume(bytes.len());
        self.shown.extend(&bytes);
        !bytes.is_empty()
    }

    /// Waits until what it has shown contains `text`.
    fn waits_for(&mut self, text: &str) {
        while !String::from_utf8_lossy(&self.shown).contains(text) {
            assert!(self.shows_more(), "{text:?} is not in {:?}", String::from_utf8_lossy(&self.shown));
        }
    }

    /// Its report, and all that it has shown.
    fn finish(mut self) -> (serde_json::Value, String) {
        self.stream.read_to_end(&mut self.shown).unwrap();
        let mut report = String::new();
        self.process.stdout.take().unwrap().read_to_string(&mut report).unwrap();
        let shown = String::from_utf8_lossy(&self.shown).into_owned();
        assert!(self.process.wait().unwrap().success(), "{shown}");
        (serde_json::from_str(&report).unwrap(), shown)
    }
}

fn tokens(report: &serde_json::Value, key: &str) -> Vec<Token> {
    serde_json::from_value(report[key].clone()).unwrap()
}

/// Compares the tokens that are not provisional with what the target chooses after the text before them.
fn assert_lawful(path: &Path, report: &serde_json::Value) {
    let target = LlamaModel::load(path, &LoadOptions::default()).unwrap();
    let mut alone = engine(&target, 256);
    let sampler = Sampler::new(SamplingParams::default(), alone.limits().vocab_size).unwrap();
    let (prompt, output) = (tokens(report, "prompt_token_ids"), tokens(report, "token_ids"));
    let provenance: Vec<String> = serde_json::from_value(report["provenance"].clone()).unwrap();
    assert_eq!(provenance.len(), output.len());
    let mut differences = reference::compare(&mut alone, &sampler, &prompt, &output).unwrap();
    differences.retain(|difference| provenance[difference.index] != "provisional");
    let differing = assert_near_ties(&differences, NEAR_TIE_F32);
    eprintln!("{differing} of {} tokens differ from the target alone, all within a near-tie", output.len());
}

#[test]
fn real_server_killed_and_restarted_twenty_times_during_one_generation() {
    let path = smollm2_f32();
    let flags = ["-c", "1024", "-np", "4"];
    let mut server = Server::start(&path, &flags);
    let (url, port) = (server.url.clone(), server.port());
    let mut device = Device::start(&[&url], &["--fallback", "wait", "-n", "300"]);
    for _ in 0..20 {
        assert!(device.shows_more(), "the generation outlasts twenty restarts");
        // SIGKILL, as the drop of a `Server` does.
        drop(server);
        server = Server::start_at(port, &path, &flags);
        let outages = device.shown.len();
        while !String::from_utf8_lossy(&device.shown[outages..]).contains("verified again") {
            assert!(device.shows_more(), "{}", String::from_utf8_lossy(&device.shown));
        }
    }
    let (report, shown) = device.finish();
    assert_eq!(report["disconnections"], 20);
    assert_eq!(report["provisional_tokens"], 0);
    assert_eq!(shown.matches("the server is lost").count(), 20, "once for each outage: {shown}");
    assert_lawful(&path, &report);
}

#[test]
fn real_second_server_takes_over_from_the_first() {
    let path = smollm2_f32();
    let flags = ["-c", "1024", "-np", "4"];
    let (first, second) = (Server::start(&path, &flags), Server::start(&path, &flags));
    let second_url = second.url.clone();
    let mut device = Device::start(&[&first.url, &second.url], &["--fallback", "wait", "-n", "120"]);
    assert!(device.shows_more());
    let first_port = first.port();
    drop(first);
    device.waits_for(&format!("the server at {second_url} answers"));
    // And back, when the second dies.
    let _first = Server::start_at(first_port, &path, &flags);
    drop(second);
    let (report, shown) = device.finish();
    assert_eq!(
        (report["disconnections"].as_u64(), report["provisional_tokens"].as_u64()),
        (Some(2), Some(0)),
        "{shown}"
    );
    assert_lawful(&path, &report);
}

#[test]
fn real_drafts_are_released_and_marked_while_no_server_is_there() {
    let path = smollm2_f32();
    let draft = file("SLED_TEST_SMOLLM2");
    let flags = ["-c", "1024", "-np", "4"];
    let server = Server::start(&path, &flags);
    let (url, port) = (server.url.clone(), server.port());
    let mut device =
        Device::start(&[&url], &["--draft", draft.to_str().unwrap(), "--fallback-after", "2", "-n", "600"]);
    assert!(device.shows_more());
    drop(server);
    device.waits_for("the server is lost");
    // What comes now is provisional: dim and italic.
    device.waits_for("\x1b[2;3m");
    let _server = Server::start_at(port, &path, &flags);
    device.waits_for("verified again");
    let (report, shown) = device.finish();
    let provenance: Vec<String> = serde_json::from_value(report["provenance"].clone()).unwrap();
    let provisional = provenance.iter().filter(|&p| p == "provisional").count() as u64;
    assert!(provisional > 0 && provenance.last().unwrap() != "provisional", "{provenance:?}");
    assert_eq!(report["provisional_tokens"], provisional);
    assert_eq!(shown.matches("the server is lost").count(), 1, "said once, not once a retry: {shown}");
    assert_lawful(&path, &report);
}
