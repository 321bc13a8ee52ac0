//! Grammars, compiled: what is allowed is a function of the text alone, and what cannot be followed is refused.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use sled_core::Token;
use sled_core::sampler::{Context, Grammar, GrammarText, Sampler, SamplingParams};
use sled_model::Error;
use sled_model::grammar::Compiler;

/// Every byte, a control token, some longer tokens, the end, and one more end.
const CONTROL: Token = 256;
const WORDS: [&str; 6] = ["{\"", "\":", "true", "false", "\",\"", "ab"];
const END: Token = 263;
const OTHER_END: Token = 264;
const VOCAB: usize = 270;

fn pieces() -> Vec<Vec<u8>> {
    let mut pieces: Vec<Vec<u8>> = (0..=254).map(|byte| vec![byte]).collect();
    pieces.push(Vec::new());
    pieces.push(b"\xff<|tool|>".to_vec());
    pieces.extend(WORDS.map(|word| word.as_bytes().to_vec()));
    pieces.resize(VOCAB, Vec::new());
    pieces
}

fn compiler() -> Compiler {
    Compiler::with_pieces(&[END, OTHER_END], pieces)
}

#[test]
fn what_comes_while_the_vocabulary_is_prepared_waits_for_it_and_does_not_prepare_it_again() {
    let (prepared, counted) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (began, count) = (Arc::clone(&prepared), Arc::clone(&counted));
    let compiler = Compiler::with_pieces(&[END], move || {
        began.store(1, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(200));
        count.fetch_add(1, Ordering::SeqCst);
        pieces()
    });
    std::thread::scope(|scope| {
        scope.spawn(|| compiler.prepare());
        while prepared.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
        for word in ["true", "false"] {
            let compiler = &compiler;
            scope.spawn(move || compiler.compile(&Grammar::new(GrammarText::Regex(word.to_owned()))).unwrap());
        }
    });
    assert_eq!(counted.load(Ordering::SeqCst), 1);
}

fn sampler(compiler: &Compiler, grammar: &Grammar) -> Sampler {
    let grammar = Some(compiler.compile(grammar).unwrap());
    Sampler::new(SamplingParams { grammar, ..SamplingParams::default() }, VOCAB).unwrap()
}

fn tokens(text: &str) -> Vec<Token> {
    text.bytes().map(Token::from).collect()
}

/// The tokens that may follow `generated`.
fn allowed(sampler: &Sampler, generated: &[Token]) -> Vec<Token> {
    let context = Context { tokens: generated, prompt_len: 0 };
    (0..VOCAB as Token).filter(|&token| sampler.allows(context, token)).collect()
}

#[test]
fn a_grammar_allows_what_it_says_and_then_the_end() {
    let compiler = compiler();
    let yes = sampler(&compiler, &Grammar::regex("(true|tab)c?"));
    let t = Token::from(b't');
    assert_eq!(allowed(&yes, &[]), [t, 259], "`t` and `true`");
    assert_eq!(allowed(&yes, &[t]), [Token::from(b'a'), Token::from(b'r'), 262], "`a`, `r` and `ab`");
    assert_eq!(allowed(&yes, &[t, 262]), [Token::from(b'c'), END, OTHER_END]);
    assert_eq!(allowed(&yes, &[259, Token::from(b'c')]), [END, OTHER_END]);
    // After the end, and after what is none of the grammar's, there is only the end.
    for generated in [vec![259, END], vec![t, t], vec![CONTROL], vec![t, 269]] {
        assert_eq!(allowed(&yes, &generated), [END, OTHER_END], "{generated:?}");
    }
    // It forgets that it was led astray.
    assert_eq!(allowed(&yes, &[]), [t, 259]);
    let control = sampler(&compiler, &Grammar::lark("start: \"ab\" <|tool|> /c/"));
    assert_eq!(allowed(&control, &[262]), [CONTROL]);
    assert_eq!(allowed(&control, &[262, CONTROL]), [Token::from(b'c')]);
}

