//! A vocabulary of 64 made-up tokens for the synthetic model, as a GGUF file.

use std::io::Write;

use sled_model::llama::Vocab;

use super::VOCAB;

/// The type codes of GGUF's values.
const U32: u32 = 4;
const I32: u32 = 5;
const STRING: u32 = 8;
const ARRAY: u32 = 9;

fn string(text: &str) -> Vec<u8> {
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes
}

fn value(key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    let mut bytes = string(key);
    bytes.extend(kind.to_le_bytes());
    bytes.extend(value);
    bytes
}

fn array(key: &str, kind: u32, items: &[Vec<u8>]) -> Vec<u8> {
    let mut content = kind.to_le_bytes().to_vec();
    content.extend((items.len() as u64).to_le_bytes());
    content.extend(items.concat());
    value(key, ARRAY, &content)
}

/// The file; token 0 ends a text.
pub fn file() -> Vec<u8> {
    let names: Vec<Vec<u8>> = (0..VOCAB).map(|i| string(&format!("t{i}"))).collect();
    let kinds: Vec<Vec<u8>> = (0..VOCAB).map(|i| (if i == 0 { 3i32 } else { 1 }).to_le_bytes().to_vec()).collect();
    let values = [
        value("general.architecture", STRING, &string("llama")),
        value("general.name", STRING, &string("synthetic")),
        value("tokenizer.ggml.model", STRING, &string("gpt2")),
        value("tokenizer.ggml.pre", STRING, &string("default")),
        array("tokenizer.ggml.tokens", STRING, &names),
        array("tokenizer.ggml.token_type", I32, &kinds),
        array("tokenizer.ggml.merges", STRING, &[string("t 1")]),
        value("tokenizer.ggml.bos_token_id", U32, &0u32.to_le_bytes()),
        value("tokenizer.ggml.eos_token_id", U32, &0u32.to_le_bytes()),
    ];
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(3u32.to_le_bytes());
    bytes.extend(0u64.to_le_bytes());
    bytes.extend((values.len() as u64).to_le_bytes());
    bytes.extend(values.concat());
    // Tensors, of which there are none, begin at a multiple of 32.
    bytes.resize(bytes.len().next_multiple_of(32), 0);
    bytes
}

pub fn vocab() -> Vocab {
    let mut kept = tempfile::NamedTempFile::new().unwrap();
    kept.write_all(&file()).unwrap();
    Vocab::load(kept.path()).unwrap()
}
