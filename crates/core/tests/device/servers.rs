//! When servers are lost, busy, or too small.

use std::time::Duration;

use sled_core::device::{Action, Fallback, FinishReason, Notice, Prompt, Provenance, Terms};
use sled_core::message::{Reply, Request};

use super::bench::*;

#[test]
fn a_server_that_says_it_is_busy_is_not_given_up() {
    let mut bench = Bench::new(1, Fallback::Error);
    for _ in 0..50 {
        bench.wait();
        bench.device.on_reply(bench.now, Reply::Pending { turn: 1 });
        bench.draft(0);
    }
    assert!(!bench.actions.iter().any(|action| matches!(action, Action::Disconnect | Action::Finish(_))));
    assert_eq!(bench.blocks().len(), 51, "it is asked each time");
}

#[test]
fn servers_are_tried_in_turn_and_the_next_is_told_the_whole_text() {
    let mut bench = Bench::new(3, Fallback::Wait);
    bench.actions.clear();
    let mut tried = Vec::new();
    bench.device.on_disconnected(bench.now, "gone".to_owned());
    bench.draft(0);
    while tried.len() < 7 {
        bench.wait();
        let connects = |action: &Action| if let Action::Connect(server) = action { Some(*server) } else { None };
        if let Some(server) = std::mem::take(&mut bench.actions).into_iter().find_map(|action| connects(&action)) {
            tried.push(server);
            bench.device.on_disconnected(bench.now, "refused".to_owned());
            bench.draft(0);
        }
    }
    assert_eq!(tried, [1, 2, 0, 1, 2, 0, 1]);
    bench.wait();
    bench.actions.clear();
    bench.device.on_connected(bench.now, 2, LARGE);
    bench.draft(9);
    let sent: Vec<&Request> = bench
        .actions
        .iter()
        .filter_map(|action| if let Action::Send(request) = action { Some(request) } else { None })
        .collect();
    assert!(matches!(sent[0], Request::Context(update) if update.from == 0 && update.tokens == [1, 2]), "{sent:?}");
    assert!(matches!(sent[1], Request::Draft(block) if block.tokens == [3, 4, 5]), "{sent:?}");
}

#[test]
fn the_fallback_comes_after_as_many_failures_as_asked_for_and_is_announced_once() {
    let mut bench = Bench::new(1, Fallback::Release);
    bench.device.on_disconnected(bench.now, "gone".to_owned());
    for failure in 2..=3 {
        bench.draft(0);
        let released = bench.actions.iter().any(|action| matches!(action, Action::Emit(_)));
        assert!(!released, "not before failure {failure}");
        bench.wait();
        bench.device.on_disconnected(bench.now, "refused".to_owned());
    }
    bench.draft(4);
    let emitted: Vec<_> = bench
        .actions
        .iter()
        .filter_map(|action| if let Action::Emit(emitted) = action { Some(emitted.clone()) } else { None })
        .collect();
    assert!(emitted.len() >= 3 && emitted.iter().all(|emitted| emitted.provenance == Provenance::Provisional));
    let lost = bench.actions.iter().filter(|action| matches!(action, Action::Notify(Notice::Lost(_)))).count();
    assert_eq!(lost, 1);
}

#[test]
fn a_clock_that_jumps_makes_nothing_worse_than_a_repeated_block() {
    let mut bench = Bench::new(1, Fallback::Wait);
    bench.blocks();
    let deadline = bench.device.deadline().unwrap();
    // Back: the timer runs on from there.
    bench.now = Duration::from_secs(1000);
    bench.device.on_timer(bench.now);
    bench.draft(0);
    assert_eq!(bench.blocks().len(), 1, "a jump ahead lets the time run out");
    bench.device.on_timer(Duration::from_secs(5));
    let next = bench.device.deadline().unwrap();
    assert!(next > Duration::from_secs(5) && next < Duration::from_secs(5) + deadline * 4, "{next:?}");
}

#[test]
fn a_busy_server_keeps_nobody_from_one_that_is_free() {
    let mut bench = Bench::new(3, Fallback::Wait);
    bench.actions.clear();
    let embargo = Duration::from_secs(60);
    bench.busy(embargo);
    let (server, waited) = bench.reconnect();
    assert!(server == 1 && waited < Duration::from_secs(1), "server {server} after {waited:?}");
    bench.busy(embargo);
    let (server, waited) = bench.reconnect();
    assert!(server == 2 && waited < Duration::from_secs(1), "server {server} after {waited:?}");
    // As long as the others are busy, the one that is only out of reach is tried again and again.
    for _ in 0..5 {
        bench.device.on_disconnected(bench.now, "refused".to_owned());
        bench.draft(0);
        assert_eq!(bench.reconnect().0, 2);
    }
    // When all are busy, the first that may be asked is.
    bench.busy(embargo * 2);
    let (server, _) = bench.reconnect();
    assert_eq!((server, bench.now >= embargo, bench.now < embargo * 2), (0, true, true));
}

