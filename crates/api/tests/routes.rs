//! Everything but chats, over real sockets: completions, models, tokens, keys, errors, the phases of the API's life.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use sled_api::backend::{Backend, Refusal};
use sled_api::{Api, Settings, router};
use support::client::{ask, get, post};
use support::vocabulary::{IM_END, THE, vocabulary};
use support::{Do, Fake, listen, say, serve};

const CHAT: &str = "/v1/chat/completions";
const TEXT: &str = "/v1/completions";

#[tokio::test]
async fn a_completion_continues_a_text_or_tokens() {
    let (address, fake) = serve(Fake::saying(" and the end")).await;
    for (prompt, tokens) in [
        (json!("the<|im_end|>"), vec![THE, IM_END]),
        (json!(["the"]), vec![THE]),
        (json!([THE, 1]), vec![THE, 1]),
        (json!([[THE, 2]]), vec![THE, 2]),
    ] {
        let answer = post(address, TEXT, &json!({ "prompt": prompt, "seed": 1 })).await.json();
        assert_eq!(fake.last_job().prompt, tokens);
        assert_eq!(answer["object"], "text_completion");
        assert!(answer["id"].as_str().unwrap().starts_with("cmpl-"));
        let choice = json!({ "index": 0, "text": " and the end", "logprobs": null, "finish_reason": "stop" });
        assert_eq!(answer["choices"], json!([choice]));
        assert_eq!((&answer["usage"]["completion_tokens"], &answer["sled"]["seed"]), (&json!(11), &json!(1)));
        assert_eq!(fake.last_job().max_tokens, 16, "OpenAI's default");
    }
}

#[tokio::test]
async fn a_completion_is_streamed() {
    let (address, _fake) = serve(Fake::saying("ö the")).await;
    let request = json!({ "prompt": "x", "stream": true, "stream_options": { "include_usage": true }, "logprobs": 1,
                          "sled": { "provenance": true } });
    let chunks = post(address, TEXT, &request).await.chunks();
    let texts: Vec<&str> = chunks.iter().filter_map(|chunk| chunk["choices"][0]["text"].as_str()).collect();
    assert_eq!(texts, ["ö", " ", "the", ""]);
    let offsets: Vec<&Value> =
        chunks.iter().filter_map(|chunk| chunk["choices"][0]["logprobs"]["text_offset"].as_array()).flatten().collect();
    assert_eq!(json!(offsets), json!([0, 0, 1, 2]));
    let [.., finish, usage] = chunks.as_slice() else { panic!("{chunks:?}") };
    assert_eq!(finish["choices"][0]["finish_reason"], "stop");
    assert_eq!((&usage["choices"], &usage["usage"]["completion_tokens"]), (&json!([]), &json!(5)));
}

#[tokio::test]
async fn a_completion_has_log_probabilities_in_their_old_shape() {
    let (address, fake) = serve(Fake::saying("the a")).await;
    let answer = post(address, TEXT, &json!({ "prompt": "x", "logprobs": 2 })).await.json();
    assert_eq!(fake.last_job().logprobs, Some(2));
    assert_eq!(
        answer["choices"][0]["logprobs"],
        json!({
            "tokens": ["the", " ", "a"],
            "token_logprobs": [-0.5, -0.5, -0.5],
            "top_logprobs": [
                { "\u{6}": -0.5, "\u{7}": -1.5, "the": -0.5 },
                { " ": -0.5, "!": -1.5 },
                { "a": -0.5, "b": -1.5 },
            ],
            "text_offset": [0, 3, 4],
        })
    );
    let answer = post(address, TEXT, &json!({ "prompt": "x", "logprobs": 0 })).await.json();
    assert_eq!(answer["choices"][0]["logprobs"]["top_logprobs"][0], json!({ "the": -0.5 }));
}

