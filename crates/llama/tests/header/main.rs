//! Headers that are not what they should be: every key of a small model is changed in every way that came to mind, and each such
//! file is loaded in a process of its own, which llama.cpp must not end.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, unreachable_pub)]

mod gguf;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use gguf::{
    ARRAY, BOOL, F32, F64, File, I8, I16, I32, I64, STRING, Tensor, U8, U16, U32, U64, Value, array, float, number,
    string, text, tiny, truth,
};
use sled_core::step::Row;
use sled_llama::{CacheType, EngineOptions, Format, LlamaEngine, LlamaModel, LoadOptions, load_vocabulary, requantize};
use sled_model::Model;
use sled_model::vocabulary::Vocab;

/// Names the folder of files that the process of [`loads_what_it_is_given`] is to load, and the first of them.
const FOLDER: &str = "SLED_TEST_HEADERS";
const FIRST: &str = "SLED_TEST_HEADERS_FIRST";

/// Keys that the small model lacks and that llama.cpp reads.
const OTHER_KEYS: [&str; 30] = [
    "llama.expert_count",
    "llama.expert_used_count",
    "llama.expert_group_count",
    "llama.expert_group_used_count",
    "llama.nextn_predict_layers",
    "llama.embedding_length_out",
    "llama.attention.causal",
    "llama.attention.key_length",
    "llama.attention.value_length",
    "llama.attention.key_length_swa",
    "llama.attention.scale",
    "llama.attention.sliding_window",
    "llama.attention.layer_norm_epsilon",
    "llama.pooling_type",
    "llama.logit_scale",
    "llama.rope.scaling.type",
    "llama.rope.scaling.factor",
    "llama.rope.scaling.attn_factor",
    "llama.rope.scaling.original_context_length",
    "llama.rope.scale_linear",
    "llama.rope.dimension_sections",
    "llama.classifier.output_labels",
    "general.alignment",
    "general.sampling.temp",
    "split.count",
    "tokenizer.ggml.scores",
    "tokenizer.ggml.precompiled_charsmap",
    "tokenizer.ggml.eot_token_id",
    "tokenizer.ggml.eog_token_ids",
    "tokenizer.ggml.suppress_tokens",
];

