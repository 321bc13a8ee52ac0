//! Chats over real sockets: the shape of streams, text, stop strings, log probabilities, tools.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use serde_json::{Value, json};
use sled_api::backend::Mode;
use sled_core::sampler::{Grammar, GrammarText};
use support::client::{figure, get, post};
use support::vocabulary::{IM_START, TOOL_CALL};
use support::{Do, Fake, say, serve};

const CHAT: &str = "/v1/chat/completions";

fn question() -> Value {
    json!({ "model": "fake-1", "messages": [{ "role": "user", "content": "Hi" }] })
}

fn with(more: Value) -> Value {
    let mut request = question();
    request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    request
}

/// The text that the chunks have together.
fn content(chunks: &[Value]) -> String {
    chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str()).collect()
}

/// The text that the tokens have together.
fn told(chunks: &[Value]) -> String {
    let tokens = chunks.iter().filter_map(|chunk| chunk["sled"]["tokens"].as_array()).flatten();
    tokens.map(|token| token["text"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_stream_has_the_shape_that_clients_expect() {
    let (address, _fake) = serve(Fake::saying("Hello")).await;
    let answer =
        post(address, CHAT, &with(json!({ "stream": true, "stream_options": { "include_usage": true } }))).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), Some("text/event-stream"));
    let chunks = answer.chunks();
    assert!(chunks.iter().all(|chunk| chunk["id"] == chunks[0]["id"] && chunk["object"] == "chat.completion.chunk"));
    assert!(chunks[0]["id"].as_str().unwrap().starts_with("chatcmpl-"));
    assert_eq!(chunks[0]["choices"][0]["delta"], json!({ "role": "assistant", "content": null }));
    assert_eq!(content(&chunks), "Hello");
    let [.., finish, usage] = chunks.as_slice() else { panic!("{chunks:?}") };
    assert_eq!(finish["choices"][0]["finish_reason"], "stop");
    assert_eq!(finish["choices"][0]["delta"], json!({}));
    assert_eq!(finish["sled"]["mode"], "sled");
    assert_eq!(usage["choices"], json!([]));
    assert_eq!(usage["usage"]["completion_tokens"], 6);
    assert_eq!(usage["usage"]["prompt_tokens_details"]["cached_tokens"], 3);
    // Accepted, corrected, bonus, accepted, corrected, bonus: two verdicts on drafts, two of four drafts accepted.
    assert_eq!(
        usage["metrics"]["speculative_decoding"],
        json!({ "mean_acceptance_length": 2.0, "draft_acceptance_rate": 0.5, "acceptance_histogram": { "1": 2 },
                "num_spec_steps": 2, "num_accepted_draft_tokens": 2, "num_draft_tokens": 4 })
    );
    for chunk in &chunks[1..chunks.len() - 2] {
        assert_eq!(chunk["choices"][0]["finish_reason"], Value::Null);
        assert!(chunk.get("usage").is_none() && chunk.get("sled").is_none(), "{chunk}");
    }
}

#[tokio::test]
async fn without_usage_the_finishing_chunk_is_the_last() {
    let (address, _fake) = serve(Fake::saying("Hello")).await;
    let chunks = post(address, CHAT, &with(json!({ "stream": true }))).await.chunks();
    assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], "stop");
}

#[tokio::test]
async fn a_whole_answer_says_the_same_as_a_stream() {
    let text = "Grüße 🦀, the end";
    let (address, fake) = serve(Fake::saying(text)).await;
    let whole = post(address, CHAT, &with(json!({ "seed": 7 }))).await.json();
    assert_eq!(whole["object"], "chat.completion");
    assert_eq!(whole["choices"][0]["message"], json!({ "role": "assistant", "content": text, "refusal": null }));
    assert_eq!(whole["choices"][0]["finish_reason"], "stop");
    assert_eq!(whole["sled"]["seed"], 7);
    assert_eq!(whole["sled"]["round_trip_ms"], 40.0);
    assert_eq!(whole["sled"]["cached_prompt_tokens"], 3);
    assert_eq!(whole["sled"]["load"]["price"], 0.25);
    assert_eq!(whole["usage"]["total_tokens"].as_u64().unwrap(), (fake.last_job().prompt.len() as u64) + 20);
    let chunks = post(address, CHAT, &with(json!({ "stream": true }))).await.chunks();
    assert_eq!(content(&chunks), text);
    // A character of four bytes is four tokens, and never cut.
    assert!(chunks.iter().any(|chunk| chunk["choices"][0]["delta"]["content"] == "🦀"));
}

