//! A vocabulary of bytes, as a GGUF file: the real tokeniser, and a token for every byte.

use sled_core::Token;
use sled_llama::load_vocabulary;
use sled_model::vocabulary::Vocab;

pub const IM_START: Token = 256;
pub const IM_END: Token = 257;
pub const TOOL_CALL: Token = 258;
pub const END_TOOL_CALL: Token = 259;
/// The token `the`, the only ones besides of more than a byte are `th` and `he`.
pub const THE: Token = 262;

/// How GPT-2 spells a byte.
fn spelt(byte: u8) -> char {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if printable(byte) {
        return char::from(byte);
    }
    let rank = (0..byte).filter(|&other| !printable(other)).count();
    char::from_u32(256 + u32::try_from(rank).unwrap()).unwrap()
}

struct Gguf {
    entries: u64,
    bytes: Vec<u8>,
}

impl Gguf {
    fn string(&mut self, text: &str) {
        self.bytes.extend((text.len() as u64).to_le_bytes());
        self.bytes.extend(text.as_bytes());
    }

    fn entry(&mut self, key: &str, kind: u32) {
        self.entries += 1;
        self.string(key);
        self.bytes.extend(kind.to_le_bytes());
    }

    fn text(&mut self, key: &str, text: &str) {
        self.entry(key, 8);
        self.string(text);
    }

    fn number(&mut self, key: &str, number: u32) {
        self.entry(key, 4);
        self.bytes.extend(number.to_le_bytes());
    }

    fn flag(&mut self, key: &str, flag: bool) {
        self.entry(key, 7);
        self.bytes.push(flag.into());
    }

    fn list(&mut self, key: &str, kind: u32, len: usize) {
        self.entry(key, 9);
        self.bytes.extend(kind.to_le_bytes());
        self.bytes.extend((len as u64).to_le_bytes());
    }
}

/// A vocabulary whose texts are split as `pre` says before they are tokenised.
pub fn made(pre: &str) -> Vocab {
    load_vocabulary(file(pre).path()).unwrap()
}

/// The file with it.
pub fn file(pre: &str) -> tempfile::NamedTempFile {
    let mut tokens: Vec<String> = (0..=255).map(|byte| spelt(byte).to_string()).collect();
    let special = ["<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>"];
    tokens.extend(special.map(str::to_owned));
    let merged = ["th", "he", "the"];
    tokens.extend(merged.map(str::to_owned));
    // 1 is text, 3 a control token, 4 user-defined.
    let kinds = [vec![1; 256], vec![3, 3, 4, 4], vec![1; merged.len()]].concat();
    let mut gguf = Gguf { entries: 0, bytes: Vec::new() };
    gguf.text("general.architecture", "llama");
    gguf.text("general.name", "bytes");
    gguf.text("tokenizer.ggml.model", "gpt2");
    gguf.text("tokenizer.ggml.pre", pre);
    gguf.list("tokenizer.ggml.tokens", 8, tokens.len());
    tokens.iter().for_each(|token| gguf.string(token));
    gguf.list("tokenizer.ggml.token_type", 5, kinds.len());
    kinds.iter().for_each(|kind: &i32| gguf.bytes.extend(kind.to_le_bytes()));
    gguf.list("tokenizer.ggml.merges", 8, 3);
    ["t h", "h e", "th e"].iter().for_each(|merge| gguf.string(merge));
    gguf.number("tokenizer.ggml.eos_token_id", IM_END);
    gguf.flag("tokenizer.ggml.add_bos_token", false);
    let mut file = b"GGUF".to_vec();
    file.extend(3u32.to_le_bytes());
    file.extend(0u64.to_le_bytes());
    file.extend(gguf.entries.to_le_bytes());
    file.extend(gguf.bytes);
    file.resize(file.len().next_multiple_of(32), 0);
    let kept = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(kept.path(), file).unwrap();
    kept
}
