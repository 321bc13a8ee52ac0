//! What the server's decisions cost beside the engine: planning a pass, and completing it.

#![allow(missing_docs, reason = "criterion's macros")]
#![allow(clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use sled_core::Token;
use sled_core::device::Prompt;
use sled_core::message::{DraftBlock, Reply, Request, Turn};
use sled_core::sequence::Sequence;
use sled_core::server::{Assist, Batching, Owner, Plan, Server, ServerConfig, SessionId, Tuning};

const VOCAB: usize = 8;
const CONTEXT: usize = 1024;

/// A text that has become longer begins anew.
const LONGEST: usize = 512;

/// The target always chooses this token, and the devices know it.
const RIGHT: Token = 1;

/// A server whose sessions all have three drafts for each pass, as far as they had an answer to the last.
struct Load {
    server: Server,
    texts: BTreeMap<SessionId, (Turn, Sequence)>,
    logits: Vec<f32>,
    now: Duration,
}

impl Load {
    fn new(sessions: usize) -> Self {
        let config = ServerConfig {
            vocab_size: VOCAB,
            cells: sessions * CONTEXT,
            sequences: sessions,
            rows: 512,
            context: CONTEXT,
            end_of_generation: Vec::new(),
            sessions,
            queue: sessions,
            batching: Batching::Continuous,
            assist: Assist::Auto,
            rate_goal: None,
            tuning: Tuning::default(),
        };
        let mut logits = vec![0.0; VOCAB];
        logits[RIGHT as usize] = 1.0;
        let mut load = Self { server: Server::new(config), texts: BTreeMap::new(), logits, now: Duration::ZERO };
        (1..=16).for_each(|rows| load.server.calibrate(rows, Duration::from_micros(20_000 + 100 * rows as u64)));
        for i in 0..sessions {
            let id = load.server.open(load.now, Owner(i as u64)).expect("there is room for all");
            load.begin(id, 1);
            load.draft(id);
        }
        // Until all prompts are read, and what passes cost and bring is known.
        for _ in 0..sessions / 20 + 100 {
            load.round();
        }
        load
    }

    fn begin(&mut self, id: SessionId, turn: Turn) {
        let tokens: Vec<Token> = (0..12).map(|i| (id.0 as u32 >> i) % VOCAB as u32).collect();
        self.texts.insert(id, (turn, Sequence::from_prompt(&tokens)));
        let prompt = Prompt { tokens, max_tokens: CONTEXT - 12, ..Prompt::default() };
        assert_eq!(self.server.request(self.now, id, Request::Context(prompt.into_context(turn))), None);
    }

    fn draft(&mut self, id: SessionId) {
        let (turn, text) = &self.texts[&id];
        let (from, built_on) = (text.len(), text.last_digest());
        let block = DraftBlock { turn: *turn, from, built_on, tokens: vec![RIGHT; 3], until: 0 };
        self.server.request(self.now, id, Request::Draft(block));
    }

    /// One pass: how long it took to plan and to complete.
    fn round(&mut self) -> (Duration, Duration) {
        let before = Instant::now();
        let plan = self.server.plan(self.now);
        let planned = before.elapsed();
        let mut step = match plan {
            Plan::Run(step) => step,
            Plan::Wait(until) => {
                self.now = until;
                return (planned, Duration::ZERO);
            }
            Plan::Idle => panic!("all sessions want something"),
        };
        self.now += Duration::from_micros(20_000 + 100 * step.rows.len() as u64);
        let before = Instant::now();
        let logits = &self.logits;
        let replies =
            self.server.complete(self.now, &mut step, |_| Ok::<_, ()>(logits.as_slice())).expect("all is there");
        let completed = before.elapsed();
        for (id, reply) in replies {
            let Reply::Commit(commit) = reply else { continue };
            let Some((turn, text)) = self.texts.get_mut(&id) else { continue };
            text.extend(&vec![RIGHT; commit.end() - text.len()]);
            if text.len() > LONGEST {
                let turn = *turn + 1;
                self.begin(id, turn);
            }
            self.draft(id);
        }
        (planned, completed)
    }
}

fn server(c: &mut Criterion) {
    for sessions in [64, 256, 10_000] {
        let mut load = Load::new(sessions);
        c.bench_function(&format!("plan/{sessions} sessions"), |b| {
            b.iter_custom(|rounds| (0..rounds).map(|_| load.round().0).sum());
        });
        c.bench_function(&format!("complete/{sessions} sessions"), |b| {
            b.iter_custom(|rounds| (0..rounds).map(|_| load.round().1).sum());
        });
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10).warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(2));
    targets = server
}
criterion_main!(benches);
