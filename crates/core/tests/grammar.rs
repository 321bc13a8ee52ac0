//! The law under constraint: with a grammar too, a device's output is the target's own, and it is what the grammar says. The
//! log probabilities that come with it are the target's.
//!
//! `SLED_LAW_SEED=N cargo nextest run --release --workspace --test grammar` replays the case with seed `N` alone.

#![allow(unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

mod pair;

use std::sync::LazyLock;
use std::time::Duration;

use pair::{Network, Outcome, Pair, Rng, Script, Turn};
use serde_json::Value;
use sled_core::Token;
use sled_core::device::{Ahead, FinishReason, Prompt};
use sled_core::message::{Commit, DraftBlock, Reply, Request};
use sled_core::policy::Policy;
use sled_core::sampler::{Context, Grammar, Logprobs, Sampler, SamplingParams};
use sled_core::sequence::Digest;
use sled_core::server::{Assist, Batching, Owner, Plan, Server};
use sled_model::Model;
use sled_model::drafter::Drafter;
use sled_model::grammar::Compiler;
use sled_model::ngram::NgramDrafter;
use sled_model::synthetic::{SyntheticConfig, SyntheticDrafter, SyntheticModel};

/// Generations whose output is compared, over all cases.
const GENERATIONS: usize = 3_000;

/// A vocabulary for a model that knows no text: every byte but one, some longer tokens, and two that end an answer.
const VOCAB: usize = 264;
const ENDS: [Token; 2] = [262, 263];
const WORDS: [&str; 7] = ["{\"", "\":", "true", "false", "\",\"", "ab", "\"}"];

fn pieces() -> Vec<Vec<u8>> {
    let bytes = (0..=254u8).map(|byte| vec![byte]);
    let words = WORDS.map(|word| word.as_bytes().to_vec());
    bytes.chain(words).chain([Vec::new(), Vec::new()]).collect()
}

fn text(tokens: &[Token]) -> String {
    let pieces = pieces();
    let bytes = tokens.iter().flat_map(|&token| pieces[token as usize].clone()).collect();
    String::from_utf8(bytes).expect("what grammars allow is text")
}

/// A grammar, and whether a text is of it: a second opinion.
type Kind = (Grammar, fn(&str) -> bool);

const PERSON: &str = r#"{
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", "b", "ab"]}, "maxItems": 3}
    },
    "required": ["name", "age"],
    "additionalProperties": false
}"#;

fn is_person(text: &str) -> bool {
    let Ok(Value::Object(person)) = serde_json::from_str(text) else { return false };
    let known = person.keys().all(|key| ["name", "age", "tags"].contains(&key.as_str()));
    let name = person.get("name").and_then(Value::as_str).is_some_and(|name| name.chars().count() <= 6);
    let age = person.get("age").and_then(Value::as_u64).is_some_and(|age| age <= 150);
    let is_tag = |tag: &Value| ["a", "b", "ab"].map(Value::from).contains(tag);
    let tags = person
        .get("tags")
        .is_none_or(|tags| tags.as_array().is_some_and(|tags| tags.len() <= 3 && tags.iter().all(is_tag)));
    known && name && age && tags
}

fn is_object(text: &str) -> bool {
    match serde_json::from_str(text) {
        Ok(value) => matches!(value, Value::Object(_)),
        // Any number of digits is JSON; the parser knows only those that a double can hold.
        Err(error) => error.to_string().starts_with("number out of range") && text.starts_with('{'),
    }
}

fn is_flags(text: &str) -> bool {
    let Ok(Value::Array(flags)) = serde_json::from_str(text) else { return false };
    (1..=4).contains(&flags.len()) && flags.iter().all(Value::is_boolean)
}

fn is_call(text: &str) -> bool {
    let Some(call) = text.strip_prefix("<tool>").and_then(|text| text.strip_suffix("</tool>")) else { return false };
    matches!(serde_json::from_str(call), Ok(Value::Object(call)) if call.len() == 1 && call["ab"].is_boolean())
}

fn is_word(text: &str) -> bool {
    let Some(word) = text.strip_suffix("true").or_else(|| text.strip_suffix("false")) else { return false };
    (2..=10).contains(&word.len()) && word.bytes().all(|byte| (b'a'..=b'c').contains(&byte))
}

