//! Bodies that become much more than they are: together they take no more memory than they may, and others are answered beside.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::json;
use support::client::{ask, post};
use support::{Fake, serve};

const CHAT: &str = "/v1/chat/completions";
/// What a body may have.
const LONGEST: usize = 4 << 20;
/// How many are sent at once.
const CROWD: usize = 64;
/// What they may take: what large requests may take together, what each may take uncounted, and what is not counted at all.
const BOUND: usize = (512 + CROWD + 128) << 20;

/// A figure of this process, in bytes.
fn memory(name: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim_start_matches(':').trim().trim_end_matches("kB").trim().parse::<usize>().unwrap() << 10
}

/// `before` and `after`, and as many of `part` between them as fit `len` bytes.
fn filled(len: usize, before: &str, part: &str, after: &str) -> Vec<u8> {
    let room = len - before.len() - after.len();
    format!("{before}{}{after}", part.repeat(room / part.len())).into_bytes()
}

/// Bodies of `len` bytes, each of them right JSON.
fn bodies(len: usize) -> Vec<(&'static str, Vec<u8>)> {
    const USER: &str = r#""messages":[{"role":"user","content":"Hi"}]"#;
    let tool = format!(r#"{{{USER},"tools":[{{"type":"function","function":{{"name":"f","parameters":{{"x":[0"#);
    let schema = format!(r#"{{{USER},"response_format":{{"type":"json_schema","json_schema":{{"schema":{{"x":[0"#);
    let variables = format!(r#"{{{USER},"chat_template_kwargs":{{"x":[0"#);
    let calls = r#"{"messages":[{"role":"assistant","tool_calls":[{"function":{"name":"f","arguments":"[0"#;
    let unknown = format!(r#"{{{USER},"metadata":[0"#);
    vec![
        ("messages", filled(len, r#"{"messages":[{"role":"user"}"#, r#",{"role":"user"}"#, "]}")),
        ("parts", filled(len, r#"{"messages":[{"role":"user","content":[{"type":"text"}"#, r#",{"type":""}"#, "]}]}")),
        ("objects in a tool", filled(len, &tool, ",{}", "]}}}]}")),
        ("numbers in a tool", filled(len, &tool, ",0", "]}}}]}")),
        ("objects in a schema", filled(len, &schema, ",{}", "]}}}}")),
        ("lists in variables", filled(len, &variables, ",[[]]", "]}}")),
        ("numbers in arguments", filled(len, calls, ",0", r#"]"}}]}]}"#)),
        ("numbers in what is unknown", filled(len, &unknown, ",0", "]}")),
        ("a text", filled(len, r#"{"messages":[{"role":"user","content":""#, "text ", r#""}]}"#)),
        ("tokens", filled(len, r#"{"prompt":[0"#, ",1", "]}")),
    ]
}

/// The weight that a request may have, and what is not counted at all.
const EACH: usize = (288 + 64) << 20;

async fn attack(address: SocketAddr, body: Arc<Vec<u8>>) -> u16 {
    let path = if body.starts_with(b"{\"prompt") { "/v1/completions" } else { CHAT };
    ask(address, "POST", path, &[], &body).await.status
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn large_bodies_take_what_they_may_and_short_requests_are_answered_beside() {
    let (address, _fake) = serve(Fake::saying("ok")).await;
    let question = json!({ "messages": [{ "role": "user", "content": "Hi" }], "seed": 1 });
    let answer = post(address, CHAT, &question).await.json()["choices"].clone();
    for (name, body) in bodies(LONGEST) {
        let (before, body) = (memory("VmRSS"), Arc::new(body));
        std::fs::write("/proc/self/clear_refs", "5").unwrap();
        let crowd: Vec<_> = (0..CROWD).map(|_| tokio::spawn(attack(address, Arc::clone(&body)))).collect();
        for _ in 0..20 {
            let healthy = post(address, CHAT, &question).await;
            assert_eq!((healthy.status, &healthy.json()["choices"]), (200, &answer), "{name}");
        }
        let mut statuses = std::collections::BTreeMap::new();
        for attack in crowd {
            *statuses.entry(attack.await.unwrap()).or_insert(0) += 1;
        }
        let peak = memory("VmHWM").saturating_sub(before);
        assert!(peak < BOUND, "{name}: {} MiB, {statuses:?}", peak >> 20);
        assert!(statuses.keys().all(|status| [200, 400, 413, 429].contains(status)), "{name}: {statuses:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_let_in_weighs_no_more_than_it_was_counted_for() {
    let (address, _fake) = serve(Fake::saying("ok")).await;
    let mut let_in = 0;
    for part in [4, 8] {
        for (name, body) in bodies(LONGEST / part) {
            let before = memory("VmRSS");
            std::fs::write("/proc/self/clear_refs", "5").unwrap();
            let status = attack(address, Arc::new(body)).await;
            let peak = memory("VmHWM").saturating_sub(before);
            assert!(peak < EACH, "{name}: {} MiB, {status}", peak >> 20);
            let_in += usize::from(status != 413);
        }
    }
    assert!(let_in > 10, "{let_in} of 20 are let in");
}
