//! The ports of a server under attack, with a healthy device and a healthy HTTP client beside.

#![allow(unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../support/mod.rs"]
mod support;

mod raw;

use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::time::Duration;

use sled_api::listen::Limits;
use sled_core::device::Prompt;
use sled_core::policy::Policy;
use sled_core::text::TextStream;
use sled_device::{Drafts, RemoteServer, Session, SessionOptions, download_vocabulary};
use sled_model::synthetic::{SyntheticDrafter, SyntheticModel};
use sled_server::{Http, Settings};
use support::{Running, config, expected, job, local, open_with, vocabulary};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// How patient the ports of these tests are: what is waited for is that they hang up.
const LIMITS: Limits = Limits {
    connections: 4096,
    per_client: 1024,
    opening: Duration::from_millis(800),
    idle: Duration::from_millis(1500),
    unread: Duration::from_millis(800),
};

async fn serve(limits: Limits) -> Running {
    serve_file(limits, b"no file".as_slice().into()).await
}

async fn serve_file(limits: Limits, file: bytes::Bytes) -> Running {
    let http = Http::bind(local(), sled_api::Settings { limits, ..Default::default() }).await.unwrap();
    let model = SyntheticModel::new(config(8));
    open_with(http, model, Settings { limits, ..Settings::default() }, Vec::new(), file).await
}

/// A device gets the target's own tokens.
async fn a_device_is_served(grpc: SocketAddr, i: u32) {
    let remote = RemoteServer::connect(&grpc.to_string()).await.unwrap();
    let job = job(i, 40);
    let drafter = SyntheticDrafter::new(&SyntheticModel::new(config(1)), 0.7, i.into());
    let options = SessionOptions {
        drafter: Some((Drafts::own(Box::new(drafter)).unwrap(), Policy::Fixed { k: 4 })),
        ..SessionOptions::new("healthy", vocabulary::vocabulary(true).fingerprint(), &[support::END])
    };
    let mut session = Session::open(&remote, options).await.unwrap();
    let tokens = job.prompt.clone();
    let prompt = Prompt { tokens, max_tokens: job.max_tokens, sampling: job.sampling.clone(), ..Prompt::default() };
    let answer = session.generate(prompt, |_| ControlFlow::Continue(())).await.unwrap();
    assert_eq!(answer.tokens, expected(&job), "device {i}");
}

/// A program gets the target's own text over HTTP.
async fn a_program_is_served(http: SocketAddr, i: u32) {
    let asked = job(i, 30);
    let body = serde_json::json!({
        "prompt": asked.prompt, "max_tokens": asked.max_tokens, "temperature": asked.sampling.temperature,
        "seed": asked.sampling.seed,
    });
    let said: serde_json::Value = tokio::task::spawn_blocking(move || {
        let request = ureq::post(format!("http://{http}/v1/completions")).header("content-type", "application/json");
        serde_json::from_str(&request.send(body.to_string()).unwrap().body_mut().read_to_string().unwrap()).unwrap()
    })
    .await
    .unwrap();
    let vocab = vocabulary::vocabulary(false);
    let mut text = TextStream::new([]);
    let mut right: String = expected(&asked).iter().map(|&token| text.push(&vocab.piece(token, false))).collect();
    right.push_str(&text.finish());
    assert_eq!(said["choices"][0]["text"], right, "{said}");
}

/// Both are served, again and again, until nothing is left to wait for.
async fn served_all_the_while(server: &Running, mut attack: JoinSet<()>) {
    let mut i = 0;
    while !attack.is_empty() {
        a_device_is_served(server.grpc, i).await;
        a_program_is_served(server.http, i).await;
        while let Some(ended) = attack.try_join_next() {
            ended.unwrap();
        }
        i += 1;
    }
}

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Resident memory in bytes.
fn memory() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() << 10
}

