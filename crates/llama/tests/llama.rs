//! The llama.cpp engine on a real model file, SmolLM2-135M-Instruct as Q4_1.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use sled_core::step::{CacheOp, Row, SequenceId};
use sled_core::{Position, Token};
use sled_llama::{
    CacheType, EngineOptions, Footprint, Format, LlamaEngine, LlamaModel, LoadOptions, load_vocabulary, requantize,
    vocabulary_file,
};
use sled_model::{Error, Model};

/// How far a quantised model's logits may move with the batch that a token is evaluated in.
const QUANTISED_GAP: f32 = 0.5;
/// The same for 32-bit weights; the cache still rounds to 16 bits.
const EXACT_GAP: f32 = 0.05;

const TEXT: &str = "The little lighthouse keeper climbed the stairs every evening, lit the lamp, and wrote down in a \
                    large book which ships had passed, where they were going, and what the weather was like.";

fn model_path() -> PathBuf {
    match std::env::var_os("SLED_TEST_SMOLLM2") {
        Some(path) => path.into(),
        None => panic!("SLED_TEST_SMOLLM2 is not set; run `make test`, which fetches the test model and sets it"),
    }
}

fn load(path: &Path) -> LlamaModel {
    LlamaModel::load(path, &LoadOptions::default()).unwrap()
}

fn options() -> EngineOptions {
    EngineOptions { context: 512, sequences: 4, rows: 128, threads: 2, cache: CacheType::F16 }
}

fn engine(model: &LlamaModel) -> LlamaEngine {
    LlamaEngine::new(model, &options()).unwrap()
}

/// Rows that put `tokens` at `start` and after, all of them with logits.
fn rows(sequence: SequenceId, start: Position, tokens: &[Token]) -> Vec<Row> {
    tokens.iter().zip(start..).map(|(&token, position)| Row { sequence, position, token, wants_logits: true }).collect()
}

/// The logits of each of `rows`, evaluated in one pass.
fn evaluate(engine: &mut LlamaEngine, rows: &[Row]) -> Vec<Vec<f32>> {
    engine.forward(rows).unwrap();
    (0..rows.len()).map(|row| engine.logits(row).unwrap().to_vec()).collect()
}

/// The logits of each of `rows`, evaluated one row a pass.
fn evaluate_singly(engine: &mut LlamaEngine, rows: &[Row]) -> Vec<Vec<f32>> {
    rows.iter().flat_map(|row| evaluate(engine, &[*row])).collect()
}

/// The largest difference between two lists of logits.
fn gap(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    assert_eq!(a.len(), b.len());
    let differences = a.iter().flatten().zip(b.iter().flatten()).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, f32::max)
}

