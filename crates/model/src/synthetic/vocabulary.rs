//! A vocabulary without a model file.

use aho_corasick::{AhoCorasick, MatchKind};
use sled_core::Token;
use sled_core::names::Fingerprint;
use sled_core::splitmix;

use crate::Error;
use crate::vocabulary::{Tokenizer, Vocab, VocabInfo};

/// A token of a synthetic vocabulary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SyntheticToken {
    /// It stands for these bytes.
    Text(Vec<u8>),
    /// It is called so, and stands for nothing in a text.
    Control(String),
}

impl SyntheticToken {
    /// The bytes that it stands for, or its name.
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Text(bytes) => bytes,
            Self::Control(name) => name.as_bytes(),
        }
    }

    fn is_control(&self) -> bool {
        matches!(self, Self::Control(_))
    }
}

/// A vocabulary of any tokens. From left to right, the longest token that a text goes on with is taken; bytes that no token begins
/// with are left out.
#[derive(Clone, Debug, Default)]
pub struct SyntheticVocab {
    /// The tokens, by their ids.
    pub tokens: Vec<SyntheticToken>,
    /// The token that begins a text.
    pub bos: Option<Token>,
    /// The token that ends a text, and generation.
    pub eos: Option<Token>,
    /// The chat template, in Jinja.
    pub chat_template: Option<String>,
}

impl SyntheticVocab {
    /// A vocabulary of all bytes, in order.
    #[must_use]
    pub fn bytes() -> Self {
        let tokens = (0..=u8::MAX).map(|byte| SyntheticToken::Text(vec![byte])).collect();
        Self { tokens, ..Self::default() }
    }

    /// The vocabulary.
    ///
    /// # Errors
    /// [`Error::Vocabulary`] if the tokens are too many to be searched for.
    pub fn vocab(self) -> Result<Vocab, Error> {
        let Self { tokens, bos, eos, chat_template } = self;
        let info = VocabInfo {
            size: tokens.len(),
            bos,
            eos,
            add_bos: false,
            eog_tokens: eos.into_iter().collect(),
            chat_template,
            fingerprint: fingerprint(&tokens),
        };
        let finders = (Finder::new(&tokens, false)?, Finder::new(&tokens, true)?);
        Ok(Vocab::new(info, Longest { tokens, finders }))
    }
}

fn fingerprint(tokens: &[SyntheticToken]) -> Fingerprint {
    let add = |hash: u64, number: u64| splitmix::hash(hash ^ splitmix::hash(number));
    let hash = tokens.iter().fold(0, |hash, token| {
        let begun = add(hash, token.bytes().len() as u64 * 2 + u64::from(token.is_control()));
        token.bytes().iter().fold(begun, |hash, &byte| add(hash, byte.into()))
    });
    Fingerprint::new(hash)
}

#[derive(Debug)]
struct Longest {
    tokens: Vec<SyntheticToken>,
    /// Without control tokens, and with them.
    finders: (Finder, Finder),
}

#[derive(Debug)]
struct Finder {
    search: AhoCorasick,
    /// Which tokens it looks for.
    ids: Vec<Token>,
}

impl Finder {
    fn new(tokens: &[SyntheticToken], control: bool) -> Result<Self, Error> {
        let sought = tokens.iter().zip(0..).filter(|(token, _)| control || !token.is_control());
        let (patterns, ids): (Vec<_>, Vec<_>) = sought.map(|(token, id)| (token.bytes(), id)).unzip();
        let search = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(patterns);
        let search =
            search.map_err(|_| Error::Vocabulary { name: "synthetic".to_owned(), why: "has too many tokens" })?;
        Ok(Self { search, ids })
    }
}

impl Tokenizer for Longest {
    fn tokenize(&self, text: &str, _add_special: bool, parse_special: bool) -> Result<Vec<Token>, Error> {
        if text.len() > Vocab::LONGEST_TEXT {
            return Err(Error::TextTooLong { bytes: text.len() });
        }
        let finder = if parse_special { &self.finders.1 } else { &self.finders.0 };
        let found = finder.search.find_iter(text.as_bytes());
        Ok(found.filter_map(|found| finder.ids.get(found.pattern().as_usize()).copied()).collect())
    }

    fn piece(&self, token: Token, special: bool) -> Vec<u8> {
        let token = self.tokens.get(token as usize).filter(|token| special || !token.is_control());
        token.map(|token| token.bytes().to_vec()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_longest_token_is_taken_and_control_tokens_only_where_they_are_meant() {
        let mut made = SyntheticVocab::bytes();
        made.tokens.push(SyntheticToken::Control("<end>".to_owned()));
        made.tokens.extend(["th", "the"].map(|word| SyntheticToken::Text(word.as_bytes().to_vec())));
        made.eos = Some(256);
        let vocab = made.vocab().unwrap();
        assert_eq!(vocab.tokenize("thethx<end>", true, true).unwrap(), [258, 257, u32::from(b'x'), 256]);
        let spelt: Vec<Token> = b"<end>".map(Token::from).to_vec();
        assert_eq!(vocab.tokenize("<end>", true, false).unwrap(), spelt);
        assert_eq!((vocab.piece(256, false), vocab.piece(256, true)), (Vec::new(), b"<end>".to_vec()));
        assert_eq!((vocab.size(), vocab.longest_piece(), vocab.eog_tokens()), (259, 5, [256].as_slice()));
        let bytes: Vec<u8> =
            vocab.tokenize("é", false, true).unwrap().into_iter().flat_map(|t| vocab.piece(t, false)).collect();
        assert_eq!(bytes, "é".as_bytes());
    }

    #[test]
    fn vocabularies_with_other_tokens_have_other_fingerprints() {
        let of = |tokens: &[SyntheticToken]| fingerprint(tokens);
        let text = |text: &str| SyntheticToken::Text(text.as_bytes().to_vec());
        let all =
            [of(&[]), of(&[text("ab")]), of(&[text("a"), text("b")]), of(&[SyntheticToken::Control("ab".to_owned())])];
        assert!((0..all.len()).all(|i| !all[..i].contains(&all[i])), "{all:?}");
    }
}
