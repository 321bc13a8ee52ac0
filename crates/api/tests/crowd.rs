//! Many clients at once, some of them slow, gone or stuck: bounded memory, and nobody starves.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::json;
use sled_api::backend::Refusal;
use support::client::{figure, post, send};
use support::{Do, Fake, serve};
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

const CHAT: &str = "/v1/chat/completions";

fn request(stream: bool) -> serde_json::Value {
    json!({ "messages": [{ "role": "user", "content": "Hi" }], "stream": stream })
}

/// Waits until `condition`.
async fn until(what: &str, condition: impl Fn() -> bool) {
    let waited = timeout(Duration::from_secs(10), async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(waited.await.is_ok(), "{what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_clients_some_slow_and_some_gone_are_all_served() {
    let text = "the quick brown fox jumps over the lazy dog. ".repeat(40);
    let (address, fake) = serve(Fake::saying(&text)).await;
    let mut readers = Vec::new();
    for client in 0..50 {
        let body = request(true).to_string();
        readers.push(tokio::spawn(async move {
            let mut stream = send(address, "POST", CHAT, &[], body.as_bytes()).await;
            let mut all = Vec::new();
            let mut buffer = [0; 2048];
            loop {
                let read = stream.read(&mut buffer).await.unwrap();
                all.extend(&buffer[..read]);
                match client % 5 {
                    _ if read == 0 => break,
                    // Goes in the middle.
                    0 if all.len() > 10_000 => return None,
                    // Reads slowly.
                    1 => tokio::time::sleep(Duration::from_millis(1)).await,
                    _ => {}
                }
            }
            Some(String::from_utf8(all).unwrap())
        }));
    }
    let mut whole = 0;
    for reader in readers {
        let read = timeout(Duration::from_secs(60), reader).await.expect("somebody starved").unwrap();
        if let Some(read) = read {
            assert!(read.contains("data: [DONE]"), "an answer was cut");
            whole += 1;
        }
    }
    assert_eq!(whole, 40);
    until("jobs of those who went are over", || fake.running.load(Ordering::SeqCst) == 0).await;
    assert_eq!(figure(address, "sled:num_requests_running").await, Some(0.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_cancels_its_job_streamed_or_not() {
    let (address, fake) = serve(Fake::new(|_job| Ok(vec![Do::Say("x".to_owned()), Do::Hang]))).await;
    for (stream, cancelled) in [(true, 1), (false, 2)] {
        let connection = send(address, "POST", CHAT, &[], request(stream).to_string().as_bytes()).await;
        until("the job is under way", || fake.running.load(Ordering::SeqCst) == 1).await;
        drop(connection);
        until("the job is cancelled", || fake.cancelled.load(Ordering::SeqCst) == cancelled).await;
        until("the job is over", || fake.running.load(Ordering::SeqCst) == 0).await;
    }
    assert_eq!(figure(address, "sled:request_success_total{finished_reason=\"abort\"}").await, Some(2.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_reader_that_is_stuck_is_bounded() {
    // More than any socket buffer holds.
    let produced = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let (address, fake) = serve(Fake::new(|_job| Ok(vec![Do::Say("x".repeat(support::CONTEXT))]))).await;
    let mut stuck = Vec::new();
    for _ in 0..50 {
        let mut body = request(true);
        body["sled"] = json!({ "provenance": true });
        body["logprobs"] = json!(true);
        body["top_logprobs"] = json!(20);
        stuck.push(send(address, "POST", CHAT, &[], body.to_string().as_bytes()).await);
    }
    until("all are under way", || fake.running.load(Ordering::SeqCst) == 50).await;
    // Until nothing moves any more.
    loop {
        let before = figure(address, "sled:generation_tokens_total").await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        if figure(address, "sled:generation_tokens_total").await == before {
            produced.store(before.unwrap() as usize, Ordering::SeqCst);
            break;
        }
    }
    // 4 MiB of socket buffers at most hold chunks of about 2 KiB; the rest is held back in the backend.
    let each = produced.load(Ordering::SeqCst) / 50;
    assert!(each < 3_500, "{each} tokens of {} were taken for a reader that reads nothing", support::CONTEXT);
    // Others are served meanwhile.
    let answer = timeout(Duration::from_secs(10), post(address, CHAT, &request(false))).await.unwrap();
    assert_eq!(answer.status, 200);
    drop(stuck);
    until("their jobs are over", || fake.running.load(Ordering::SeqCst) == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_a_bound_requests_are_told_to_come_back() {
    let (address, fake) = serve(Fake::new(|_job| Ok(vec![Do::Hang]))).await;
    let mut held = Vec::new();
    for _ in 0..256 {
        held.push(send(address, "POST", CHAT, &[], request(true).to_string().as_bytes()).await);
    }
    until("all are under way", || fake.running.load(Ordering::SeqCst) == 256).await;
    let refused = post(address, CHAT, &request(true)).await;
    assert_eq!((refused.status, refused.header("retry-after")), (429, Some("1")));
    drop(held);
    until("they are over", || fake.running.load(Ordering::SeqCst) == 0).await;
    assert_eq!(fake.peak.load(Ordering::SeqCst), 256);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_of_the_backend_is_passed_on() {
    let (address, _fake) = serve(Fake::new(|_job| Err(Refusal::Busy { after: Duration::from_millis(100) }))).await;
    for stream in [true, false] {
        let refused = post(address, CHAT, &request(stream)).await;
        assert_eq!((refused.status, refused.header("retry-after")), (429, Some("1")));
    }
}
