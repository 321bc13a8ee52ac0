//! What one session can do to the others: hold up their prompts, end their passes, be decoded for though it has gone, ask again and
//! again.

#![allow(unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bench;

use std::time::Duration;

use bench::{Bench, MS, OWNER, RIGHT, config};
use sled_core::Token;
use sled_core::device::Prompt;
use sled_core::message::{MAX_UNHEARD, Reply, Request};
use sled_core::sequence::Sequence;
use sled_core::server::{Owner, Plan, ServerConfig, SessionId, Step};

/// Only what the engine cannot run has this token.
const POISON: Token = 7;

/// A prompt of `len` tokens that begins like no other with another `number`.
fn text(number: u32, len: usize) -> Vec<Token> {
    let digits = (0..6).map(|place| 1 + number / 6u32.pow(place) % 6);
    digits.chain(std::iter::repeat(3)).take(len.max(6)).collect()
}

#[test]
fn a_short_prompt_does_not_wait_for_long_ones_that_came_before() {
    let mut bench = Bench::new(config(), 20 * MS, MS);
    let long: Vec<_> = (0..8).map(|i| bench.open_thin(&text(i, 3_500))).collect();
    (0..3).for_each(|_| drop(bench.step()));
    let began = bench.now;
    let short = bench.open_thin(&text(9, 50));
    while bench.tokens(short) == 0 {
        bench.step();
    }
    assert!(bench.now - began < 600 * MS, "28 s of prompts were before it: {:?}", bench.now - began);
    while bench.tokens(long[0]) == 0 {
        bench.step();
    }
    assert!(bench.now < Duration::from_secs(8), "who came first is soon read, too: {:?}", bench.now);
    assert_eq!(long[1..].iter().filter(|&&id| bench.tokens(id) > 0).count(), 0, "texts are read one after the other");
}

#[test]
fn who_asks_for_much_has_no_more_read_than_who_asks_for_little() {
    let mut bench = Bench::new(config(), 20 * MS, MS);
    let greedy: Vec<_> = (0..8).map(|i| bench.open_as(Owner(1), &text(i, 3_000))).collect();
    bench.step();
    let modest = bench.open_as(Owner(2), &text(9, 3_500));
    let mut greedy_read = 0;
    while bench.tokens(modest) == 0 {
        greedy_read += bench.step().iter().filter(|(id, commit)| greedy.contains(id) && commit.from == 3_000).count();
    }
    assert!(greedy_read <= 2, "24,000 tokens of the other came before: {greedy_read} texts");
    // What comes next of who had much waits for who had little.
    let [again, other] = [(Owner(2), 20), (Owner(3), 21)].map(|(owner, i)| bench.open_as(owner, &text(i, 1_000)));
    while bench.tokens(again).min(bench.tokens(other)) == 0 {
        bench.step();
        assert!(bench.tokens(other) > 0 || bench.tokens(again) == 0);
    }
}

#[test]
fn a_long_prompt_is_read_however_many_short_ones_come() {
    let mut bench = Bench::new(ServerConfig { rows: 64, ..config() }, 20 * MS, MS);
    let long = bench.open_thin(&text(0, 3_000));
    let mut passes = 0;
    let mut number = 1;
    while bench.tokens(long) == 0 {
        // As many as a pass can read, in each pass.
        for _ in 0..4 {
            bench.open(&text(number, 20));
            number += 1;
        }
        for (id, _) in bench.step() {
            bench.server.close(bench.now, id);
        }
        passes += 1;
        assert!(passes < 1_000);
    }
    // Half of 64 rows a pass are its own.
    assert!((80..120).contains(&passes), "{passes}");
}

#[test]
fn texts_that_have_no_room_beside_each_other_do_not_throw_each_other_out() {
    let mut bench = Bench::new(ServerConfig { cells: 5_000, ..config() }, 20 * MS, MS);
    let ids: Vec<_> = (0..4).map(|i| bench.open_thin(&text(i, 3_000 - 10 * i as usize))).collect();
    let mut rows = 0;
    while bench.tokens(ids[0]) == 0 {
        let step = bench.plan().unwrap();
        rows += step.rows.len();
        bench.complete(step);
    }
    assert_eq!(bench.server.evictions(), 0);
    assert!(rows < 3_100, "{rows}");
}

