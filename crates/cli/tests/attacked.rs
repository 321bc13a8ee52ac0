//! Real processes that strangers attack: a server without descriptors, and a device's own port. `make test` names the model in
//! SLED_TEST_SMOLLM2.
#![cfg(target_os = "linux")]
#![allow(unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::file;

/// Descriptors that the server without enough of them may have.
const DESCRIPTORS: usize = 64;

/// A `sled` process that has said where it listens, and will be killed.
struct Sled {
    process: Child,
    /// What it has said on stdout.
    said: Vec<String>,
}

impl Sled {
    /// Runs a command line in which `$0` is the program, and reads its first `lines`.
    fn start(shell: &str, lines: usize) -> Self {
        let mut process = Command::new("sh")
            .args(["-c", shell, env!("CARGO_BIN_EXE_sled")])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(process.stdout.take().unwrap()).lines().take(lines).map(Result::unwrap).collect();
        Self { process, said }
    }

    /// Where it listens, as it said in this line.
    fn address(&self, line: usize) -> &str {
        self.said[line].split("http://").nth(1).unwrap().split([';', ' ']).next().unwrap().trim()
    }

    fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.process.id())).unwrap().count()
    }

    /// Seconds of processor time that it has used.
    fn cpu(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id())).unwrap();
        let fields = stat.rsplit_once(')').unwrap().1.split_whitespace().skip(11).take(2);
        fields.map(|ticks| ticks.parse::<f64>().unwrap()).sum::<f64>() / 100.0
    }

    /// SIGTERM, and what it has said on stderr.
    fn terminate(mut self) -> String {
        assert!(Command::new("kill").arg(self.process.id().to_string()).status().unwrap().success());
        let mut said = String::new();
        self.process.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert!(self.process.wait().unwrap().success(), "{said}");
        said
    }
}

impl Drop for Sled {
    fn drop(&mut self) {
        let _ended = self.process.kill();
        let _reaped = self.process.wait();
    }
}

/// A request as bytes; the connection stays open.
fn request(path: &str, headers: &str, body: &str) -> String {
    let host = if headers.contains("host:") { "" } else { "host: localhost\r\n" };
    let kind = if headers.contains("content-type:") { "" } else { "content-type: application/json\r\n" };
    let len = body.len();
    format!("POST {path} HTTP/1.1\r\n{host}{kind}{headers}content-length: {len}\r\n\r\n{body}")
}

/// Sends a request over `stream` and reads one answer: its status, and its body.
fn ask(stream: &mut TcpStream, request: &str) -> Option<(u16, String)> {
    // The answer may come before all is sent.
    let _refused = stream.write_all(request.as_bytes());
    let mut reader = BufReader::new(stream);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line == "\r\n" {
            break;
        }
        head.push(line.to_ascii_lowercase());
    }
    let status = head[0].split(' ').nth(1)?.parse().unwrap();
    let len = head.iter().find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; len.map_or(0, |len| len.trim().parse().unwrap())];
    reader.read_exact(&mut body).ok()?;
    Some((status, String::from_utf8(body).unwrap()))
}

fn completion() -> String {
    request("/v1/completions", "", &json!({ "prompt": "One, two,", "max_tokens": 8, "temperature": 0 }).to_string())
}

/// The text of a completion over `stream`.
fn completed(stream: &mut TcpStream) -> String {
    let (status, body) = ask(stream, &completion()).expect("it answers");
    assert_eq!(status, 200, "{body}");
    let answer: Value = serde_json::from_str(&body).unwrap();
    answer["choices"][0]["text"].as_str().unwrap().to_owned()
}

