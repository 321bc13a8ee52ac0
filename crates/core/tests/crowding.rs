//! Prompts that fill the KV cache, one after the other and without end, and somebody with short ones beside them.

#![allow(unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bench;

use std::time::Duration;

use bench::{Bench, MS, VOCAB, config};
use sled_core::Token;
use sled_core::device::Prompt;
use sled_core::message::{DraftBlock, Reply, Request, Turn};
use sled_core::sequence::Digest;
use sled_core::server::{Owner, Plan, ServerConfig, SessionId};

/// Tokens of each answer.
const ANSWER: usize = 2;

/// Somebody who asks again some time after each answer.
struct Client {
    owner: Owner,
    prompt: usize,
    /// From an answer to the next prompt.
    pause: Duration,
    /// Whether each prompt has a session of its own, of another owner, as a connection over HTTP.
    comes_anew: bool,
    id: Option<SessionId>,
    /// When it asks next; `None` while it waits for an answer.
    next: Option<Duration>,
    turn: Turn,
    asked: Duration,
    /// The longest that a first token took.
    longest: Duration,
    answers: usize,
}

impl Client {
    fn new(owner: u64, prompt: usize, pause: Duration, comes_anew: bool) -> Self {
        let (turn, asked, longest, answers) = (0, Duration::ZERO, Duration::ZERO, 0);
        let (owner, next) = (Owner(owner), Some(Duration::ZERO));
        Self { owner, prompt, pause, comes_anew, id: None, next, turn, asked, longest, answers }
    }

    fn ask(&mut self, bench: &mut Bench) {
        self.next = None;
        if self.comes_anew
            && let Some(id) = self.id.take()
        {
            bench.server.close(bench.now, id);
            self.owner = Owner(self.owner.0 + 1);
            self.turn = 0;
        }
        let id = *self.id.get_or_insert_with(|| bench.server.open(bench.now, self.owner).unwrap());
        self.turn += 1;
        self.asked = bench.now;
        // No text has the beginning of another.
        let mut state = u64::from(self.turn) << 32 | id.0;
        let tokens: Vec<Token> = (0..self.prompt)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                Token::try_from(state >> 40).unwrap() % VOCAB as Token
            })
            .collect();
        let built_on = Digest::EMPTY.then_all(&tokens);
        let until = self.prompt + ANSWER;
        let block = DraftBlock { turn: self.turn, from: self.prompt, built_on, tokens: Vec::new(), until };
        let prompt = Prompt { tokens, max_tokens: ANSWER, ..Prompt::default() };
        bench.server.request(bench.now, id, Request::Context(prompt.into_context(self.turn)));
        bench.server.request(bench.now, id, Request::Draft(block));
    }
}

/// Runs for `time`; the cache has room for one long text and a little.
fn run(clients: &mut [Client], time: Duration) {
    let config = ServerConfig { cells: 8_192, context: 8_192, sequences: 16, ..config() };
    let mut bench = Bench::new(config, 10 * MS, 2 * MS);
    while bench.now < time {
        let now = bench.now;
        for client in clients.iter_mut().filter(|client| client.next.is_some_and(|next| next <= now)) {
            client.ask(&mut bench);
        }
        let next = clients.iter().filter_map(|client| client.next).min();
        let mut step = match bench.server.plan(now) {
            Plan::Run(step) => step,
            Plan::Wait(until) => {
                bench.now = next.map_or(until, |next| next.min(until));
                continue;
            }
            Plan::Idle => {
                bench.now = next.expect("somebody waits for ever");
                continue;
            }
        };
        bench.now += bench.fixed + bench.row * step.rows.len() as u32;
        let logits = &bench.logits;
        let replies = bench.server.complete(bench.now, &mut step, |_| Ok::<_, ()>(logits.as_slice())).unwrap();
        for (id, reply) in replies {
            let client = clients.iter_mut().find(|client| client.id == Some(id)).unwrap();
            let Reply::Commit(commit) = reply else { panic!("{reply:?}") };
            if commit.end() == client.prompt + 1 {
                client.longest = client.longest.max(bench.now - client.asked);
            }
            if commit.end() == client.prompt + ANSWER {
                client.answers += 1;
                client.next = Some(bench.now + client.pause);
            }
        }
    }
    // Who still waits has waited so long at least.
    for client in clients.iter_mut().filter(|client| client.next.is_none()) {
        client.longest = client.longest.max(bench.now - client.asked);
    }
}

#[test]
fn short_prompts_do_not_wait_until_long_ones_have_left_the_cache() {
    for pause in [0, 10, 300, 5_000] {
        let pause = pause * MS;
        let mut clients: Vec<_> = (0..8).map(|i| Client::new(10 + i, 6_000, Duration::ZERO, false)).collect();
        clients.extend([Client::new(1, 40, pause, false), Client::new(1_000_000, 40, pause, true)]);
        run(&mut clients, Duration::from_secs(600));
        for client in &clients[8..] {
            assert!(
                client.longest < Duration::from_secs(3),
                "{pause:?}: {:?} waits for {:?}",
                client.owner,
                client.longest
            );
        }
        // A long one takes 12 s to read by itself: all of them come to their turns, and little is read twice.
        let answers: Vec<_> = clients[..8].iter().map(|client| client.answers).collect();
        assert!(
            answers.iter().all(|&answers| answers >= 2) && answers.iter().sum::<usize>() >= 25,
            "{pause:?}: {answers:?}"
        );
    }
}