#[tokio::test]
async fn the_template_gets_the_messages() {
    let (address, fake) = serve(Fake::saying("ok")).await;
    let messages = json!([
        { "role": "developer", "content": "Be brief." },
        { "role": "user", "content": [{ "type": "text", "text": "a" }, { "type": "text", "text": "b" }] },
    ]);
    post(address, CHAT, &json!({ "messages": messages })).await;
    assert_eq!(
        fake.last_prompt(),
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\na\nb<|im_end|>\n<|im_start|>assistant\n"
    );
    assert_eq!(fake.last_job().prompt[0], IM_START);
}

#[tokio::test]
async fn parameters_reach_the_backend() {
    let (address, fake) = serve(Fake::saying("ok")).await;
    let request = with(json!({
        "max_tokens": 5, "max_completion_tokens": 3, "temperature": 0.5, "top_p": 0.9, "top_k": 40, "min_p": 0.05,
        "repetition_penalty": 1.1, "presence_penalty": 0.5, "frequency_penalty": -0.5, "logit_bias": { "5": -100, "7": 2.5 },
        "seed": 42, "user": "me", "metadata": { "a": 1 }, "sled": { "mode": "server" }, "unheard_of": [null],
    }));
    assert_eq!(post(address, CHAT, &request).await.status, 200);
    let job = fake.last_job();
    let sampling = job.sampling;
    assert_eq!((job.max_tokens, job.mode, job.logprobs, sampling.grammar.clone()), (3, Mode::Server, None, None));
    assert_eq!((sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p), (0.5, 0.9, 40, 0.05));
    assert_eq!((sampling.repetition_penalty, sampling.presence_penalty, sampling.frequency_penalty), (1.1, 0.5, -0.5));
    assert_eq!((sampling.logit_bias, sampling.seed), (vec![(5, -100.0), (7, 2.5)], 42));
}

#[tokio::test]
async fn without_a_seed_one_is_drawn_and_told() {
    let (address, fake) = serve(Fake::saying("ok")).await;
    let mut seeds = Vec::new();
    for request in [question(), question(), with(json!({ "seed": -1 })), with(json!({ "seed": null }))] {
        let answer = post(address, CHAT, &request).await.json();
        assert_eq!(answer["sled"]["seed"], fake.last_job().sampling.seed);
        assert_eq!(fake.last_job().sampling.temperature, 1.0);
        seeds.push(fake.last_job().sampling.seed);
    }
    seeds.sort_unstable();
    seeds.dedup();
    assert_eq!(seeds.len(), 4);
}

#[tokio::test]
async fn answers_end_at_the_limit_on_tokens_or_of_the_context() {
    let (address, fake) = serve(Fake::saying("the quick brown fox")).await;
    let answer = post(address, CHAT, &with(json!({ "max_tokens": 5 }))).await.json();
    assert_eq!(answer["choices"][0]["message"]["content"], "the qui");
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
    assert_eq!(answer["usage"]["completion_tokens"], 5);
    post(address, CHAT, &with(json!({ "max_tokens": 1_000_000 }))).await;
    assert_eq!(fake.last_job().max_tokens + fake.last_job().prompt.len(), support::CONTEXT);
}

#[tokio::test]
async fn a_stop_string_over_several_tokens_ends_the_answer_and_the_job() {
    let (address, fake) =
        serve(Fake::new(|_job| Ok([say("one E two END"), say(" three"), vec![Do::Hang]].concat()))).await;
    let request = with(json!({ "stop": ["END", "never"], "sled": { "provenance": true }, "logprobs": true }));
    let answer = post(address, CHAT, &request).await.json();
    assert_eq!(answer["choices"][0]["message"]["content"], "one E two ");
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    assert_eq!(answer["sled"]["tokens"].as_array().unwrap().len(), 10);
    assert_eq!(answer["choices"][0]["logprobs"]["content"].as_array().unwrap().len(), 10);
    // Of 13 tokens every third was accepted; what the backend went on to say counts for nothing.
    assert_eq!((&answer["usage"]["completion_tokens"], &answer["sled"]["accepted_tokens"]), (&json!(13), &json!(5)));
    let speculation = &answer["metrics"]["speculative_decoding"];
    assert_eq!((&speculation["num_accepted_draft_tokens"], &speculation["num_spec_steps"]), (&json!(5), &json!(5)));
    assert_eq!(speculation["mean_acceptance_length"], 2.0);
    assert_eq!(figure(address, "sled:spec_decode_num_accepted_tokens_total").await, Some(5.0));
    // The backend could still tell what it took.
    assert_eq!(answer["sled"]["round_trip_ms"], 40.0);
    assert_eq!(fake.cancelled.load(std::sync::atomic::Ordering::SeqCst), 1);

    let mut streamed = request;
    streamed["stream"] = json!(true);
    let chunks = post(address, CHAT, &streamed).await.chunks();
    assert_eq!((content(&chunks), told(&chunks)), ("one E two ".to_owned(), "one E two ".to_owned()));
}