#[test]
fn where_a_pass_has_one_row_reading_and_decoding_take_turns() {
    let mut bench = Bench::new(ServerConfig { rows: 1, ..config() }, 10 * MS, MS);
    let first = bench.open_thin(&text(0, 8));
    while bench.tokens(first) == 0 {
        bench.step();
    }
    let second = bench.open_thin(&text(1, 100));
    (0..100).for_each(|_| drop(bench.step()));
    assert!((45..=55).contains(&bench.tokens(first)), "{}", bench.tokens(first));
    (0..120).for_each(|_| drop(bench.step()));
    assert!(bench.tokens(second) > 0);
}

/// Runs `step` on an engine that cannot run [`POISON`]; whoever is closed.
fn run(bench: &mut Bench, step: Step) -> Vec<SessionId> {
    if step.rows.iter().all(|row| row.token != POISON) {
        bench.complete(step);
        return Vec::new();
    }
    bench.now += 10 * MS;
    let replies = bench.server.fail(step, "it was poisoned");
    let closed: Vec<_> =
        replies.iter().filter(|(_, reply)| matches!(reply, Reply::Closing(_))).map(|&(id, _)| id).collect();
    bench.deliver(replies);
    closed.iter().for_each(|&id| bench.server.close(bench.now, id));
    closed
}

#[test]
fn only_who_makes_passes_fail_is_closed() {
    for (before, company) in [(10, 1), (10, 20), (1_500, 20)] {
        let mut bench = Bench::new(config(), 10 * MS, MS);
        let healthy: Vec<_> = (0..company).map(|i| bench.open_thin(&text(i, 12))).collect();
        (0..3).for_each(|_| drop(bench.step()));
        let poison = bench.open_thin(&[text(100, before), vec![POISON]].concat());
        let late = bench.open_thin(&text(101, 700));
        let mut closed = Vec::new();
        for _ in 0..200 {
            if let Some(step) = bench.plan() {
                closed.extend(run(&mut bench, step));
            }
        }
        assert_eq!(closed, [poison], "with {company} others, after {before} tokens");
        let tokens: Vec<_> = healthy.iter().chain([&late]).map(|&id| bench.tokens(id)).collect();
        assert!(tokens.iter().all(|&tokens| tokens > 40), "{tokens:?}");
    }
}

#[test]
fn a_draft_that_makes_passes_fail_is_found_too() {
    let mut bench = Bench::new(config(), 10 * MS, MS);
    let ids: Vec<_> = (0..6).map(|i| bench.open(&text(i, 12))).collect();
    let mut closed = Vec::new();
    for _ in 0..100 {
        for (i, &id) in ids.iter().enumerate() {
            if !closed.contains(&id) {
                let draft = if i == 2 { POISON } else { RIGHT };
                bench.server.request(bench.now, id, Request::Draft(bench.block(id, &[draft], 0)));
            }
        }
        if let Some(step) = bench.plan() {
            closed.extend(run(&mut bench, step));
        }
    }
    assert_eq!(closed, [ids[2]]);
}

#[test]
fn passes_that_fail_now_and_then_cost_nobody_its_session() {
    let mut bench = Bench::new(config(), 10 * MS, MS);
    let ids: Vec<_> = (0..10).map(|i| bench.open_thin(&text(i, 12))).collect();
    for pass in 1..1_000 {
        let Some(step) = bench.plan() else { continue };
        if pass % 50 == 0 {
            let replies = bench.server.fail(step, "it happens");
            assert_eq!(replies, []);
        } else {
            bench.complete(step);
        }
    }
    assert!(ids.iter().all(|&id| bench.tokens(id) > 300));
}

#[test]
fn where_logits_are_missing_for_one_session_all_others_have_their_tokens() {
    let mut bench = Bench::new(config(), 10 * MS, MS);
    let ids: Vec<_> = (0..5).map(|i| bench.open_thin(&text(i, 12))).collect();
    bench.step();
    let (mut culprit, mut failures, mut closed) = (None, 0, Vec::new());
    while closed.is_empty() {
        let mut step = bench.plan().unwrap();
        let sequences: Vec<_> = step.rows.iter().map(|row| row.sequence).collect();
        let culprit = *culprit.get_or_insert(sequences[0]);
        if !sequences.contains(&culprit) {
            bench.complete(step);
            continue;
        }
        failures += 1;
        let others = step.sessions() - 1;
        let logits = bench.logits.clone();
        bench.now += 10 * MS;
        let of = |row: usize| if sequences[row] == culprit { Err("none") } else { Ok(&*logits) };
        assert_eq!(bench.server.complete(bench.now, &mut step, of), Err("none"));
        let replies = bench.server.fail(step, "none");
        closed.extend(replies.iter().filter(|(_, reply)| matches!(reply, Reply::Closing(_))).map(|&(id, _)| id));
        let served = bench.deliver(replies).len();
        assert_eq!(served, others);
        let unread = bench.server.status(bench.now).filter(|status| status.cached == 0).count();
        assert_eq!(unread, 1, "those who had their logits are not read again");
    }
    assert_eq!((failures, closed.len()), (3, 1));
    assert!(ids.iter().filter(|id| !closed.contains(id)).all(|&id| bench.tokens(id) >= 3));
}

