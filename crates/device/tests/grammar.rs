//! Grammars, log probabilities and names of requests over real sockets.

#![allow(unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::net::SocketAddr;
use std::ops::ControlFlow;

use sled_core::Token;
use sled_core::device::{Emitted, Fallback, Prompt, Resilience};
use sled_core::policy::Policy;
use sled_core::sampler::{Grammar, SamplingParams};
use sled_device::{Drafts, Error, RemoteServer, Session, SessionOptions};
use support::{VOCABULARY, compiler, drafter, expected, serve};

async fn open(address: SocketAddr, i: u32) -> Session {
    let options = SessionOptions {
        drafter: drafter(i).map(|drafter| (Drafts::own(drafter).unwrap(), Policy::Fixed { k: 4 })),
        grammars: (!i.is_multiple_of(4)).then(compiler),
        resilience: Resilience { fallback: Fallback::Error, fallback_after: 1, ..Resilience::default() },
        ..SessionOptions::new("test", VOCABULARY, &[0])
    };
    Session::open(&RemoteServer::connect(&address.to_string()).await.unwrap(), options).await.unwrap()
}

fn prompt(i: u32, grammar: Grammar) -> Prompt {
    let sampling =
        SamplingParams { temperature: 0.9, seed: u64::from(i), grammar: Some(grammar), ..SamplingParams::default() };
    Prompt {
        tokens: vec![1 + i, 5, 9],
        max_tokens: 40,
        sampling,
        logprobs: i.is_multiple_of(2).then_some(3),
        request_id: Some(format!("request-{i}")),
    }
}

fn text(tokens: &[Token]) -> String {
    tokens.iter().filter(|&&token| token != 0).map(|&token| char::from(b' ' + token as u8)).collect()
}

#[tokio::test]
async fn constrained_answers_are_the_targets_own_through_every_drafter() {
    let server = serve(4).await;
    for i in 0..8 {
        let mut session = open(server.address, i).await;
        // The session goes on with another grammar.
        for pattern in ["[A-C]{3,6}[0-9]{1,2}", "X(YZ)*[!?]"] {
            let asked = prompt(i, Grammar::regex(pattern));
            let mut emitted: Vec<Emitted> = Vec::new();
            let generation = session.generate(asked.clone(), |token| {
                emitted.push(token);
                ControlFlow::Continue(())
            });
            let tokens = generation.await.unwrap().tokens;
            let compiled = compiler().compile(&Grammar::regex(pattern)).unwrap();
            assert_eq!(tokens, expected(&prompt(i, compiled)), "device {i}");
            assert_eq!(tokens.last(), Some(&0), "an answer ends where its grammar does");
            assert!(text(&tokens).starts_with(['A', 'B', 'C', 'X']), "{}", text(&tokens));
            assert_eq!(emitted.iter().map(|emitted| emitted.token).collect::<Vec<_>>(), tokens);
            for Emitted { logprobs, .. } in emitted {
                assert_eq!(logprobs.map(|logprobs| logprobs.top.len()), asked.logprobs.map(usize::from));
            }
        }
    }
}

#[tokio::test]
async fn a_grammar_that_is_none_ends_its_session_with_a_sentence_and_no_other() {
    let server = serve(4).await;
    // A thin client compiles nothing: it is the server that refuses.
    for i in [0, 1] {
        let mut other = open(server.address, 2).await;
        let mut session = open(server.address, i).await;
        let Err(error) = session.generate(prompt(i, Grammar::regex("(((")), |_| ControlFlow::Continue(())).await else {
            panic!("device {i} is refused")
        };
        assert!(matches!((i, &error), (0, Error::Refused(_)) | (1, Error::Model(sled_model::Error::Grammar(_)))));
        let sentence = error.to_string();
        assert!(sentence.starts_with("the grammar cannot be used: ") && sentence.lines().count() == 1, "{sentence}");
        let answer =
            other.generate(prompt(2, Grammar::regex("[A-Z]{4}")), |_| ControlFlow::Continue(())).await.unwrap();
        assert_eq!(answer.tokens.len(), 5);
    }
    // So does a name that no log could show.
    let mut session = open(server.address, 4).await;
    let odd = Prompt { request_id: Some("a\nb".to_owned()), ..prompt(4, Grammar::json_object()) };
    let error = session.generate(odd, |_| ControlFlow::Continue(())).await.unwrap_err();
    assert!(error.to_string().contains("control characters"), "{error}");
}

/// Grammars of so many parts, each of which is in the one before.
fn deep(links: usize) -> Vec<Grammar> {
    let chain = |link: &dyn Fn(String) -> String| {
        let definitions: Vec<String> = (0..links)
            .map(|i| format!("\"d{i}\": {}", link(format!("{{\"$ref\": \"#/$defs/d{}\"}}", i + 1))))
            .collect();
        let definitions = definitions.join(", ");
        Grammar::json_schema(&format!(
            "{{\"$ref\": \"#/$defs/d0\", \"$defs\": {{{definitions}, \"d{links}\": {{\"type\": \"null\"}}}}}}"
        ))
    };
    let rules: String = (0..links).map(|i| format!("r{i}: \"A\" r{}\n", i + 1)).collect();
    let terminals: String = (0..links).map(|i| format!("T{i}: \"A\" T{}\n", i + 1)).collect();
    vec![
        chain(&|next| next),
        chain(&|next| format!("{{\"allOf\": [{next}]}}")),
        chain(&|next| format!("{{\"anyOf\": [{next}]}}")),
        chain(&|next| format!("{{\"oneOf\": [{next}]}}")),
        chain(&|next| format!("{{\"items\": {next}}}")),
        chain(&|next| format!("{{\"properties\": {{\"a\": {next}}}}}")),
        Grammar::lark(&format!("start: r0\n{rules}r{links}: \"B\"")),
        Grammar::lark(&format!("start: T0\n{terminals}T{links}: \"B\"")),
        Grammar::regex(&format!("{}A{}", "(".repeat(links), ")".repeat(links))),
    ]
}

#[tokio::test]
async fn a_grammar_that_is_too_deep_is_refused_by_server_and_device_and_harms_nobody() {
    let server = serve(4).await;
    let mut other = open(server.address, 2).await;
    for links in [300, 1000] {
        for grammar in deep(links) {
            // The thin client leaves it to the server; the other compiles it for its drafter.
            for i in [0, 1] {
                let mut session = open(server.address, i).await;
                let refused = session.generate(prompt(i, grammar.clone()), |_| ControlFlow::Continue(())).await;
                let sentence = refused.expect_err("it is too deep").to_string();
                assert!(sentence.contains("at most 128") && sentence.lines().count() == 1, "{sentence}");
            }
        }
        let answer =
            other.generate(prompt(2, Grammar::regex("[A-Z]{4}")), |_| ControlFlow::Continue(())).await.unwrap();
        assert_eq!(answer.tokens.len(), 5);
    }
}
