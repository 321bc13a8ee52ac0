//! A vocabulary of 64 made-up tokens for the synthetic model, and a file with it: a token a line.

use std::path::Path;

use sled_device::Vocabularies;
use sled_model::synthetic::{SyntheticToken, SyntheticVocab};
use sled_model::vocabulary::Vocab;

use super::VOCAB;

/// The first line of a file.
const HEADER: &str = "a synthetic vocabulary";

/// The file; token 0 ends a text.
pub fn file() -> Vec<u8> {
    let names = (0..VOCAB).map(|i| format!("t{i}"));
    [HEADER.to_owned()].into_iter().chain(names).collect::<Vec<_>>().join("\n").into_bytes()
}

fn of(file: &str) -> Option<Vocab> {
    let mut names = file.lines();
    names.next().filter(|&line| line == HEADER)?;
    let control = SyntheticToken::Control(names.next()?.to_owned());
    let text = names.map(|name| SyntheticToken::Text(name.into()));
    let tokens = [control].into_iter().chain(text).collect();
    SyntheticVocab { tokens, bos: Some(0), eos: Some(0), chat_template: None }.vocab().ok()
}

fn read(path: &Path) -> Result<Vocab, Box<dyn std::error::Error + Send + Sync>> {
    of(&std::fs::read_to_string(path)?).ok_or_else(|| "it is not a synthetic vocabulary".into())
}

pub fn vocab() -> Vocab {
    of(&String::from_utf8(file()).unwrap()).unwrap()
}

/// The vocabularies in `folder`.
pub fn kept_in(folder: &Path) -> Vocabularies {
    Vocabularies::new(folder.to_owned(), read)
}