/// A number in each type, and the most, the least and the strangest that a type has.
fn scalars() -> Vec<Value> {
    let value = |kind, bytes: &[u8]| Value { kind, bytes: bytes.to_vec() };
    let mut values: Vec<Value> =
        [0, 1, 2, 3, 255, 511, 512, 513, 0x7fff_ffff, 0x8000_0000, u32::MAX].map(number).to_vec();
    let floats = [0.0, -0.0, 1e-5, -1.0, 1e38, f32::MIN_POSITIVE / 4.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
    values.extend(floats.map(float));
    values.extend([1i32, -1, i32::MIN].map(|n| value(I32, &n.to_le_bytes())));
    values.extend([value(U8, &[2]), value(I8, &[255]), value(U16, &[2, 0]), value(I16, &[255, 255])]);
    values.extend([2, u64::MAX].map(|n: u64| value(U64, &n.to_le_bytes())));
    values.extend([2, -1].map(|n: i64| value(I64, &n.to_le_bytes())));
    values.extend([1.0, f64::NAN].map(|n: f64| value(F64, &n.to_le_bytes())));
    values.extend([truth(true), truth(false), value(BOOL, &[7])]);
    values.extend(["", "llama", "none", "\0", "%s%n", "yarn"].map(text));
    values.push(text(&"x".repeat(100_000)));
    values
}

/// Arrays of each type and of several lengths.
fn arrays() -> Vec<Value> {
    let mut values = Vec::new();
    for len in [0, 1, 2, 4, 259, 600] {
        for (kind, width) in [(U8, 1), (I8, 1), (U16, 2), (U32, 4), (I32, 4), (F32, 4), (BOOL, 1), (U64, 8), (F64, 8)] {
            for byte in [0, 1, 255] {
                values.push(array(kind, vec![vec![byte; width]; len]));
            }
        }
        values.push(array(U32, vec![4u32.to_le_bytes().to_vec(); len]));
        for piece in ["", "a", "a b", "\u{120}", " ", "\0"] {
            values.push(array(STRING, vec![string(piece); len]));
        }
        let each = (0..len).map(|i| string(&format!("t{i}")));
        values.push(array(STRING, each));
    }
    // More elements than there are, and arrays of arrays.
    for (kind, len) in [(U8, 1 << 60), (U32, u64::MAX), (STRING, 1 << 40), (ARRAY, 1), (99, 1)] {
        values.push(Value { kind: ARRAY, bytes: [&u32::to_le_bytes(kind)[..], &u64::to_le_bytes(len)].concat() });
    }
    values
}

/// Each changed file, and what was changed; of the arrays that a key may become, one in `step`.
fn mutants(step: usize) -> impl Iterator<Item = (String, File)> {
    let original = tiny();
    let keys: Vec<String> =
        original.metadata.iter().map(|(key, _)| key.clone()).chain(OTHER_KEYS.map(str::to_owned)).collect();
    let values: Vec<Value> = scalars().into_iter().chain(arrays().into_iter().step_by(step)).collect();
    let with = move |key: &str, value| {
        let mut file = tiny();
        file.set(key, value);
        file
    };
    let changed = keys.clone().into_iter().flat_map(move |key| {
        let values = values.clone();
        (0..values.len()).map(move |i| {
            let value = values[i].clone();
            let head: Vec<u8> = value.bytes.iter().copied().take(16).collect();
            (format!("{key} = type {} {head:?} ({} bytes)", value.kind, value.bytes.len()), with(&key, Some(value)))
        })
    });
    let removed = keys.into_iter().map(move |key| (format!("no {key}"), with(&key, None)));
    changed.chain(removed).chain(architectures()).chain(vocabularies()).chain(tensors()).chain(counts())
}

/// The same model said to be of another kind.
fn architectures() -> Vec<(String, File)> {
    let kinds = [
        "bailingmoe2",
        "bert",
        "bitnet",
        "bloom",
        "chameleon",
        "chatglm",
        "clip",
        "cogvlm",
        "cohere2",
        "command-r",
        "dbrx",
        "deci",
        "deepseek",
        "deepseek2",
        "dots1",
        "dream",
        "ernie4_5",
        "ernie4_5-moe",
        "exaone",
        "exaone4",
        "falcon",
        "falcon-h1",
        "gemma",
        "gemma2",
        "gemma3",
        "gemma3n",
        "glm4",
        "glm4moe",
        "gpt-oss",
        "gpt2",
        "gptneox",
        "granite",
        "granitehybrid",
        "granitemoe",
        "grok",
        "grovemoe",
        "hunyuan-dense",
        "hunyuan-moe",
        "internlm2",
        "jais",
        "jamba",
        "lfm2",
        "llada",
        "llada-moe",
        "llama4",
        "mamba",
        "mamba2",
        "minicpm",
        "minicpm3",
        "mpt",
        "nemotron",
        "nemotron_h",
        "olmo",
        "olmo2",
        "olmoe",
        "openelm",
        "orion",
        "phi2",
        "phi3",
        "phimoe",
        "plamo",
        "plamo2",
        "plm",
        "qwen",
        "qwen2",
        "qwen2moe",
        "qwen2vl",
        "qwen3",
        "qwen3moe",
        "refact",
        "rwkv6",
        "rwkv7",
        "seed_oss",
        "smallthinker",
        "smollm3",
        "stablelm",
        "starcoder",
        "starcoder2",
        "t5",
        "t5encoder",
        "wavtokenizer-dec",
        "xverse",
        "unheard-of",
        "",
    ];
    let rename = |kind: &str| {
        let mut file = tiny();
        for (key, _) in &mut file.metadata {
            *key = key.strip_prefix("llama.").map_or_else(|| key.clone(), |key| format!("{kind}.{key}"));
        }
        file.set("general.architecture", Some(text(kind)));
        (format!("architecture {kind}"), file)
    };
    kinds.map(rename).to_vec()
}

/// Vocabularies whose parts do not fit each other.
fn vocabularies() -> Vec<(String, File)> {
    let mut files = Vec::new();
    for model in ["llama", "gpt2", "bert", "t5", "rwkv", "plamo2", "no_vocab", "gemma4", "hybriko", "none"] {
        for pieces in 0..5 {
            let mut file = tiny();
            file.set("tokenizer.ggml.model", Some(text(model)));
            match pieces {
                1 => file.set("tokenizer.ggml.tokens", Some(array(STRING, vec![string("a"); 259]))),
                2 => file.set(
                    "tokenizer.ggml.tokens",
                    Some(array(STRING, (0..259).map(|i| string(&format!("<0x{i:02X}>"))))),
                ),
                3 => file.set("tokenizer.ggml.token_type", Some(array(I32, vec![6i32.to_le_bytes().to_vec(); 259]))),
                4 => file.set("tokenizer.ggml.scores", Some(array(F32, vec![f32::NAN.to_le_bytes().to_vec(); 259]))),
                _ => {}
            }
            files.push((format!("tokenizer {model} with pieces {pieces}"), file));
        }
    }
    // A tokeniser that looks texts up in a table which comes with it.
    for (len, byte) in [(4usize, 0u8), (8, 1), (64, 255), (1032, 0), (4096, 0), (4096, 85), (4096, 171)] {
        let mut table = vec![byte; len];
        table[..4].copy_from_slice(&(len as u32 / 8 * 4).to_le_bytes());
        let mut file = tiny();
        file.set("tokenizer.ggml.model", Some(text("t5")));
        file.set("tokenizer.ggml.precompiled_charsmap", Some(array(U8, table.into_iter().map(|byte| vec![byte]))));
        files.push((format!("a table of {len} times {byte}"), file));
    }
    for pre in [
        "default",
        "llama-bpe",
        "qwen2",
        "tekken",
        "gpt-4o",
        "falcon",
        "viking",
        "deepseek-llm",
        "bloom",
        "chatglm-bpe",
    ] {
        let mut file = tiny();
        file.set("tokenizer.ggml.pre", Some(text(pre)));
        files.push((format!("pre {pre}"), file));
    }
    files
}

/// Tensors that are missing, misshapen or not where they should be.
fn tensors() -> Vec<(String, File)> {
    let original = tiny();
    let mut files = Vec::new();
    for at in 0..original.tensors.len() {
        let mut change = |what: &str, change: &dyn Fn(&mut Vec<Tensor>)| {
            let mut file = tiny();
            change(&mut file.tensors);
            files.push((format!("tensor {} {what}", original.tensors[at].0), file));
        };
        change("missing", &|tensors| drop(tensors.remove(at)));
        change("twice", &|tensors| tensors.push(tensors[at].clone()));
        change("renamed", &|tensors| tensors[at].0 = "blk.9.attn_q.weight".to_owned());
        change("without a name", &|tensors| tensors[at].0 = String::new());
        change("narrower", &|tensors| tensors[at].1[0] /= 2);
        change("without elements", &|tensors| tensors[at].1[0] = 0);
        change("of no dimension", &|tensors| tensors[at].1.clear());
        change("of four dimensions", &|tensors| tensors[at].1.resize(4, 1));
        change("of four slices", &|tensors| tensors[at].1.extend([2, 2]));
        change("of five dimensions", &|tensors| tensors[at].1.resize(5, 1));
    }
    files
}

/// Counts that are not true.
fn counts() -> Vec<(String, File)> {
    let counts =
        [(0, 27), (u64::MAX, 27), (1 << 40, 27), (20, 0), (20, u64::MAX), (20, 1 << 40), (20, 26), (20, 28), (1, 1)];
    let file = |counts| File { counts: Some(counts), ..tiny() };
    counts.into_iter().map(|counts| (format!("counts {counts:?}"), file(counts))).collect()
}

/// Copies and loads each file of a folder as [`processes`] asks, and says so; in any other process it does nothing.
#[test]
fn loads_what_it_is_given() {
    let (Ok(folder), Ok(first)) = (std::env::var(FOLDER), std::env::var(FIRST)) else { return };
    let first: usize = first.parse().unwrap();
    for number in first.. {
        let path = Path::new(&folder).join(number.to_string());
        if !path.exists() {
            break;
        }
        eprintln!("loading {number}");
        let vocabulary = load_vocabulary(&path);
        if let Ok(vocabulary) = &vocabulary {
            speak(vocabulary);
        }
        let copied = requantize(&path, &path.with_extension("copy"), Format::Q4_0, |_| ());
        let model = LlamaModel::load(&path, &LoadOptions::default());
        let outcome = model.and_then(|model| run(&model));
        let word = |failure: Option<String>| failure.unwrap_or_else(|| "fine".to_owned());
        eprintln!(
            "loaded {} | {} | {}",
            word(vocabulary.err().map(|e| e.to_string())),
            word(copied.err().map(|e| e.to_string())),
            word(outcome.err().map(|e| e.to_string()))
        );
    }
    eprintln!("all loaded");
}

/// Asks a vocabulary for everything.
fn speak(vocabulary: &Vocab) {
    for special in [false, true] {
        for text in ["", "aba abab", "\u{e9}\n\0 <|end|> 12", &"ab ".repeat(100)] {
            let _refused = vocabulary.tokenize(text, special, special);
        }
    }
    for token in 0..u32::try_from(vocabulary.size()).unwrap().min(2000) {
        let _piece = vocabulary.piece(token, true);
    }
}

fn run(model: &LlamaModel) -> Result<(), sled_llama::Error> {
    speak(&model.vocab());
    let options = EngineOptions { context: 64, sequences: 2, rows: 16, threads: 1, cache: CacheType::F16 };
    let mut engine = LlamaEngine::new(model, &options)?;
    let row = |position| Row { sequence: 0, position, token: 0, wants_logits: true };
    engine.forward(&[row(0), row(1), row(2)])?;
    engine.logits(2)?;
    Ok(())
}

/// Loads all files of `folder` in as many processes as it takes; the numbers of those that ended one, and what it said.
fn processes(folder: &Path) -> Vec<(usize, String)> {
    let mut fatal = Vec::new();
    let mut first = 0;
    loop {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "loads_what_it_is_given", "--nocapture"])
            .env(FOLDER, folder)
            .env(FIRST, first.to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut current = first;
        let mut said = String::new();
        let mut complete = false;
        for line in BufReader::new(process.stderr.take().unwrap()).split(b'\n') {
            let line = String::from_utf8_lossy(&line.unwrap()).into_owned();
            if let Some(number) = line.strip_prefix("loading ") {
                current = number.parse().unwrap();
                said.clear();
            } else if line == "all loaded" {
                complete = true;
            } else {
                said = said + &line + "\n";
            }
        }
        let status = process.wait().unwrap();
        if complete {
            return fatal;
        }
        fatal.push((current, format!("{status}: {said}")));
        first = current + 1;
    }
}

