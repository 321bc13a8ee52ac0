//! A server by hand, with an engine of known cost and a target that always chooses the same.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::collections::BTreeMap;
use std::time::Duration;

use sled_core::Token;
use sled_core::device::Prompt;
use sled_core::message::{Commit, DraftBlock, MAX_UNHEARD, Reply, Request};
use sled_core::sequence::Sequence;
use sled_core::server::{Assist, Batching, Owner, Plan, Server, ServerConfig, SessionId, Step, Tuning};

pub const VOCAB: usize = 8;
pub const MS: Duration = Duration::from_millis(1);

/// The target always chooses this token.
pub const RIGHT: Token = 1;
pub const WRONG: Token = 2;

pub const OWNER: Owner = Owner(1);

pub fn config() -> ServerConfig {
    ServerConfig {
        vocab_size: VOCAB,
        cells: 100_000,
        sequences: 64,
        rows: 512,
        context: 4_000,
        end_of_generation: Vec::new(),
        sessions: 1_000,
        queue: 1_000,
        batching: Batching::Continuous,
        assist: Assist::Auto,
        rate_goal: None,
        tuning: Tuning::default(),
    }
}

/// A server, an engine whose passes take `fixed + row * rows`, and what each device has.
pub struct Bench {
    pub server: Server,
    pub now: Duration,
    pub fixed: Duration,
    pub row: Duration,
    pub texts: BTreeMap<SessionId, Sequence>,
    /// The devices that let the server decode, and how many tokens they had when they last said so.
    pub thin: BTreeMap<SessionId, usize>,
    pub commits: Vec<(SessionId, Commit)>,
    pub logits: Vec<f32>,
}

impl Bench {
    pub fn new(config: ServerConfig, fixed: Duration, row: Duration) -> Self {
        let mut server = Server::new(config);
        for rows in [1, 2, 4, 8, 16, 1, 2, 4, 8, 16] {
            server.calibrate(rows, fixed + row * rows as u32);
        }
        let mut logits = vec![0.0; VOCAB];
        logits[RIGHT as usize] = 1.0;
        Self {
            server,
            now: Duration::ZERO,
            fixed,
            row,
            texts: BTreeMap::new(),
            thin: BTreeMap::new(),
            commits: Vec::new(),
            logits,
        }
    }

    pub fn open(&mut self, prompt: &[Token]) -> SessionId {
        self.open_as(OWNER, prompt)
    }

    pub fn open_as(&mut self, owner: Owner, prompt: &[Token]) -> SessionId {
        let id = self.server.open(self.now, owner).unwrap();
        let update =
            Prompt { tokens: prompt.to_vec(), max_tokens: 4_000 - prompt.len(), ..Prompt::default() }.into_context(1);
        assert_eq!(self.server.request(self.now, id, Request::Context(update)), None);
        self.texts.insert(id, Sequence::from_prompt(prompt));
        id
    }

    /// A device that lets the server decode.
    pub fn open_thin(&mut self, prompt: &[Token]) -> SessionId {
        let id = self.open(prompt);
        self.draft(id, &[], 4_000);
        self.thin.insert(id, prompt.len());
        id
    }

    /// What a device sends that proposes `tokens` after what it has.
    pub fn block(&self, id: SessionId, tokens: &[Token], until: usize) -> DraftBlock {
        let text = &self.texts[&id];
        DraftBlock { turn: 1, from: text.len(), built_on: text.last_digest(), tokens: tokens.to_vec(), until }
    }

    pub fn draft(&mut self, id: SessionId, tokens: &[Token], until: usize) {
        let block = self.block(id, tokens, until);
        self.server.request(self.now, id, Request::Draft(block));
        self.server.check_invariants();
    }

    pub fn plan(&mut self) -> Option<Step> {
        let plan = self.server.plan(self.now);
        self.server.check_invariants();
        match plan {
            Plan::Run(step) => Some(step),
            Plan::Wait(_) | Plan::Idle => None,
        }
    }

    pub fn complete(&mut self, mut step: Step) -> Vec<(SessionId, Commit)> {
        let (used, cells) = self.server.cells();
        assert!(used + step.rows.len() <= cells);
        self.now += self.fixed + self.row * step.rows.len() as u32;
        let logits = &self.logits;
        let replies = self.server.complete(self.now, &mut step, |_| Ok::<_, ()>(logits.as_slice())).unwrap();
        self.deliver(replies)
    }

    pub fn deliver(&mut self, replies: Vec<(SessionId, Reply)>) -> Vec<(SessionId, Commit)> {
        self.server.check_invariants();
        let mut commits = Vec::new();
        for (id, reply) in replies {
            let Reply::Commit(commit) = reply else { continue };
            let text = self.texts.get_mut(&id).unwrap();
            while text.len() < commit.end() {
                text.push(RIGHT);
            }
            assert_eq!(text.last_digest(), commit.digest);
            commits.push((id, commit));
            let len = text.len();
            if let Some(told) = self.thin.get_mut(&id).filter(|told| len > **told + MAX_UNHEARD / 2) {
                *told = len;
                self.draft(id, &[], 4_000);
            }
        }
        self.commits.extend(commits.iter().cloned());
        commits
    }

    /// One pass, if one is due now.
    pub fn step(&mut self) -> Vec<(SessionId, Commit)> {
        match self.plan() {
            Some(step) => self.complete(step),
            None => Vec::new(),
        }
    }

    pub fn tokens(&self, id: SessionId) -> usize {
        self.texts[&id].len() - self.texts[&id].prompt_len()
    }
}