#[tokio::test]
async fn provenance_is_told_token_by_token_and_adds_up_to_the_text() {
    let script = vec![
        Do::Say("a🦀".to_owned()),
        Do::Notice("the server is lost"),
        Do::Provisional(b'x'.into()),
        Do::Provisional(b'E'.into()),
        Do::Say("q".to_owned()),
        Do::Provisional(b'y'.into()),
    ];
    let (address, _fake) = serve(Fake::new(move |_job| Ok(script.clone()))).await;
    let request = with(json!({ "stop": "EN", "sled": { "provenance": true }, "stream": true, "logprobs": true }));
    let chunks = post(address, CHAT, &request).await.chunks();
    assert_eq!((content(&chunks).as_str(), told(&chunks).as_str()), ("a🦀xEqy", "a🦀xEqy"));
    assert!(chunks.iter().any(|chunk| chunk["sled"]["notice"] == "the server is lost"));
    let tokens: Vec<&Value> = chunks.iter().filter_map(|chunk| chunk["sled"]["tokens"].as_array()).flatten().collect();
    let provisional: Vec<usize> =
        (0..tokens.len()).filter(|&index| tokens[index]["provenance"] == "provisional").collect();
    let last = chunks.last().unwrap();
    assert_eq!(last["sled"]["provisional"], json!(provisional));
    assert_eq!((last["sled"]["provisional_tokens"].clone(), provisional), (json!(3), vec![5, 6, 8]));
    // What no target has seen has no log probability.
    let logprobs: Vec<&Value> =
        chunks.iter().filter_map(|chunk| chunk["choices"][0]["logprobs"]["content"].as_array()).flatten().collect();
    assert_eq!(logprobs.len(), tokens.len());
    assert!(logprobs[5]["logprob"].is_null() && logprobs[0]["logprob"] == -0.5);
    assert_eq!(support::client::figure(address, "sled:fallbacks_total").await, Some(2.0));
    assert_eq!(support::client::figure(address, "sled:provisional_tokens_total").await, Some(3.0));
}

