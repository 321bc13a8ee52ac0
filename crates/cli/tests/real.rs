//! Real models, real processes, real sockets. The files come from `make test`, which names them in SLED_TEST_*.

#![allow(unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

mod support;

use std::io::Read;
use std::ops::ControlFlow;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sled_core::Token;
use sled_core::device::{Fallback, Prompt, Resilience};
use sled_core::policy::Policy;
use sled_core::sampler::{Context, Grammar, Sampler, SamplingParams};
use sled_device::{Drafts, RemoteServer, Session, SessionOptions, Vocabularies};
use sled_llama::{LlamaModel, LoadOptions, load_vocabulary};
use sled_model::Model;
use sled_model::chat::{ChatTemplate, Message};
use sled_model::drafter::{Drafter, ModelDrafter};
use sled_model::grammar::Compiler;
use sled_model::ngram::NgramDrafter;
use sled_model::reference;
use sled_model::vocabulary::Vocab;
use support::{NEAR_TIE_F32, Server, assert_near_ties, engine, file, smollm2_f32};

const PROMPTS: [&str; 10] = [
    "What is the capital of France?",
    "Write a Python function that adds two numbers.",
    "Repeat three times: the cat sat on the mat.",
    "Explain what a queue is.",
    "Translate to Spanish: good morning.",
    "Write a limerick about a robot.",
    "List the first ten even numbers.",
    "Fix the bug: def f(x) return x+1",
    "Why is the sky blue?",
    "Summarise in one sentence: rivers flow from mountains to the sea.",
];

/// By how many logits a committed token of a quantised model may miss the choice of a one-by-one evaluation. Evaluations of
/// the same token in different batches differ by up to 0.5, and a tie is between two tokens.
const NEAR_TIE: f32 = 1.0;

fn chat(vocab: &Vocab, text: &str) -> Vec<Token> {
    let template = ChatTemplate::new(vocab.chat_template().unwrap(), "", "").unwrap();
    let text = template.render(&[Message { role: "user".into(), content: text.into() }], true).unwrap();
    vocab.tokenize(&text, false, true).unwrap()
}

fn sampling(temperature: f32) -> SamplingParams {
    SamplingParams { temperature, top_p: if temperature > 0.0 { 0.95 } else { 1.0 }, seed: 42, ..Default::default() }
}

async fn session(url: &str, vocab: &Vocab, drafter: Option<Box<dyn Drafter>>) -> Session {
    let options = SessionOptions {
        drafter: drafter.map(|drafter| (Drafts::own(drafter).unwrap(), Policy::default())),
        resilience: Resilience { fallback: Fallback::Wait, ..Resilience::default() },
        ..SessionOptions::new("test", vocab.fingerprint(), vocab.eog_tokens())
    };
    Session::open(&RemoteServer::connect(url).await.unwrap(), options).await.unwrap()
}

async fn generate(session: &mut Session, tokens: Vec<Token>, max_tokens: usize, temperature: f32) -> Vec<Token> {
    let prompt = Prompt { tokens, max_tokens, sampling: sampling(temperature), ..Prompt::default() };
    session.generate(prompt, |_| ControlFlow::Continue(())).await.unwrap().tokens
}

type Drafters = [Option<Box<dyn Drafter>>; 3];

