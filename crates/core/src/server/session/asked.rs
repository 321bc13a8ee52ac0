//! What the device said: the blocks that wait for a verdict, and how far the server may decode by itself.

use std::time::Duration;

use crate::message::{DraftBlock, MAX_BLOCK, MAX_UNHEARD};
use crate::{Position, Token};

/// How many blocks that build on an unanswered one are kept.
const MAX_AHEAD: usize = 32;

/// A block that waits for its forward pass.
#[derive(Clone, Debug)]
pub(in crate::server) struct Pending {
    pub(in crate::server) block: DraftBlock,
    pub(super) arrived: Duration,
}

impl Pending {
    /// Makes this block and `next` one, if `next` goes on where this one ends, or within it.
    fn join(&mut self, next: &DraftBlock) -> bool {
        let overlap = next.from.checked_sub(self.block.from).and_then(|at| self.block.tokens.get(..at));
        let fits = |tokens: &[Token]| {
            tokens.len() + next.tokens.len() <= MAX_BLOCK && self.block.built_on.then_all(tokens) == next.built_on
        };
        let Some(len) = overlap.filter(|tokens| fits(tokens)).map(<[Token]>::len) else { return false };
        self.block.tokens.truncate(len);
        self.block.tokens.extend(&next.tokens);
        true
    }
}

/// What the device said of the turn that is not answered.
#[derive(Debug, Default)]
pub(in crate::server) struct Asked {
    pending: Option<Pending>,
    /// Blocks that build on the pending one.
    ahead: Vec<Pending>,
    /// The block that the pass answers which is under way.
    verifying: Option<Pending>,
    /// The server decodes by itself while fewer tokens are committed.
    until: usize,
    /// How many tokens the text had when the device last said anything.
    heard: usize,
}

impl Asked {
    /// Nothing is wanted of what was said so far. The pass that is under way answers its block to nobody.
    pub(super) fn clear(&mut self) {
        self.pending = None;
        self.ahead.clear();
        self.until = 0;
    }

    /// Whether it asked for the token after the first `len`: for a verdict, or for plain decoding.
    pub(super) fn asks(&self, len: usize) -> bool {
        self.pending.is_some() || (len < self.until && self.is_heard_of(len))
    }

    /// Whether the device said something not too many tokens ago.
    pub(super) fn is_heard_of(&self, len: usize) -> bool {
        len < self.heard.saturating_add(MAX_UNHEARD)
    }

    /// The device has said something when there were `len` tokens.
    pub(super) fn on_word(&mut self, len: usize) {
        self.heard = len;
    }

    /// Whether a block waits, or is being answered.
    pub(super) fn is_waiting(&self) -> bool {
        self.verifying.is_some() || self.pending.is_some()
    }

    /// Whether the pass that is under way answers a block.
    pub(super) fn is_verifying(&self) -> bool {
        self.verifying.is_some()
    }

    /// When the block that waits came.
    pub(super) fn arrived(&self) -> Option<Duration> {
        self.pending.as_ref().map(|pending| pending.arrived)
    }

    /// The first `most` tokens of the pending block that a text of `len` tokens does not have.
    pub(super) fn drafts(&self, len: usize, most: usize) -> &[Token] {
        let Some(Pending { block, .. }) = &self.pending else { return &[] };
        let drafts = block.tokens.get(len - block.from..).unwrap_or_default();
        &drafts[..drafts.len().min(most)]
    }

    /// The server may decode by itself up to `until`.
    pub(super) fn allow(&mut self, until: usize) {
        self.until = self.until.max(until);
    }

    /// Keeps a block that builds on the pending one.
    pub(super) fn keep_ahead(&mut self, block: DraftBlock, arrived: Duration) {
        if self.ahead.len() < MAX_AHEAD {
            self.ahead.push(Pending { block, arrived });
        }
    }

    /// A block that builds on the committed text takes the place of the one that waits, and has waited as long.
    pub(super) fn wait(&mut self, block: DraftBlock, arrived: Duration, until: usize) {
        let arrived = self.arrived().unwrap_or(arrived);
        self.until = until;
        self.pending = Some(Pending { block, arrived });
    }

    /// Makes the pending block and those that build on it one. It saves passes, and costs the rows of all of them if the first
    /// is rejected.
    pub(in crate::server) fn join_ahead(&mut self) {
        let Some(pending) = &mut self.pending else { return };
        self.ahead.retain(|next| {
            let joined = pending.join(&next.block);
            self.until = if joined { self.until.max(next.block.until) } else { self.until };
            !joined
        });
    }

    /// A pass is planned that answers the pending block, if there is one. Returns where that begins.
    pub(in crate::server) fn verify(&mut self) -> Option<Position> {
        self.verifying = self.pending.take();
        self.verifying.as_ref().map(|pending| pending.block.from)
    }

    /// The block that the pass answers which is under way.
    pub(in crate::server) fn verified(&self) -> Option<&DraftBlock> {
        self.verifying.as_ref().map(|pending| &pending.block)
    }

    /// Its verdict left a part of the block out, which waits from `now` on, if nothing newer has come.
    pub(in crate::server) fn wait_for_rest(&mut self, now: Duration) {
        if self.pending.is_none() {
            self.pending = self.verifying.take().map(|pending| Pending { arrived: now, ..pending });
        }
    }

    /// The pass is over for which a block was being answered.
    pub(in crate::server) fn end_pass(&mut self) {
        self.verifying = None;
    }

    /// The pass failed: its block waits again, if it `counts` and nothing newer has come.
    pub(in crate::server) fn take_back(&mut self, counts: bool) {
        let block = self.verifying.take().filter(|_| counts);
        if self.pending.is_none() {
            self.pending = block;
        }
    }

    /// Takes out all blocks that wait, oldest first, and whether nobody has counted them.
    pub(super) fn take_waiting(&mut self) -> Vec<(Pending, bool)> {
        let pending = self.pending.take().map(|pending| (pending, false));
        pending.into_iter().chain(std::mem::take(&mut self.ahead).into_iter().map(|ahead| (ahead, true))).collect()
    }

    /// Whether a block waits for its forward pass.
    pub(super) fn has_pending(&self) -> bool {
        self.pending.is_some()
    }

    /// Panics if what is kept is more than may be, or is not as a text of `len` tokens allows.
    pub(super) fn check_invariants(&self, len: usize) {
        assert!(self.ahead.len() <= MAX_AHEAD, "{} blocks ahead", self.ahead.len());
        assert!(self.pending.as_ref().is_none_or(|pending| pending.block.from <= len), "a block beyond the text");
        assert!(self.heard <= len, "heard of at {} of {len} tokens", self.heard);
    }
}
