//! A vocabulary: text to tokens and back, whichever engine knows how.

use std::fmt::Debug;
use std::sync::{Arc, OnceLock};

use sled_core::Token;
use sled_core::names::Fingerprint;

use crate::Error;

/// How text becomes tokens and tokens become text: what an engine implements of a [`Vocab`].
pub trait Tokenizer: Debug + Send + Sync {
    /// The tokens of `text`; see [`Vocab::tokenize`].
    ///
    /// # Errors
    /// [`Error::TextTooLong`].
    fn tokenize(&self, text: &str, add_special: bool, parse_special: bool) -> Result<Vec<Token>, Error>;

    /// The bytes that `token` stands for in a text; see [`Vocab::piece`].
    fn piece(&self, token: Token, special: bool) -> Vec<u8>;
}

/// What is known of a vocabulary besides its tokens' texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VocabInfo {
    /// How many tokens there are, padding included: the length of the model's logits.
    pub size: usize,
    /// The token that begins a text, if there is one.
    pub bos: Option<Token>,
    /// The token that ends a text, if there is one.
    pub eos: Option<Token>,
    /// Whether the model wants `bos` before every text.
    pub add_bos: bool,
    /// The tokens that generation ends at, ascending.
    pub eog_tokens: Vec<Token>,
    /// The model's chat template, in Jinja.
    pub chat_template: Option<String>,
    /// What identifies the vocabulary: two with the same fingerprint have the same tokens.
    pub fingerprint: Fingerprint,
}

/// A vocabulary; cloning shares it, between threads too.
#[derive(Clone, Debug)]
pub struct Vocab {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    info: VocabInfo,
    tokenizer: Box<dyn Tokenizer>,
    longest_piece: OnceLock<usize>,
}

impl Vocab {
    /// The most bytes that are tokenised in one go. llama.cpp recurses for each character of a run with some vocabularies, as
    /// deep as [the workers' stacks](crate::workers::STACK) allow.
    pub const LONGEST_TEXT: usize = 1 << 20;

    /// The vocabulary that `info` describes and `tokenizer` speaks.
    #[must_use]
    pub fn new(info: VocabInfo, tokenizer: impl Tokenizer + 'static) -> Self {
        Self { inner: Arc::new(Inner { info, tokenizer: Box::new(tokenizer), longest_piece: OnceLock::new() }) }
    }

    /// How many tokens there are, padding included: the length of the model's logits.
    #[must_use]
    pub fn size(&self) -> usize {
        self.inner.info.size
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
    /// If the text is longer than [`Self::LONGEST_TEXT`] between its control tokens, has too many that overlap, or a run of
    /// characters that would take its tokeniser too long.
    pub fn tokenize(&self, text: &str, add_special: bool, parse_special: bool) -> Result<Vec<Token>, Error> {
        self.inner.tokenizer.tokenize(text, add_special, parse_special)
    }

    /// The bytes that `token` stands for in a text; they may begin or end inside a character. Control tokens stand for
    /// nothing unless `special` is set, and so do ids that no token has.
    #[must_use]
    pub fn piece(&self, token: Token, special: bool) -> Vec<u8> {
        self.inner.tokenizer.piece(token, special)
    }

    /// How many bytes the longest token stands for, control tokens included: a text of more than `n` times as many has more than
    /// `n` tokens.
    #[must_use]
    pub fn longest_piece(&self) -> usize {
        let tokens = || 0..Token::try_from(self.size()).unwrap_or(Token::MAX);
        let longest = || tokens().map(|token| self.piece(token, true).len()).max().unwrap_or(0);
        *self.inner.longest_piece.get_or_init(longest)
    }

    /// Whether generation ends at `token`.
    #[must_use]
    pub fn is_eog(&self, token: Token) -> bool {
        self.eog_tokens().contains(&token)
    }

    /// The tokens that generation ends at, ascending.
    #[must_use]
    pub fn eog_tokens(&self) -> &[Token] {
        &self.inner.info.eog_tokens
    }

    /// The token that begins a text, if there is one.
    #[must_use]
    pub fn bos(&self) -> Option<Token> {
        self.inner.info.bos
    }

    /// The token that ends a text, if there is one.
    #[must_use]
    pub fn eos(&self) -> Option<Token> {
        self.inner.info.eos
    }

    /// Whether the model wants [`Self::bos`] before every text.
    #[must_use]
    pub fn add_bos(&self) -> bool {
        self.inner.info.add_bos
    }

    /// The model's chat template, in Jinja; see [`crate::chat::ChatTemplate`].
    #[must_use]
    pub fn chat_template(&self) -> Option<&str> {
        self.inner.info.chat_template.as_deref()
    }

    /// What identifies the vocabulary: two with the same fingerprint have the same tokens, up to padding.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.inner.info.fingerprint
    }
}