#[tokio::test]
async fn what_cannot_be_done_is_refused_with_a_sentence() {
    let (address, _fake) = serve(Fake::saying("ok")).await;
    let chat = |more: Value| {
        let mut request = json!({ "messages": [{ "role": "user", "content": "Hi" }] });
        request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        (CHAT, request)
    };
    let text = |more: Value| {
        let mut request = json!({ "prompt": "Hi" });
        request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        (TEXT, request)
    };
    let messages = |messages: Value| (CHAT, json!({ "messages": messages }));
    let tool = json!([{ "type": "function", "function": { "name": "f" } }]);
    let many: serde_json::Map<String, Value> = (0..1025).map(|token| (format!("{token}"), json!(1))).collect();
    let cases: Vec<((&str, Value), &str, &str)> = vec![
        (chat(json!({ "n": 2 })), "n", "only one answer"),
        (chat(json!({ "n": 0 })), "n", "only one answer"),
        (chat(json!({ "temperature": -0.1 })), "temperature", "between 0 and 100"),
        (chat(json!({ "temperature": "hot" })), "temperature", "invalid type: string \"hot\""),
        (chat(json!({ "top_p": 1.5 })), "top_p", "between 0 and 1"),
        (chat(json!({ "min_p": 2 })), "min_p", "between 0 and 1"),
        (chat(json!({ "repetition_penalty": 0 })), "repetition_penalty", "between"),
        (chat(json!({ "presence_penalty": 101 })), "presence_penalty", "between"),
        (chat(json!({ "frequency_penalty": -101 })), "frequency_penalty", "between"),
        (chat(json!({ "logit_bias": { "x": 1 } })), "logit_bias", "`x` is no token"),
        (chat(json!({ "logit_bias": { "263": 1 } })), "logit_bias", "has 263 tokens"),
        (chat(json!({ "logit_bias": { "1": 101 } })), "logit_bias", "between"),
        (chat(json!({ "logit_bias": many })), "logit_bias", "at most 1024"),
        (chat(json!({ "max_tokens": 0 })), "max_tokens", "at least one token"),
        (chat(json!({ "max_completion_tokens": 0 })), "max_completion_tokens", "at least one token"),
        (chat(json!({ "max_tokens": -1 })), "max_tokens", "invalid value"),
        (chat(json!({ "max_tokens": 1.5 })), "max_tokens", "invalid type"),
        (chat(json!({ "seed": "x" })), "seed", "invalid type"),
        (chat(json!({ "stop": 3 })), "stop", "expected a string or an array of strings"),
        (chat(json!({ "stop": vec!["x"; 17] })), "stop", "at most 16"),
        (chat(json!({ "stop": "x".repeat(1025) })), "stop", "1024 bytes"),
        (chat(json!({ "top_logprobs": 2 })), "top_logprobs", "needs logprobs"),
        (chat(json!({ "logprobs": true, "top_logprobs": 21 })), "top_logprobs", "at most 20"),
        (chat(json!({ "logprobs": 1 })), "logprobs", "invalid type"),
        (chat(json!({ "response_format": { "type": "xml" } })), "response_format.type", "`xml` is unknown"),
        (chat(json!({ "response_format": { "type": "json_schema" } })), "response_format.json_schema.schema", "schema"),
        (chat(json!({ "tools": [{ "type": "web" }] })), "tools[0].type", "describe a function"),
        (chat(json!({ "tools": [{ "type": "function" }] })), "tools[0].function", "missing"),
        (
            chat(json!({ "tools": [{ "type": "function", "function": { "name": "" } }] })),
            "tools[0].function.name",
            "needs a name",
        ),
        (chat(json!({ "tool_choice": "required" })), "tools", "there are none"),
        (chat(json!({ "tools": tool, "tool_choice": "perhaps" })), "tool_choice", "`perhaps` is unknown"),
        (chat(json!({ "tools": tool, "tool_choice": { "function": { "name": "g" } } })), "tool_choice", "called `g`"),
        (chat(json!({ "sled": { "mode": "device" } })), "sled.mode", "use sled or server"),
        (
            chat(json!({ "response_format": { "type": "text", "schema": { "type": "object" } } })),
            "response_format.type",
            "no schema",
        ),
        (
            chat(
                json!({ "response_format": { "type": "json_object", "schema": {}, "json_schema": { "schema": {} } } }),
            ),
            "response_format.schema",
            "two schemas",
        ),
        (
            chat(json!({ "response_format": { "type": "json_schema", "schema": { "uniqueItems": true } } })),
            "response_format",
            "uniqueItems",
        ),
        (
            chat(json!({ "response_format": { "type": "json_object", "schema": { "not": {} } } })),
            "response_format",
            "not",
        ),
        (chat(json!({ "response_format": { "type": "regex", "pattern": "a" } })), "response_format.type", "unknown"),
        (chat(json!({ "guided_json": { "type": "object" } })), "guided_json", "response_format"),
        (chat(json!({ "guided_regex": "a+" })), "guided_regex", "response_format"),
        (chat(json!({ "guided_choice": ["a"] })), "guided_choice", "response_format"),
        (chat(json!({ "structured_outputs": { "json": {} } })), "structured_outputs", "response_format"),
        (chat(json!({ "json_schema": { "type": "object" } })), "json_schema", "response_format"),
        (chat(json!({ "functions": [{ "name": "f" }] })), "functions", "use `tools`"),
        (chat(json!({ "function_call": "auto" })), "function_call", "use `tools`"),
        (chat(json!({ "stop_token_ids": [1] })), "stop_token_ids", "use `stop`"),
        (text(json!({ "grammar": "root ::= \"a\"" })), "grammar", "response_format"),
        (text(json!({ "ignore_eos": true })), "ignore_eos", "leave it out"),
        (text(json!({ "min_tokens": 5 })), "min_tokens", "leave it out"),
        (
            chat(json!({ "tools": tool, "tool_choice": { "type": "allowed_tools", "allowed_tools": {} } })),
            "tool_choice",
            "expected none, auto, required or a function",
        ),
        (messages(json!([])), "messages", "at least one"),
        (messages(json!("Hi")), "messages", "expected a sequence"),
        (messages(json!([{ "role": "king", "content": "Hi" }])), "messages[0].role", "`king` is unknown"),
        (messages(json!([{ "role": "user", "content": 3 }])), "messages[0].content", "expected a string or an array"),
        (
            messages(json!([{ "role": "user", "content": [{ "type": "image_url", "image_url": { "url": "x" } }] }])),
            "messages[0].content",
            "image_url are not supported",
        ),
        (messages(json!([{ "role": "user", "content": [{ "type": "text" }] }])), "messages[0].content", "needs a text"),
        (text(json!({ "echo": true })), "echo", "not supported"),
        (text(json!({ "suffix": "x" })), "suffix", "not supported"),
        (text(json!({ "best_of": 2 })), "best_of", "not supported"),
        (text(json!({ "logprobs": 21 })), "logprobs", "at most 20"),
        (text(json!({ "prompt": "" })), "prompt", "empty"),
        (text(json!({ "prompt": [] })), "prompt", "0 prompts"),
        (text(json!({ "prompt": ["a", "b"] })), "prompt", "2 prompts"),
        (text(json!({ "prompt": [263] })), "prompt", "no token 263"),
        (text(json!({ "prompt": { "a": 1 } })), "prompt", "expected a string or an array of tokens"),
        (("/tokenize", json!({})), "prompt", "nothing to tokenise"),
        (("/detokenize", json!({ "tokens": [263] })), "tokens", "no token 263"),
    ];
    for ((path, request), param, sentence) in cases {
        let answer = post(address, path, &request).await;
        let error = answer.json()["error"].clone();
        assert_eq!((answer.status, error["param"].as_str()), (400, Some(param)), "{request} {error}");
        assert_eq!(error["type"], "invalid_request_error");
        assert!(error["message"].as_str().unwrap().contains(sentence), "{request} {error}");
    }
    let harmless = [
        chat(json!({ "n": 1, "stop": [""], "tools": [], "tool_choice": "auto", "stream": null, "top_logprobs": 0 })),
        chat(json!({ "temperature": 0, "top_k": -1, "logit_bias": null, "response_format": null, "sled": {} })),
        text(json!({ "echo": false, "suffix": "", "best_of": 1, "user": "x" })),
        chat(
            json!({ "guided_json": null, "guided_choice": [ ], "grammar": "", "functions": [], "ignore_eos": false, "min_tokens": 0,
                     "structured_outputs": { }, "bad_words": [] }),
        ),
    ];
    for (path, request) in harmless {
        assert_eq!(post(address, path, &request).await.status, 200, "{request}");
    }
}