#[tokio::test]
async fn log_probabilities_have_openais_shape() {
    let (address, fake) = serve(Fake::saying("the")).await;
    let answer = post(address, CHAT, &with(json!({ "logprobs": true, "top_logprobs": 2 }))).await.json();
    assert_eq!(fake.last_job().logprobs, Some(2));
    assert_eq!(
        answer["choices"][0]["logprobs"],
        json!({ "refusal": null, "content": [{
            "token": "the", "logprob": -0.5, "bytes": [116, 104, 101],
            "top_logprobs": [
                { "token": "\u{6}", "logprob": -0.5, "bytes": [6] },
                { "token": "\u{7}", "logprob": -1.5, "bytes": [7] },
            ],
        }] })
    );
    let answer = post(address, CHAT, &with(json!({ "logprobs": true }))).await.json();
    assert_eq!(answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"], json!([]));
    assert_eq!(post(address, CHAT, &question()).await.json()["choices"][0]["logprobs"], Value::Null);
}

fn tools() -> Value {
    json!([
        { "type": "function", "function": { "name": "weather", "description": "The weather.", "parameters": {
            "type": "object", "properties": { "city": { "type": "string" } }, "required": ["city"] } } },
        { "type": "function", "function": { "name": "time" } },
    ])
}

const CALLS: &str = "One moment.\n<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Köln\"}}\n</tool_call>\n\
                     <tool_call>\n{\"name\": \"time\", \"arguments\": {}}\n</tool_call>";

#[tokio::test]
async fn tool_calls_are_read_from_a_whole_answer() {
    let (address, fake) = serve(Fake::saying(CALLS)).await;
    let answer = post(address, CHAT, &with(json!({ "tools": tools() }))).await.json();
    let choice = &answer["choices"][0];
    assert_eq!(
        (&choice["finish_reason"], &choice["message"]["content"]),
        (&json!("tool_calls"), &json!("One moment."))
    );
    let calls = choice["message"]["tool_calls"].as_array().unwrap();
    assert_eq!(calls.len(), 2);
    assert_eq!(calls[0]["function"], json!({ "name": "weather", "arguments": "{\"city\": \"Köln\"}" }));
    assert_eq!(calls[1]["function"], json!({ "name": "time", "arguments": "{}" }));
    assert!(calls.iter().all(|call| call["type"] == "function" && call["id"].as_str().unwrap().starts_with("call_")));
    assert_ne!(calls[0]["id"], calls[1]["id"]);
    assert!(fake.last_prompt().contains(
        "{\"type\": \"function\", \"function\": {\"name\": \"weather\", \"description\": \"The weather.\", \"parameters\": \
         {\"type\": \"object\", \"properties\": {\"city\": {\"type\": \"string\"}}, \"required\": [\"city\"]}}}\n"
    ));
    assert!(fake.last_prompt().contains("<tool_call>") && fake.last_job().prompt.contains(&TOOL_CALL));
}

#[tokio::test]
async fn tool_calls_are_streamed_as_they_come() {
    let (address, _fake) = serve(Fake::saying(CALLS)).await;
    let request = with(json!({ "tools": tools(), "stream": true, "sled": { "provenance": true } }));
    let chunks = post(address, CHAT, &request).await.chunks();
    assert_eq!(content(&chunks), "One moment.");
    assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], "tool_calls");
    let deltas: Vec<&Value> =
        chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["tool_calls"].as_array()).flatten().collect();
    let begun: Vec<&&Value> = deltas.iter().filter(|delta| delta.get("id").is_some()).collect();
    assert_eq!(begun.len(), 2);
    assert_eq!(begun[1]["function"], json!({ "name": "time", "arguments": "" }));
    let arguments = |index: u64| -> String {
        let of_call = deltas.iter().filter(|delta| delta["index"] == index);
        of_call.map(|delta| delta["function"]["arguments"].as_str().unwrap()).collect()
    };
    assert_eq!((arguments(0).as_str(), arguments(1).as_str()), ("{\"city\": \"Köln\"}", "{}"));
    assert!(deltas.iter().filter(|delta| delta["index"] == 0).count() > 5, "the arguments come in pieces");
    assert_eq!(told(&chunks), CALLS);
}

#[tokio::test]
async fn what_tools_answered_goes_back_to_the_model() {
    let (address, fake) = serve(Fake::saying("It rains.")).await;
    let messages = json!([
        { "role": "user", "content": "Weather?" },
        { "role": "assistant", "content": null, "tool_calls": [
            { "id": "call_1", "type": "function", "function": { "name": "weather", "arguments": "{\"city\":\"Köln\"}" } }] },
        { "role": "tool", "tool_call_id": "call_1", "content": "rain" },
    ]);
    let answer = post(address, CHAT, &json!({ "messages": messages, "tools": tools() })).await.json();
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    assert!(fake.last_prompt().contains(
        "assistant\n\n<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Köln\"}}\n</tool_call><|im_end|>\n\
         <|im_start|>tool\nrain<|im_end|>"
    ));
}

#[tokio::test]
async fn calls_without_arguments_had_empty_ones() {
    let (address, fake) = serve(Fake::saying("ok")).await;
    for arguments in [json!(""), json!(" \n"), json!(null), json!("null"), json!("{}")] {
        let call = json!({ "id": "c", "type": "function", "function": { "name": "time", "arguments": arguments } });
        let messages = json!([{ "role": "user", "content": "When?" }, { "role": "assistant", "content": "", "tool_calls": [call] }]);
        assert_eq!(post(address, CHAT, &json!({ "messages": messages })).await.status, 200, "{arguments}");
        assert!(
            fake.last_prompt().contains("{\"name\": \"time\", \"arguments\": {}}"),
            "{arguments}: {}",
            fake.last_prompt()
        );
    }
}

