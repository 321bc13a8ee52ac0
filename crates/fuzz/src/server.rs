//! Sessions that send anything at all, against the server's state machine and a model that takes only what is right.

use std::time::Duration;

use sled_core::Token;
use sled_core::message::{ContextUpdate, DraftBlock, Reply, Request, Turn};
use sled_core::sampler::{Sampler, SamplingParams};
use sled_core::sequence::Digest;
use sled_core::server::{Assist, Owner, Plan, Server, ServerConfig, SessionId};
use sled_model::Model;
use sled_model::synthetic::{SyntheticConfig, SyntheticModel};
use sled_wire::Bounds;

use crate::bytes::Bytes;
use crate::wire::check_reply;

const MODEL: SyntheticConfig =
    SyntheticConfig { seed: 7, vocab_size: 12, order: 2, cells: 96, sequences: 3, rows: 8, context: 48 };
const BOUNDS: Bounds = Bounds { vocabulary_size: MODEL.vocab_size, context: MODEL.context, max_draft: 64 };
const END: [Token; 1] = [11];

/// Texts that are kept of a session, so that it can build on them.
const REMEMBERED: usize = 16;

/// Lets sessions do what `data` says.
///
/// # Panics
/// If a commit is not what the model says after one of the texts that the session sent; if a pass is more than the cache holds,
/// or not what the model takes; or if a reply does not fit on the wire.
pub fn server(data: &[u8]) {
    let mut bytes = Bytes::new(data);
    let mut bench = Bench::new(&mut bytes);
    while let Some(what) = bytes.next() {
        bench.now += Duration::from_millis(u64::from(what >> 4));
        match what % 8 {
            0 => bench.open(&mut bytes),
            1 => bench.close(&mut bytes),
            2 | 3 => bench.say(&mut bytes),
            4 => bench.pass(&mut bytes, true),
            _ => bench.pass(&mut bytes, false),
        }
        bench.server.check_invariants();
    }
    let sessions = std::mem::take(&mut bench.sessions);
    sessions.iter().for_each(|session| bench.server.close(bench.now, session.id));
    assert_eq!(bench.server.sessions(), 0);
}

/// A session, and what it has said.
struct Talker {
    id: SessionId,
    turn: Turn,
    texts: Vec<Text>,
}

/// A text that a session sent, whole.
struct Text {
    turn: Turn,
    tokens: Vec<Token>,
    sampling: SamplingParams,
}

struct Bench {
    server: Server,
    model: SyntheticModel,
    sessions: Vec<Talker>,
    now: Duration,
}

impl Bench {
    fn new(bytes: &mut Bytes<'_>) -> Self {
        let model = SyntheticModel::new(MODEL);
        let assist = [Assist::Auto, Assist::Never, Assist::Always][bytes.below(3)];
        let config = ServerConfig {
            sessions: 5,
            queue: 4,
            assist,
            rate_goal: (bytes.below(2) > 0).then_some(10.0),
            ..model.limits().server_config(END.to_vec())
        };
        Self { server: Server::new(config), model, sessions: Vec::new(), now: Duration::ZERO }
    }

    fn open(&mut self, bytes: &mut Bytes<'_>) {
        if let Ok(id) = self.server.open(self.now, Owner(bytes.below(3) as u64)) {
            self.sessions.push(Talker { id, turn: 0, texts: Vec::new() });
        }
    }

    fn close(&mut self, bytes: &mut Bytes<'_>) {
        if !self.sessions.is_empty() {
            let session = self.sessions.swap_remove(bytes.below(self.sessions.len()));
            self.server.close(self.now, session.id);
        }
    }

    fn say(&mut self, bytes: &mut Bytes<'_>) {
        if self.sessions.is_empty() {
            return;
        }
        let at = bytes.below(self.sessions.len());
        let session = &mut self.sessions[at];
        let request = session.request(bytes);
        if let Some(reply) = self.server.request(self.now, session.id, request) {
            session.hear(&self.model, &reply);
        }
    }

