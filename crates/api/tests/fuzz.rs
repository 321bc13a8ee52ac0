//! Whatever a client sends, it is not the server that fails.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::collections::BTreeSet;
use std::net::SocketAddr;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};
use support::client::{ask, get};
use support::{Fake, serve};

/// Requests that are right.
fn requests() -> Vec<(&'static str, Value)> {
    let tool = json!({ "type": "function", "function": { "name": "f", "description": "d", "parameters": {
        "type": "object", "properties": { "x": { "type": "integer" } } } } });
    let call = json!({ "id": "c", "type": "function", "function": { "name": "f", "arguments": "{\"x\": 1}" } });
    vec![
        (
            "/v1/chat/completions",
            json!({
                "model": "fake-1", "messages": [
                    { "role": "system", "content": "Be brief." },
                    { "role": "user", "content": [{ "type": "text", "text": "Hi" }] },
                    { "role": "assistant", "content": null, "tool_calls": [call] },
                    { "role": "tool", "tool_call_id": "c", "content": "2" },
                ],
                "tools": [tool], "tool_choice": "auto", "parallel_tool_calls": true, "max_tokens": 4, "temperature": 0.7,
                "top_p": 0.9, "top_k": 10, "min_p": 0.1, "repetition_penalty": 1.1, "presence_penalty": 0.1,
                "frequency_penalty": 0.1, "logit_bias": { "1": 2 }, "seed": 1, "stop": ["x"], "n": 1, "stream": false,
                "stream_options": { "include_usage": true }, "logprobs": true, "top_logprobs": 2,
                "response_format": { "type": "json_schema", "json_schema": { "name": "s", "schema": { "type": "object" } } },
                "chat_template_kwargs": { "a": 1 }, "sled": { "mode": "sled", "provenance": true },
            }),
        ),
        (
            "/v1/completions",
            json!({ "model": "fake-1", "prompt": "Hi", "max_tokens": 4, "logprobs": 2, "echo": false, "suffix": "",
                    "best_of": 1, "stop": "x", "stream": true, "seed": 1 }),
        ),
        (
            "/tokenize",
            json!({ "content": "Hi", "add_special": true, "parse_special": true, "with_pieces": true,
                    "return_token_strs": true }),
        ),
        ("/tokenize", json!({ "messages": [{ "role": "user", "content": "Hi" }], "add_generation_prompt": true })),
        ("/detokenize", json!({ "model": "fake-1", "tokens": [1, 200, 262] })),
    ]
}

/// Any JSON.
fn anything() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (-3i64..300).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (-2.0..2.0f64).prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        select(vec![
            "auto",
            "none",
            "required",
            "text",
            "json_object",
            "json_schema",
            "function",
            "user",
            "tool",
            "\u{0}",
            "<tool_call>"
        ])
        .prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            btree_map("[a-z_]{1,8}", inner, 0..4).prop_map(|map| json!(map))
        ]
    })
}

/// What is done to a request.
#[derive(Clone, Debug)]
enum Mutation {
    Replace(Index, Value),
    Remove(Index),
    Insert(Index, String, Value),
}

fn mutation(names: Vec<String>) -> impl Strategy<Value = Mutation> {
    prop_oneof![
        3 => (any::<Index>(), anything()).prop_map(|(at, value)| Mutation::Replace(at, value)),
        1 => any::<Index>().prop_map(Mutation::Remove),
        2 => (any::<Index>(), select(names), anything()).prop_map(|(at, name, value)| Mutation::Insert(at, name, value)),
    ]
}

/// The places of all values in `value`.
fn places(value: &Value, at: &str, all: &mut Vec<String>) {
    all.push(at.to_owned());
    match value {
        Value::Array(list) => list.iter().enumerate().for_each(|(i, inner)| places(inner, &format!("{at}/{i}"), all)),
        Value::Object(map) => map.iter().for_each(|(key, inner)| places(inner, &format!("{at}/{key}"), all)),
        _ => {}
    }
}

fn apply(request: &mut Value, mutation: &Mutation) {
    let mut all = Vec::new();
    places(request, "", &mut all);
    match mutation {
        Mutation::Replace(at, value) => *request.pointer_mut(at.get(&all).as_str()).unwrap() = value.clone(),
        Mutation::Remove(at) => {
            let Some((parent, key)) = at.get(&all).rsplit_once('/') else { return };
            match request.pointer_mut(parent).unwrap() {
                Value::Object(map) => drop(map.remove(key)),
                Value::Array(list) => drop(list.remove(key.parse().unwrap())),
                _ => {}
            }
        }
        Mutation::Insert(at, name, value) => {
            if let Value::Object(map) = request.pointer_mut(at.get(&all).as_str()).unwrap() {
                map.insert(name.clone(), value.clone());
            }
        }
    }
}

/// The names of all properties in a schema.
fn properties(schema: &Value, names: &mut BTreeSet<String>) {
    if let Some(map) = schema["properties"].as_object() {
        names.extend(map.keys().cloned());
    }
    match schema {
        Value::Array(list) => list.iter().for_each(|inner| properties(inner, names)),
        Value::Object(map) => map.values().for_each(|inner| properties(inner, names)),
        _ => {}
    }
}

async fn check(address: SocketAddr, path: &str, body: &[u8]) -> Result<(), TestCaseError> {
    let answer = ask(address, "POST", path, &[], body).await;
    prop_assert!(answer.status < 500, "{} {}", answer.status, answer.body);
    prop_assert!(!answer.body.contains("server_error"), "{}", answer.body);
    if answer.status != 200 {
        let error = &answer.json()["error"];
        prop_assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{error}");
    }
    Ok(())
}

#[test]
fn no_body_makes_the_server_fail() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (address, fake) = runtime.block_on(serve(Fake::saying("ok")));
    let document = runtime.block_on(get(address, "/openapi.json")).json();
    let mut names = BTreeSet::new();
    properties(&document, &mut names);
    assert!(names.len() > 60, "{names:?}");
    let mutations = vec(mutation(names.into_iter().collect()), 0..4);
    let cases = 2000;
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let strategy = (select(requests()), mutations);
    let run = runner.run(&strategy, |((path, mut request), mutations)| {
        mutations.iter().for_each(|mutation| apply(&mut request, mutation));
        runtime.block_on(check(address, path, request.to_string().as_bytes()))
    });
    run.unwrap();
    // Most requests are refused, but not all are.
    let answered = fake.jobs.lock().unwrap().len();
    assert!(answered > cases as usize / 10, "{answered} of {cases} were answered");
}

#[test]
fn no_bytes_make_the_server_fail() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (address, _fake) = runtime.block_on(serve(Fake::saying("ok")));
    let mut runner = TestRunner::new(Config { cases: 500, failure_persistence: None, ..Config::default() });
    let strategy = (select(requests()), vec((any::<Index>(), any::<u8>()), 0..6), any::<Option<Index>>());
    let run = runner.run(&strategy, |((path, request), changes, cut)| {
        let mut body = request.to_string().into_bytes();
        for (at, byte) in changes {
            let at = at.index(body.len());
            body[at] = byte;
        }
        if let Some(cut) = cut {
            body.truncate(cut.index(body.len()));
        }
        runtime.block_on(check(address, path, &body))
    });
    run.unwrap();
}