#[tokio::test]
async fn the_tool_choice_decides_the_grammar() {
    let (address, fake) = serve(Fake::saying("ok")).await;
    let lark = |choice: Value| {
        let request = with(json!({ "tools": tools(), "tool_choice": choice }));
        let fake = &fake;
        async move {
            assert_eq!(post(address, CHAT, &request).await.status, 200);
            match fake.last_job().sampling.grammar.as_ref().map(Grammar::text) {
                Some(GrammarText::Lark(lark)) => Some(lark.clone()),
                None => None,
                other => panic!("{other:?}"),
            }
        }
    };
    assert_eq!(lark(json!("none")).await, None);
    assert!(!fake.last_prompt().contains("Tools"));
    assert!(lark(json!("auto")).await.unwrap().contains("TEXT"));
    let required = lark(json!("required")).await.unwrap();
    assert!(!required.contains("TEXT") && required.contains("weather") && required.contains("time"));
    let named = lark(json!({ "type": "function", "function": { "name": "time" } })).await.unwrap();
    assert!(!named.contains("weather") && named.contains("time"));
}

#[tokio::test]
async fn the_response_format_decides_the_grammar() {
    let (address, fake) = serve(Fake::saying("{}")).await;
    let schema = json!({ "type": "object", "properties": { "z": { "type": "integer" }, "a": {} } });
    let cases = [
        (json!({ "type": "text" }), None),
        (json!({ "type": "json_object" }), Some(Grammar::json_object())),
        (
            json!({ "type": "json_schema", "json_schema": { "name": "n", "strict": true, "schema": schema } }),
            Some(Grammar::json_schema("{\"type\":\"object\",\"properties\":{\"z\":{\"type\":\"integer\"},\"a\":{}}}")),
        ),
        (
            json!({ "type": "json_object", "schema": { "maxProperties": 1 } }),
            Some(Grammar::json_schema("{\"maxProperties\":1}")),
        ),
        (
            json!({ "type": "json_schema", "schema": { "maxProperties": 1 } }),
            Some(Grammar::json_schema("{\"maxProperties\":1}")),
        ),
        (
            json!({ "type": "json_object", "json_schema": { "schema": { "maxProperties": 1 } } }),
            Some(Grammar::json_schema("{\"maxProperties\":1}")),
        ),
    ];
    for (format, grammar) in cases {
        assert_eq!(post(address, CHAT, &with(json!({ "response_format": format }))).await.status, 200);
        assert_eq!(fake.last_job().sampling.grammar, grammar);
    }
}

#[tokio::test]
async fn an_error_in_the_middle_of_a_stream_is_told_in_it() {
    let (address, _fake) =
        serve(Fake::new(|_job| Ok([say("so far"), vec![Do::Fail("the server is lost; try again")]].concat()))).await;
    let chunks = post(address, CHAT, &with(json!({ "stream": true }))).await.chunks();
    assert_eq!(content(&chunks), "so far");
    assert_eq!(
        chunks.last().unwrap()["error"],
        json!({ "message": "the server is lost; try again", "type": "server_error", "param": null, "code": "generation_failed" })
    );
    let answer = post(address, CHAT, &question()).await;
    assert_eq!((answer.status, answer.json()["error"]["code"].clone()), (500, json!("generation_failed")));
}

#[tokio::test]
async fn requests_are_counted() {
    let (address, _fake) = serve(Fake::saying("Hello")).await;
    post(address, CHAT, &question()).await;
    post(address, CHAT, &with(json!({ "max_tokens": 2 }))).await;
    let text = get(address, "/metrics").await.body;
    for line in [
        "sled:request_success_total{finished_reason=\"stop\"} 1",
        "sled:request_success_total{finished_reason=\"length\"} 1",
        "sled:num_requests_running 0",
        "sled:num_requests_waiting 0",
        "sled:generation_tokens_total 8",
        "sled:time_to_first_token_seconds_count 2",
        "sled:inter_token_latency_seconds_count 6",
        "sled:e2e_request_latency_seconds_count 2",
        "sled:request_queue_time_seconds_count 2",
        "sled:spec_decode_num_drafts_total 3",
        "sled:spec_decode_num_draft_tokens_total 6",
        "sled:spec_decode_num_accepted_tokens_total 3",
        "sled:spec_decode_num_accepted_tokens_per_pos_total{position=\"0\"} 3",
    ] {
        assert!(text.lines().any(|had| had == line), "{line} is not in\n{text}");
    }
}
