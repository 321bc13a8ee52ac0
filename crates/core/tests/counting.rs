//! What is counted of answers: each token and each answer once, whatever becomes of it.

#![allow(unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bench;

use std::sync::Arc;

use bench::{Bench, MS, OWNER, VOCAB, config};
use sled_core::Token;
use sled_core::device::Prompt;
use sled_core::message::{DraftBlock, Reply, Request};
use sled_core::sampler::{Constraint, Grammar, GrammarText, Matcher, SamplingParams, TokenSet};
use sled_core::sequence::Digest;
use sled_core::server::{Plan, SessionId};

/// A grammar that allows anything, and can be followed for three tokens.
struct Brief(TokenSet);

impl Constraint for Brief {
    fn matcher(self: Arc<Self>) -> Box<dyn Matcher> {
        Box::new(Self(self.0.clone()))
    }
}

impl Matcher for Brief {
    fn allowed(&mut self, generated: &[Token]) -> Result<&TokenSet, String> {
        if generated.len() < 3 { Ok(&self.0) } else { Err("it is too complex".to_owned()) }
    }
}

fn open(bench: &mut Bench, prompt: Prompt) -> SessionId {
    let id = bench.server.open(bench.now, OWNER).unwrap();
    let len = prompt.tokens.len();
    let decode = DraftBlock {
        turn: 1,
        from: len,
        built_on: Digest::EMPTY.then_all(&prompt.tokens),
        tokens: Vec::new(),
        until: len + prompt.max_tokens,
    };
    let context = Request::Context(prompt.into_context(1));
    assert_eq!(bench.server.request(bench.now, id, context), None);
    assert_eq!(bench.server.request(bench.now, id, Request::Draft(decode)), None);
    id
}

/// Runs passes until there is nothing to do; the replies.
fn run(bench: &mut Bench) -> Vec<Reply> {
    let mut replies = Vec::new();
    while let Plan::Run(mut step) = bench.server.plan(bench.now) {
        bench.now += MS;
        let logits = &bench.logits;
        let told = bench.server.complete(bench.now, &mut step, |_| Ok::<_, ()>(logits.as_slice())).unwrap();
        replies.extend(told.into_iter().map(|(_, reply)| reply));
    }
    replies
}

#[test]
fn an_answer_that_fails_counts_what_was_committed_of_it() {
    let mut bench = Bench::new(config(), MS, MS);
    let mut all = TokenSet::empty(VOCAB);
    assert!((0..VOCAB as Token).all(|token| all.insert(token)));
    let grammar = Grammar::compiled(GrammarText::JsonObject, Arc::new(Brief(all)));
    let sampling = SamplingParams { grammar: Some(grammar), ..SamplingParams::default() };
    let request_id = Some("failing".to_owned());
    open(&mut bench, Prompt { tokens: vec![1, 2, 3], max_tokens: 10, sampling, request_id, ..Prompt::default() });
    let replies = run(&mut bench);
    let commits = replies.iter().filter(|reply| matches!(reply, Reply::Commit(_))).count();
    assert!(matches!(replies.last(), Some(Reply::Failed(reason)) if reason.contains("too complex")), "{replies:?}");
    assert_eq!((commits, replies.len(), bench.server.totals().committed), (3, 4, 3));
    let answered = bench.server.take_answered();
    assert_eq!(answered.iter().map(|answer| answer.tally.committed).collect::<Vec<_>>(), [3]);
}

#[test]
fn an_answer_that_is_given_up_is_told_of_once() {
    let mut bench = Bench::new(config(), MS, MS);
    let request_id = Some("cancelled".to_owned());
    let id = open(&mut bench, Prompt { tokens: vec![1, 2, 3], max_tokens: 100, request_id, ..Prompt::default() });
    for _ in 0..5 {
        let Plan::Run(mut step) = bench.server.plan(bench.now) else { panic!("it decodes") };
        bench.now += MS;
        let logits = &bench.logits;
        bench.server.complete(bench.now, &mut step, |_| Ok::<_, ()>(logits.as_slice())).unwrap();
    }
    let committed = bench.server.totals().committed;
    // Its device says so, says so again, and leaves.
    for _ in 0..2 {
        assert_eq!(bench.server.request(bench.now, id, Request::Stop(1)), None);
    }
    bench.server.close(bench.now, id);
    bench.server.close(bench.now, id);
    let answered = bench.server.take_answered();
    assert_eq!(answered.iter().map(|answer| answer.tally.committed).collect::<Vec<_>>(), [committed]);
    assert!(committed > 0 && bench.server.take_answered().is_empty());
}

#[test]
fn an_answer_that_is_asked_for_again_is_committed_once() {
    let mut bench = Bench::new(config(), MS, MS);
    let prompt = Prompt { tokens: vec![1, 2, 3], max_tokens: 10, ..Prompt::default() };
    let id = open(&mut bench, prompt.clone());
    run(&mut bench);
    let before = (bench.server.totals().clone(), bench.server.status(bench.now).next().unwrap().tally);
    let built_on = Digest::EMPTY.then_all(&prompt.tokens);
    for _ in 0..20 {
        let again = DraftBlock { turn: 1, from: 3, built_on, tokens: Vec::new(), until: 13 };
        let reply = bench.server.request(bench.now, id, Request::Draft(again)).unwrap();
        assert!(reply.is_repeated(), "{reply:?}");
        let reply = bench.server.request(bench.now, id, Request::Context(prompt.clone().into_context(1))).unwrap();
        assert!(reply.is_repeated(), "{reply:?}");
    }
    assert!(run(&mut bench).is_empty());
    assert_eq!((bench.server.totals().clone(), bench.server.status(bench.now).next().unwrap().tally), before);
    assert_eq!(before.0.committed, 10);
}