fn argmaxes(logits: &[Vec<f32>]) -> Vec<usize> {
    logits.iter().map(|row| (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap()).collect()
}

/// Four sequences of different lengths, interleaved in one batch and evaluated alone.
fn batched_and_alone(model: &LlamaModel) -> (Vec<Vec<f32>>, Vec<Vec<f32>>) {
    let tokens = model.vocab().tokenize(TEXT, true, false).unwrap();
    let sequences = [&tokens[..3], &tokens[..17], &tokens[5..6], &tokens[4..30]];
    let mut batch: Vec<Row> = (0..).zip(sequences).flat_map(|(sequence, tokens)| rows(sequence, 0, tokens)).collect();
    batch.sort_by_key(|row| row.position);
    let batched = evaluate(&mut engine(model), &batch);
    let alone = evaluate_singly(&mut engine(model), &batch);
    (batched, alone)
}

#[test]
fn a_cache_of_8_bits_is_close_to_one_of_16_and_rolls_back_exactly() {
    let model = load(&model_path());
    let tokens = model.vocab().tokenize(TEXT, true, false).unwrap();
    let all = rows(0, 0, &tokens);
    let exact = evaluate(&mut engine(&model), &all);
    let mut small = LlamaEngine::new(&model, &EngineOptions { cache: CacheType::Q8_0, ..options() }).unwrap();
    let coarse = evaluate(&mut small, &all);
    let agree = argmaxes(&exact).iter().zip(argmaxes(&coarse)).filter(|(a, b)| **a == *b).count();
    // Near-ties fall differently with another processor's instructions: 33 of 38 agree with AVX-512.
    assert!(5 * agree >= 4 * tokens.len(), "{agree} of {}", tokens.len());
    let half = tokens.len() / 2;
    small.apply(CacheOp::Truncate { sequence: 0, len: half }).unwrap();
    assert!(gap(&evaluate(&mut small, &all[half..]), &coarse[half..]) < 0.5);
}

#[test]
fn text_survives_tokenisation() {
    let vocab = load(&model_path()).vocab();
    for text in ["", "Hello, world!", "  two  spaces\n\ttab\r\n", "d\u{e9}j\u{e0} vu \u{4f60}\u{597d} \u{1f980}", TEXT]
    {
        let tokens = vocab.tokenize(text, false, false).unwrap();
        let bytes: Vec<u8> = tokens.iter().flat_map(|&token| vocab.piece(token, false)).collect();
        assert_eq!(String::from_utf8(bytes).unwrap(), text);
    }
    let crab = vocab.tokenize("\u{1f980}", false, false).unwrap();
    assert!(crab.len() > 1 && String::from_utf8(vocab.piece(crab[0], false)).is_err(), "a piece may cut a character");
}

#[test]
fn control_tokens_are_parsed_and_shown_only_on_request() {
    let vocab = load(&model_path()).vocab();
    let end = vocab.eos().unwrap();
    assert_eq!(vocab.tokenize("<|im_end|>", false, true).unwrap(), [end]);
    assert!(!vocab.tokenize("<|im_end|>", false, false).unwrap().contains(&end));
    assert_eq!(vocab.piece(end, true), b"<|im_end|>");
    assert!(vocab.piece(end, false).is_empty());
    assert!(vocab.is_eog(end) && vocab.eog_tokens().contains(&end));
    assert!(!vocab.is_eog(vocab.tokenize("a", false, false).unwrap()[0]));
    assert_eq!(vocab.bos(), Some(1));
    assert!(!vocab.add_bos());
}

#[test]
fn ids_that_no_token_has_are_nothing() {
    let vocab = load(&model_path()).vocab();
    assert_eq!(vocab.size(), 49152);
    for token in [49152, Token::MAX] {
        assert!(vocab.piece(token, true).is_empty());
        assert!(!vocab.is_eog(token));
    }
}

#[test]
fn a_ragged_batch_gives_each_sequence_the_logits_that_it_has_alone() {
    let (batched, alone) = batched_and_alone(&load(&model_path()));
    let gap = gap(&batched, &alone);
    assert!(gap <= QUANTISED_GAP, "{gap}");
    let differ = argmaxes(&batched).iter().zip(argmaxes(&alone)).filter(|&(&a, b)| a != b).count();
    assert!(differ * 20 <= batched.len(), "{differ} of {} choices differ", batched.len());
}

#[test]
fn with_32_bit_weights_batching_changes_no_choice() {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("f32.gguf");
    requantize(&model_path(), &copy, Format::F32, |_| ()).unwrap();
    let (original, model) = (load(&model_path()), load(&copy));
    let (batched, alone) = batched_and_alone(&model);
    let gap = gap(&batched, &alone);
    assert!(gap <= EXACT_GAP, "{gap}");
    assert_eq!(argmaxes(&batched), argmaxes(&alone));

    assert_eq!(model.vocab().fingerprint(), original.vocab().fingerprint());
    assert_ne!(model.fingerprint(), original.fingerprint());
    assert_eq!(model.description().parameters, original.description().parameters);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no partial file is left");
}

#[test]
fn a_copy_in_another_format_is_the_same_model_and_says_what_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let original = Footprint::read(&model_path()).unwrap();
    assert_eq!(original.format.as_deref(), Some("Q4_1"));
    // IQ4_NL takes a minute.
    for format in Format::ALL.into_iter().filter(|format| *format != Format::Iq4Nl) {
        let copy = folder.path().join("copy.gguf");
        requantize(&model_path(), &copy, format, |_| ()).unwrap();
        let footprint = Footprint::read(&copy).unwrap();
        assert_eq!(footprint.format.as_deref(), Some(format.name()));
        assert!(footprint.is_same_model(&original), "{footprint:?}");
        assert_eq!(footprint.parameters, original.parameters);
        assert!(footprint.bytes > format.least_bytes(footprint.parameters), "{footprint:?}");
        assert_eq!(load(&copy).description().parameters, original.parameters);
    }
}

#[test]
fn a_copy_does_not_take_the_place_of_its_original() {
    let folder = tempfile::tempdir().unwrap();
    let original = folder.path().join("original.gguf");
    fs::copy(model_path(), &original).unwrap();
    let same = folder.path().join("..").join(folder.path().file_name().unwrap()).join("original.gguf");
    let error = requantize(&original, &same, Format::F16, |_| ()).unwrap_err().to_string();
    assert!(error.ends_with("the copy would take its place; name another file"), "{error}");
    assert_eq!(Footprint::read(&original).unwrap(), Footprint::read(&model_path()).unwrap());
}

