//! Sessions that open, chat, idle and die at random, for a minute (`SLED_SOAK_SECONDS` sets another time): nothing leaks.

#![allow(unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

mod support;

use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sled_core::device::{Fallback, Prompt, Resilience};
use sled_core::policy::Policy;
use sled_device::{Drafts, RemoteServer, Session, SessionOptions};
use sled_sim::rng::Rng;
use support::{VOCABULARY, drafter, expected, prompt, serve_with};

const DEVICES: u64 = 24;

/// More devices than sequences, and hardly cells for half of those: sessions take turns in the cache all the time.
const SEQUENCES: usize = 12;
const CELLS: usize = 900;

#[derive(Default)]
struct Done {
    answers: AtomicU64,
    deaths: AtomicU64,
}

/// One device's life: sessions of a few turns each, some cut off in the middle.
async fn live(address: SocketAddr, seed: u64, until: Instant, done: Arc<Done>) {
    let mut rng = Rng(seed);
    while Instant::now() < until {
        let kind = u32::try_from(rng.within(0..=3)).unwrap();
        let options = SessionOptions {
            drafter: drafter(kind).map(|drafter| (Drafts::own(drafter).unwrap(), Policy::Goodput)),
            resilience: Resilience { fallback: Fallback::Wait, seed: rng.bits(), ..Resilience::default() },
            ..SessionOptions::new("soak", VOCABULARY, &[0])
        };
        let remote = RemoteServer::connect(&address.to_string()).await.unwrap();
        let mut session = Session::open(&remote, options).await.unwrap();
        for turn in 0..rng.within(1..=4) {
            let more = prompt(kind, rng.within(0..=40));
            let tokens = if turn == 0 {
                more.tokens.clone()
            } else {
                let room = session.context() - more.max_tokens;
                session.tokens().iter().copied().chain(more.tokens.iter().copied()).take(room).collect()
            };
            let text = Prompt { tokens, ..more };
            let expected = expected(&text);
            let answer = session.generate(text, |_| ControlFlow::Continue(()));
            if rng.chance(0.2) {
                // It dies in the middle of whatever it does: no farewell, no end of the stream.
                let _dead = tokio::time::timeout(Duration::from_micros(rng.bits() % 20_000), answer).await;
                done.deaths.fetch_add(1, Ordering::Relaxed);
                break;
            }
            assert_eq!(answer.await.unwrap().tokens, expected);
            done.answers.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(rng.time(Duration::from_millis(30))).await;
        }
    }
}

/// Resident memory in bytes, and threads, of this process.
fn usage() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    (field("VmRSS:").unwrap_or(0) * 1024, field("Threads:").unwrap_or(0))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_minute_of_sessions_that_come_and_go_leaves_nothing_behind() {
    let seconds = std::env::var("SLED_SOAK_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(60.0);
    let server = serve_with(SEQUENCES, CELLS, 20).await;
    let remote = RemoteServer::connect(&server.address.to_string()).await.unwrap();
    let done = Arc::new(Done::default());
    let mut after = Vec::new();
    // The first half fills what is filled once; the second must add nothing.
    for half in 0..2 {
        let until = Instant::now() + Duration::from_secs_f64(seconds / 2.0);
        let devices: Vec<_> = (0..DEVICES)
            .map(|device| tokio::spawn(live(server.address, 1_000 * half + device, until, Arc::clone(&done))))
            .collect();
        for device in devices {
            device.await.unwrap();
        }
        let list = loop {
            let list = remote.sessions().await.unwrap();
            if list.sessions.is_empty() {
                break list;
            }
            tokio::task::yield_now().await;
        };
        assert!(list.cells_used <= CELLS, "{} of {CELLS} cells", list.cells_used);
        assert!(list.totals.evictions > 0, "the cache was never short of room");
        let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
        after.push((usage(), tasks));
    }
    let (answers, deaths) = (done.answers.load(Ordering::Relaxed), done.deaths.load(Ordering::Relaxed));
    let [((memory, threads), tasks), ((memory_after, threads_after), tasks_after)] = after[..] else { unreachable!() };
    eprintln!(
        "{answers} answers, {deaths} deaths in {seconds} s; memory {} to {} KiB, {threads} to {threads_after} threads, {tasks} to \
         {tasks_after} tasks",
        memory / 1024,
        memory_after / 1024
    );
    assert!(answers > 20 * DEVICES && deaths > DEVICES);
    assert!(memory_after < memory + (16 << 20), "{memory} bytes became {memory_after}");
    assert!(threads_after <= threads + 2 && tasks_after <= tasks + 4, "{tasks} tasks became {tasks_after}");
}
