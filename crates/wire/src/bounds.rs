//! Numbers between core's types and the wire's.

use sled_core::{Position, Token};

use crate::WireError;

/// What ids and lengths from the other side are checked against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Tokens in the target's vocabulary; ids are below it.
    pub vocabulary_size: usize,
    /// The most tokens that the session may have.
    pub context: usize,
    /// The longest draft block, in tokens.
    pub max_draft: usize,
}

impl Bounds {
    /// Checks that every one of `tokens` is in the vocabulary.
    pub(crate) fn check_tokens(&self, tokens: &[Token]) -> Result<(), WireError> {
        match tokens.iter().find(|&&token| widen(token) >= self.vocabulary_size) {
            Some(&token) => Err(WireError::UnknownToken { token, vocabulary_size: self.vocabulary_size }),
            None => Ok(()),
        }
    }

    /// Checks that a sequence of `len` tokens fits into the session.
    pub(crate) fn check_len(&self, len: Position) -> Result<(), WireError> {
        if len > self.context {
            return Err(WireError::BeyondContext { len, context: self.context });
        }
        Ok(())
    }
}

/// A number for the wire. What does not fit becomes the largest that does, which no receiver's bounds allow.
pub(crate) fn narrow(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// A number from the wire.
pub(crate) fn widen(n: u32) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}