#[tokio::test]
async fn a_prompt_that_fills_the_context_is_refused() {
    let (address, fake) = serve(Fake::saying("ok")).await;
    let fits = post(address, TEXT, &json!({ "prompt": "x".repeat(support::CONTEXT - 1) })).await;
    assert_eq!((fits.status, fake.last_job().max_tokens), (200, 1));
    let answer = post(address, TEXT, &json!({ "prompt": "x".repeat(support::CONTEXT) })).await;
    assert_eq!((answer.status, answer.json()["error"]["code"].clone()), (400, json!("context_length_exceeded")));
}

#[tokio::test]
async fn bodies_that_are_no_json_are_refused() {
    let (address, _fake) = serve(Fake::saying("ok")).await;
    let nested = format!("{{\"prompt\": {}", "[".repeat(100_000));
    for body in [
        "",
        "{",
        "null",
        "[]",
        "{\"prompt\": \"x\"} y",
        "{\"prompt\": \"x\", \"temperature\": 1e60}",
        "\u{0}",
        nested.as_str(),
    ] {
        let answer = ask(address, "POST", TEXT, &[], body.as_bytes()).await;
        assert_eq!(answer.status, 400, "{body:.40}");
        assert_eq!(answer.json()["error"]["type"], "invalid_request_error");
    }
    let answer = ask(address, "POST", TEXT, &[], b"{\"prompt\": \"\xff\"}").await;
    assert_eq!(answer.status, 400);
}