#[test]
fn the_choice_and_its_confidence_are_those_of_allowed_tokens() {
    let compiler = compiler();
    let sampler = sampler(&compiler, &Grammar::regex("[ab]"));
    let mut logits = vec![1.0; VOCAB];
    logits[usize::from(b'x')] = 50.0;
    logits[usize::from(b'b')] = 1.0 + 3.0f32.ln();
    let context = Context { tokens: &[], prompt_len: 0 };
    assert_eq!(sampler.choose(&logits, context), Token::from(b'b'));
    let draft = sampler.draft(&logits, context);
    assert_eq!(draft.token, Token::from(b'b'));
    assert!((draft.confidence - 0.75).abs() < 1e-5, "{}", draft.confidence);
    // Where the model gives all of them nothing, the first that is allowed is chosen.
    assert_eq!(sampler.choose(&[f32::NEG_INFINITY; VOCAB], context), Token::from(b'a'));
    assert_eq!(sampler.shortfall(&logits, context, Token::from(b'x')), f32::INFINITY);
    // Log probabilities are the model's own.
    let logprobs = sampler.logprobs(&logits, Token::from(b'b'), 1);
    assert_eq!(logprobs.top, [(Token::from(b'x'), logprobs.top[0].1)]);
    assert!(logprobs.top[0].1 > -1e-6 && logprobs.chosen < -40.0);
}

#[test]
fn what_is_allowed_does_not_depend_on_what_was_asked_before() {
    let compiler = compiler();
    let schema = r#"{"type":"object","properties":{"ab":{"type":"array","items":{"type":"integer"}},"b":{"type":"boolean"}},
        "required":["ab"],"additionalProperties":false}"#;
    let grammars = [Grammar::json_schema(schema), Grammar::json_object(), Grammar::regex("(ab|a|bba)*c{2,3}x?")];
    let mut state = 1u64;
    let mut random = move |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let mut rolled_back = 0;
    for grammar in &grammars {
        let wandering = sampler(&compiler, grammar);
        let mut text: Vec<Token> = Vec::new();
        for _ in 0..300 {
            let options = allowed(&wandering, &text);
            let fresh = sampler(&compiler, grammar);
            assert_eq!(options, allowed(&fresh, &text), "{grammar:?} after {text:?}");
            if random(4) == 0 || options == [END, OTHER_END] {
                text.truncate(random(text.len() + 1));
                rolled_back += 1;
            } else if random(10) == 0 {
                text.push(random(VOCAB) as Token);
            } else {
                text.push(options[random(options.len())]);
            }
        }
    }
    assert!(rolled_back > 100);
}

#[test]
fn white_space_between_the_parts_of_a_json_text_is_bounded() {
    let compiler = compiler();
    let object = sampler(&compiler, &Grammar::json_object());
    assert!(allowed(&object, &tokens("{\n\n    ")).contains(&Token::from(b'"')));
    assert!(!allowed(&object, &tokens("{\n\n\n")).contains(&Token::from(b'\n')));
    let blanks = format!("{{\n{}", " ".repeat(20));
    assert!(!allowed(&object, &tokens(&blanks)).contains(&Token::from(b' ')));
    assert!(allowed(&object, &tokens(&blanks)).contains(&Token::from(b'"')));
}