/// Asserts that none of `files` ends the process that loads it.
fn assert_harmless(files: impl Iterator<Item = (String, File)>) {
    let files: Vec<(String, File)> = files.collect();
    let mut fatal = Vec::new();
    for batch in files.chunks(500) {
        let folder = tempfile::tempdir().unwrap();
        for (i, (_, file)) in batch.iter().enumerate() {
            std::fs::write(folder.path().join(i.to_string()), file.bytes()).unwrap();
        }
        fatal.extend(processes(folder.path()).into_iter().map(|(i, said)| format!("{}: {said}", batch[i].0)));
    }
    assert!(fatal.is_empty(), "{} of {} files end the process:\n{}", fatal.len(), files.len(), fatal.join("\n"));
}

#[test]
fn no_header_ends_the_process() {
    assert_harmless(mutants(23));
}

#[test]
#[ignore = "15,000 files take minutes"]
fn no_header_of_them_all_ends_the_process() {
    assert_harmless(mutants(1));
}

#[test]
fn the_file_that_is_changed_is_a_model() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    std::fs::write(&path, tiny().bytes()).unwrap();
    let model = LlamaModel::load(&path, &LoadOptions::default()).unwrap();
    run(&model).unwrap();
    assert_eq!(model.vocab().tokenize("abab", false, false).unwrap(), [256, 256]);
}