#[test]
fn a_sequence_rolled_back_is_as_if_it_had_never_gone_on() {
    let model = load(&model_path());
    let tokens = model.vocab().tokenize(TEXT, true, false).unwrap();
    let (prompt, wrong, right) = (&tokens[..10], &tokens[20..28], &tokens[10..14]);
    let mut straight = engine(&model);
    evaluate(&mut straight, &rows(1, 0, prompt));
    let expected = evaluate(&mut straight, &rows(1, 10, right));

    let mut rolled_back = engine(&model);
    evaluate(&mut rolled_back, &rows(1, 0, prompt));
    evaluate(&mut rolled_back, &rows(1, 10, wrong));
    rolled_back.apply(CacheOp::Truncate { sequence: 1, len: 10 }).unwrap();
    assert_eq!(gap(&expected, &evaluate(&mut rolled_back, &rows(1, 10, right))), 0.0);
    rolled_back.apply(CacheOp::Truncate { sequence: 1, len: 0 }).unwrap();
    evaluate(&mut rolled_back, &rows(1, 0, prompt));
}

#[test]
fn a_copied_prefix_is_as_good_as_an_evaluated_one_and_independent_of_its_source() {
    let model = load(&model_path());
    let tokens = model.vocab().tokenize(TEXT, true, false).unwrap();
    let (prefix, rest) = (&tokens[..10], &tokens[10..14]);
    let mut evaluated = engine(&model);
    evaluate(&mut evaluated, &rows(0, 0, prefix));
    let expected = evaluate(&mut evaluated, &rows(0, 10, rest));

    let mut copied = engine(&model);
    evaluate(&mut copied, &rows(0, 0, prefix));
    evaluate(&mut copied, &rows(0, 10, &tokens[20..22]));
    copied.apply(CacheOp::CopyPrefix { from: 0, to: 3, len: 10 }).unwrap();
    copied.apply(CacheOp::Truncate { sequence: 0, len: 0 }).unwrap();
    assert_eq!(gap(&expected, &evaluate(&mut copied, &rows(3, 10, rest))), 0.0);
}

#[test]
fn engines_on_several_threads_share_the_weights() {
    let model = load(&model_path());
    let tokens = model.vocab().tokenize(TEXT, true, false).unwrap();
    let compute = || evaluate(&mut engine(&model), &rows(0, 0, &tokens));
    let expected = compute();
    thread::scope(|scope| {
        let others = [scope.spawn(compute), scope.spawn(compute)];
        for other in others {
            assert_eq!(gap(&expected, &other.join().unwrap()), 0.0);
        }
    });
}

#[test]
fn what_is_out_of_range_is_refused_and_the_engine_goes_on() {
    let model = load(&model_path());
    let tokens = model.vocab().tokenize(TEXT, true, false).unwrap();
    let mut engine = engine(&model);
    let row = Row { sequence: 0, position: 2, token: tokens[2], wants_logits: false };
    evaluate(&mut engine, &rows(0, 0, &tokens[..2]));

    let mut refusal = |rows: &[Row]| engine.forward(rows).unwrap_err().to_string();
    assert_eq!(refusal(&[]), "a forward pass must have from 1 to 128 rows, and it has 0");
    assert_eq!(refusal(&[row; 129]), "a forward pass must have from 1 to 128 rows, and it has 129");
    assert_eq!(refusal(&[Row { sequence: 4, ..row }]), "there is no sequence 4; the engine has 4 of them");
    assert_eq!(refusal(&[Row { token: 49152, ..row }]), "there is no token 49152; the vocabulary has 49152 of them");
    assert_eq!(refusal(&[Row { position: 1, ..row }]), "position 1 does not extend sequence 0, which has 2 tokens");
    assert_eq!(refusal(&[row, row]), "position 2 does not extend sequence 0, which has 3 tokens");
    assert_eq!(
        refusal(&[row, Row { sequence: u32::MAX, ..row }]),
        "there is no sequence 4294967295; the engine has 4 of them"
    );

    let mut refusal = |op| engine.apply(op).unwrap_err().to_string();
    assert_eq!(refusal(CacheOp::Truncate { sequence: 0, len: 3 }), "sequence 0 has 2 tokens and not 3");
    assert_eq!(refusal(CacheOp::Truncate { sequence: 9, len: 0 }), "there is no sequence 9; the engine has 4 of them");
    assert_eq!(refusal(CacheOp::CopyPrefix { from: 0, to: 1, len: 3 }), "sequence 0 has 2 tokens and not 3");
    assert_eq!(
        refusal(CacheOp::CopyPrefix { from: 1, to: 0, len: 0 }),
        "a prefix can only be copied to an empty sequence, and sequence 0 has 2 tokens"
    );

    assert!(engine.logits(0).is_err(), "the last pass failed");
    engine.forward(&[row, Row { position: 3, wants_logits: true, ..row }]).unwrap();
    assert_eq!(engine.logits(0).unwrap_err().to_string(), "row 0 of the last forward pass did not ask for logits");
    assert_eq!(engine.logits(1).unwrap().len(), 49152);
    assert!(engine.logits(2).is_err());
}

