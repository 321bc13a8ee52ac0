//! Places in the KV cache: who has one, who gives way, and what is shared.

#![allow(unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bench;

use std::time::Duration;

use bench::{Bench, MS, OWNER, RIGHT, config};
use sled_core::Token;
use sled_core::message::Request;
use sled_core::server::{Assist, Batching, Owner, ServerConfig};
use sled_core::step::CacheOp;

#[test]
fn a_shared_system_prompt_is_computed_once_and_outlives_its_session() {
    let mut bench = Bench::new(config(), 10 * MS, MS);
    let system = vec![5; 200];
    let ids: Vec<_> = (1..=8).map(|i| bench.open_thin(&[&system[..], &[i % 7, 2]].concat())).collect();
    let mut rows = 0;
    while ids.iter().any(|&id| bench.tokens(id) == 0) {
        let step = bench.plan().unwrap();
        rows += step.rows.len();
        bench.complete(step);
    }
    assert!(rows < 200 + 8 * 2 + 40, "{rows} rows for 200 shared tokens and 8 questions");
    ids.into_iter().for_each(|id| bench.server.close(bench.now, id));
    bench.open_thin(&[&system[..], &[6, 6, 6]].concat());
    let step = bench.plan().unwrap();
    assert!(step.rows.len() < 20, "{} rows for a new session with the same prompt", step.rows.len());
}

#[test]
fn more_sessions_than_sequences_all_come_to_their_turn() {
    let mut bench = Bench::new(ServerConfig { sequences: 4, cells: 400, ..config() }, 10 * MS, MS);
    let ids: Vec<_> = (0..20).map(|i| bench.open_thin(&[1 + i % 7, 3, 4])).collect();
    // With turns of 256 passes, four at a time.
    let mut steps = 0;
    while ids.iter().any(|&id| bench.tokens(id) == 0) {
        for id in ids.iter().copied().filter(|&id| bench.tokens(id) >= 90).collect::<Vec<_>>() {
            bench.server.request(bench.now, id, Request::Stop(1));
        }
        assert!(bench.plan().map(|step| bench.complete(step)).is_some(), "somebody is always served");
        steps += 1;
        assert!(steps < 2_000);
    }
    assert!(bench.server.cells().0 <= 400);
}

#[test]
fn more_sessions_than_rows_and_sequences_all_come_to_their_turn() {
    let fixed = Batching::Static { batch_size: 1, max_wait: Duration::ZERO };
    for (batching, rows) in [(Batching::Continuous, 1), (Batching::Continuous, 2), (fixed, 2)] {
        let config = ServerConfig { sequences: 1, cells: 20_000, rows, batching, ..config() };
        let mut bench = Bench::new(config, 10 * MS, MS);
        let ids: Vec<_> = (0..5).map(|i| bench.open_thin(&[1 + i])).collect();
        let mut steps = 0;
        while ids.iter().any(|&id| bench.tokens(id) == 0) {
            let step = bench.plan().expect("there is always something to do");
            bench.complete(step);
            steps += 1;
            assert!(steps < 4_000, "a turn is 256 verdicts, or four times what its text took to read");
        }
    }
}

#[test]
fn a_session_that_nobody_lets_in_takes_over_after_a_turn() {
    let mut bench = Bench::new(ServerConfig { sequences: 1, ..config() }, 10 * MS, MS);
    let [first, second] = [bench.open_thin(&[1, 2, 3]), bench.open_thin(&[4, 5, 6])];
    let mut steps = 0;
    while bench.tokens(second) == 0 {
        assert!(!bench.step().is_empty(), "somebody is served by every pass");
        steps += 1;
        assert!(steps < 300, "a turn is 256 verdicts");
    }
    (0..300).for_each(|_| drop(bench.step()));
    assert!(bench.tokens(first) > 100 && bench.tokens(second) > 100);
    assert!(bench.server.evictions() >= 1);
}