#[tokio::test]
async fn paths_methods_and_sizes_are_refused_in_json() {
    let (address, _fake) = serve(Fake::saying("ok")).await;
    let refused = |answer: support::client::Answer| (answer.status, answer.json()["error"]["code"].clone());
    assert_eq!(refused(get(address, "/v1/nothing").await), (404, json!("not_found")));
    assert_eq!(refused(get(address, CHAT).await), (405, json!("method_not_allowed")));
    let large = json!({ "prompt": "x".repeat(5 << 20) });
    assert_eq!(refused(post(address, TEXT, &large).await), (413, json!("request_too_large")));
    let unknown = json!({ "model": "gpt-4o", "prompt": "x" });
    assert_eq!(refused(post(address, TEXT, &unknown).await), (404, json!("model_not_found")));
    assert_eq!(refused(get(address, "/v1/models/gpt-4o").await), (404, json!("model_not_found")));
}

#[tokio::test]
async fn what_the_backend_refuses_is_told() {
    let after = Duration::from_secs(7);
    let script = move |job: &sled_api::backend::Job| {
        Err(match job.prompt[0] {
            1 => Refusal::Busy { after },
            2 => Refusal::Invalid("the grammar is wrong; mend it".to_owned()),
            _ => Refusal::Closing,
        })
    };
    let (address, _fake) = serve(Fake::new(script)).await;
    let busy = post(address, TEXT, &json!({ "prompt": [1] })).await;
    assert_eq!((busy.status, busy.header("retry-after")), (429, Some("7")));
    assert_eq!(busy.json()["error"]["type"], "rate_limit_error");
    let invalid = post(address, TEXT, &json!({ "prompt": [2], "stream": true })).await;
    assert_eq!(
        (invalid.status, invalid.json()["error"]["message"].clone()),
        (400, json!("the grammar is wrong; mend it"))
    );
    assert_eq!(post(address, TEXT, &json!({ "prompt": [3] })).await.status, 503);
}

#[tokio::test]
async fn a_backend_that_ends_without_a_word_is_an_error() {
    let (address, _fake) = serve(Fake::new(|_job| Ok([say("x"), vec![Do::Vanish]].concat()))).await;
    let answer = post(address, TEXT, &json!({ "prompt": "x" })).await;
    assert_eq!((answer.status, answer.json()["error"]["type"].clone()), (500, json!("server_error")));
}

