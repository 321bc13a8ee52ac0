//! A device by hand: what it does when nobody answers.

#![allow(unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bench;
mod servers;

use std::sync::Arc;
use std::time::Duration;

use sled_core::device::{
    Action, Ahead, Device, DeviceConfig, Fallback, FinishReason, Prompt, Resilience, Terms, Tuning,
};
use sled_core::message::{Commit, Load, Reply, Request};
use sled_core::policy::{DraftPolicy, NextBlock, Travel};
use sled_core::sampler::Draft;
use sled_core::sequence::Digest;

use bench::*;

/// Blocks of two drafts, and not one behind another.
#[derive(Debug)]
struct Pairs;

impl DraftPolicy for Pairs {
    fn takes(&self, block: &NextBlock, _acceptance: f64) -> bool {
        block.len < 2 && block.travel != Travel::Behind
    }

    fn waits_for(&self, block: &NextBlock, acceptance: f64) -> bool {
        self.takes(block, acceptance)
    }
}

#[test]
fn a_device_drafts_as_a_policy_of_its_callers_own_says() {
    let config = Bench::config(1, Fallback::Wait);
    let mut bench = Bench::start(Device::with_policy(config, Some(Box::new(Pairs))));
    bench.draft(3);
    let blocks = bench.blocks();
    assert_eq!(blocks.iter().map(|block| block.tokens.as_slice()).collect::<Vec<_>>(), [[3, 4]]);
    bench.commit(2, 2);
    bench.draft(0);
    assert_eq!(bench.blocks().iter().map(|block| block.tokens.as_slice()).collect::<Vec<_>>(), [[6, 7]]);
}

#[test]
fn an_unanswered_block_is_sent_again_and_given_twice_the_time() {
    let mut bench = Bench::new(1, Fallback::Wait);
    let first = bench.blocks();
    assert_eq!((first.len(), first[0].from, first[0].tokens.as_slice()), (1, 2, &[3, 4, 5][..]));
    let began = bench.now;
    bench.wait();
    let again = bench.blocks();
    assert_eq!((again.len(), again[0].from), (1, 2));
    assert_eq!(again[0].built_on, first[0].built_on);
    assert_eq!(again[0].tokens, first[0].tokens);
    // The next time it is given twice as long.
    let waited = bench.now - began;
    let before = bench.now;
    bench.wait();
    assert_eq!(bench.now - before, waited * 2);
    assert_eq!(bench.blocks().len(), 1);
    assert_eq!(bench.device.stats().draft_tokens, 3, "what is sent again counts once");
    // The third time the connection is given up.
    bench.wait();
    assert!(bench.actions.contains(&Action::Disconnect) && bench.blocks().is_empty());
}

#[test]
fn newer_drafts_join_the_unverified_ones() {
    let mut bench = Bench::new(1, Fallback::Wait);
    let asked = bench.actions.iter().find_map(|action| if let Action::Draft(t) = action { Some(*t) } else { None });
    bench.blocks();
    bench.device.on_draft(bench.now, asked.unwrap(), Some(Draft { token: 6, confidence: 0.99 }));
    bench.draft(2);
    let second = bench.blocks();
    assert_eq!((second.len(), second[0].from, second[0].tokens.as_slice()), (1, 5, &[6, 7, 8][..]));
    bench.wait();
    let again = bench.blocks();
    assert_eq!((again.len(), again[0].from, again[0].tokens.as_slice()), (1, 2, &[3, 4, 5, 6, 7, 8][..]));
    // An answer to all of it settles it.
    let commit = Commit {
        turn: 1,
        from: 2,
        accepted: 6,
        tokens: vec![9],
        digest: Digest::EMPTY.then_all(&[1, 2, 3, 4, 5, 6, 7, 8, 9]),
        rows: 7,
        unasked: false,
        logprobs: Vec::new(),
        load: Load::default(),
    };
    bench.device.on_reply(bench.now, Reply::Commit(commit));
    assert_eq!(bench.device.settled(), [1, 2, 3, 4, 5, 6, 7, 8, 9]);
    bench.draft(0);
    assert_eq!((bench.device.stats().draft_tokens, bench.device.stats().accepted_tokens), (6, 6));
}

#[test]
fn an_answer_that_ends_inside_of_a_verdict_counts_what_it_has_of_it() {
    let mut bench = Bench::new(1, Fallback::Wait);
    let commit = Commit {
        turn: 1,
        from: 2,
        accepted: 3,
        tokens: vec![9],
        digest: Digest::EMPTY.then_all(&[1, 2, 3, 4, 5, 9]),
        rows: 4,
        unasked: false,
        logprobs: Vec::new(),
        load: Load::default(),
    };
    bench.device.on_reply(bench.now, Reply::Commit(commit));
    let mut shown = 0;
    while shown < 2 {
        shown += usize::from(matches!(bench.device.poll(), Some(Action::Emit(_))));
    }
    bench.device.stop_at(4);
    bench.draft(0);
    let stats = bench.device.stats();
    assert_eq!((stats.drafts, stats.accepted_tokens, stats.accepted_at.counts()), (1, 2, &[1, 1][..]));
    assert_eq!(bench.device.settled(), [1, 2, 3, 4]);
}

