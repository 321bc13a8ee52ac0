//! Which drafts are out as blocks, and which go out next.
//!
//! A block is cut by the policy token by token, whether its drafts were made for it or are there already because the device
//! drafted on while a verdict was under way: running ahead does not lengthen blocks.

use std::collections::VecDeque;
use std::time::Duration;

use super::drafts::Drafts;
use super::{Ahead, Tuning};
use crate::Position;
use crate::policy::{DraftPolicy, NextBlock, Travel};

/// A block that waits for its verdict.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block {
    start: Position,
    end: Position,
    /// The server decodes by itself up to here; 0 if it was not told to.
    until: Position,
    /// Whether that is all that the block is for.
    is_lease: bool,
    sent: Duration,
    /// Whether nothing else was under way then.
    alone: bool,
    /// Whether it was sent more than once.
    again: bool,
}

impl Block {
    /// Whether `settled` tokens answer it.
    fn is_answered(&self, settled: usize) -> bool {
        settled > self.start && settled >= if self.is_lease { self.until } else { self.end }
    }

    /// The part of the text that it is.
    pub(super) fn range(&self) -> (Position, Position) {
        (self.start, self.end)
    }

    /// Up to where the server decodes by itself; 0 if it was not told to.
    pub(super) fn until(&self) -> Position {
        self.until
    }

    /// Whether it only tells the server to decode by itself.
    pub(super) fn is_lease(&self) -> bool {
        self.is_lease
    }

    /// When it was sent.
    pub(super) fn sent(&self) -> Duration {
        self.sent
    }

    /// Whether nothing else was under way when it was sent.
    pub(super) fn was_alone(&self) -> bool {
        self.alone
    }

    /// Whether it was sent more than once.
    pub(super) fn is_repeated(&self) -> bool {
        self.again
    }
}

/// The bounds of the next block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// How long the text may get.
    pub(super) end: usize,
    /// The longest block that the server takes.
    pub(super) max_draft: usize,
    /// Whether the drafter has nothing to add.
    pub(super) drafted_out: bool,
}

/// The blocks that wait for their verdicts.
#[derive(Debug)]
pub(super) struct Blocks {
    ahead: Ahead,
    max_blocks: usize,
    max_drafts: usize,
    /// In order of position.
    waiting: VecDeque<Block>,
    /// Drafts that were sent in this turn; what is sent again counts once.
    drafts_sent: u64,
    /// Whether the blocks were sent again because a commit is missing.
    asked_again: bool,
}

impl Blocks {
    pub(super) fn new(ahead: Ahead, tuning: &Tuning) -> Self {
        let Tuning { max_blocks, max_drafts, .. } = *tuning;
        Self { ahead, max_blocks, max_drafts, waiting: VecDeque::new(), drafts_sent: 0, asked_again: false }
    }

    /// A turn begins.
    pub(super) fn begin(&mut self) {
        self.waiting.clear();
        self.drafts_sent = 0;
        self.asked_again = false;
    }