#[test]
fn a_full_cache_is_an_error_until_a_sequence_is_freed() {
    let model = load(&model_path());
    let mut engine = LlamaEngine::new(&model, &EngineOptions { context: 256, ..options() }).unwrap();
    let tokens = vec![100; 128];
    evaluate(&mut engine, &rows(0, 0, &tokens));
    evaluate(&mut engine, &rows(1, 0, &tokens[..100]));
    let more = rows(2, 0, &tokens[..29]);
    assert_eq!(
        engine.forward(&more).unwrap_err().to_string(),
        "the cache of 256 tokens has no room for 29 more; free a sequence or serve with a larger context"
    );
    evaluate(&mut engine, &more[..28]);
    engine.apply(CacheOp::Truncate { sequence: 2, len: 0 }).unwrap();
    engine.apply(CacheOp::Truncate { sequence: 0, len: 0 }).unwrap();
    evaluate(&mut engine, &more);

    engine.apply(CacheOp::Truncate { sequence: 2, len: 0 }).unwrap();
    evaluate(&mut engine, &rows(1, 100, &tokens));
    evaluate(&mut engine, &rows(1, 228, &tokens[..28]));
    assert_eq!(
        engine.forward(&rows(1, 256, &tokens[..1])).unwrap_err().to_string(),
        "sequence 1 is full with 256 tokens; start a new one or serve with a larger context"
    );
}

/// 128 rows are computed in pieces (63, 63 and 2), of which only the first has room.
#[test]
fn a_copied_prefix_takes_no_cells_and_whatever_is_freed_is_used_again() {
    let model = load(&model_path());
    let mut engine = LlamaEngine::new(&model, &EngineOptions { context: 256, ..options() }).unwrap();
    let fill = |engine: &mut LlamaEngine, sequence, from, count| {
        let tokens: Vec<Token> = (0..count).collect();
        tokens
            .chunks(64)
            .zip((from..).step_by(64))
            .try_for_each(|(chunk, at)| engine.forward(&rows(sequence, at, chunk)))
    };
    let copy = |to, len| CacheOp::CopyPrefix { from: 0, to, len };
    let cut = |sequence, len| CacheOp::Truncate { sequence, len };
    // 200 cells that three sequences have, and 20, 18 and 18 of their own.
    fill(&mut engine, 0, 0, 200).unwrap();
    engine.apply(copy(1, 200)).unwrap();
    engine.apply(copy(2, 200)).unwrap();
    for (sequence, count) in [(0, 20), (1, 18), (2, 18)] {
        fill(&mut engine, sequence, 200, count).unwrap();
    }
    assert!(matches!(fill(&mut engine, 3, 0, 1), Err(Error::CacheFull { .. })), "256 of 256 cells are used");
    // What one of them lets go of is free as far as no other has it.
    engine.apply(cut(0, 0)).unwrap();
    fill(&mut engine, 3, 0, 20).unwrap();
    assert!(fill(&mut engine, 3, 20, 1).is_err());
    engine.apply(cut(1, 100)).unwrap();
    engine.apply(cut(2, 150)).unwrap();
    // 150 cells of two, and 20: the 86 that are free lie apart.
    fill(&mut engine, 1, 100, 50).unwrap();
    fill(&mut engine, 3, 20, 36).unwrap();
    assert!(fill(&mut engine, 3, 56, 1).is_err());
}