static KINDS: LazyLock<Vec<Kind>> = LazyLock::new(|| {
    let compiler = Compiler::with_pieces(&ENDS, pieces);
    let call = r#"start: "<tool>" call "</tool>"
        call: %json {"type": "object", "properties": {"ab": {"type": "boolean"}}, "required": ["ab"], "additionalProperties": false}"#;
    let kinds: [Kind; 6] = [
        (Grammar::json_schema(PERSON), is_person),
        (Grammar::json_object(), is_object),
        (Grammar::json_schema(r#"{"enum": ["red", "green", 17]}"#), |text| {
            ["\"red\"", "\"green\"", "17"].contains(&text)
        }),
        (
            Grammar::json_schema(r#"{"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 4}"#),
            is_flags,
        ),
        (Grammar::lark(call), is_call),
        (Grammar::regex("[a-c]{2,10}(true|false)"), is_word),
    ];
    kinds.map(|(grammar, check)| (compiler.compile(&grammar).expect("it is a grammar"), check)).to_vec()
});

fn sampling(rng: &mut Rng) -> (SamplingParams, fn(&str) -> bool) {
    let (grammar, check) = KINDS[rng.within(0..=KINDS.len() - 1)].clone();
    let constrained = !rng.chance(8);
    let params = SamplingParams {
        temperature: rng.pick(&[0.0, 0.7, 1.0, 1.5]),
        top_k: rng.pick(&[0, 0, 40]),
        top_p: rng.pick(&[1.0, 1.0, 0.9]),
        min_p: rng.pick(&[0.0, 0.0, 0.05]),
        repetition_penalty: rng.pick(&[1.0, 1.0, 1.1]),
        presence_penalty: rng.pick(&[0.0, 0.0, 0.5]),
        logit_bias: if rng.chance(6) { vec![(rng.within(0..=VOCAB - 1) as Token, 100.0)] } else { vec![] },
        seed: rng.next(),
        grammar: constrained.then_some(grammar),
        ..SamplingParams::default()
    };
    (params, if constrained { check } else { |_| true })
}

/// The log probabilities of `logits` by the textbook.
fn expected_logprobs(logits: &[f32], token: Token, top: u8) -> Logprobs {
    let sum: f64 = logits.iter().map(|&z| f64::from(z).exp()).sum();
    let logprob = |token: Token| (f64::from(logits[token as usize]) - sum.ln()) as f32;
    let mut order: Vec<Token> = (0..VOCAB as Token).collect();
    order.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
    let top = order.into_iter().take(top.into()).map(|token| (token, logprob(token))).collect();
    Logprobs { chosen: logprob(token), top }
}

fn assert_close(found: &Logprobs, expected: &Logprobs) {
    let close = |a: f32, b: f32| (a - b).abs() < 1e-4;
    let tokens = |logprobs: &Logprobs| logprobs.top.iter().map(|&(token, _)| token).collect::<Vec<_>>();
    assert_eq!(tokens(found), tokens(expected));
    let all_close = found.top.iter().zip(&expected.top).all(|(found, expected)| close(found.1, expected.1));
    assert!(all_close && close(found.chosen, expected.chosen), "{found:?} for {expected:?}");
}

/// What was seen: drafts, accepted drafts, complete texts of a grammar, log probabilities, and texts that were checked.
type Seen = [u64; 5];

fn compare(
    reference: &SyntheticModel,
    context: usize,
    turn: &Turn,
    check: fn(&str) -> bool,
    outcome: &Outcome,
) -> Seen {
    let sampler = Sampler::new(turn.sampling.clone(), VOCAB).expect("valid parameters");
    let room = context.saturating_sub(outcome.prompt.len());
    let expected = reference.generate(&sampler, &outcome.prompt, turn.max_tokens.min(room), &ENDS);
    assert_eq!(sampler.failure(), None);
    let complete = expected.last().is_some_and(|last| ENDS.contains(last));
    let reason = if complete { FinishReason::Stop } else { FinishReason::Length };
    assert_eq!((&outcome.output, &outcome.reason), (&expected, &reason), "the output is the target's own");
    if complete && turn.sampling.grammar.is_some() {
        let text = text(&expected[..expected.len() - 1]);
        assert!(check(&text), "{text} is not of {:?}", turn.sampling.grammar);
    }
    let mut told = 0;
    let mut text = outcome.prompt.clone();
    for (&token, logprobs) in outcome.output.iter().zip(&outcome.logprobs) {
        assert_eq!(logprobs.is_some(), turn.logprobs.is_some(), "they come if and only if they were asked for");
        if let (Some(logprobs), Some(top)) = (logprobs, turn.logprobs) {
            assert_close(logprobs, &expected_logprobs(&reference.logits_after(&text), token, top));
            told += 1;
        }
        text.push(token);
    }
    let constrained = turn.sampling.grammar.is_some();
    let stats = outcome.stats;
    [stats.draft_tokens, stats.accepted_tokens, u64::from(complete && constrained), told, u64::from(constrained)]
}

/// Plays one case and compares every generation; returns how many there were, and what they had in them.
fn play(seed: u64) -> (usize, Seen) {
    let mut rng = Rng(seed);
    let devices = rng.within(1..=4);
    let context = rng.within(100..=250);
    let config = SyntheticConfig {
        seed: rng.next(),
        vocab_size: VOCAB,
        order: rng.within(1..=3),
        cells: rng.within(context..=context * (devices + 1)),
        sequences: rng.within(devices.div_ceil(2)..=devices),
        rows: rng.within(2..=80),
        context,
    };
    let network = Network {
        duplicates: rng.pick(&[0, 5]),
        overtakes: rng.pick(&[0, 5]),
        unasked: rng.chance(3),
        engine_failures: rng.pick(&[0, 0, 2]),
    };
    let assist = rng.pick(&[Assist::Auto, Assist::Never, Assist::Always]);
    let reference = SyntheticModel::new(config.clone());
    let mut pair = Pair::new(Rng(rng.next()), config, (Batching::Continuous, assist, None), &ENDS, network);
    let mut scripts = Vec::new();
    for _ in 0..devices {
        let drafter: Option<Box<dyn Drafter>> = match rng.within(0..=5) {
            0 => None,
            1 => Some(Box::new(NgramDrafter::default())),
            _ => Some(Box::new(SyntheticDrafter::new(&reference, rng.pick(&[0.0, 0.5, 0.9]), rng.next()))),
        };
        let policy =
            rng.pick(&[Policy::Goodput, Policy::Fixed { k: 5 }, Policy::Confidence { threshold: 0.5, k_max: 9 }]);
        let mut checks = Vec::new();
        let turns: Vec<Turn> = (0..rng.within(1..=3))
            .map(|_| {
                let (sampling, check) = sampling(&mut rng);
                checks.push(check);
                let text = (0..rng.within(1..=8)).map(|_| rng.within(0..=VOCAB - 1) as Token).collect();
                let keep = rng.pick(&[0, 3, usize::MAX]);
                let logprobs = rng.pick(&[None, None, Some(0), Some(3), Some(20)]);
                Turn { keep, text, max_tokens: rng.within(1..=90), sampling, stop_after: None, logprobs }
            })
            .collect();
        scripts.push((turns.clone(), checks));
        pair.join(Script { drafter, policy, ahead: rng.pick(&[Ahead::Nothing, Ahead::Drafts, Ahead::Blocks]), turns });
    }
    let (outcomes, pair) = pair.run();
    let mut seen = Seen::default();
    let mut generations = 0;
    for ((turns, checks), outcomes) in scripts.iter().zip(outcomes) {
        assert_eq!(turns.len(), outcomes.len(), "every turn ends");
        for ((turn, &check), outcome) in turns.iter().zip(checks).zip(&outcomes) {
            let what = compare(&reference, pair.context, turn, check, outcome);
            seen.iter_mut().zip(what).for_each(|(sum, x)| *sum += x);
            generations += 1;
        }
    }
    (generations, seen)
}

#[test]
fn constrained_output_is_the_targets_own_and_what_the_grammar_says() {
    if let Ok(seed) = std::env::var("SLED_LAW_SEED") {
        play(seed.parse().expect("SLED_LAW_SEED is a number"));
        return;
    }
    let mut generations = 0;
    let mut seen = Seen::default();
    for seed in 0.. {
        let (count, what) = std::panic::catch_unwind(|| play(seed)).unwrap_or_else(|_| {
            panic!("replay with: SLED_LAW_SEED={seed} cargo nextest run --release --workspace --test grammar")
        });
        generations += count;
        seen.iter_mut().zip(what).for_each(|(sum, x)| *sum += x);
        if generations >= GENERATIONS {
            break;
        }
    }
    let [drafted, accepted, complete, told, constrained] = seen;
    eprintln!(
        "{generations} generations, {accepted} of {drafted} drafts accepted, {complete} of {constrained} constrained texts \
         complete, log probabilities of {told} tokens"
    );
    assert!(accepted > drafted / 4 && accepted < drafted * 19 / 20);
    assert!(complete > constrained / 4 && complete < constrained * 19 / 20);
    assert!(told > 10_000);
}

#[test]
fn a_long_answer_is_recalled_in_parts_with_all_its_log_probabilities() {
    const ANSWER: usize = 2_500;
    let config =
        SyntheticConfig { seed: 1, vocab_size: VOCAB, order: 3, cells: 3_000, sequences: 1, rows: 32, context: 3_000 };
    let mut model = SyntheticModel::new(config);
    let mut server = Server::new(model.limits().server_config(Vec::new()));
    let now = Duration::from_millis(1);
    let id = server.open(now, Owner(0)).unwrap();
    let prompt = Prompt {
        tokens: vec![1, 2, 3],
        max_tokens: ANSWER,
        sampling: SamplingParams { temperature: 1.0, seed: 3, ..SamplingParams::default() },
        logprobs: Some(5),
        request_id: Some("a long one".to_owned()),
    };
    let update = prompt.clone().into_context(1);
    assert_eq!(server.request(now, id, Request::Context(update.clone())), None);
    let ask =
        |from, built_on| Request::Draft(DraftBlock { turn: 1, from, built_on, tokens: vec![], until: 3 + ANSWER });
    server.request(now, id, ask(3, Digest::EMPTY.then_all(&[1, 2, 3])));
    while let Plan::Run(mut step) = server.plan(now) {
        step.cache_ops.iter().for_each(|&op| model.apply(op).unwrap());
        model.forward(&step.rows).unwrap();
        server.complete(now, &mut step, |row| model.logits(row)).unwrap();
        // It is there, and says so.
        server.request(now, id, Request::Stop(0));
    }
    let answers = server.take_answered();
    assert_eq!((answers.len(), answers[0].prompt, answers[0].tally.committed), (1, 3, ANSWER as u64));
    assert_eq!(answers[0].request, "a long one");

    // The device has heard nothing of it.
    let mut text = vec![1, 2, 3];
    let mut told = Vec::new();
    let mut request = Request::Context(update);
    while text.len() < 3 + ANSWER {
        let Some(Reply::Commit(Commit { from, accepted, tokens, digest, logprobs, .. })) =
            server.request(now, id, request)
        else {
            panic!("what is committed is recalled");
        };
        assert_eq!((from + accepted, tokens.len()), (text.len(), logprobs.len()));
        text.extend(&tokens);
        told.extend(logprobs);
        assert_eq!(digest, Digest::EMPTY.then_all(&text));
        request = ask(text.len(), digest);
    }
    let sampler = Sampler::new(prompt.sampling, VOCAB).unwrap();
    assert_eq!(text[3..], model.generate(&sampler, &[1, 2, 3], ANSWER, &[]));
    for (i, logprobs) in told.iter().enumerate() {
        assert_close(logprobs, &expected_logprobs(&model.logits_after(&text[..3 + i]), text[3 + i], 5));
    }
}

#[test]
fn a_sampler_without_its_grammar_is_refused() {
    let params = SamplingParams { grammar: Some(Grammar::json_object()), ..SamplingParams::default() };
    let error = Sampler::new(params, VOCAB).unwrap_err();
    assert!(error.to_string().contains("nothing compiles it"), "{error}");
    let context = Context { tokens: &[1], prompt_len: 1 };
    let plain = Sampler::new(SamplingParams::default(), VOCAB).unwrap();
    assert!(plain.allows(context, 7) && plain.failure().is_none(), "without a grammar everything is allowed");
}
