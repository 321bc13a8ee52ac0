//! A device by hand: what it does when nobody answers.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;
use std::time::Duration;

use sled_core::device::{
    Action, Ahead, Device, DeviceConfig, Fallback, FinishReason, Notice, Prompt, Provenance, Resilience, Terms, Ticket,
    Tuning,
};
use sled_core::message::{Commit, DraftBlock, Load, Reply, Request};
use sled_core::policy::{DraftPolicy, NextBlock, Policy, Travel};
use sled_core::sampler::Draft;
use sled_core::sequence::Digest;

/// A server that takes all that the device has.
const LARGE: Terms = Terms { context: 100, max_draft: 64 };

/// A device whose every draft is the token after the last, and which is connected to server 0 of `servers`.
struct Bench {
    device: Device,
    now: Duration,
    actions: Vec<Action>,
    /// A draft that was asked for and not made.
    asked: Option<Ticket>,
}

impl Bench {
    fn new(servers: usize, fallback: Fallback) -> Self {
        Self::start(Device::new(Self::config(servers, fallback)))
    }

    fn config(servers: usize, fallback: Fallback) -> DeviceConfig {
        DeviceConfig {
            policy: Some(Policy::Fixed { k: 3 }),
            ahead: Ahead::Blocks,
            context: 100,
            max_draft: 64,
            end_of_generation: Arc::from([]),
            resilience: Resilience { servers, fallback, fallback_after: 3, ..Resilience::default() },
            tuning: Tuning::DEFAULT,
        }
    }

    fn start(mut device: Device) -> Self {
        device.on_connected(Duration::ZERO, 0, LARGE);
        device.prompt(Duration::ZERO, Prompt { tokens: vec![1, 2], max_tokens: 50, ..Prompt::default() });
        let mut bench = Self { device, now: Duration::ZERO, actions: Vec::new(), asked: None };
        bench.draft(3);
        bench
    }

    /// Collects actions, and makes at most `drafts` drafts.
    fn draft(&mut self, mut drafts: usize) {
        if drafts > 0
            && let Some(ticket) = self.asked.take()
        {
            self.make(ticket);
        }
        while let Some(action) = self.device.poll() {
            match action {
                Action::Draft(ticket) if drafts > 0 => {
                    drafts -= 1;
                    self.make(ticket);
                }
                Action::Draft(ticket) => {
                    self.asked = Some(ticket);
                    self.actions.push(Action::Draft(ticket));
                }
                action => self.actions.push(action),
            }
        }
        self.device.check_invariants();
    }

    fn make(&mut self, ticket: Ticket) {
        let last = *self.device.context().tokens.last().unwrap();
        self.device.on_draft(self.now, ticket, Some(Draft { token: last + 1, confidence: 0.99 }));
    }

    /// Lets time pass until the device wants to be woken.
    fn wait(&mut self) {
        self.now = self.device.deadline().expect("the device waits for something");
        self.device.on_timer(self.now);
        self.draft(0);
    }

    /// Lets time pass until the device connects; to which server, and how long it took.
    fn reconnect(&mut self) -> (usize, Duration) {
        let began = self.now;
        for _ in 0..100 {
            let connect = self.actions.iter().find_map(|action| match action {
                Action::Connect(server) => Some(*server),
                _ => None,
            });
            if let Some(server) = connect {
                self.actions.clear();
                return (server, self.now - began);
            }
            self.wait();
        }
        panic!("it does not connect: {:?}", self.device);
    }

    /// The server of this index is busy for `after`.
    fn busy(&mut self, after: Duration) {
        self.device.on_busy(self.now, "the server is busy".to_owned(), after);
        self.draft(0);
    }

    /// The answer's tokens up to here are these, and the server commits one more than the device drafted.
    fn commit(&mut self, from: usize, accepted: usize) {
        let end = u32::try_from(from + accepted).unwrap() + 1;
        let all: Vec<u32> = (1..=end).collect();
        let commit = Commit {
            turn: 1,
            from,
            accepted,
            tokens: vec![end],
            digest: Digest::EMPTY.then_all(&all),
            rows: 1,
            unasked: false,
            logprobs: Vec::new(),
            load: Load::default(),
        };
        self.device.on_reply(self.now, Reply::Commit(commit));
    }

    fn finished(&self) -> Option<&FinishReason> {
        self.actions.iter().find_map(|action| match action {
            Action::Finish(reason) => Some(reason),
            _ => None,
        })
    }

    /// The blocks among what the device did since the last call.
    fn blocks(&mut self) -> Vec<DraftBlock> {
        let actions = std::mem::take(&mut self.actions).into_iter();
        actions
            .filter_map(|action| if let Action::Send(Request::Draft(block)) = action { Some(block) } else { None })
            .collect()
    }
}

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
