//! The vocabulary of a model file.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use llama_cpp_sys_2 as sys;
use sha2::{Digest, Sha256};
use sled_core::Token;
use sled_core::names::Fingerprint;
use sled_model::Error;
use sled_model::vocabulary::{Tokenizer, Vocab, VocabInfo};

use super::ffi::{Load, Weights};
use super::file::{self, ModelFile};
use super::parts::{Part, Parts};
use super::runs::Runs;

/// Loads the vocabulary of a GGUF file, and none of its weights: of a file that [`crate::vocabulary_file`] made, or of a
/// model file.
///
/// # Errors
/// If the file is missing, not GGUF, truncated, or has no vocabulary that can be used.
pub fn load_vocabulary(path: &Path) -> Result<Vocab, crate::Error> {
    let file = ModelFile::open(path)?;
    let weights = Arc::new(Weights::load(path, Load::Vocabulary)?);
    Ok(vocabulary(weights, &file.name())?)
}

/// The vocabulary of `weights`, the model called `name`.
pub(super) fn vocabulary(weights: Arc<Weights>, name: &str) -> Result<Vocab, Error> {
    if let Some(why) = defect(&weights) {
        return Err(Error::Vocabulary { name: name.to_owned(), why });
    }
    let info = VocabInfo {
        size: weights.vocab_size(),
        bos: weights.bos(),
        eos: weights.eos(),
        add_bos: weights.add_bos(),
        eog_tokens: tokens(&weights).filter(|&token| weights.is_eog(token)).collect(),
        chat_template: weights.chat_template(),
        fingerprint: fingerprint(&weights),
    };
    let runs = weights.metadata(c"tokenizer.ggml.pre").as_deref().and_then(Runs::of);
    Ok(Vocab::new(info, LlamaTokenizer { weights, parts: Default::default(), runs }))
}

#[derive(Debug)]
struct LlamaTokenizer {
    weights: Arc<Weights>,
    /// What is found in a text before it is tokenised, with the names of control tokens and without.
    parts: [OnceLock<Parts>; 2],
    runs: Option<Runs>,
}

impl Tokenizer for LlamaTokenizer {
    fn tokenize(&self, text: &str, add_special: bool, parse_special: bool) -> Result<Vec<Token>, Error> {
        let weights = &self.weights;
        let too_long = || Error::TextTooLong { bytes: text.len() };
        let tokenize = |text: &str, add_special| {
            let text = Some(text).filter(|text| text.len() <= Vocab::LONGEST_TEXT);
            text.and_then(|text| weights.tokenize(text, add_special, parse_special)).ok_or_else(too_long)
        };
        if let Some(characters) = self.runs.and_then(|runs| runs.too_long(text)) {
            return Err(Error::RunTooLong { characters });
        }
        let parts = self.parts[usize::from(parse_special)].get_or_init(|| Parts::new(weights, parse_special));
        let parts = parts.of(text).ok_or_else(too_long)?;
        if let [] | [Part::Text(_)] = parts[..] {
            return tokenize(text, add_special);
        }
        // What is added at the ends.
        let added = if add_special { tokenize("", true)? } else { Vec::new() };
        let begins = usize::from(added.first().is_some_and(|&first| weights.add_bos() && Some(first) == weights.bos()));
        let (begin, end) = added.split_at(begins);
        let mut tokens = begin.to_vec();
        for part in parts {
            match part {
                Part::Text(range) => tokens.extend(tokenize(&text[range], false)?),
                Part::Control(token) => tokens.push(token),
            }
        }
        tokens.extend(end);
        Ok(tokens)
    }

    fn piece(&self, token: Token, special: bool) -> Vec<u8> {
        self.weights.piece(token, special)
    }
}

fn tokens(weights: &Weights) -> impl DoubleEndedIterator<Item = Token> + use<> {
    0..Token::try_from(weights.vocab_size()).unwrap_or(Token::MAX)
}

/// What of a vocabulary would make llama.cpp end the process when it tokenises.
fn defect(weights: &Weights) -> Option<&'static str> {
    match weights.vocab_type() {
        sys::LLAMA_VOCAB_TYPE_NONE | sys::LLAMA_VOCAB_TYPE_TEST => return Some("has no tokeniser"),
        sys::LLAMA_VOCAB_TYPE_WPM => return Some("has a tokeniser for encoders"),
        sys::LLAMA_VOCAB_TYPE_SPM if !spells_every_byte(weights) => return Some("cannot spell every byte"),
        _ => {}
    }
    if weights.add_bos() && weights.bos().is_none() {
        return Some("wants a token before every text and does not say which");
    }
    if weights.add_eos() && weights.eos().is_none() {
        return Some("wants a token after every text and does not say which");
    }
    None
}

/// Whether every byte has a token, be it the byte itself or its number, such as `<0x0A>`.
fn spells_every_byte(weights: &Weights) -> bool {
    let mut spelt = [false; 256];
    for token in tokens(weights) {
        match weights.text(token) {
            [byte] => spelt[usize::from(*byte)] = true,
            [b'<', b'0', b'x', digits @ .., b'>'] if digits.len() == 2 => {
                let number = str::from_utf8(digits).ok().and_then(|digits| u8::from_str_radix(digits, 16).ok());
                if let Some(byte) = number {
                    spelt[usize::from(byte)] = true;
                }
            }
            _ => {}
        }
    }
    spelt == [true; 256]
}

/// What identifies the vocabulary: part of a hash over the kind of tokeniser, the special tokens
/// and the strings of all tokens up to the last one that is not padding. Models of one family pad their
/// vocabularies to different sizes and share the fingerprint.
fn fingerprint(weights: &Weights) -> Fingerprint {
    let id = |token: Option<Token>| token.map_or(-1, i64::from).to_le_bytes();
    let mut hash = Sha256::new();
    hash.update(weights.vocab_type().to_le_bytes());
    hash.update([u8::from(weights.add_bos())]);
    hash.update(id(weights.bos()));
    hash.update(id(weights.eos()));
    let padding = |token: Token| weights.is_unused(token) || is_padding(weights.text(token));
    let last = tokens(weights).rev().find(|&token| !padding(token));
    for token in tokens(weights).take_while(|&token| Some(token) <= last) {
        let text = weights.text(token);
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    }
    file::fingerprint(hash)
}

/// Whether a token is named like those that converters pad vocabularies with.
fn is_padding(text: &[u8]) -> bool {
    ["[PAD", "<dummy", "[unused", "<unused"].iter().any(|prefix| text.starts_with(prefix.as_bytes()))
}
