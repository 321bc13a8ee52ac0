//! What strangers send to make the process end, hang or grow, over real sockets; others are answered beside it.

#![allow(unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::net::SocketAddr;

use serde_json::{Value, json};
use sled_core::Token;
use sled_model::vocabulary::{Tokenizer, Vocab, VocabInfo};
use support::client::post;
use support::parrot::parrot;
use support::vocabulary::{IM_END, made};
use support::{Fake, serve};

const CHAT: &str = "/v1/chat/completions";
const TEXT: &str = "/v1/completions";

fn hello() -> Value {
    json!([{ "role": "user", "content": "hello" }])
}

/// Schemas of so many definitions, each of which is in the one before.
fn chains(links: usize) -> Vec<Value> {
    let chain = |link: &dyn Fn(Value) -> Value| {
        let mut definitions = json!({});
        for i in 0..links {
            definitions[format!("d{i}")] = link(json!({ "$ref": format!("#/$defs/d{}", i + 1) }));
        }
        definitions[format!("d{links}")] = json!({ "type": "null" });
        json!({ "$defs": definitions, "$ref": "#/$defs/d0" })
    };
    let lists = ["allOf", "anyOf", "oneOf", "prefixItems"];
    let mut chains: Vec<Value> = lists.iter().map(|keyword| chain(&|next| json!({ *keyword: [next] }))).collect();
    chains.push(chain(&|next| next));
    chains.push(chain(&|next| json!({ "items": next })));
    chains.push(chain(&|next| json!({ "properties": { "a": next } })));
    chains.push(chain(&|next| json!({ "additionalProperties": next })));
    chains.push(chain(&|next| json!({ "patternProperties": { "a": next } })));
    chains
}

/// Whoever asks for something ordinary gets it.
async fn assert_well(address: SocketAddr) {
    let schema = json!({ "type": "json_schema", "json_schema": { "schema": { "$ref": "#/$defs/n", "$defs": { "n": { "type": "null" } } } } });
    let answer = post(address, CHAT, &json!({ "messages": hello(), "response_format": schema })).await;
    assert_eq!((answer.status, &answer.json()["choices"][0]["message"]["content"]), (200, &json!("null")));
}

/// The one sentence of a refusal.
fn refusal(answer: &support::client::Answer) -> String {
    assert_eq!(answer.status, 400, "{}", answer.body);
    let message = answer.json()["error"]["message"].as_str().unwrap().to_owned();
    assert!(message.lines().count() == 1 && message.len() < 700, "{message}");
    message
}

#[tokio::test]
async fn deep_schemas_are_refused_and_everybody_else_is_answered() {
    let (address, _fake) = serve(parrot()).await;
    for links in [300, 700, 1000] {
        for schema in chains(links) {
            let format = json!({ "type": "json_schema", "json_schema": { "schema": schema } });
            let chat = post(address, CHAT, &json!({ "messages": hello(), "response_format": format })).await;
            assert!(refusal(&chat).contains("at most 128"), "{}", chat.body);
            let text = post(address, TEXT, &json!({ "prompt": "the", "response_format": format })).await;
            assert!(refusal(&text).contains("at most 128"), "{}", text.body);
            let tools = json!([{ "type": "function", "function": { "name": "f", "parameters": schema } }]);
            let called = post(address, CHAT, &json!({ "messages": hello(), "tools": tools })).await;
            // The prompt spells the tools, and is too long for the context with some of them.
            assert!(["at most", "shorten"].iter().any(|reason| refusal(&called).contains(reason)));
        }
        assert_well(address).await;
    }
}

#[tokio::test]
async fn schemas_that_refer_to_themselves_are_no_deeper_for_it() {
    let (address, _fake) = serve(parrot()).await;
    let tree = json!({ "type": "object", "properties": { "left": { "$ref": "#" }, "right": { "$ref": "#" } } });
    let format = json!({ "type": "json_schema", "json_schema": { "schema": tree } });
    let answer = post(address, CHAT, &json!({ "messages": hello(), "response_format": format })).await;
    assert_eq!((answer.status, &answer.json()["choices"][0]["message"]["content"]), (200, &json!("{}")));
}

/// A vocabulary that needs a deep stack for long texts, as some of llama.cpp's do.
#[derive(Debug)]
struct Deep(Vocab);

impl Tokenizer for Deep {
    fn tokenize(&self, text: &str, add_special: bool, parse_special: bool) -> Result<Vec<Token>, sled_model::Error> {
        let on_a_worker = std::thread::current().name().is_some_and(|name| name.starts_with("sled-worker"));
        assert!(on_a_worker || text.len() < 100, "the stack of this thread is too small");
        self.0.tokenize(text, add_special, parse_special)
    }

