//! `sled device` beside `sled serve`, real processes with real models, asked over HTTP. The files come from `make test`, which
//! names them in SLED_TEST_*.

#![allow(unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

#[path = "support/agent.rs"]
mod agent;
#[path = "support/http.rs"]
mod http;
mod support;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use agent::Device;
use http::ask;
use serde_json::{Value, json};
use support::{Server, file, smollm2_f32};

/// A device that computes on one thread.
fn device(server: &str, cache: &Path, flags: &[&str]) -> Device {
    Device::start(server, cache, &[&["-t", "1"], flags].concat())
}

fn terminate(device: &mut Device) -> Option<i32> {
    assert!(Command::new("kill").arg(device.process.id().to_string()).status().unwrap().success());
    device.process.wait().unwrap().code()
}

fn question(text: &str, more: Value) -> Value {
    let mut body = json!({ "messages": [{ "role": "user", "content": text }], "max_tokens": 24, "temperature": 0 });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

const QUESTION: &str = "What is the capital of France, and what is it known for?";

#[test]
fn real_device_answers_apps_as_its_server_would() {
    let target = smollm2_f32();
    let server = Server::start(&target, &["-c", "2048", "-np", "4"]);
    let cache = tempfile::tempdir().unwrap();
    let draft = file("SLED_TEST_SMOLLM2");
    // Drafts of a fixed length: whether drafting pays, which goodput asks, is a matter of the machine.
    let flags = ["--draft", draft.to_str().unwrap(), "--policy", "fixed:4"];
    let mut device = device(&server.url, cache.path(), &flags);
    assert!(device.line.contains("verified by") && device.line.contains(&server.url), "{}", device.line);

    // A thin client of the same server says the same.
    let (status, plain) =
        device.ask("/v1/chat/completions", Some(&question(QUESTION, json!({ "sled": { "mode": "server" } }))));
    let plain: Value = serde_json::from_str(&plain).unwrap();
    assert_eq!(status, 200, "{plain}");
    let expected = plain["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
    assert!(!expected.is_empty());

    let (status, stream) = device.ask("/v1/chat/completions", Some(&question(QUESTION, json!({ "stream": true }))));
    assert_eq!(status, 200, "{stream}");
    let mut events: Vec<&str> = stream.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    assert_eq!(events.pop(), Some("[DONE]"));
    let chunks: Vec<Value> = events.iter().map(|event| serde_json::from_str(event).unwrap()).collect();
    let text: String = chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(text, expected);
    let extension = chunks.iter().rev().find_map(|chunk| chunk["sled"].as_object()).unwrap();
    assert_eq!(extension["provisional_tokens"], 0);
    assert!(extension["draft_tokens"].as_u64() > Some(0), "{extension:?}");

    // The next turn of the chat goes on where the session is.
    let turns = json!([
        { "role": "user", "content": QUESTION },
        { "role": "assistant", "content": text },
        { "role": "user", "content": "And of Italy?" }
    ]);
    let (_, next) = device.ask("/v1/chat/completions", Some(&question("", json!({ "messages": turns }))));
    let next: Value = serde_json::from_str(&next).unwrap();
    assert!(next["sled"]["cached_prompt_tokens"].as_u64() > Some(20), "{next}");

    let (status, metrics) = device.ask("/metrics", None);
    assert_eq!(status, 200);
    for name in ["sled:draft_ahead_tokens_kept_total", "sled:round_trip_seconds_count", "sled:round_bytes_total"] {
        assert!(metrics.contains(name), "{name} is not in {metrics}");
    }
    assert_eq!(terminate(&mut device), Some(0));
}

/// The metrics that a text names, each with what follows it.
fn metrics_in(text: &str) -> impl Iterator<Item = (String, &str)> {
    text.match_indices("sled:").map(|(at, _)| {
        let end = text[at + 5..].find(|c: char| !c.is_ascii_lowercase() && c != '_' && !c.is_ascii_digit());
        let (name, rest) = text[at..].split_at(end.map_or(text.len() - at, |end| end + 5));
        (name.to_owned(), rest)
    })
}

/// All strings in a JSON document that are called `key`.
fn strings<'a>(document: &'a Value, key: &str, found: &mut Vec<&'a str>) {
    match document {
        Value::Object(fields) => fields.iter().for_each(|(name, value)| match value {
            Value::String(text) if name == key => found.push(text),
            value => strings(value, key, found),
        }),
        Value::Array(values) => values.iter().for_each(|value| strings(value, key, found)),
        _ => {}
    }
}

#[test]
fn real_board_and_pages_name_only_metrics_that_are_exported() {
    let (target, draft) = (smollm2_f32(), file("SLED_TEST_SMOLLM2"));
    let http = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let server = Server::start(&target, &["-c", "2048", "-np", "4", "--http-port", &http.port().to_string()]);
    let cache = tempfile::tempdir().unwrap();
    let flags = ["--draft", draft.to_str().unwrap(), "--policy", "fixed:4"];
    let device = device(&server.url, cache.path(), &flags);
    for address in [&device.address, &http.to_string()] {
        let (status, answer) = ask(address, "/v1/chat/completions", Some(&question(QUESTION, json!({}))));
        assert_eq!(status, 200, "{answer}");
    }
    let exported = |address: &str| -> BTreeSet<String> {
        let (status, page) = ask(address, "/metrics", None);
        assert_eq!(status, 200, "{page}");
        let samples = page.lines().filter(|line| !line.starts_with('#'));
        samples.filter_map(|line| line.split(['{', ' ']).next().map(str::to_owned)).collect()
    };
    let (of_server, of_device) = (exported(&http.to_string()), exported(&device.address));
    let accepted = "sled:spec_decode_num_accepted_tokens_per_pos_total";
    assert!(of_server.contains(accepted) && of_device.contains(accepted), "{of_server:?} {of_device:?}");

    let board: Value = serde_json::from_str(include_str!("../../../deploy/grafana/sled.json")).unwrap();
    let mut expressions = Vec::new();
    strings(&board, "expr", &mut expressions);
    let named: Vec<(String, &str)> = expressions.iter().flat_map(|expression| metrics_in(expression)).collect();
    assert!(named.len() > 50, "{named:?}");
    for (name, rest) in named {
        let known = match rest.split('"').nth(1) {
            Some("sled-server") => &of_server,
            Some("sled-device") => &of_device,
            job => panic!("{name} on the board is of no job: {job:?}"),
        };
        assert!(known.contains(&name), "{name}, which is on the board, is not in {known:?}");
    }
    // Pages name histograms by what is before `_bucket`.
    let all: BTreeSet<&str> = of_server.union(&of_device).map(|name| name.trim_end_matches("_bucket")).collect();
    for page in [include_str!("../../../docs/operations.md"), include_str!("../../../deploy/README.md")] {
        for (name, _) in metrics_in(page) {
            assert!(
                name == "sled:" || all.contains(name.trim_end_matches("_bucket")),
                "{name}, which a page names, is not in {all:?}"
            );
        }
    }
}

#[test]
fn real_device_without_a_server_says_so_and_is_connected_when_one_comes() {
    let target = smollm2_f32();
    let draft = file("SLED_TEST_SMOLLM2");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("http://127.0.0.1:{port}");
    let cache = tempfile::tempdir().unwrap();
    let device = device(&url, cache.path(), &["--draft", draft.to_str().unwrap()]);
    assert!(device.line.contains("no server answers yet"), "{}", device.line);
    let ask = || {
        let (status, answer) = device.ask("/v1/chat/completions", Some(&question(QUESTION, json!({}))));
        assert_eq!(status, 200, "{answer}");
        let answer: Value = serde_json::from_str(&answer).unwrap();
        (answer["usage"]["completion_tokens"].as_u64(), answer["sled"]["provisional_tokens"].as_u64())
    };
    let (tokens, provisional) = ask();
    assert_eq!(tokens, provisional);
    let _server = Server::start_at(port, &target, &["-c", "2048", "-np", "4"]);
    let began = Instant::now();
    while ask().1 != Some(0) {
        assert!(began.elapsed() < Duration::from_secs(60), "it is never connected");
    }
}

#[test]
fn real_device_without_a_vocabulary_waits_for_its_server_and_knows_it_the_next_time() {
    let target = file("SLED_TEST_SMOLLM2");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("http://127.0.0.1:{port}");
    let cache = tempfile::tempdir().unwrap();
    let http = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut waiting = Command::new(env!("CARGO_BIN_EXE_sled"))
        .args(["device", "--draft", "ngram", "--server", &url, "--port", &http.port().to_string()])
        .env("XDG_CACHE_HOME", cache.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut told = String::new();
    let mut stderr = BufReader::new(waiting.stderr.take().unwrap());
    stderr.read_line(&mut told).unwrap();
    assert!(told.contains("cannot reach the server") && told.contains("trying again"), "{told}");
    let mut stream = TcpStream::connect(http).unwrap();
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut health = String::new();
    stream.read_to_string(&mut health).unwrap();
    assert!(health.starts_with("HTTP/1.1 503"), "{health}");
    let server = Server::start_at(port, &target, &["-c", "1024", "-np", "2"]);
    let mut line = String::new();
    BufReader::new(waiting.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("verified by"), "{line}");
    waiting.kill().unwrap();
    waiting.wait().unwrap();
    drop(server);
    let device = device(&url, cache.path(), &["--draft", "ngram"]);
    assert_eq!(device.ask("/health", None).0, 200);
}