    /// Plans and runs a pass; one that `fails` does so before or after the model has taken it.
    fn pass(&mut self, bytes: &mut Bytes<'_>, fails: bool) {
        let Plan::Run(mut step) = self.server.plan(self.now) else { return };
        assert!(step.rows.len() <= MODEL.rows, "{} rows", step.rows.len());
        let (used, cells) = self.server.cells();
        assert!(used + step.rows.len() <= cells, "{used} cells and {} rows of {cells}", step.rows.len());
        for _ in 0..bytes.below(3) {
            self.say(bytes);
        }
        for &op in &step.cache_ops {
            self.model.apply(op).expect("cache operations are valid");
        }
        self.model.forward(&step.rows).expect("planned rows are valid");
        self.now += Duration::from_millis(5);
        let model = &self.model;
        let replies = if fails {
            self.server.fail(step, "a test")
        } else {
            self.server.complete(self.now, &mut step, |row| model.logits(row)).expect("logits were asked for")
        };
        for (id, reply) in replies {
            let Some(at) = self.sessions.iter().position(|session| session.id == id) else { continue };
            self.sessions[at].hear(&self.model, &reply);
            if matches!(reply, Reply::Closing(_) | Reply::Failed(_)) {
                let gone = self.sessions.swap_remove(at);
                self.server.close(self.now, gone.id);
            }
        }
    }
}

impl Talker {
    fn request(&mut self, bytes: &mut Bytes<'_>) -> Request {
        match bytes.below(8) {
            0 => Request::Stop(self.turn.saturating_sub(bytes.below(2) as Turn)),
            1 | 2 => self.context(bytes),
            _ => self.draft(bytes),
        }
    }

    /// A text that begins with a part of one that was sent before, or says so.
    fn context(&mut self, bytes: &mut Bytes<'_>) -> Request {
        self.turn += bytes.below(2) as Turn;
        let (mut whole, from, built_on) = self.prefix(bytes);
        let tokens = bytes.list(12, MODEL.vocab_size);
        whole.extend(&tokens);
        let temperature = if bytes.below(2) > 0 { 1.0 } else { 0.0 };
        let sampling = SamplingParams { temperature, seed: bytes.below(3) as u64, ..SamplingParams::default() };
        let update = ContextUpdate {
            turn: self.turn,
            from,
            built_on,
            tokens,
            prompt_len: bytes.below(whole.len() + 1),
            limit: bytes.below(64),
            sampling: sampling.clone(),
            logprobs: (bytes.below(3) == 0).then_some(2),
            request_id: (bytes.below(2) > 0).then(|| "a request".to_owned()),
        };
        if self.texts.len() == REMEMBERED {
            self.texts.remove(0);
        }
        self.texts.push(Text { turn: self.turn, tokens: whole, sampling });
        Request::Context(update)
    }

    fn draft(&self, bytes: &mut Bytes<'_>) -> Request {
        let (_, from, built_on) = self.prefix(bytes);
        let tokens = bytes.list(6, MODEL.vocab_size);
        let until = if bytes.below(3) == 0 { from + bytes.below(9) } else { 0 };
        Request::Draft(DraftBlock { turn: self.turn, from, built_on, tokens, until })
    }

    /// A prefix of what was sent or heard: its tokens, how long it is, and its digest, which may be a wrong one.
    fn prefix(&self, bytes: &mut Bytes<'_>) -> (Vec<Token>, usize, Digest) {
        let Some(text) = self.texts.len().checked_sub(1 + bytes.below(2)).and_then(|at| self.texts.get(at)) else {
            return (Vec::new(), 0, Digest::EMPTY);
        };
        let mut tokens = text.tokens.clone();
        tokens.truncate(tokens.len().saturating_sub(bytes.below(4)));
        let digest = if bytes.below(8) == 0 { Digest(bytes.wide()) } else { Digest::EMPTY.then_all(&tokens) };
        (tokens.clone(), tokens.len(), digest)
    }

    /// Checks what the server says, and goes on from it.
    fn hear(&mut self, model: &SyntheticModel, reply: &Reply) {
        check_reply(reply, &BOUNDS);
        let Reply::Commit(commit) = reply else { return };
        let said = |text: &Text| -> Option<Vec<Token>> {
            let more = commit.end().checked_sub(text.tokens.len())?;
            let sampler = Sampler::new(text.sampling.clone(), MODEL.vocab_size).ok()?;
            let mut whole = text.tokens.clone();
            whole.extend(model.generate(&sampler, &text.tokens, more, &END));
            (whole.len() == commit.end() && Digest::EMPTY.then_all(&whole) == commit.digest).then_some(whole)
        };
        // Texts that were forgotten cannot be checked against.
        let remembers_all = self.texts.len() < REMEMBERED;
        let of_turn = self.texts.iter_mut().filter(|text| text.turn == commit.turn);
        let mut right = of_turn.rev().filter_map(|text| said(text).map(|whole| (text, whole)));
        match right.next() {
            Some((text, whole)) => text.tokens = whole,
            None => assert!(!remembers_all, "{commit:?} is not what the model says"),
        }
    }
}
