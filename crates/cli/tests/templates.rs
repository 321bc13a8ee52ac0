//! Hostile chat templates, in model files and from servers, against real processes: `sled serve`, `sled device` and `sled run`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss
)]
#![allow(unreachable_pub)]
#![cfg(target_os = "linux")]

#[path = "../../llama/tests/header/gguf.rs"]
#[allow(dead_code, missing_docs)]
mod gguf;
#[path = "support/http.rs"]
mod http;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use http::ask;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A list that holds itself twice, sixty times over.
const DOUBLED: &str = "{% set ns = namespace(x=[1], y=[1]) %}{% for i in range(60) %}\
                       {% set ns.x = [ns.x, ns.x] %}{% set ns.y = [ns.y, ns.y] %}{% endfor %}";

const TOO_LONG: &str = "the model's chat template cannot be used: it takes too long; shorten the messages";
const TOO_MUCH: &str = "the model's chat template cannot be used: it takes too much memory; shorten the messages";

/// A tiny model with this chat template, which can be loaded.
fn model(folder: &TempDir, template: &str) -> PathBuf {
    let mut file = gguf::tiny();
    file.set("tokenizer.chat_template", Some(gguf::text(template)));
    let path = folder.path().join("tiny.gguf");
    std::fs::write(&path, file.bytes()).unwrap();
    path
}

/// A `sled` process that listens, with a folder for caches of its own.
struct Sled {
    process: Child,
    /// What it says of where it listens, in turn.
    addresses: Vec<String>,
}

impl Sled {
    fn start(folder: &TempDir, args: &[&str], ports: usize) -> Self {
        let mut process = command(folder, args).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines().take(ports).map(Result::unwrap);
        let address = |line: String| line.split("http://").nth(1).unwrap().split(';').next().unwrap().to_owned();
        let addresses: Vec<String> = lines.map(address).collect();
        assert_eq!(addresses.len(), ports, "{args:?} listens");
        Self { process, addresses }
    }

    /// A server; it is asked over gRPC at the first address, and over HTTP at the second.
    fn serve(folder: &TempDir, model: &Path) -> Self {
        let model = model.to_str().unwrap();
        Self::start(folder, &["serve", "--port", "0", "--http-port", "0", "-c", "1024", "-t", "1", "-m", model], 2)
    }

    fn device(folder: &TempDir, server: &str) -> Self {
        let url = format!("http://{server}");
        Self::start(folder, &["device", "--port", "0", "--draft", "none", "--server", &url], 1)
    }

    fn chat(&self) -> (u16, Value) {
        let messages = json!([{ "role": "user", "content": "ab" }]);
        self.ask("/v1/chat/completions", &json!({ "messages": messages, "max_tokens": 4, "temperature": 0 }))
    }

    /// What it says why it does not answer a chat.
    fn refusal(&self) -> String {
        let (status, said) = self.chat();
        assert_eq!(status, 400, "{said}");
        said["error"]["message"].as_str().unwrap().to_owned()
    }

    fn completion(&self) -> String {
        let (status, said) =
            self.ask("/v1/completions", &json!({ "prompt": "ab ab", "max_tokens": 8, "temperature": 0 }));
        assert_eq!(status, 200, "{said}");
        said["choices"][0]["text"].as_str().unwrap().to_owned()
    }

    fn ask(&self, path: &str, body: &Value) -> (u16, Value) {
        let (status, answer) = ask(self.addresses.last().unwrap(), path, Some(body));
        (status, serde_json::from_str(&answer).unwrap())
    }

    /// The processes that it has started and not waited for.
    fn children(&self) -> BTreeSet<u32> {
        let processes = std::fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
        processes.filter(|&process| stat(process).is_some_and(|(_, parent)| parent == self.process.id())).collect()
    }

    /// The one process that renders.
    fn renderer(&self) -> u32 {
        let children = self.children();
        assert_eq!(children.len(), 1, "{children:?}");
        children.into_iter().next().unwrap()
    }
}

impl Drop for Sled {
    fn drop(&mut self) {
        let _ended = self.process.kill();
        let _reaped = self.process.wait();
    }
}

fn command(folder: &TempDir, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sled"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("SLED_")) {
        command.env_remove(name);
    }
    command.args(args).env("XDG_CACHE_HOME", folder.path()).stdin(Stdio::null());
    command
}

/// The state of a process, as a letter, and its parent; `None` if there is none.
fn stat(process: u32) -> Option<(char, u32)> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

/// Whether the thread that renders is at work.
fn is_rendering(process: u32) -> bool {
    let mut threads = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
    threads.any(|thread| {
        let stat = thread.and_then(|thread| std::fs::read_to_string(thread.path().join("stat"))).unwrap_or_default();
        stat.contains("(sled-worker-1) R")
    })
}

/// A figure in MiB of /proc/PROCESS/status; `None` if the process has ended.
fn mib(process: u32, figure: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(figure)?.strip_prefix(':'))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? >> 10)
}

