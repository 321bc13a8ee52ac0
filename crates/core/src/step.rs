//! One forward pass, as the server plans it and an engine runs it.

use crate::{Position, Token};

/// The number of a KV-cache sequence in an engine, below the engine's sequence limit.
pub type SequenceId = u32;

/// One token of one sequence in a forward pass: the unit of server work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// The sequence whose cache the row extends.
    pub sequence: SequenceId,
    /// Where the token stands; always the length of the sequence's cache at that moment.
    pub position: Position,
    /// The token to evaluate.
    pub token: Token,
    /// Whether the logits of the *next* position are wanted from this row.
    pub wants_logits: bool,
}

/// A change to an engine's KV cache, applied before the rows of a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheOp {
    /// Forget everything at and after position `len` of `sequence`.
    Truncate {
        /// The sequence to cut.
        sequence: SequenceId,
        /// How many tokens stay.
        len: usize,
    },
    /// Make the first `len` tokens of `from` the cache of `to`, which is empty.
    CopyPrefix {
        /// The sequence to read.
        from: SequenceId,
        /// The empty sequence to fill.
        to: SequenceId,
        /// How many tokens to share.
        len: usize,
    },
}