/// Waits until no more files are open than before.
async fn until_files_are_closed(before: usize) {
    while open_files() > before {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_say_nothing_or_never_come_to_an_end_are_hung_up_on() {
    let server = serve(LIMITS).await;
    a_device_is_served(server.grpc, 0).await;
    a_program_is_served(server.http, 0).await;
    let before = open_files();
    let mut attack = JoinSet::new();
    let half = raw::headers(1, "Describe", &[]);
    let half = [raw::hello(65_535), half[..half.len() - 7].to_vec()].concat();
    for i in 0..500_u16 {
        let last = u8::try_from(2 + i % 4).unwrap();
        for (port, bytes) in [
            (server.http, b"".as_slice()),
            (server.http, b"GET /health HTTP/1.1\r\nhost: localhost\r\nx-never"),
            (server.grpc, b""),
            (server.grpc, &half),
        ] {
            let mut stream = raw::say(port, last, bytes).await;
            attack.spawn(async move {
                raw::until_it_hangs_up(&mut stream).await;
            });
        }
    }
    served_all_the_while(&server, attack).await;
    until_files_are_closed(before).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_that_come_byte_by_byte_are_not_waited_for() {
    let server = serve(LIMITS).await;
    let mut attack = JoinSet::new();
    for i in 0..100 {
        let mut stream = raw::say(server.http, 2, b"GET /health HTTP/1.1\r\nhost: localhost\r\nx-a: ").await;
        attack.spawn(async move {
            let mut pace = tokio::time::interval(Duration::from_millis(20 + i % 7));
            let mut answer = [0; 64];
            loop {
                tokio::select! {
                    _time = pace.tick() => if stream.write_all(b"a").await.is_err() { return },
                    read = stream.read(&mut answer) => {
                        assert!(matches!(read, Ok(0) | Err(_)), "it was answered");
                        return;
                    }
                }
            }
        });
    }
    served_all_the_while(&server, attack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_asks_and_never_reads_is_hung_up_on() {
    let server = serve(LIMITS).await;
    let mut attack = JoinSet::new();
    for _ in 0..20 {
        let mut stream = raw::connect(server.http, 2).await;
        attack.spawn(async move {
            // It asks until nothing more is taken, and then waits to be hung up on.
            let question = b"GET /openapi.json HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(64);
            while stream.write_all(&question).await.is_ok() {}
        });
    }
    served_all_the_while(&server, attack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_connection_ends_and_one_with_a_request_under_way_does_not() {
    let server = serve(LIMITS).await;
    let question = b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let mut idle = raw::say(server.http, 2, question).await;
    let mut watching = raw::say(server.http, 2, b"GET /events HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    let said = raw::until_it_hangs_up(&mut idle).await;
    assert!(said.starts_with(b"HTTP/1.1 200 OK\r\n"), "{}", String::from_utf8_lossy(&said));
    // It outlives another that began later and was idle as long.
    let mut idle = raw::say(server.http, 2, question).await;
    raw::until_it_hangs_up(&mut idle).await;
    let mut said = vec![0; 1 << 20];
    let first = watching.read(&mut said).await.unwrap();
    assert!(said[..first].starts_with(b"HTTP/1.1 200 OK\r\n"));
    assert!(watching.read(&mut said).await.unwrap() > 0);

    // A device whose connection was idle for too long goes on over another.
    let remote = RemoteServer::connect(&server.grpc.to_string()).await.unwrap();
    let mut idle = raw::say(server.http, 2, question).await;
    raw::until_it_hangs_up(&mut idle).await;
    let mut idle = raw::say(server.http, 2, question).await;
    raw::until_it_hangs_up(&mut idle).await;
    assert!(remote.sessions().await.unwrap().sessions.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_client_cannot_have_all_connections() {
    let limits = Limits { connections: 12, per_client: 8, opening: Duration::from_secs(600), ..LIMITS };
    let server = serve(limits).await;
    let mut held = Vec::new();
    for port in [server.http, server.grpc] {
        for _ in 0..8 {
            held.push(raw::connect(port, 2).await);
        }
    }
    // They come in order: when one more is turned away, the others are in.
    let refused = raw::until_it_hangs_up(&mut raw::connect(server.http, 2).await).await;
    let refused = String::from_utf8(refused).unwrap();
    assert!(refused.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{refused}");
    assert!(refused.contains("\"too many connections are open; try again later\""), "{refused}");
    assert_eq!(raw::until_it_hangs_up(&mut raw::connect(server.grpc, 2).await).await, b"");
    a_device_is_served(server.grpc, 1).await;
    a_program_is_served(server.http, 1).await;

    // Whoever leaves makes room.
    held.clear();
    for port in [server.http, server.grpc] {
        loop {
            let mut stream = raw::say(port, 2, b"x\r\n\r\n").await;
            let said = raw::until_it_hangs_up(&mut stream).await;
            if port == server.grpc || !said.starts_with(b"HTTP/1.1 503") {
                break;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_of_headers_are_refused() {
    let server = serve(LIMITS).await;
    let many: String = (0..200).map(|i| format!("x-{i}: 1\r\n")).collect();
    let long = format!("x-a: {}\r\n", "a".repeat(1 << 20));
    for headers in [many, long] {
        let request = format!("GET /health HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n");
        let said = raw::until_it_hangs_up(&mut raw::say(server.http, 2, request.as_bytes()).await).await;
        assert!(said.is_empty() || said.starts_with(b"HTTP/1.1 431 "), "{}", String::from_utf8_lossy(&said));
    }
    let many: Vec<_> = (0..100_000).map(|i| (format!("x-{i}"), "1".to_owned())).collect();
    let flood = [raw::hello(65_535), raw::headers(1, "Describe", &many)].concat();
    let said = raw::until_it_hangs_up(&mut raw::say(server.grpc, 2, &flood).await).await;
    let goodbye = raw::frames(&said).into_iter().find(|(kind, ..)| *kind == 7);
    let (.., reason) = goodbye.expect("it says why");
    assert_eq!(reason[4..8], raw::ENHANCE_YOUR_CALM.to_be_bytes());
    a_device_is_served(server.grpc, 1).await;
    a_program_is_served(server.http, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_takes_requests_back_as_fast_as_they_come_is_hung_up_on() {
    let server = serve(LIMITS).await;
    let mut attack = JoinSet::new();
    let mut flood = raw::hello(65_535);
    for stream in (1..40_000).step_by(2) {
        flood.extend(raw::headers(stream, "Session", &[]));
        flood.extend(raw::reset(stream));
    }
    for _ in 0..4 {
        let (flood, grpc) = (flood.clone(), server.grpc);
        attack.spawn(async move {
            let stream = raw::connect(grpc, 2).await;
            let (mut read, mut write) = stream.into_split();
            let writing = tokio::spawn(async move { write.write_all(&flood).await.is_ok() });
            let mut said = Vec::new();
            let _reset = read.read_to_end(&mut said).await;
            let calm = raw::ENHANCE_YOUR_CALM.to_be_bytes();
            let goodbye = raw::frames(&said).into_iter().find(|(kind, .., why)| *kind == 7 && why[4..8] == calm);
            assert!(goodbye.is_some() || !writing.await.unwrap(), "it took all of them");
        });
    }
    served_all_the_while(&server, attack).await;
}

/// Asks for the vocabulary so many times over one connection, and lets nothing be sent.
async fn ask_for_vocabularies(grpc: SocketAddr, window: u32, times: u32) -> TcpStream {
    let mut bytes = raw::hello(window);
    bytes.extend(raw::widen(0x7fff_0000));
    for i in 0..times {
        bytes.extend(raw::call(1 + 2 * i, "Vocabulary"));
    }
    raw::say(grpc, 2, &bytes).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn vocabularies_that_nobody_reads_take_little_memory_and_come_to_an_end() {
    let file: bytes::Bytes =
        (0..8 << 20).map(|i: u32| i.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect::<Vec<_>>().into();
    let server = serve_file(LIMITS, file.clone()).await;
    a_device_is_served(server.grpc, 0).await;
    let (before, files) = (memory(), open_files());
    let mut attack = JoinSet::new();
    // One half takes nothing on each stream; the other lets everything come and does not read it.
    for window in [0, 0x7fff_ffff] {
        for _ in 0..8 {
            let mut stream = ask_for_vocabularies(server.grpc, window, 250).await;
            attack.spawn(async move {
                if window == 0 {
                    raw::until_it_hangs_up(&mut stream).await;
                } else {
                    // It does not read, so that it learns of the end from what it writes only.
                    let mut pace = tokio::time::interval(Duration::from_millis(50));
                    while stream.write_all(&raw::widen(1)).await.is_ok() {
                        pace.tick().await;
                    }
                }
            });
        }
    }
    let mut most = 0;
    let mut i = 0;
    while !attack.is_empty() {
        a_device_is_served(server.grpc, i).await;
        most = most.max(memory());
        while let Some(ended) = attack.try_join_next() {
            ended.unwrap();
        }
        i += 1;
    }
    assert!(most < before + (96 << 20), "{} MiB more", (most - before) >> 20);
    let remote = RemoteServer::connect(&server.grpc.to_string()).await.unwrap();
    let got = download_vocabulary(&remote).await.unwrap();
    assert!(got == file, "another file was sent");
    drop(remote);
    until_files_are_closed(files).await;
}