#[test]
fn the_fallback_does_not_wait_until_a_busy_server_may_be_asked_again() {
    for fallback in [Fallback::Release, Fallback::Error] {
        let mut bench = Bench::new(1, fallback);
        bench.actions.clear();
        bench.busy(Duration::from_secs(300));
        let began = bench.now;
        let fallen_back = |bench: &Bench| {
            let shown = |action: &Action| matches!(action, Action::Emit(_) | Action::Finish(_));
            bench.actions.iter().any(shown)
        };
        assert!(!fallen_back(&bench));
        bench.wait();
        assert!(!fallen_back(&bench), "two failures are borne");
        bench.wait();
        assert!(fallen_back(&bench));
        assert!(bench.now - began <= 2 * Duration::from_secs(10), "{:?}", bench.now);
        if fallback == Fallback::Error {
            let reason = FinishReason::Failed("the server is busy; run the command again later".to_owned());
            assert_eq!(bench.finished(), Some(&reason));
        } else {
            // It is asked again when it may be, and not before.
            bench.reconnect();
            assert!(bench.now - began >= Duration::from_secs(300), "{:?}", bench.now);
        }
    }
}

#[test]
fn a_server_that_says_it_is_busy_in_the_middle_of_an_answer_is_left_alone() {
    let mut bench = Bench::new(2, Fallback::Wait);
    bench.actions.clear();
    bench.busy(Duration::from_secs(60));
    assert_eq!(bench.device.stats().disconnections, 1);
    assert!(bench.actions.contains(&Action::Notify(Notice::Busy("the server is busy".to_owned()))));
    assert_eq!(bench.reconnect().0, 1);
}

#[test]
fn a_session_that_is_closed_while_idle_has_lost_nothing() {
    let mut bench = Bench::new(1, Fallback::Error);
    bench.device.stop_at(2);
    for turn in 0..5 {
        bench.device.on_disconnected(bench.now, "it closed an idle session".to_owned());
        bench.actions.clear();
        let prompt = Prompt { tokens: vec![1, 2], max_tokens: 50, ..Prompt::default() };
        bench.device.prompt(bench.now, prompt);
        bench.draft(0);
        assert_eq!((bench.reconnect().0, bench.finished()), (0, None), "turn {turn}");
        bench.device.on_connected(bench.now, 0, LARGE);
        bench.device.stop_at(2);
    }
}

#[test]
fn blocks_are_cut_to_what_the_server_at_hand_takes() {
    let mut bench = Bench::new(2, Fallback::Wait);
    assert_eq!(bench.blocks()[0].tokens, [3, 4, 5]);
    bench.device.on_disconnected(bench.now, "gone".to_owned());
    assert_eq!(bench.reconnect().0, 1);
    bench.device.on_connected(bench.now, 1, Terms { context: 100, max_draft: 2 });
    bench.draft(6);
    let sent = bench.blocks();
    assert_eq!(sent[0].tokens, [3, 4]);
    bench.wait();
    let again = bench.blocks();
    assert!(sent.iter().chain(&again).all(|block| block.tokens.len() <= 2), "{sent:?} {again:?}");
}

#[test]
fn a_text_too_long_for_a_server_goes_on_with_another() {
    let mut bench = Bench::new(3, Fallback::Wait);
    let small = Terms { context: 6, max_draft: 64 };
    bench.device.on_disconnected(bench.now, "gone".to_owned());
    assert_eq!(bench.reconnect().0, 1);
    bench.device.on_connected(bench.now, 1, small);
    bench.draft(6);
    assert!(bench.blocks().iter().all(|block| block.from + block.tokens.len() <= 6 && block.until <= 6));
    // Six tokens are there, and the server takes no more.
    bench.commit(2, 3);
    bench.draft(6);
    assert!(bench.actions.contains(&Action::Disconnect) && bench.finished().is_none());
    assert_eq!(bench.reconnect().0, 2);
    // This one has room for even less, and server 0 is tried, of which nothing is known in this turn.
    bench.device.on_connected(bench.now, 2, Terms { context: 4, max_draft: 64 });
    bench.draft(6);
    assert!(bench.actions.contains(&Action::Disconnect) && bench.blocks().is_empty());
    assert_eq!(bench.reconnect().0, 0);
    bench.device.on_connected(bench.now, 0, LARGE);
    bench.draft(6);
    assert_eq!(bench.blocks()[0].from, 6);
}

#[test]
fn where_no_server_takes_a_longer_text_the_answer_is_complete() {
    let small = Terms { context: 6, max_draft: 64 };
    let mut bench = Bench::new(1, Fallback::Wait);
    bench.device.on_disconnected(bench.now, "gone".to_owned());
    bench.reconnect();
    bench.device.on_connected(bench.now, 0, small);
    bench.draft(6);
    bench.commit(2, 3);
    bench.draft(6);
    assert_eq!(bench.finished(), Some(&FinishReason::Length));
    // And where nothing can be said at all, that is said.
    bench.actions.clear();
    let prompt = Prompt { tokens: (1..=9).collect(), max_tokens: 50, ..Prompt::default() };
    bench.device.prompt(bench.now, prompt);
    bench.draft(6);
    let Some(FinishReason::Failed(sentence)) = bench.finished() else { panic!("{:?}", bench.actions) };
    assert!(sentence.contains("9 tokens") && sentence.contains("6 at most"), "{sentence}");
}