#[test]
fn where_only_those_who_ask_have_rows_a_silent_device_keeps_nobody_else_out() {
    let fixed = Batching::Static { batch_size: 1, max_wait: Duration::ZERO };
    for (batching, assist) in [(Batching::Continuous, Assist::Never), (fixed, Assist::Auto)] {
        let mut bench = Bench::new(ServerConfig { sequences: 1, batching, assist, ..config() }, 10 * MS, MS);
        let silent = bench.open(&[1; 20]);
        bench.draft(silent, &[RIGHT; 2], 0);
        assert!((0..10).any(|_| bench.step().iter().any(|(id, _)| *id == silent)));
        // Its answer goes on, and its device says nothing any more.
        let other = bench.open(&[2; 20]);
        bench.draft(other, &[RIGHT; 2], 0);
        assert!((0..10).any(|_| bench.step().iter().any(|(id, _)| *id == other)));
        bench.draft(silent, &[RIGHT; 2], 0);
        assert!((0..10).any(|_| bench.step().iter().any(|(id, _)| *id == silent)));
    }
}

#[test]
fn what_a_closed_session_left_is_given_up_before_anybody_is_evicted() {
    let mut bench = Bench::new(ServerConfig { cells: 300, ..config() }, MS, MS);
    let first = bench.open_thin(&[1; 120]);
    bench.step();
    bench.server.close(bench.now, first);
    let second = bench.open_thin(&[2; 120]);
    bench.step();
    let step = bench.plan().unwrap();
    assert!(!step.cache_ops.iter().any(|op| matches!(op, CacheOp::CopyPrefix { .. })), "they have nothing in common");
    bench.complete(step);
    bench.open_thin(&[3; 120]);
    (0..10).for_each(|_| drop(bench.step()));
    assert_eq!(bench.server.evictions(), 0);
    assert!(bench.tokens(second) > 5);
}

/// The rows that a new session of `owner` needs for its first token.
fn rows_of_another(bench: &mut Bench, owner: Owner, prompt: &[Token]) -> usize {
    let id = bench.open_as(owner, prompt);
    bench.draft(id, &[], prompt.len() + 1);
    let mut rows = 0;
    while bench.tokens(id) == 0 {
        let step = bench.plan().unwrap();
        rows += step.rows.len();
        bench.complete(step);
    }
    bench.server.close(bench.now, id);
    rows
}

#[test]
fn nothing_is_found_of_what_others_wrote() {
    let mut bench = Bench::new(ServerConfig { assist: Assist::Never, ..config() }, 10 * MS, MS);
    let secret: Vec<Token> = (0..120).map(|i| 1 + i * i % 7).collect();
    // One is closed, one is idle, and one is being read.
    assert_eq!(rows_of_another(&mut bench, OWNER, &secret), 120);
    let _idle = bench.open_thin(&secret[..100]);
    let reading = bench.open(&secret);
    bench.draft(reading, &[], 121);
    for (i, len) in [30, 60, 100, 119, 120].into_iter().enumerate() {
        let guess = [&secret[..len], &[0]].concat();
        let id = bench.open_as(Owner(100 + i as u64), &guess);
        bench.draft(id, &[], guess.len() + 1);
        let mut rows = 0;
        while bench.tokens(id) == 0 {
            let step = bench.plan().unwrap();
            rows += step.rows.len();
            bench.complete(step);
        }
        assert!(rows > len, "all of it is read: {rows} rows for {len} tokens");
        assert_eq!(bench.server.reused(id), 0);
        bench.server.close(bench.now, id);
    }
}

#[test]
fn chats_that_take_turns_are_read_once() {
    let mut bench = Bench::new(ServerConfig { assist: Assist::Never, ..config() }, 10 * MS, MS);
    let template = [5; 40];
    let chat = |topic: Token, turns: usize| [&template[..], &vec![topic; 100 * turns]].concat();
    assert_eq!(rows_of_another(&mut bench, OWNER, &chat(1, 1)), 140);
    assert_eq!(rows_of_another(&mut bench, OWNER, &chat(2, 1)), 100, "the template is there");
    for turns in 2..5 {
        for topic in [1, 2] {
            assert_eq!(rows_of_another(&mut bench, OWNER, &chat(topic, turns)), 100, "topic {topic}, turn {turns}");
        }
    }
    assert_eq!(bench.server.cells().0, 40 + 2 * 400, "what is shared is there once");
}