#[tokio::test]
async fn it_can_be_listened_to_before_and_after_it_serves() {
    let api = Api::new(Settings::default());
    let address = listen(&api).await;
    for path in ["/health", "/v1/models"] {
        let answer = get(address, path).await;
        assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
        assert_eq!(answer.json()["error"]["code"], "model_loading");
    }
    assert_eq!(post(address, TEXT, &json!({ "prompt": "x" })).await.status, 503);
    assert_eq!(get(address, "/metrics").await.status, 200);
    api.serve(Arc::new(Fake::saying("ok")) as Arc<dyn Backend>).unwrap();
    let health = get(address, "/health").await;
    assert_eq!((health.status, health.json()), (200, json!({ "status": "ok" })));
    assert_eq!(post(address, TEXT, &json!({ "prompt": "x" })).await.status, 200);
    api.close();
    let closed = get(address, "/health").await;
    assert_eq!((closed.status, closed.json()["error"]["code"].clone()), (503, json!("shutting_down")));
}

#[tokio::test]
async fn with_a_key_only_those_who_have_it_are_worked_for() {
    let api = Api::new(Settings { api_key: Some("secret".to_owned()), ..Settings::default() });
    api.serve(Arc::new(Fake::saying("ok")) as Arc<dyn Backend>).unwrap();
    let address = listen(&api).await;
    for path in ["/health", "/metrics", "/openapi.json"] {
        assert_eq!(get(address, path).await.status, 200, "{path}");
    }
    let request = json!({ "prompt": "x" }).to_string();
    for key in
        [None, Some("Bearer wrong!"), Some("Bearer secrets"), Some("Bearer "), Some("secret"), Some("Basic secret")]
    {
        let headers: Vec<(&str, &str)> = key.map(|key| ("authorization", key)).into_iter().collect();
        for (method, path) in [("POST", TEXT), ("GET", "/v1/models"), ("POST", "/tokenize"), ("POST", "/detokenize")] {
            let answer = ask(address, method, path, &headers, request.as_bytes()).await;
            assert_eq!(
                (answer.status, answer.json()["error"]["code"].clone()),
                (401, json!("invalid_api_key")),
                "{path} {key:?}"
            );
        }
    }
    let headers = [("authorization", "Bearer secret")];
    assert_eq!(ask(address, "POST", TEXT, &headers, request.as_bytes()).await.status, 200);
}

#[tokio::test]
async fn others_can_be_mounted_beside_it() {
    let api = Api::new(Settings { api_key: Some("secret".to_owned()), ..Settings::default() });
    let page = axum::Router::new().route("/", axum::routing::get(|| async { "page" }));
    let routes = router(&api, page);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, routes).await });
    assert_eq!(get(address, "/").await.body, "page");
    assert_eq!(get(address, "/nothing").await.status, 404);
    let figure = prometheus_client::metrics::counter::Counter::<u64>::default();
    api.register(|registry| registry.register("sled:mine", "Mine", figure.clone()));
    let metrics = get(address, "/metrics").await;
    assert!(metrics.body.contains("sled:mine_total 0"));
    assert!(!metrics.body.contains("spec_decode"), "a backend that does not draft has nothing to tell");
}

#[tokio::test]
async fn models_are_listed_and_known_by_their_aliases() {
    let api = Api::new(Settings { aliases: vec!["org/alias".to_owned()], ..Settings::default() });
    api.serve(Arc::new(Fake::saying("ok")) as Arc<dyn Backend>).unwrap();
    let address = listen(&api).await;
    let models = get(address, "/v1/models").await.json();
    let model = &models["data"][0];
    assert_eq!((&model["id"], &model["root"], &model["object"]), (&json!("fake-1"), &json!("fake-1"), &json!("model")));
    let about = json!({ "description": "a fake (of 1 parameter)", "drafter": "parrot", "drafter_description": "a parrot (1 kg)",
                        "modes": ["sled", "server"], "context": support::CONTEXT });
    assert_eq!(model["sled"], about);
    for path in ["/v1/models/fake-1", "/v1/models/org/alias"] {
        assert_eq!(get(address, path).await.json(), *model);
    }
    for model in [json!("org/alias"), json!("fake-1"), json!(""), json!(null)] {
        assert_eq!(post(address, TEXT, &json!({ "prompt": "x", "model": model })).await.status, 200);
    }
}

