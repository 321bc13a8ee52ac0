//! The tokens of a session, and the digest that names each of its prefixes.

use crate::Token;
use crate::sampler::Context;

/// Names a prefix of a sequence in a message: a chained 64-bit hash of its tokens.
///
/// A draft or a commit says which prefix it builds on by its length and digest, so that a message that is late, repeated
/// or from another past is recognised instead of being applied to the wrong text. It guards against confusion, not against
/// an adversary: whoever can forge it could as well send other tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Digest(pub u64);

impl Digest {
    /// The digest of the empty prefix.
    pub const EMPTY: Self = Self(0x9e37_79b9_7f4a_7c15);

    /// The digest of this prefix followed by `token`.
    #[must_use]
    pub fn then(self, token: Token) -> Self {
        // Two rounds of xor-shift and multiply over state and token.
        let mut h = self.0.wrapping_add(u64::from(token)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        h ^= h >> 29;
        h = h.wrapping_mul(0x94d0_49bb_1331_11eb);
        Self(h ^ (h >> 32))
    }

    /// The digest of this prefix followed by `tokens`.
    #[must_use]
    pub fn then_all(self, tokens: &[Token]) -> Self {
        tokens.iter().fold(self, |digest, &token| digest.then(token))
    }
}

/// A prompt and what follows it, with the digest of every prefix at hand.
#[derive(Clone, Debug)]
pub struct Sequence {
    tokens: Vec<Token>,
    /// `digests[i]` names the first `i` tokens.
    digests: Vec<Digest>,
    prompt_len: usize,
}

impl Default for Sequence {
    fn default() -> Self {
        Self { tokens: Vec::new(), digests: vec![Digest::EMPTY], prompt_len: 0 }
    }
}

impl Sequence {
    /// A sequence that consists of a prompt.
    #[must_use]
    pub fn from_prompt(prompt: &[Token]) -> Self {
        let mut sequence = Self::default();
        sequence.extend(prompt);
        sequence.prompt_len = prompt.len();
        sequence
    }

    /// The number of tokens.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether there is no token.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// All tokens.
    #[must_use]
    pub fn tokens(&self) -> &[Token] {
        &self.tokens
    }

    /// How many of the first tokens are the prompt.
    #[must_use]
    pub fn prompt_len(&self) -> usize {
        self.prompt_len
    }

    /// Declares the first `len` tokens to be the prompt.
    pub fn set_prompt_len(&mut self, len: usize) {
        self.prompt_len = len.min(self.len());
    }

    /// The digest of the first `len` tokens, or `None` if there are fewer.
    #[must_use]
    pub fn digest(&self, len: usize) -> Option<Digest> {
        self.digests.get(len).copied()
    }

    /// The digest of all tokens.
    #[must_use]
    pub fn last_digest(&self) -> Digest {
        self.digests.last().copied().unwrap_or(Digest::EMPTY)
    }

    /// Appends one token.
    pub fn push(&mut self, token: Token) {
        self.digests.push(self.last_digest().then(token));
        self.tokens.push(token);
    }

    /// Appends tokens.
    pub fn extend(&mut self, tokens: &[Token]) {
        tokens.iter().for_each(|&token| self.push(token));
    }

    /// Keeps the first `len` tokens (all, if there are fewer).
    pub fn truncate(&mut self, len: usize) {
        self.tokens.truncate(len);
        self.digests.truncate(len.saturating_add(1));
        self.prompt_len = self.prompt_len.min(self.len());
    }

    /// The tokens from position `from` on; empty if there are none.
    #[must_use]
    pub fn since(&self, from: usize) -> &[Token] {
        self.tokens.get(from..).unwrap_or_default()
    }

    /// How many of `tokens` equal this sequence's tokens from position `from` on, up to the first that does not.
    #[must_use]
    pub fn agreement(&self, from: usize, tokens: &[Token]) -> usize {
        common_prefix(self.since(from), tokens)
    }

    /// What the sampler needs to know to choose the token after the last one.
    #[must_use]
    pub fn context(&self) -> Context<'_> {
        Context { tokens: &self.tokens, prompt_len: self.prompt_len }
    }
}

/// The length of the longest common prefix of two token strings.
#[must_use]
pub fn common_prefix(a: &[Token], b: &[Token]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_follow_pushes_and_truncations() {
        let mut a = Sequence::from_prompt(&[1, 2, 3]);
        a.extend(&[4, 5]);
        a.truncate(3);
        a.push(9);
        let b = Sequence::from_prompt(&[1, 2, 3, 9]);
        assert_eq!(a.last_digest(), b.last_digest());
        assert_eq!(a.digest(3), Some(Digest::EMPTY.then_all(&[1, 2, 3])));
        assert_eq!(a.digest(5), None);
        assert_ne!(Digest::EMPTY.then_all(&[1, 2]), Digest::EMPTY.then_all(&[2, 1]));
        assert_ne!(Digest::EMPTY.then(0), Digest::EMPTY);
    }

    #[test]
    fn truncating_into_the_prompt_shortens_it() {
        let mut a = Sequence::from_prompt(&[1, 2, 3]);
        a.truncate(1);
        assert_eq!((a.prompt_len(), a.agreement(0, &[1, 2])), (1, 1));
    }
}