#[test]
fn a_prefix_is_taken_over_where_it_would_be_given_up_else() {
    let mut bench = Bench::new(ServerConfig { sequences: 2, assist: Assist::Never, ..config() }, 10 * MS, MS);
    let text = |first: Token, second: Token| [vec![first; 50], vec![second; 100]].concat();
    assert_eq!(rows_of_another(&mut bench, OWNER, &text(1, 1)), 150);
    assert_eq!(rows_of_another(&mut bench, OWNER, &text(2, 2)), 150);
    // The first of both gives way, and has what is asked for.
    assert_eq!(rows_of_another(&mut bench, OWNER, &text(1, 3)), 100);
    // The second is older, but has nothing that is asked for; most of the other is used again.
    assert_eq!(rows_of_another(&mut bench, OWNER, &[text(1, 3), vec![4; 10]].concat()), 10);
    assert_eq!(rows_of_another(&mut bench, OWNER, &[text(2, 2), vec![4; 10]].concat()), 10);
}

#[test]
fn a_public_prefix_is_read_once_for_everybody() {
    let mut bench = Bench::new(ServerConfig { assist: Assist::Never, ..config() }, 10 * MS, MS);
    let public = vec![5; 200];
    bench.server.share(public.clone());
    let ids: Vec<_> = (0..6)
        .map(|owner| {
            let prompt = [&public[..], &[1; 20], &[2]].concat();
            let id = bench.open_as(Owner(owner), &prompt);
            bench.draft(id, &[], prompt.len() + 1);
            id
        })
        .collect();
    let mut rows = 0;
    while ids.iter().any(|&id| bench.tokens(id) == 0) {
        let step = bench.plan().unwrap();
        rows += step.rows.len();
        bench.complete(step);
    }
    assert_eq!(rows, 200 + 6 * 21, "what follows is everybody's own, though it is equal");
    assert_eq!(ids.iter().map(|&id| bench.server.reused(id)).collect::<Vec<_>>(), [0, 200, 200, 200, 200, 200]);
    assert_eq!(bench.server.cells().0, rows);
}

#[test]
fn nobody_gives_way_to_drafts() {
    let mut bench = Bench::new(ServerConfig { cells: 130, assist: Assist::Never, ..config() }, 10 * MS, MS);
    let idle = bench.open(&[3; 60]);
    bench.draft(idle, &[], 61);
    while bench.tokens(idle) == 0 {
        bench.step();
    }
    let drafting = bench.open(&[4; 60]);
    let mut most = 0;
    for _ in 0..2 {
        bench.draft(drafting, &[RIGHT; 8], 0);
        let step = bench.plan().unwrap();
        most = most.max(step.rows.iter().filter(|row| row.wants_logits).count());
        bench.complete(step);
    }
    assert_eq!((bench.tokens(drafting), most), (11, 9), "drafts are verified where there is room");
    assert_eq!(bench.server.evictions(), 0, "60 cells of one and 70 of the other");
}

#[test]
fn a_turn_is_the_longer_the_longer_its_text_took_to_read() {
    // Rows are dear: reading 1,000 tokens takes as long as 500 passes.
    let mut bench = Bench::new(ServerConfig { sequences: 1, ..config() }, 10 * MS, 10 * MS);
    let ids = [3, 4].map(|token| bench.open_thin(&vec![token; 1_000]));
    let (mut rows, mut reading) = (0, 0);
    while ids.iter().any(|&id| bench.tokens(id) == 0) {
        let Some(step) = bench.plan() else { panic!("somebody is always served") };
        rows += step.rows.len();
        reading += step.rows.iter().filter(|row| !row.wants_logits).count();
        bench.complete(step);
    }
    assert!(bench.server.evictions() >= 1, "it is the other's turn sometime");
    let first = bench.tokens(ids[0]);
    assert!((1_500..=2_900).contains(&first), "{first} tokens before the other's turn; {reading} of {rows} rows");
}