#[tokio::test]
async fn tokens_in_the_shapes_of_llama_server_and_of_vllm() {
    let (address, fake) = serve(Fake::saying("ok")).await;
    let tokenize = |request: Value| async move { post(address, "/tokenize", &request).await.json() };
    assert_eq!(tokenize(json!({ "content": "the!" })).await, json!({ "tokens": [THE, 33] }));
    assert_eq!(
        tokenize(json!({ "content": "theé", "with_pieces": true })).await,
        json!({ "tokens": [{ "id": THE, "piece": "the" }, { "id": 195, "piece": [195] }, { "id": 169, "piece": [169] }] })
    );
    assert_eq!(tokenize(json!({ "content": "<|im_end|>" })).await, json!({ "tokens": [IM_END] }));
    let plain = tokenize(json!({ "content": "<|im_end|>", "parse_special": false })).await;
    assert_eq!(plain["tokens"].as_array().unwrap().len(), 10);
    assert_eq!(
        tokenize(json!({ "model": "fake-1", "prompt": "the", "return_token_strs": true })).await,
        json!({ "count": 1, "max_model_len": support::CONTEXT, "tokens": [THE], "token_strs": ["the"] })
    );
    let messages = json!([{ "role": "user", "content": "Hi" }]);
    let chat = tokenize(json!({ "messages": messages })).await;
    post(address, CHAT, &json!({ "messages": messages })).await;
    assert_eq!(chat["tokens"], json!(fake.last_job().prompt));
    let shorter = tokenize(json!({ "messages": messages, "add_generation_prompt": false })).await;
    assert!(shorter["count"].as_u64() < chat["count"].as_u64());
    assert_eq!(
        post(address, "/detokenize", &json!({ "tokens": [THE, 195, 169, IM_END] })).await.json(),
        json!({ "content": "theé<|im_end|>", "prompt": "theé<|im_end|>" })
    );
}

#[tokio::test]
async fn a_model_without_a_template_completes_and_does_not_chat() {
    let (address, _fake) = serve(Fake::with(vocabulary(false), |_job| Ok(say("ok")))).await;
    let answer = post(address, CHAT, &json!({ "messages": [{ "role": "user", "content": "Hi" }] })).await;
    assert!(answer.status == 400 && answer.body.contains("/v1/completions"), "{answer:?}");
    assert_eq!(post(address, TEXT, &json!({ "prompt": "Hi" })).await.status, 200);
}

#[tokio::test]
async fn a_request_has_the_name_that_its_client_gave_it() {
    let (address, fake) = serve(Fake::saying("ok")).await;
    let body = json!({ "prompt": "x" }).to_string();
    let named = ask(address, "POST", TEXT, &[("x-request-id", "me-1")], body.as_bytes()).await;
    assert_eq!((named.header("x-request-id"), named.json()["id"].clone()), (Some("me-1"), json!("cmpl-me-1")));
    assert_eq!(fake.last_job().request_id, "me-1");
    let odd = ask(address, "POST", TEXT, &[("x-request-id", "me\t<1>")], body.as_bytes()).await;
    assert_eq!(odd.header("x-request-id").unwrap().len(), 16);
}

#[tokio::test]
async fn the_document_describes_every_route_and_parameter() {
    let (address, _fake) = serve(Fake::saying("ok")).await;
    let document = get(address, "/openapi.json").await.json();
    assert_eq!(document["openapi"], "3.1.0");
    let paths: Vec<&String> = document["paths"].as_object().unwrap().keys().collect();
    for path in [CHAT, TEXT, "/v1/models", "/tokenize", "/detokenize", "/health", "/metrics"] {
        assert!(paths.iter().any(|had| *had == path), "{path} is not among {paths:?}");
    }
    let schemas = document["components"]["schemas"].as_object().unwrap();
    for reference in document.to_string().split("#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(schemas.contains_key(name), "{name} is missing");
    }
    let body = document["components"]["schemas"]["ChatBody"].to_string();
    assert!(body.contains("allOf") || body.contains("messages"), "{body}");
}
