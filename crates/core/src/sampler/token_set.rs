//! A set of tokens, one bit each.

use crate::Token;

/// How many tokens one word of a [`TokenSet`] tells of.
const WORD: usize = u32::BITS as usize;

/// A set of tokens of a vocabulary.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenSet {
    words: Vec<u32>,
}

impl TokenSet {
    /// No token, with room for those below `vocab_size`.
    #[must_use]
    pub fn empty(vocab_size: usize) -> Self {
        Self { words: vec![0; vocab_size.div_ceil(WORD)] }
    }

    /// The tokens whose bits are set: bit `i` of word `w` is token `32 w + i`.
    #[must_use]
    pub fn from_words(words: Vec<u32>) -> Self {
        Self { words }
    }

    /// Adds `token`; false if it is there already, or the set has no room for it.
    pub fn insert(&mut self, token: Token) -> bool {
        let Some(word) = self.words.get_mut(token as usize / WORD) else { return false };
        let bit = 1 << (token as usize % WORD);
        let new = *word & bit == 0;
        *word |= bit;
        new
    }

    /// Whether `token` is in it.
    #[must_use]
    pub fn contains(&self, token: Token) -> bool {
        self.words.get(token as usize / WORD).is_some_and(|word| word >> (token as usize % WORD) & 1 == 1)
    }

    /// The lowest of its tokens.
    #[must_use]
    pub fn first(&self) -> Option<Token> {
        let at = self.words.iter().position(|&word| word != 0)?;
        Some((at * WORD) as Token + self.words[at].trailing_zeros())
    }

    /// Makes the logits of all other tokens -inf.
    pub(super) fn keep_only(&self, logits: &mut [f32]) {
        let mut words = self.words.iter();
        for logits in logits.chunks_mut(WORD) {
            match words.next() {
                Some(&u32::MAX) => {}
                Some(0) | None => logits.fill(f32::NEG_INFINITY),
                Some(word) => {
                    for (bit, logit) in logits.iter_mut().enumerate() {
                        *logit = if word >> bit & 1 == 1 { *logit } else { f32::NEG_INFINITY };
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_holds_what_was_put_in_and_keeps_only_that() {
        let members = [0, 31, 32, 63, 70, 99];
        let mut set = TokenSet::empty(100);
        assert!(set.first().is_none());
        assert!(members.into_iter().rev().all(|token| set.insert(token)));
        assert!(!set.insert(70) && !set.insert(128) && !set.contains(5000));
        assert_eq!(set.first(), Some(0));
        // Rows of other lengths than the set is made for: what it does not know is not in it.
        for len in [0, 33, 100, 200] {
            let mut logits = vec![1.0; len];
            set.keep_only(&mut logits);
            for (token, &logit) in logits.iter().enumerate() {
                assert_eq!(logit == 1.0, members.contains(&(token as Token)), "token {token} of {len}");
                assert_eq!(set.contains(token as Token), members.contains(&(token as Token)));
            }
        }
        let full = TokenSet::from_words(vec![u32::MAX; 2]);
        let mut logits = [1.0; 64];
        full.keep_only(&mut logits);
        assert_eq!(logits, [1.0; 64]);
    }
}