#[test]
fn a_server_that_says_much_and_nothing_is_not_listened_to_for_ever() {
    for reply in [Reply::Pending { turn: 1 }, Reply::Pending { turn: 7 }, Reply::Resend { turn: 7, from: 0 }] {
        let mut bench = Bench::new(1, Fallback::Wait);
        for _ in 0..70_000 {
            bench.device.on_reply(bench.now, reply.clone());
        }
        bench.draft(0);
        assert!(matches!(bench.finished(), Some(FinishReason::Failed(_))), "{reply:?}");
    }
}

#[test]
fn a_server_that_asks_for_the_text_again_and_again_is_told_it_once_until_a_timeout() {
    let mut bench = Bench::new(1, Fallback::Wait);
    bench.draft(2);
    let texts = |bench: &Bench| {
        let is_text = |action: &&Action| matches!(action, Action::Send(Request::Context(_)));
        bench.actions.iter().filter(is_text).count()
    };
    bench.actions.clear();
    for _ in 0..1_000 {
        bench.device.on_reply(bench.now, Reply::Resend { turn: 1, from: 0 });
        bench.draft(0);
    }
    assert_eq!(texts(&bench), 1);
    assert_eq!(bench.finished(), None);
    bench.now = bench.device.deadline().unwrap();
    bench.device.on_timer(bench.now);
    bench.device.on_reply(bench.now, Reply::Resend { turn: 1, from: 0 });
    bench.draft(0);
    assert_eq!(texts(&bench), 2);
}

#[test]
fn who_lets_the_server_decode_says_so_again_when_half_of_the_tokens_have_come() {
    let mut device = Device::new(DeviceConfig {
        policy: None,
        ahead: Ahead::Nothing,
        context: 1_000,
        max_draft: 64,
        end_of_generation: Arc::from([]),
        resilience: Resilience::default(),
        tuning: Tuning::DEFAULT,
    });
    device.on_connected(Duration::ZERO, 0, Terms { context: 1_000, max_draft: 64 });
    device.prompt(Duration::ZERO, Prompt { tokens: vec![1, 2], max_tokens: 600, ..Prompt::default() });
    let mut told = Vec::new();
    let mut digest = Digest::EMPTY.then_all(&[1, 2]);
    for from in 2..602 {
        while let Some(action) = device.poll() {
            if let Action::Send(Request::Draft(block)) = action {
                told.push((block.from, block.until));
            }
        }
        digest = digest.then(3);
        let (tokens, load) = (vec![3], Load::default());
        let commit =
            Commit { turn: 1, from, accepted: 0, tokens, digest, rows: 1, unasked: true, logprobs: Vec::new(), load };
        device.on_reply(Duration::ZERO, Reply::Commit(commit));
    }
    assert_eq!(told, [(2, 258), (130, 386), (258, 514), (386, 602)]);
}

#[test]
fn an_answer_that_has_ended_does_not_end_again() {
    let mut bench = Bench::new(1, Fallback::Wait);
    bench.device.stop_at(2);
    bench.draft(0);
    bench.device.stop_at(2);
    bench.draft(0);
    let ends = bench.actions.iter().filter(|action| matches!(action, Action::Finish(_))).count();
    assert_eq!(ends, 1, "{:?}", bench.actions);
}

#[test]
fn a_verdict_that_is_told_again_is_one_round() {
    let mut bench = Bench::new(1, Fallback::Wait);
    let answer = |accepted, tokens: Vec<u32>, all: &[u32], rows| {
        let (digest, load) = (Digest::EMPTY.then_all(all), Load::default());
        Reply::Commit(Commit {
            turn: 1,
            from: 2,
            accepted,
            tokens,
            digest,
            rows,
            unasked: false,
            logprobs: Vec::new(),
            load,
        })
    };
    // The verdict, the same again, and the answer to a block that was repeated: it has all that came since.
    let verdict = answer(3, vec![6], &[1, 2, 3, 4, 5, 6], 4);
    bench.device.on_reply(bench.now, verdict.clone());
    bench.device.on_reply(bench.now, verdict);
    bench.device.on_reply(bench.now, answer(3, vec![6, 7, 8], &[1, 2, 3, 4, 5, 6, 7, 8], 0));
    bench.draft(0);
    assert_eq!(bench.device.settled(), [1, 2, 3, 4, 5, 6, 7, 8]);
    let stats = bench.device.stats();
    assert_eq!((stats.rounds, stats.server_rows, stats.accepted_tokens), (1, 4, 3));
}