#[test]
fn a_pass_that_fails_leaves_nothing_behind() {
    let model = load(&model_path());
    let tokens = model.vocab().tokenize(TEXT, true, false).unwrap();
    let prepared = || {
        let mut engine = LlamaEngine::new(&model, &EngineOptions { context: 256, ..options() }).unwrap();
        evaluate(&mut engine, &rows(0, 0, &[100; 120]));
        evaluate(&mut engine, &rows(1, 0, &tokens[..20]));
        engine
    };
    let expected = evaluate(&mut prepared(), &rows(1, 20, &tokens[20..28]));

    let mut engine = prepared();
    let too_many = [rows(1, 20, &[7; 40]), rows(2, 0, &[9; 88])].concat();
    assert!(matches!(engine.forward(&too_many), Err(Error::CacheFull { rows: 128, cells: 256 })));
    assert_eq!(gap(&expected, &evaluate(&mut engine, &rows(1, 20, &tokens[20..28]))), 0.0);
    evaluate(&mut engine, &rows(2, 0, &[9; 108]));
}

#[test]
fn limits_are_what_the_engine_really_has() {
    let model = load(&model_path());
    assert_eq!(model.train_context(), 8192);
    let limits = LlamaEngine::new(&model, &EngineOptions { context: 300, rows: 300, ..options() }).unwrap().limits();
    assert_eq!((limits.cells, limits.context, limits.rows), (512, 512, 300));
    assert_eq!((limits.sequences, limits.vocab_size), (4, 49152));

    let refusal = |options| LlamaEngine::new(&model, &options).err().unwrap().to_string();
    assert_eq!(
        refusal(EngineOptions { sequences: 257, ..options() }),
        "an engine's number of sequences must be from 1 to 256, and 257 was given"
    );
    assert_eq!(
        refusal(EngineOptions { rows: 513, ..options() }),
        "an engine's number of rows must be from 1 to 512, and 513 was given"
    );
    assert_eq!(
        refusal(EngineOptions { threads: 0, ..options() }),
        "an engine's number of threads must be from 1 to 512, and 0 was given"
    );
}

#[test]
fn a_file_that_is_no_model_is_refused_in_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let refusal = || LlamaModel::load(&path, &LoadOptions::default()).unwrap_err();
    let name = path.display();

    assert!(matches!(refusal(), sled_llama::Error::Model(Error::NotFound(_))));
    assert_eq!(
        refusal().to_string(),
        format!("there is no model file at {name}; check the path, or `sled list` for models by name")
    );
    for content in ["", "GG", "<html>404 Not Found</html>"] {
        fs::write(&path, content).unwrap();
        assert_eq!(
            refusal().to_string(),
            format!("{name} is not a GGUF model file; give the path of a .gguf file or the name of a model")
        );
    }
    let whole = fs::read(model_path()).unwrap();
    fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    assert_eq!(
        refusal().to_string(),
        format!("the model file {name} is truncated ({} of {} bytes); pull it again", whole.len() - 1, whole.len())
    );
    fs::write(&path, &whole[..10_000]).unwrap();
    let error = refusal().to_string();
    assert!(error.starts_with(&format!("the header of {name} cannot be used (")), "{error}");
    assert!(error.ends_with("); pull the model again"), "{error}");
}

#[test]
fn a_vocabulary_file_tokenises_as_the_model_that_it_was_made_from() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vocabulary.gguf");
    vocabulary_file(&model_path(), &path).unwrap();
    assert!(fs::metadata(&path).unwrap().len() < 2_000_000);
    let (original, copy) = (load(&model_path()).vocab(), load_vocabulary(&path).unwrap());
    assert_eq!(copy.fingerprint(), original.fingerprint());
    assert_eq!(copy.fingerprint(), load_vocabulary(&model_path()).unwrap().fingerprint());
    assert_eq!(copy.size(), original.size());
    assert_eq!(copy.eog_tokens(), original.eog_tokens());
    assert!(copy.chat_template().is_some_and(|template| template.contains("<|im_start|>")));
    assert_eq!(copy.chat_template(), original.chat_template());
    for text in [TEXT, "<|im_start|>user\n1234 \u{1f980}<|im_end|>\n"] {
        let tokens = copy.tokenize(text, true, true).unwrap();
        assert_eq!(tokens, original.tokenize(text, true, true).unwrap());
        for token in tokens {
            assert_eq!(copy.piece(token, true), original.piece(token, true));
        }
    }
    assert_eq!(
        LlamaModel::load(&path, &LoadOptions::default()).unwrap_err().to_string(),
        format!("{} holds a vocabulary without weights; give the model file that it was made from", path.display())
    );
}