#[test]
fn real_a_server_without_descriptors_serves_those_inside_and_lets_others_in_when_it_has_some() {
    let model = file("SLED_TEST_SMOLLM2");
    let model = model.display();
    let server = Sled::start(
        &format!("ulimit -n {DESCRIPTORS}; exec \"$0\" serve -m {model} -c 512 -t 1 --port 0 --http-port 0"),
        2,
    );
    let (grpc, http) = (server.address(0).to_owned(), server.address(1).to_owned());
    let mut inside = TcpStream::connect(&http).unwrap();
    let right = completed(&mut inside);
    for _ in 0..3 {
        // They are taken in order, as long as there are descriptors.
        let crowd: Vec<_> =
            (0..2 * DESCRIPTORS).map(|i| TcpStream::connect(if i % 2 == 0 { &http } else { &grpc }).unwrap()).collect();
        while server.descriptors() < DESCRIPTORS {
            std::thread::yield_now();
        }
        assert_eq!(completed(&mut inside), right);
        // Nobody asks for anything: whatever it computes now is for nothing.
        let (cpu, began) = (server.cpu(), Instant::now());
        while began.elapsed() < Duration::from_secs(1) {
            std::thread::sleep(Duration::from_millis(50));
        }
        let spent = server.cpu() - cpu;
        assert!(spent < 0.3, "it computes for {spent} s of one, and nobody has asked for anything");
        assert_eq!(completed(&mut inside), right);
        drop(crowd);
        assert_eq!(completed(&mut TcpStream::connect(&http).unwrap()), right);
        let listed = Command::new(env!("CARGO_BIN_EXE_sled")).args(["ps", "--server", &grpc]).output().unwrap();
        assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    }
    drop(inside);
    let said = server.terminate();
    let told = said.lines().filter(|line| line.contains("raise the limit of open files")).count();
    assert!((1..=2).contains(&told), "it is told {told} times, and there are two ports: {said}");
}

/// Definitions each of which refers to the next.
fn chain(links: usize) -> Value {
    let mut definitions = json!({});
    for i in 0..links {
        definitions[format!("d{i}")] = json!({ "allOf": [{ "$ref": format!("#/$defs/d{}", i + 1) }] });
    }
    definitions[format!("d{links}")] = json!({ "type": "null" });
    json!({ "$defs": definitions, "$ref": "#/$defs/d0" })
}

fn chat(more: &Value) -> String {
    let mut body = json!({ "messages": [{ "role": "user", "content": "Hi" }], "max_tokens": 4 });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body.to_string()
}

/// Requests that a device is to refuse, and with which status.
fn attacks() -> Vec<(&'static str, String, u16)> {
    const CHAT: &str = "/v1/chat/completions";
    let format = |schema| json!({ "response_format": { "type": "json_schema", "json_schema": { "schema": schema } } });
    let run = "a".repeat(3 << 20);
    let heavy = format!("{{\"messages\":[{{\"role\":\"user\"}}{}]}}", ",{\"role\":\"user\"}".repeat(230_000));
    let hi = chat(&json!({}));
    vec![
        ("a deep schema", request(CHAT, "", &chat(&format(chain(1000)))), 400),
        ("a deeper schema", request(CHAT, "", &chat(&format(chain(300)))), 400),
        ("a long run", request("/tokenize", "", &json!({ "content": run }).to_string()), 400),
        ("a long prompt", request("/v1/completions", "", &json!({ "prompt": run }).to_string()), 400),
        ("many messages", request(CHAT, "", &heavy), 413),
        ("too much", request(CHAT, "", &" ".repeat(5 << 20)), 413),
        ("a foreign host", request(CHAT, "host: evil.example\r\n", &hi), 403),
        ("a foreign page", request(CHAT, "origin: https://evil.example\r\n", &hi), 403),
        ("a page's form", request(CHAT, "content-type: text/plain\r\n", &hi), 415),
    ]
}

#[test]
fn real_a_devices_port_under_attack_answers_its_own_user_as_ever() {
    let model = file("SLED_TEST_SMOLLM2");
    let model = model.display();
    let device = Sled::start(&format!("exec \"$0\" device --server none --draft {model} -t 1 --port 0 --grace 0"), 1);
    let address = device.address(0).to_owned();
    let right = completed(&mut TcpStream::connect(&address).unwrap());
    let attacks = Arc::new(attacks());
    let attackers: Vec<_> = (0..4)
        .map(|i| {
            let (attacks, address) = (Arc::clone(&attacks), address.clone());
            std::thread::spawn(move || {
                for at in 0..2 * attacks.len() {
                    let (name, request, refusal) = &attacks[(at + i) % attacks.len()];
                    let answer = ask(&mut TcpStream::connect(&address).unwrap(), request);
                    // Whoever is not listened to any more may find the connection closed before it has read why.
                    if let Some((status, body)) = answer {
                        assert!(status == *refusal || status == 429, "{name}: {status} {body}");
                    }
                }
            })
        })
        .collect();
    while attackers.iter().any(|attacker| !attacker.is_finished()) {
        assert_eq!(completed(&mut TcpStream::connect(&address).unwrap()), right);
    }
    attackers.into_iter().for_each(|attacker| attacker.join().unwrap());
    assert_eq!(completed(&mut TcpStream::connect(&address).unwrap()), right);
    device.terminate();
}