fn drafters(draft: &LlamaModel) -> Drafters {
    [Some(Box::new(ModelDrafter::new(engine(draft, 256)))), Some(Box::new(NgramDrafter::default())), None]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_f32_target_gives_its_own_output_through_every_drafter() {
    let path = smollm2_f32();
    let server = Server::start(&path, &["-c", "4096", "-np", "3"]);
    let target = LlamaModel::load(&path, &LoadOptions::default()).unwrap();
    let draft = LlamaModel::load(&file("SLED_TEST_SMOLLM2"), &LoadOptions::default()).unwrap();
    let vocab = target.vocab();
    let mut alone = engine(&target, 256);
    let (mut compared, mut differing) = (0, 0);
    let mut sessions = Vec::new();
    for drafter in drafters(&draft) {
        sessions.push(session(&server.url, &vocab, drafter).await);
    }
    for text in PROMPTS {
        let prompt = chat(&vocab, text);
        for temperature in [0.0, 0.8] {
            let mut outputs = Vec::new();
            for session in &mut sessions {
                outputs.push(generate(session, prompt.clone(), 20, temperature).await);
            }
            compared += outputs.iter().map(Vec::len).sum::<usize>();
            // Drafters that agree with each other need to be compared with the target only once.
            outputs.dedup();
            let sampler = Sampler::new(sampling(temperature), vocab.size()).unwrap();
            for output in &outputs {
                let differences = reference::compare(&mut alone, &sampler, &prompt, output).unwrap();
                differing += assert_near_ties(&differences, NEAR_TIE_F32);
            }
        }
    }
    eprintln!("{differing} of {compared} tokens of SmolLM2 F32 differ from the target alone");
    assert!(differing * 100 <= compared, "more than a hundredth are no near-ties: {differing} of {compared}");
    let said = server.terminate();
    assert!(said.contains("commits in"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_qwen_pair_stays_within_a_near_tie_of_the_target_alone() {
    let path = file("SLED_TEST_TARGET");
    let server = Server::start(&path, &["-c", "2048", "-np", "3"]);
    let target = LlamaModel::load(&path, &LoadOptions::default()).unwrap();
    let draft = LlamaModel::load(&file("SLED_TEST_DRAFT"), &LoadOptions::default()).unwrap();
    let vocab = target.vocab();
    let mut alone = engine(&target, 256);
    let mut sessions = Vec::new();
    for drafter in drafters(&draft) {
        sessions.push(session(&server.url, &vocab, drafter).await);
    }
    let (mut compared, mut differing) = (0, 0);
    for (i, text) in PROMPTS.into_iter().enumerate() {
        let prompt = chat(&vocab, text);
        for temperature in [0.0, 0.8] {
            // Every prompt with one of the drafters, and the first with all of them.
            for (_, session) in sessions.iter_mut().enumerate().filter(|(j, _)| i == 0 || i % 3 == *j) {
                let output = generate(session, prompt.clone(), 16, temperature).await;
                let sampler = Sampler::new(sampling(temperature), vocab.size()).unwrap();
                let differences = reference::compare(&mut alone, &sampler, &prompt, &output).unwrap();
                compared += output.len();
                differing += assert_near_ties(&differences, NEAR_TIE);
            }
        }
    }
    eprintln!("{differing} of {compared} tokens differ from the target alone, all within {NEAR_TIE} logits");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_sixteen_sessions_at_once_and_one_that_is_killed() {
    let path = smollm2_f32();
    let server = Server::start(&path, &["-c", "4096", "-np", "17"]);
    let target = LlamaModel::load(&path, &LoadOptions::default()).unwrap();
    let vocab = Arc::new(target.vocab());
    let mut victim = Command::new(env!("CARGO_BIN_EXE_sled"))
        .args(["run", "--server", &server.url, "--draft", "ngram", "-n", "400", "Count from one to one hundred."])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // It is in the middle of its answer once it has said something.
    victim.stdout.take().unwrap().read_exact(&mut [0; 8]).unwrap();

    let mut running = Vec::new();
    for i in 0..16 {
        let (vocab, url) = (Arc::clone(&vocab), server.url.clone());
        running.push(tokio::spawn(async move {
            let drafter = (i % 2 == 0).then(|| Box::new(NgramDrafter::default()) as Box<dyn Drafter>);
            let prompt = chat(&vocab, PROMPTS[i % PROMPTS.len()]);
            let temperature = if i < 8 { 0.0 } else { 0.8 };
            let output = generate(&mut session(&url, &vocab, drafter).await, prompt.clone(), 20, temperature).await;
            (prompt, temperature, output)
        }));
    }
    victim.kill().unwrap();
    victim.wait().unwrap();
    let mut alone = engine(&target, 256);
    for device in running {
        let (prompt, temperature, output) = device.await.unwrap();
        let sampler = Sampler::new(sampling(temperature), vocab.size()).unwrap();
        assert_near_ties(&reference::compare(&mut alone, &sampler, &prompt, &output).unwrap(), NEAR_TIE_F32);
    }
}

#[tokio::test]
async fn real_sessions_are_listed_and_more_than_sequences_take_turns() {
    let path = smollm2_f32();
    // Two of the five are in the cache at once.
    let server = Server::start(&path, &["-c", "512", "-np", "2", "--cache-type", "q8_0"]);
    let vocab = LlamaModel::load(&path, &LoadOptions::default()).unwrap().vocab();
    let mut sessions = Vec::new();
    for prompt in PROMPTS.iter().take(5) {
        let mut session = session(&server.url, &vocab, Some(Box::new(NgramDrafter::default()))).await;
        let answer = generate(&mut session, chat(&vocab, prompt), 12, 0.0).await;
        sessions.push((session, answer.len()));
    }
    let listed =
        Command::new(env!("CARGO_BIN_EXE_sled")).args(["ps", "--json", "--server", &server.url]).output().unwrap();
    let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
    let cached = |session: &serde_json::Value| session["cached"].as_u64().unwrap();
    let listed_sessions = listed["sessions"].as_array().unwrap();
    assert_eq!(listed_sessions.len(), 5);
    assert_eq!(listed_sessions.iter().filter(|session| cached(session) > 0).count(), 2);
    for (listed, (_, committed)) in listed_sessions.iter().zip(&sessions) {
        assert!(listed["activity"] == "idle" && listed["committed"] == *committed, "{listed}");
    }
    assert!(listed["cells_used"].as_u64().unwrap() <= 512);
    let table = Command::new(env!("CARGO_BIN_EXE_sled")).args(["ps", "--server", &server.url]).output().unwrap();
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(table.contains("DEVICE") && table.lines().count() == 7, "{table}");
}

#[tokio::test]
async fn real_devices_without_a_model_file_get_the_vocabulary_from_the_server() {
    let path = file("SLED_TEST_SMOLLM2");
    let server = Server::start(&path, &["-c", "64", "-np", "2"]);
    let cache = tempfile::tempdir().unwrap();
    let remote = RemoteServer::connect(&server.url).await.unwrap();
    let vocabularies = Vocabularies::new(cache.path().to_owned(), |path| Ok(load_vocabulary(path)?));
    let sent = vocabularies.obtain(&remote).await.unwrap();
    let own = LlamaModel::load(&path, &LoadOptions::default()).unwrap().vocab();
    assert_eq!(sent.fingerprint(), own.fingerprint());
    assert_eq!(sent.chat_template(), own.chat_template());
    let text = "Grüße, 世界! 😀 def f(x):\n    return x";
    assert_eq!(sent.tokenize(text, true, true).unwrap(), own.tokenize(text, true, true).unwrap());
    // The second time it comes from the folder, even when the server is gone.
    drop(server);
    vocabularies.obtain(&remote).await.unwrap();
}

#[test]
fn real_command_line_prints_one_json_object_and_refuses_what_cannot_be() {
    let server = Server::start(&file("SLED_TEST_SMOLLM2"), &["-c", "256", "-np", "1"]);
    let run = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_sled"))
            .args(["run", "--server", &server.url])
            .args(args)
            .output()
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let (code, stdout, stderr) = run(&["--json", "-n", "12", "What is the capital of France?"]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    let report: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    for key in "text token_ids prompt_tokens completion_tokens rounds draft_tokens accepted_tokens provisional_tokens \
                server_rows finish_reason ttft_s elapsed_s"
        .split_whitespace()
    {
        assert!(report.get(key).is_some(), "{key} is missing in {stdout}");
    }
    let text = report["text"].as_str().unwrap();
    assert_eq!(report["completion_tokens"], report["token_ids"].as_array().unwrap().len());

    // The answer is the same again, as far as a stop string that it contains.
    let word = text.split_whitespace().nth(1).unwrap();
    let (code, stopped, summary) = run(&["--stop", word, "-n", "12", "What is the capital of France?"]);
    assert_eq!((code, stopped.trim_end_matches('\n')), (Some(0), &text[..text.find(word).unwrap()]));
    assert!(summary.contains("tokens/s") && summary.contains("rounds"), "{summary}");

    let long = "word ".repeat(400);
    let (code, _, stderr) = run(&[&long]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("but the context has 256") && stderr.lines().count() == 1, "{stderr}");

    let other = file("SLED_TEST_DRAFT");
    let (code, _, stderr) = run(&["--draft", other.to_str().unwrap(), "hi"]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("vocabulary") && stderr.lines().count() == 1, "{stderr}");

    // The port is taken: one sentence.
    let port = server.url.rsplit(':').next().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_sled"))
        .args(["serve", "--port", port, "-c", "256", "-m"])
        .arg(file("SLED_TEST_SMOLLM2"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("another program is using it"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_constrained_answers_are_valid_and_within_a_near_tie_of_the_target_alone() {
    const SCHEMA: &str = r#"{"type": "object", "properties": {"city": {"type": "string", "maxLength": 20},
        "inhabitants": {"type": "integer", "minimum": 0}, "capital": {"type": "boolean"}},
        "required": ["city", "inhabitants", "capital"], "additionalProperties": false}"#;
    let path = file("SLED_TEST_TARGET");
    let server = Server::start(&path, &["-c", "2048", "-np", "3"]);
    let target = LlamaModel::load(&path, &LoadOptions::default()).unwrap();
    let draft = LlamaModel::load(&file("SLED_TEST_DRAFT"), &LoadOptions::default()).unwrap();
    let vocab = target.vocab();
    let compiler = Arc::new(Compiler::new(&vocab));
    let mut alone = engine(&target, 256);
    for (i, drafter) in drafters(&draft).into_iter().enumerate() {
        let options = SessionOptions {
            drafter: drafter.map(|drafter| (Drafts::own(drafter).unwrap(), Policy::Fixed { k: 4 })),
            grammars: Some(Arc::clone(&compiler)),
            ..SessionOptions::new("test", vocab.fingerprint(), vocab.eog_tokens())
        };
        let mut session = Session::open(&RemoteServer::connect(&server.url).await.unwrap(), options).await.unwrap();
        for temperature in [0.0, 0.8] {
            let mut params = sampling(temperature);
            params.grammar = Some(Grammar::json_schema(SCHEMA));
            let prompt = Prompt {
                tokens: chat(&vocab, "Describe a large city in France as JSON."),
                max_tokens: 80,
                sampling: params.clone(),
                logprobs: Some(5),
                request_id: Some(format!("city-{i}")),
            };
            let mut logprobs = Vec::new();
            let generation = session.generate(prompt.clone(), |emitted| {
                logprobs.extend(emitted.logprobs);
                ControlFlow::Continue(())
            });
            let generation = generation.await.unwrap();
            let bytes: Vec<u8> = generation.tokens.iter().flat_map(|&token| vocab.piece(token, false)).collect();
            let text = String::from_utf8(bytes).unwrap();
            eprintln!("{text} ({:?})", generation.stats);
            let answer: serde_json::Value = serde_json::from_str(&text).expect("it is JSON");
            assert_eq!(answer.as_object().unwrap().len(), 3);
            assert!(answer["city"].as_str().unwrap().chars().count() <= 20);
            assert!(answer["inhabitants"].is_u64() && answer["capital"].is_boolean());
            assert_eq!(logprobs.len(), generation.tokens.len());
            assert!(logprobs.iter().all(|logprobs| logprobs.top.len() == 5 && logprobs.chosen <= logprobs.top[0].1));

            params.grammar = Some(compiler.compile(&Grammar::json_schema(SCHEMA)).unwrap());
            let sampler = Sampler::new(params, vocab.size()).unwrap();
            let differences = reference::compare(&mut alone, &sampler, &prompt.tokens, &generation.tokens).unwrap();
            assert_near_ties(&differences, NEAR_TIE);
        }
    }
    // What a grammar costs: once, and at each step.
    let large = (0..200).map(|i| format!(r#""field{i}": {{"type": "string"}}"#)).collect::<Vec<_>>().join(", ");
    let large = Grammar::json_schema(&format!(r#"{{"type": "object", "properties": {{{large}}}}}"#));
    let began = Instant::now();
    let compiled = compiler.compile(&large).unwrap();
    let compiling = began.elapsed();
    let sampler = Sampler::new(SamplingParams { grammar: Some(compiled), ..Default::default() }, vocab.size()).unwrap();
    let logits = vec![0.0; vocab.size()];
    let mut text: Vec<Token> = Vec::new();
    let mut slowest = Duration::ZERO;
    let stepping = Instant::now();
    for _ in 0..100 {
        let began = Instant::now();
        let token = sampler.choose(&logits, Context { tokens: &text, prompt_len: 0 });
        slowest = slowest.max(began.elapsed());
        text.push(token);
    }
    eprintln!("compiled in {compiling:?}; a step takes {:?}, the slowest {slowest:?}", stepping.elapsed() / 100);
    assert!(slowest < Duration::from_millis(500), "{slowest:?}");
}

#[test]
fn real_draft_model_alone_needs_no_server() {
    let model = file("SLED_TEST_SMOLLM2");
    let output = Command::new(env!("CARGO_BIN_EXE_sled"))
        .args(["run", "--server", "none", "--json", "-n", "12", "--draft"])
        .arg(&model)
        .arg("What is the capital of France?")
        .output()
        .unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let tokens: Vec<Token> = serde_json::from_value(report["token_ids"].clone()).unwrap();
    let prompt: Vec<Token> = serde_json::from_value(report["prompt_token_ids"].clone()).unwrap();
    let weights = LlamaModel::load(&model, &LoadOptions::default()).unwrap();
    let mut alone = engine(&weights, 256);
    let sampler = Sampler::new(SamplingParams::default(), alone.limits().vocab_size).unwrap();
    assert_near_ties(&reference::compare(&mut alone, &sampler, &prompt, &tokens).unwrap(), NEAR_TIE);
    assert_eq!((report["rounds"].as_u64(), report["server_rows"].as_u64()), (Some(0), Some(0)));
}

#[test]
fn real_context_that_the_memory_cannot_hold_is_refused_in_one_sentence() {
    let output = Command::new(env!("CARGO_BIN_EXE_sled"))
        .args(["serve", "--port", "0", "-c", "100000000", "-m"])
        .arg(file("SLED_TEST_SMOLLM2"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.starts_with("error: a context of 100000000 tokens takes 2193.5 GiB of memory"), "{said}");
    assert_eq!(said.trim_end().lines().count(), 1, "{said}");
}

#[test]
fn real_server_computes_on_two_threads_a_core_at_most_and_says_so() {
    let cores = std::thread::available_parallelism().unwrap().get();
    let server = Server::start(&file("SLED_TEST_SMOLLM2"), &["-c", "1024", "-t", "1000"]);
    let said = server.terminate();
    let count = format!("at once, {} threads (1000 would only wait for each other on {cores} CPU", 2 * cores);
    assert!(said.contains(&count), "{said}");
}
