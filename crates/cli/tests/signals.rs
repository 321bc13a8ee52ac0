//! Signals to real processes: whatever they are doing, they end when they are told to, with status 0. `make test` names the model
//! in SLED_TEST_SMOLLM2.
#![cfg(unix)]
#![allow(unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use support::file;

/// A `sled` process that has said its first `lines` lines, which say where it listens.
fn start(arguments: &[&str], lines: usize) -> (Child, Vec<String>) {
    let mut process = Command::new(env!("CARGO_BIN_EXE_sled"))
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let said = BufReader::new(process.stdout.take().unwrap()).lines().take(lines).map(Result::unwrap).collect();
    (process, said)
}

fn signal(process: &Child, name: &str) {
    assert!(Command::new("kill").args([name, &process.id().to_string()]).status().unwrap().success());
}

/// Waits for the end of `process`, which is to be one of success.
fn ends_well(mut process: Child) {
    let mut said = String::new();
    process.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    let status = process.wait().unwrap();
    assert!(status.success(), "{status}: {said}");
}

/// The address in what a process says of where it listens.
fn address(said: &str) -> &str {
    said.split("http://").nth(1).unwrap().split([';', ' ']).next().unwrap().trim()
}

/// Asks for an answer to so many words.
fn ask(address: &str, words: usize, max_tokens: usize) -> TcpStream {
    let body =
        format!("{{\"prompt\": \"{}\", \"max_tokens\": {max_tokens}, \"stream\": true}}", "one two ".repeat(words));
    let mut stream = TcpStream::connect(address).unwrap();
    let head = "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n";
    write!(stream, "{head}content-length: {}\r\n\r\n{body}", body.len()).unwrap();
    stream
}

/// Waits until the engine has begun to read a prompt.
fn until_it_reads(address: &str) {
    loop {
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
        let mut page = String::new();
        stream.read_to_string(&mut page).unwrap();
        if page.lines().any(|line| line.starts_with("sled:steps_total ") && !line.ends_with(" 0")) {
            return;
        }
    }
}

/// A server that reads a long prompt, in passes that take long on one thread.
fn busy_server(grace: &str) -> (Child, TcpStream) {
    let model = file("SLED_TEST_SMOLLM2");
    let model = model.to_str().unwrap();
    let flags = ["serve", "-m", model, "-c", "8192", "-t", "1", "--port", "0", "--http-port", "0", "--grace", grace];
    let (server, said) = start(&flags, 2);
    let http = address(&said[1]);
    let answer = ask(http, 3500, 8);
    until_it_reads(http);
    (server, answer)
}

#[test]
fn real_a_server_told_to_end_without_grace_does_not_wait_for_its_engine() {
    for _ in 0..3 {
        let (server, _answer) = busy_server("0");
        signal(&server, "-TERM");
        ends_well(server);
    }
}

#[test]
fn real_a_second_signal_ends_a_server_whose_grace_is_an_hour() {
    for name in ["-TERM", "-INT"] {
        let (server, mut answer) = busy_server("3600");
        signal(&server, "-TERM");
        // The first has been heard when others are refused.
        let mut said = String::new();
        while !said.contains("shutting down") {
            let mut refused = ask(&answer.peer_addr().unwrap().to_string(), 1, 1);
            let mut bytes = [0; 4096];
            let read = refused.read(&mut bytes).unwrap();
            said = String::from_utf8_lossy(&bytes[..read]).into_owned();
        }
        signal(&server, name);
        ends_well(server);
        let _cut_off = answer.read_to_end(&mut Vec::new());
    }
}

#[test]
fn real_a_device_in_the_middle_of_an_answer_ends_when_it_is_told_to() {
    let model = file("SLED_TEST_SMOLLM2");
    let model = model.to_str().unwrap();
    let flags = ["device", "--server", "none", "--draft", model, "-t", "1", "--port", "0", "--grace", "0"];
    let (device, said) = start(&flags, 1);
    let mut answer = ask(address(&said[0]), 1000, 4000);
    let mut first = [0; 1];
    answer.read_exact(&mut first).unwrap();
    signal(&device, "-TERM");
    ends_well(device);
}