#[test]
fn nothing_is_decoded_on_and_on_for_a_device_that_says_nothing() {
    for until in [0, 4_000] {
        let mut bench = Bench::new(config(), 10 * MS, MS);
        let id = bench.open(&text(0, 12));
        let word = Request::Draft(bench.block(id, &[], until));
        bench.server.request(bench.now, id, word.clone());
        while let Some(step) = bench.plan() {
            bench.complete(step);
        }
        assert_eq!(bench.tokens(id), MAX_UNHEARD);
        assert!(matches!(bench.server.plan(bench.now), Plan::Idle));
        // A word from it is enough, even one that is late.
        bench.server.request(bench.now, id, word);
        while let Some(step) = bench.plan() {
            bench.complete(step);
        }
        assert_eq!(bench.tokens(id), 2 * MAX_UNHEARD);
    }
}

#[test]
fn what_is_told_again_is_bounded_and_has_no_more_log_probabilities_than_are_needed() {
    let mut bench = Bench::new(config(), MS, MS);
    let id = bench.server.open(bench.now, OWNER).unwrap();
    let prompt = Prompt { tokens: text(0, 12), max_tokens: 3_000, logprobs: Some(5), ..Prompt::default() };
    let context = prompt.into_context(1);
    assert_eq!(bench.server.request(bench.now, id, Request::Context(context.clone())), None);
    bench.texts.insert(id, Sequence::from_prompt(&text(0, 12)));
    let first = bench.block(id, &[], 4_000);
    bench.server.request(bench.now, id, Request::Draft(first.clone()));
    while bench.tokens(id) < 2_500 {
        bench.step();
        bench.server.request(bench.now, id, Request::Stop(0));
    }
    let told_again = |bench: &mut Bench, request: Request| {
        let Some(Reply::Commit(commit)) = bench.server.request(bench.now, id, request) else { panic!("it is known") };
        (commit.accepted, commit.tokens.len(), commit.logprobs.len())
    };
    assert_eq!(told_again(&mut bench, Request::Draft(first)), (0, 1024, 1024));
    let mut known = context.clone();
    known.tokens.extend([RIGHT; 2_000]);
    assert_eq!(
        told_again(&mut bench, Request::Context(known)),
        (2_012, bench.tokens(id) - 2_000, bench.tokens(id) - 2_000)
    );
    assert_eq!(told_again(&mut bench, Request::Context(context)), (12, 1024, 1024));
}

#[test]
fn a_prompt_that_open_sessions_bring_counts_as_one_that_waits() {
    let mut bench = Bench::new(ServerConfig { queue: 2, ..config() }, 10 * MS, 10 * MS);
    let ids: Vec<_> = (0..3).map(|_| bench.server.open(bench.now, OWNER).unwrap()).collect();
    let context = |number: u32, turn| {
        let tokens = text(number, 1_000);
        Request::Context(Prompt { tokens, max_tokens: 10, ..Prompt::default() }.into_context(turn))
    };
    assert_eq!(bench.server.request(bench.now, ids[0], context(0, 1)), None);
    assert_eq!(bench.server.request(bench.now, ids[1], context(1, 1)), None);
    // What waits already may be told again, or be another text.
    assert_eq!(bench.server.request(bench.now, ids[0], context(0, 1)), None);
    assert_eq!(bench.server.request(bench.now, ids[1], context(3, 2)), None);
    let reason = "the server is busy: 2 prompts wait to be read; try again in 20 s".to_owned();
    assert_eq!(bench.server.request(bench.now, ids[2], context(2, 1)), Some(Reply::Closing(reason)));
    // Whoever has none that waits is let in all the same.
    assert!(bench.server.open(bench.now, OWNER).is_err());
    let other = bench.server.open(bench.now, Owner(2)).unwrap();
    assert_eq!(bench.server.request(bench.now, other, context(4, 1)), None);
}