/// Two rounds of chats that keep all workers, and completions beside them.
fn attacked(sled: &Sled, sentences: &[&str]) {
    let healthy = sled.completion();
    let done = AtomicBool::new(false);
    let most = thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut most = 0;
            while !done.load(Ordering::Relaxed) {
                let children = sled.children();
                assert!(children.len() <= 2, "{children:?}");
                let taken = |child| mib(child, "VmRSS").unwrap_or(0);
                most = children.into_iter().map(taken).fold(most, u64::max);
                thread::sleep(Duration::from_millis(20));
            }
            most
        });
        for _ in 0..2 {
            let chats = [(); 2].map(|()| scope.spawn(|| sled.refusal()));
            assert_eq!(sled.completion(), healthy);
            for chat in chats {
                let sentence = chat.join().unwrap();
                assert!(sentences.contains(&sentence.as_str()), "{sentence}");
            }
            assert_eq!(sled.completion(), healthy);
        }
        done.store(true, Ordering::Relaxed);
        watch.join().unwrap()
    });
    // A thread's stack, a GiB, and the program.
    assert!(most < 512 + 1024 + 256, "a process that renders took {most} MiB");
    assert!(mib(sled.process.id(), "VmHWM").unwrap() < 512, "what it was told to render is not rendered here");
}

#[test]
fn a_template_that_no_fuel_stops_is_stopped_and_nobody_else_notices() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(&folder, &format!("{DOUBLED}{{{{ ns.x == ns.y }}}}"));
    let server = Sled::serve(&folder, &model);
    attacked(&server, &[TOO_LONG]);
    let device = Sled::device(&folder, &server.addresses[0]);
    attacked(&device, &[TOO_LONG]);
}

#[test]
fn a_template_that_takes_memory_without_end_gets_no_more_than_its_share() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(&folder, &format!("{DOUBLED}{{{{ ns.x ~ '' }}}}"));
    let server = Sled::serve(&folder, &model);
    attacked(&server, &[TOO_MUCH, TOO_LONG]);
    let url = format!("http://{}", server.addresses[0]);
    let output = command(&folder, &["run", "--server", &url, "--draft", "none", "ab"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    let sentence = said.lines().find_map(|line| line.strip_prefix("error: "));
    assert!([Some(TOO_MUCH), Some(TOO_LONG)].contains(&sentence), "{said}");
}

#[test]
fn a_template_that_does_not_compile_disables_chats_only() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(&folder, "{% if %}");
    let server = Sled::serve(&folder, &model);
    let sentence = server.refusal();
    assert!(sentence.starts_with("the model's chat template cannot be used: "), "{sentence}");
    assert!(sentence.ends_with("in line 1; use /v1/completions with a prompt"), "{sentence}");
    server.completion();
}

#[test]
fn chats_are_rendered_by_one_process_that_is_there_before_the_first() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(
        &folder,
        "{% for m in messages %}{{ m.content }}{{ raise_exception('No b.') if m.content == 'b' }}{% endfor %}",
    );
    let server = Sled::serve(&folder, &model);
    let renderer = server.renderer();
    let tokens = |text: &str| {
        let (status, said) = server.ask("/tokenize", &json!({ "messages": [{ "role": "user", "content": text }] }));
        if status == 200 {
            Ok(said["tokens"].clone())
        } else {
            Err(said["error"]["message"].as_str().unwrap().to_owned())
        }
    };
    let long = "ab ".repeat(300);
    let (_, same) = server.ask("/tokenize", &json!({ "prompt": long, "add_special_tokens": false }));
    assert_eq!(tokens(&long).unwrap(), same["tokens"]);
    assert_eq!(tokens("b").unwrap_err(), "the model's chat template cannot be used: No b.");
    assert_eq!(server.chat().0, 200);
    assert_eq!(server.renderer(), renderer);
    // Another takes its place.
    assert!(Command::new("kill").args(["-KILL", &renderer.to_string()]).status().unwrap().success());
    while !matches!(stat(renderer), Some(('Z', _)) | None) {
        thread::yield_now();
    }
    assert_eq!(server.chat().0, 200);
    assert_ne!(server.renderer(), renderer);
}

#[test]
fn no_process_that_renders_outlives_the_one_that_it_renders_for() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(&folder, &format!("{DOUBLED}{{{{ ns.x == ns.y if messages[0].content == 'ab' }}}}"));
    let server = Sled::serve(&folder, &model);
    // One that waits, and one that would not end by itself.
    for device in [false, true] {
        let mut sled = if device { Sled::device(&folder, &server.addresses[0]) } else { Sled::serve(&folder, &model) };
        let renderer = sled.renderer();
        thread::scope(|scope| {
            if device {
                let address = sled.addresses[0].clone();
                scope.spawn(move || {
                    let mut stream = TcpStream::connect(address).unwrap();
                    let body = r#"{"messages":[{"role":"user","content":"ab"}]}"#;
                    let head =
                        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
                    write!(stream, "{head}Content-Length: {}\r\n\r\n{body}", body.len()).unwrap();
                    let _ended = stream.read_to_end(&mut Vec::new());
                });
                while !is_rendering(renderer) {
                    thread::yield_now();
                }
            }
            sled.process.kill().unwrap();
        });
        sled.process.wait().unwrap();
        while !matches!(stat(renderer), Some(('Z', _)) | None) {
            thread::yield_now();
        }
    }
}