    /// No verdict will come.
    pub(super) fn clear(&mut self) {
        self.waiting.clear();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The block whose verdict comes next.
    pub(super) fn oldest(&self) -> Option<&Block> {
        self.waiting.front()
    }

    /// Whether the server was told to decode by itself.
    pub(super) fn is_leased(&self) -> bool {
        self.waiting.back().is_some_and(Block::is_lease)
    }

    /// How many drafts were sent in this turn.
    pub(super) fn drafts_sent(&self) -> u64 {
        self.drafts_sent
    }

    /// Whether drafts are of use while these blocks wait.
    pub(super) fn allows_drafting(&self) -> bool {
        // What the server decodes by itself needs no drafts: they would only drain the device.
        !self.is_leased() && (self.is_empty() || self.ahead != Ahead::Nothing)
    }

    /// Whether the server was sent a draft for `position`.
    pub(super) fn covers(&self, position: Position) -> bool {
        self.waiting.iter().any(|block| (block.start..block.end).contains(&position))
    }

    /// The length of the block of drafts that goes out next, or `None` if none is ready.
    pub(super) fn next(&self, drafts: &Drafts, policy: &dyn DraftPolicy, bounds: Bounds) -> Option<usize> {
        let is_first = self.waiting.is_empty();
        // While the server decodes by itself, no block is sent.
        if self.is_leased() || (!is_first && (self.ahead != Ahead::Blocks || self.waiting.len() >= self.max_blocks)) {
            return None;
        }
        let start = self.next_start(drafts.settled());
        let travel = match self.ahead {
            Ahead::Blocks if is_first => Travel::First,
            Ahead::Blocks => Travel::Behind,
            Ahead::Nothing | Ahead::Drafts => Travel::Alone,
        };
        // A verdict commits one token more than it accepts, and the last of them may be the last of the answer.
        let most = bounds.max_draft.min(self.max_drafts).min(bounds.end.saturating_sub(start + 1));
        let len = grow(drafts, policy, start, travel, most, bounds.drafted_out)?;
        (len > 0 || is_first).then_some(len)
    }

    fn next_start(&self, settled: usize) -> Position {
        self.waiting.back().map_or(settled, |block| block.end.max(settled))
    }

    /// A block of `len` drafts goes out. `lease`: up to where the server is to decode by itself, if that is what it is for.
    pub(super) fn send(&mut self, now: Duration, settled: usize, len: usize, lease: Option<Position>) -> Block {
        let start = self.next_start(settled);
        let alone = self.waiting.is_empty();
        let (until, is_lease) = (lease.unwrap_or(0), lease.is_some());
        let block = Block { start, end: start + len, until, is_lease, sent: now, alone, again: false };
        self.drafts_sent += len as u64;
        self.waiting.push_back(block);
        block
    }

    /// Lets the server decode on by itself for `lease` tokens, up to `end`, if it soon ends what it was told to.
    pub(super) fn renew_lease(&mut self, settled: usize, lease: usize, end: usize) -> Option<Block> {
        let block = self.waiting.back_mut()?;
        let ends_soon = block.is_lease && block.until < end && block.until <= settled + lease / 2;
        ends_soon.then(|| {
            *block = Block { start: settled, end: settled, until: end.min(settled + lease), ..*block };
            *block
        })
    }

    /// All that is not settled of the blocks is sent again, as one, with `more` drafts that were made meanwhile.
    pub(super) fn repeat(&mut self, drafts: &Drafts, more: usize, max_draft: usize) -> Option<Block> {
        let (first, last) = (*self.waiting.front()?, *self.waiting.back()?);
        let start = drafts.settled();
        let known = last.end.clamp(start, drafts.end());
        let end = (known + more).min(drafts.end()).min(start + max_draft);
        self.drafts_sent += end.saturating_sub(known) as u64;
        self.waiting.clear();
        let block = Block { start, end, until: last.until, is_lease: last.is_lease, again: true, ..first };
        self.waiting.push_back(block);
        Some(block)
    }

    /// A commit is missing: whether to send the blocks again, which is done once.
    pub(super) fn ask_again(&mut self) -> bool {
        !std::mem::replace(&mut self.asked_again, true)
    }

    /// A commit came that fits.
    pub(super) fn on_commit(&mut self) {
        self.asked_again = false;
    }

    /// The target chose another token than the draft at `position`. What was drafted on that is void; its block is answered by
    /// this token.
    pub(super) fn on_miss(&mut self, position: Position) {
        self.waiting.retain(|block| block.start <= position || block.is_lease);
        for block in &mut self.waiting {
            block.end = block.end.min(position + 1);
        }
    }

    /// So many tokens are settled now.
    pub(super) fn on_settled(&mut self, settled: usize) {
        while self.waiting.front().is_some_and(|block| block.is_answered(settled)) {
            self.waiting.pop_front();
        }
    }

    /// `end`: that of the text.
    ///
    /// # Panics
    /// If the blocks are not what they should be.
    pub(super) fn check_invariants(&self, end: Position) {
        assert!(self.waiting.len() <= self.max_blocks, "no more blocks wait than may");
        for block in &self.waiting {
            assert!(block.start <= block.end && block.end <= end, "a block is a part of the text: {block:?}");
            assert!(!block.is_lease || block.until > 0, "a lease has an end: {block:?}");
        }
        let in_order =
            self.waiting.iter().zip(self.waiting.iter().skip(1)).all(|(a, b)| a.start <= b.start && a.end <= b.end);
        assert!(in_order, "blocks are in order of position: {:?}", self.waiting);
    }
}

/// How many of the drafts from `start` on are a block, at most `most`; `None` if it waits for a draft that is still to be made.
fn grow(
    drafts: &Drafts,
    policy: &dyn DraftPolicy,
    start: Position,
    travel: Travel,
    most: usize,
    drafted_out: bool,
) -> Option<usize> {
    let validity = if travel == Travel::Behind { drafts.survival(start + 1) } else { 1.0 };
    let confidence = |len: usize| (start + len).checked_sub(1).and_then(|before| drafts.confidence(before));
    let made = drafts.end().saturating_sub(start);
    let mut acceptance = drafts.mean_acceptance();
    let mut block = NextBlock { len: 0, travel, survival: drafts.survival(start), validity, confidence: confidence(0) };
    while block.len < most.min(made) {
        acceptance = drafts.acceptance(start + block.len);
        if !policy.takes(&block, acceptance) {
            return Some(block.len);
        }
        block.survival *= acceptance;
        block.len += 1;
        block.confidence = confidence(block.len);
    }
    // Easy and hard stretches of text are longer than a token: the next draft is like the last.
    let expected = (acceptance + drafts.mean_acceptance()) / 2.0;
    let waits = block.len < most && !drafted_out && policy.waits_for(&block, expected);
    (!waits).then_some(block.len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Policy;
    use crate::sampler::Draft;

    const NOW: Duration = Duration::from_secs(1);
    const ROOM: Bounds = Bounds { end: 100, max_draft: 64, drafted_out: false };

    /// Ten settled tokens, and so many drafts that their drafter is sure of.
    fn drafts(count: usize) -> Drafts {
        let mut drafts = Drafts::new(&Tuning::DEFAULT);
        drafts.begin(&[0; 10]);
        for _ in 0..count {
            let ticket = drafts.ask(NOW, 1);
            drafts.add(ticket, 1, Some(Draft { token: 7, confidence: 0.999 }), true);
        }
        drafts
    }

    fn fixed(k: usize) -> Box<dyn DraftPolicy> {
        Policy::Fixed { k }.build(&Tuning::DEFAULT)
    }

    fn blocks(ahead: Ahead) -> Blocks {
        Blocks::new(ahead, &Tuning::DEFAULT)
    }

    fn ranges(blocks: &Blocks) -> Vec<(Position, Position)> {
        blocks.waiting.iter().map(Block::range).collect()
    }

    #[test]
    fn a_block_waits_for_its_drafts_unless_none_are_to_come() {
        let next = |count, bounds| blocks(Ahead::Blocks).next(&drafts(count), &*fixed(4), bounds);
        assert_eq!([0, 3, 4, 9].map(|count| next(count, ROOM)), [None, None, Some(4), Some(4)]);
        let out = Bounds { drafted_out: true, ..ROOM };
        assert_eq!([0, 3].map(|count| next(count, out)), [Some(0), Some(3)], "without drafts it asks for a token");
        assert_eq!(next(9, Bounds { max_draft: 2, ..ROOM }), Some(2));
        assert_eq!(next(9, Bounds { end: 13, ..ROOM }), Some(2), "the verdict's own token is the last of the text");
        assert_eq!(next(9, Bounds { end: 10, ..ROOM }), Some(0));
    }

    #[test]
    fn blocks_follow_each_other_only_where_the_device_sends_ahead() {
        let (drafts, policy) = (drafts(12), fixed(4));
        for (ahead, drafting, next) in
            [(Ahead::Nothing, false, None), (Ahead::Drafts, true, None), (Ahead::Blocks, true, Some(4))]
        {
            let mut blocks = blocks(ahead);
            assert!(blocks.allows_drafting());
            blocks.send(NOW, 10, 4, None);
            assert_eq!((blocks.allows_drafting(), blocks.next(&drafts, &*policy, ROOM)), (drafting, next), "{ahead:?}");
        }
        let mut blocks = blocks(Ahead::Blocks);
        let sent = [4, 4].map(|len| blocks.send(NOW, 10, len, None));
        assert_eq!(sent.map(|block| (block.range(), block.was_alone())), [((10, 14), true), ((14, 18), false)]);
        assert_eq!([9, 10, 17, 18].map(|position| blocks.covers(position)), [false, true, true, false]);
        for _ in 2..Tuning::DEFAULT.max_blocks {
            blocks.send(NOW, 10, 0, None);
        }
        assert_eq!(blocks.next(&drafts, &*policy, ROOM), None, "as many are out as may be");
        blocks.check_invariants(drafts.end());
    }

    #[test]
    fn a_block_is_answered_by_its_last_token_and_by_the_one_that_was_missed() {
        let mut blocks = blocks(Ahead::Blocks);
        for _ in 0..3 {
            blocks.send(NOW, 10, 4, None);
        }
        blocks.on_settled(13);
        assert_eq!(ranges(&blocks), [(10, 14), (14, 18), (18, 22)], "a part of it is settled");
        blocks.on_settled(14);
        assert_eq!(ranges(&blocks), [(14, 18), (18, 22)]);
        blocks.on_miss(15);
        assert_eq!(ranges(&blocks), [(14, 16)], "what was drafted on it is void");
        blocks.on_settled(16);
        assert!(blocks.is_empty());
    }

    #[test]
    fn what_is_not_settled_is_sent_again_as_one_block_and_counts_once() {
        let drafts = drafts(10);
        let mut blocks = blocks(Ahead::Blocks);
        for _ in 0..2 {
            blocks.send(NOW, 10, 4, None);
        }
        let again = blocks.repeat(&drafts, 1, 64).map(|block| (block.range(), block.is_repeated()));
        assert_eq!((again, blocks.drafts_sent()), (Some(((10, 19), true)), 9), "with a draft that was made meanwhile");
        let again = blocks.repeat(&drafts, 5, 6).map(|block| block.range());
        assert_eq!(again, Some((10, 16)), "another server takes shorter blocks");
        assert!(blocks.ask_again() && !blocks.ask_again());
        blocks.on_commit();
        assert!(blocks.ask_again());
        blocks.clear();
        assert_eq!(blocks.repeat(&drafts, 0, 64).map(|block| block.range()), None);
    }

    #[test]
    fn while_a_server_decodes_by_itself_nothing_is_drafted_and_it_is_told_in_time_to_go_on() {
        let mut blocks = blocks(Ahead::Blocks);
        blocks.send(NOW, 10, 0, Some(26));
        assert!(blocks.is_leased() && !blocks.allows_drafting());
        assert_eq!(blocks.next(&drafts(8), &*fixed(4), ROOM), None);
        assert!(blocks.renew_lease(17, 16, 100).is_none());
        let renewed = blocks.renew_lease(18, 16, 100).map(|block| (block.range(), block.until()));
        assert_eq!(renewed, Some(((18, 18), 34)), "when half of it has come");
        blocks.on_miss(20);
        assert!(blocks.is_leased(), "no draft of it can be wrong");
        assert_eq!(blocks.renew_lease(30, 16, 40).map(|block| block.until()), Some(40), "not beyond the end");
        assert!(blocks.renew_lease(39, 16, 40).is_none());
        blocks.on_settled(40);
        assert!(blocks.is_empty());
    }
}
