//! A vocabulary: text to tokens and back.

use std::path::Path;
use std::sync::Arc;

use llama_cpp_sys_2 as sys;
use sha2::{Digest, Sha256};
use sled_core::Token;
use sled_core::names::Fingerprint;

use super::ffi::{Load, Weights};
use super::file::{self, ModelFile};
use super::model;
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
}

impl Vocab {
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
        let inner =
            Inner { eog_tokens, chat_template: weights.chat_template(), fingerprint: fingerprint(&weights), weights };
        Ok(Self { inner: Arc::new(inner) })
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
    /// # Errors
    /// If the text is too long (2 GiB).
    pub fn tokenize(&self, text: &str, add_special: bool, parse_special: bool) -> Result<Vec<Token>, Error> {
        let tokens = self.inner.weights.tokenize(text, add_special, parse_special);
        tokens.ok_or(Error::TextTooLong(text.len()))
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
