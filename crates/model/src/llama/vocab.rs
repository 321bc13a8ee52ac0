//! A vocabulary: text to tokens and back.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use llama_cpp_sys_2 as sys;
use sha2::{Digest, Sha256};
use sled_core::Token;
use sled_core::names::Fingerprint;

use super::ffi::{Load, Weights};
use super::file::{self, ModelFile};
use super::model;
use super::parts::{Part, Parts};
use super::runs::Runs;
use crate::Error;

/// A vocabulary; cloning shares it, between threads too.
#[derive(Clone, Debug)]
pub struct Vocab {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    weights: Arc<Weights>,
    eog_tokens: Vec<Token>,
    chat_template: Option<String>,
    fingerprint: Fingerprint,
    /// What is found in a text before it is tokenised, with the names of control tokens and without.
    parts: [OnceLock<Parts>; 2],
    longest_piece: OnceLock<usize>,
    runs: Option<Runs>,
}

impl Vocab {
    /// The most bytes that are tokenised in one go. llama.cpp recurses for each character of a run with some vocabularies, as
    /// deep as [the workers' stacks](crate::workers::STACK) allow.
    pub const LONGEST_TEXT: usize = 1 << 20;

    /// Loads the vocabulary of a GGUF file, and none of its weights: of a file that [`super::vocabulary_file`] made, or
    /// of a model file.
    ///
    /// # Errors
    /// If the file is missing, not GGUF, truncated, or has no vocabulary that can be used.
    pub fn load(path: &Path) -> Result<Self, Error> {
        ModelFile::open(path)?;
        let weights = Arc::new(Weights::load(path, Load::Vocabulary)?);
        let name = model::name(&weights, path);
        Self::new(weights, &name)
    }

    /// The vocabulary of `weights`, the model called `name`.
    pub(super) fn new(weights: Arc<Weights>, name: &str) -> Result<Self, Error> {
        if let Some(why) = defect(&weights) {
            return Err(Error::Vocabulary { name: name.to_owned(), why });
        }
        let eog_tokens = tokens(&weights).filter(|&token| weights.is_eog(token)).collect();
        let inner = Inner {
            eog_tokens,
            chat_template: weights.chat_template(),
            fingerprint: fingerprint(&weights),
            runs: weights.metadata(c"tokenizer.ggml.pre").as_deref().and_then(Runs::of),
            weights,
            parts: Default::default(),
            longest_piece: OnceLock::new(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    #[cfg(test)]
    pub(super) fn weights(&self) -> &Weights {
        &self.inner.weights
    }

    /// How many tokens there are, padding included: the length of the model's logits.
    #[must_use]
    pub fn size(&self) -> usize {
        self.inner.weights.vocab_size()
    }

    /// The tokens of `text`.
    ///
    /// With `add_special`, what the model wants at the ends of a text is added ([`Self::bos`], if [`Self::add_bos`]).
    /// With `parse_special`, the names of control tokens in the text become those tokens; that is meant for rendered
    /// chat templates, and lets any text that is passed in play the roles of the template.
    ///
    /// It takes time in proportion to the text's length, and with some vocabularies a deep stack: texts of strangers belong on
    /// [workers](crate::workers::Workers).
    ///
    /// # Errors
    /// If the text is longer than [`Self::LONGEST_TEXT`] between its control tokens, or has too many that overlap, or a run of digits
    /// or blanks that would take this vocabulary's tokeniser too long.
    pub fn tokenize(&self, text: &str, add_special: bool, parse_special: bool) -> Result<Vec<Token>, Error> {
        let weights = &self.inner.weights;
        let too_long = || Error::TextTooLong { bytes: text.len() };
        let tokenize = |text: &str, add_special| {
            let text = Some(text).filter(|text| text.len() <= Self::LONGEST_TEXT);
            text.and_then(|text| weights.tokenize(text, add_special, parse_special)).ok_or_else(too_long)
        };
        if let Some(characters) = self.inner.runs.and_then(|runs| runs.too_long(text)) {
            return Err(Error::RunTooLong { characters });
        }
        let parts = self.inner.parts[usize::from(parse_special)].get_or_init(|| Parts::new(weights, parse_special));
        let parts = parts.of(text).ok_or_else(too_long)?;
        if let [] | [Part::Text(_)] = parts[..] {
            return tokenize(text, add_special);
        }
        // What is added at the ends.
        let added = if add_special { tokenize("", true)? } else { Vec::new() };
        let begins = usize::from(added.first().is_some_and(|&first| self.add_bos() && Some(first) == self.bos()));
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

    /// How many bytes the longest token stands for, control tokens included: a text of more than `n` times as many has more than
    /// `n` tokens.
    #[must_use]
    pub fn longest_piece(&self) -> usize {
        let longest = || tokens(&self.inner.weights).map(|token| self.piece(token, true).len()).max().unwrap_or(0);
        *self.inner.longest_piece.get_or_init(longest)
    }

    /// The bytes that `token` stands for in a text; they may begin or end inside a character. Control tokens stand for
    /// nothing unless `special` is set, and so do ids that no token has.
    #[must_use]
    pub fn piece(&self, token: Token, special: bool) -> Vec<u8> {
        self.inner.weights.piece(token, special)
    }

    /// How the vocabulary file spells `token`, which differs from its [`Self::piece`] where the tokeniser escapes bytes;
    /// empty for ids that no token has.
    #[must_use]
    pub fn text(&self, token: Token) -> &[u8] {
        self.inner.weights.text(token)
    }

    /// Whether generation ends at `token`.
    #[must_use]
    pub fn is_eog(&self, token: Token) -> bool {
        self.inner.weights.is_eog(token)
    }

    /// The tokens that generation ends at, ascending.
    #[must_use]
    pub fn eog_tokens(&self) -> &[Token] {
        &self.inner.eog_tokens
    }

    /// The token that begins a text, if there is one.
    #[must_use]
    pub fn bos(&self) -> Option<Token> {
        self.inner.weights.bos()
    }

    /// The token that ends a text, if there is one.
    #[must_use]
    pub fn eos(&self) -> Option<Token> {
        self.inner.weights.eos()
    }

    /// Whether the model wants [`Self::bos`] before every text.
    #[must_use]
    pub fn add_bos(&self) -> bool {
        self.inner.weights.add_bos()
    }

    /// The model's chat template, in Jinja; see [`crate::chat::ChatTemplate`].
    #[must_use]
    pub fn chat_template(&self) -> Option<&str> {
        self.inner.chat_template.as_deref()
    }

    /// What identifies the vocabulary: part of a hash over the kind of tokeniser, the special tokens
    /// and the strings of all tokens up to the last one that is not padding. Models of one family pad their
    /// vocabularies to different sizes and share the fingerprint.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.inner.fingerprint
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