#[test]
fn what_is_no_grammar_is_refused_in_one_sentence() {
    let compiler = compiler();
    let deep = format!("{}1{}", "[".repeat(30_000), "]".repeat(30_000));
    let many: String = (0..4000).map(|i| format!("\"k{i}\": {{\"const\": {i}}},")).collect();
    let cases = [
        (Grammar::json_schema("{"), "the schema is not JSON"),
        (Grammar::json_schema(&deep), "the schema is not JSON"),
        (Grammar::json_schema(r#"{"type": "nonsense"}"#), ""),
        (Grammar::json_schema(r#"{"$ref": "https://example.com/schema.json"}"#), ""),
        (Grammar::json_schema("3"), ""),
        (Grammar::lark("start: foo"), ""),
        (Grammar::lark(""), ""),
        (Grammar::regex("(((("), ""),
        (Grammar::regex(&"a".repeat((64 << 10) + 1)), "at most 65536"),
        (Grammar::json_schema(&format!("{{\"properties\": {{{many}\"x\": {{}}}}}}")), "at most 65536"),
        (Grammar::lark("start: a \"b\"\na[stop=\"c\"]: /d*/"), "rollback"),
        (Grammar::lark("start: a\na[max_tokens=3]: /d*/"), "rollback"),
    ];
    for (grammar, expected) in cases {
        let Err(error) = compiler.compile(&grammar) else { panic!("{grammar:?} is refused") };
        assert!(matches!(error, Error::Grammar(_)));
        let message = error.to_string();
        assert!(message.starts_with("the grammar cannot be used: ") && !message.contains('\n'), "{message}");
        assert!(message.contains(expected) && message.len() < 300, "{message}");
    }
    let nothing_ends = Compiler::with_pieces(&[], pieces);
    assert!(nothing_ends.compile(&Grammar::json_object()).is_err());
}

/// Texts that are small and mean something huge: they are compiled, or refused, in bounded time, and so is each step.
#[test]
fn small_texts_of_huge_grammars_do_no_harm() {
    let compiler = Arc::new(compiler());
    // Each definition is two of the one before, in all that `keyword` means.
    let doubling = |keyword: &str| {
        let twice =
            |i| format!(r##""d{}": {{"{keyword}": [{{"$ref": "#/$defs/d{i}"}}, {{"$ref": "#/$defs/d{i}"}}]}}"##, i + 1);
        let definitions: Vec<String> = (0..40).map(twice).collect();
        let all = definitions.join(", ");
        Grammar::json_schema(&format!(r##"{{"$defs": {{"d0": {{"type": "null"}}, {all}}}, "$ref": "#/$defs/d40"}}"##))
    };
    let cases = [
        Grammar::json_schema(r#"{"type":"array","items":{"type":"integer"},"minItems":100000000}"#),
        Grammar::json_schema(r#"{"type":"array","items":{"type":"integer"},"maxItems":100000000}"#),
        Grammar::json_schema(r#"{"type":"string","minLength":100000000,"maxLength":200000000}"#),
        Grammar::json_schema(r#"{"type":"integer","multipleOf":982451653}"#),
        doubling("anyOf"),
        doubling("allOf"),
        doubling("oneOf"),
        doubling("prefixItems"),
        Grammar::regex("(a{1000}){1000}b"),
        Grammar::regex("(a|b)*a(a|b){40}"),
        Grammar::lark("start: a a a a a a a a\na: b b b b b b b b | \nb: c c c c c c c c | \nc: /x*/ | \"y\" |"),
        Grammar::lark("start: \"a\"{1,1000000000}"),
        Grammar::lark("start: start start | \"a\" |"),
    ];
    for grammar in cases {
        let began = Instant::now();
        let compiled = {
            let (compiler, text) = (Arc::clone(&compiler), grammar.clone());
            let (done, compiled) = std::sync::mpsc::channel();
            std::thread::spawn(move || done.send(compiler.compile(&text)));
            compiled.recv_timeout(Duration::from_secs(5)).unwrap_or_else(|_| panic!("{grammar:?} takes too long"))
        };
        eprintln!("{:?} in {:?}: {:?}", grammar.text(), began.elapsed(), compiled.as_ref().err().map(Error::to_string));
        let Ok(compiled) = compiled else { continue };
        let params = SamplingParams { grammar: Some(compiled), ..SamplingParams::default() };
        let sampler = Sampler::new(params, VOCAB).unwrap();
        let mut text = Vec::new();
        let began = Instant::now();
        for _ in 0..50 {
            let token = sampler.choose(&[0.0; VOCAB], Context { tokens: &text, prompt_len: 0 });
            if sampler.failure().is_some() || token == END {
                break;
            }
            text.push(token);
        }
        let took = began.elapsed();
        assert!(took < Duration::from_secs(5), "{grammar:?} took {took:?} for {} tokens", text.len());
        eprintln!("{:?}: {} tokens in {took:?}; {:?}", grammar.text(), text.len(), sampler.failure());
    }
}