    fn piece(&self, token: Token, special: bool) -> Vec<u8> {
        self.0.piece(token, special)
    }
}

#[tokio::test]
async fn a_long_run_of_one_character_is_tokenised_or_refused() {
    let vocab = made(None);
    let info = VocabInfo {
        size: vocab.size(),
        bos: None,
        eos: vocab.eos(),
        add_bos: false,
        eog_tokens: vocab.eog_tokens().to_vec(),
        chat_template: None,
        fingerprint: vocab.fingerprint(),
    };
    let deep = Vocab::new(info, Deep(vocab));
    let (address, _fake) = serve(Fake::with(deep, |_job| Ok(support::say("x")))).await;
    for sign in ["a", "1", " ", "!", "\n", "é", "語"] {
        let run = sign.repeat(40_000 / sign.len());
        let answer = post(address, "/tokenize", &json!({ "content": run })).await;
        assert_eq!(answer.status, 200, "{sign:?}: {}", answer.body);
        let tokens = answer.json()["tokens"].as_array().unwrap().len();
        assert!(tokens > 4096, "{sign:?}: {tokens}");
        let answer = post(address, TEXT, &json!({ "prompt": run })).await;
        assert!(refusal(&answer).contains("shorten the prompt"), "{}", answer.body);
    }
    let answer = post(address, TEXT, &json!({ "prompt": "the" })).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
}

#[tokio::test]
async fn a_text_that_cannot_fit_is_refused_before_it_is_tokenised() {
    let (address, _fake) = serve(parrot()).await;
    // The longest token has 12 bytes, and the context 4096 tokens.
    let (longest, longer) = ("a".repeat(12 * 4096), "a".repeat(12 * 4096 + 1));
    let answer = post(address, "/tokenize", &json!({ "content": longest })).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    for (path, request) in [
        ("/tokenize", json!({ "content": longer })),
        ("/tokenize", json!({ "prompt": longer })),
        ("/tokenize", json!({ "messages": [{ "role": "user", "content": longer }] })),
        (TEXT, json!({ "prompt": longer })),
        (CHAT, json!({ "messages": [{ "role": "user", "content": longer }] })),
    ] {
        let answer = post(address, path, &request).await;
        assert!(refusal(&answer).contains("too long"), "{path}: {}", answer.body);
        assert_eq!(answer.json()["error"]["code"], "context_length_exceeded");
    }
    assert_well(address).await;
}

#[tokio::test]
async fn chats_of_nothing_but_control_tokens_are_answered() {
    let (address, _fake) = serve(parrot()).await;
    let names = "<|im_end|>".repeat(4000);
    let answer = post(address, "/tokenize", &json!({ "content": names })).await;
    assert_eq!(answer.json(), json!({ "tokens": vec![IM_END; 4000] }));
    let mut messages = vec![json!({ "role": "user", "content": "" }); 60_000];
    let answer = post(address, CHAT, &json!({ "messages": messages })).await;
    assert!(refusal(&answer).contains("shorten"), "{}", answer.body);
    messages.resize(135_000, json!({ "role": "user", "content": "" }));
    let answer = post(address, CHAT, &json!({ "messages": messages })).await;
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (413, &json!("request_too_large")));
    assert_well(address).await;
}

#[tokio::test]
async fn a_template_that_is_none_disables_chats_and_nothing_else() {
    for template in ["{% if %}", "{% for %}{{", "{{ messages | nonsense }}", "{{ nonsense() }}"] {
        let (address, _fake) = serve(Fake::with(made(Some(template)), |_job| Ok(support::say("x")))).await;
        let chat = post(address, CHAT, &json!({ "messages": hello() })).await;
        let sentence = refusal(&chat);
        assert!(sentence.starts_with("the model's chat template cannot be used: "), "{sentence}");
        let tokens = post(address, "/tokenize", &json!({ "messages": hello() })).await;
        assert_eq!(refusal(&tokens), sentence);
        let text = post(address, TEXT, &json!({ "prompt": "the" })).await;
        assert_eq!(text.status, 200, "{}", text.body);
    }
}

#[tokio::test]
async fn a_template_that_does_harm_is_stopped_in_one_sentence() {
    for template in [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 'a' * 3000000000 }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    ] {
        let (address, _fake) = serve(Fake::with(made(Some(template)), |_job| Ok(support::say("x")))).await;
        let chat = post(address, CHAT, &json!({ "messages": hello() })).await;
        let sentence = refusal(&chat);
        assert!(sentence.starts_with("the model's chat template cannot be used: "), "{sentence}");
        let text = post(address, TEXT, &json!({ "prompt": "the" })).await;
        assert_eq!(text.status, 200, "{}", text.body);
    }
}
