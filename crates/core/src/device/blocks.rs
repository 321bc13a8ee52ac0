//! What to draft, and which drafts go out as a block.
//!
//! A block is cut by the policy token by token, whether its drafts were made for it or are there already because the device
//! drafted on while a verdict was under way: running ahead does not lengthen blocks.

use std::time::Duration;

use super::{Action, Ahead, Device};
use crate::Position;
use crate::goodput::Travel;
use crate::message::{DraftBlock, MAX_UNHEARD, Request};
use crate::policy::Policy;

/// How many blocks may wait for their verdicts.
const MAX_BLOCKS: usize = 16;

/// How many drafts may stand behind the settled tokens.
const MAX_DRAFTS: usize = 64;

/// Drafting stops where it is hardly possible that all drafts are right.
const HOPELESS: f64 = 0.02;

/// The policies that know no costs send a block behind another only where it is at least an even bet that it is looked at.
const EVEN: f64 = 0.5;

/// A block that waits for its verdict.
#[derive(Clone, Debug)]
pub(super) struct Block {
    pub(super) start: Position,
    pub(super) end: Position,
    /// The server decodes by itself up to here; 0 if it was not told to.
    pub(super) until: Position,
    /// Whether that is all that the block is for.
    pub(super) is_lease: bool,
    pub(super) sent: Duration,
    /// Whether nothing else was under way then.
    pub(super) alone: bool,
    /// Whether it was sent more than once.
    pub(super) again: bool,
}

impl Block {
    /// Whether `settled` tokens answer it.
    pub(super) fn is_answered(&self, settled: usize) -> bool {
        settled > self.start && settled >= if self.is_lease { self.until } else { self.end }
    }
}

impl Device {
    /// Sends what is ready, and drafts on.
    pub(super) fn advance(&mut self) {
        while let Some(len) = self.next_block() {
            self.send_block(len);
        }
        self.renew_lease();
        self.release();
        self.draft_on();
    }

    /// The length of the block that goes out next, or `None` if none is ready.
    fn next_block(&self) -> Option<usize> {
        if self.finished || !self.link.is_up() {
            return None;
        }
        let last = self.blocks.back();
        let Some(policy) = self.config.policy else { return last.is_none().then_some(0) };
        // While the server decodes by itself, no block is sent.
        let behind = last.filter(|block| !block.is_lease);
        if last.is_some() && behind.is_none() {
            return None;
        }
        if policy == Policy::Goodput && !self.goodput.drafts() {
            return last.is_none().then_some(0);
        }
        if behind.is_some() && (self.config.ahead != Ahead::Blocks || self.blocks.len() >= MAX_BLOCKS) {
            return None;
        }
        let start = behind.map_or(self.settled, |block| block.end.max(self.settled));
        let travel = match (self.config.ahead, behind) {
            (Ahead::Blocks, Some(_)) => Travel::Behind,
            (Ahead::Blocks, None) => Travel::First,
            _ => Travel::Alone,
        };
        // A verdict commits one token more than it accepts, and the last of them may be the last of the answer.
        let most = self.max_draft().min(MAX_DRAFTS).min(self.end().saturating_sub(start + 1));
        let drafted = self.sequence.len().saturating_sub(start);
        let mut survival = self.survival(start);
        let mut acceptance = self.calibration.mean();
        let mut len = 0;
        while len < most {
            let goes_on = if len < drafted {
                acceptance = self.acceptance(start + len);
                survival *= acceptance;
                self.takes(policy, travel, start, len, survival)
            } else {
                !self.is_drafted_out() && {
                    // Easy and hard stretches of text are longer than a token: the next draft is like the last.
                    let next = (acceptance + self.calibration.mean()) / 2.0;
                    if self.waits_for(policy, travel, start, len, survival, next) {
                        return None;
                    }
                    false
                }
            };
            if !goes_on {
                break;
            }
            len += 1;
        }
        (len > 0 || last.is_none()).then_some(len)
    }

    /// Whether a draft that is there belongs to the block of `len` before it. `survival` includes it.
    fn takes(&self, policy: Policy, travel: Travel, start: Position, len: usize, survival: f64) -> bool {
        let first_behind = len == 0 && travel == Travel::Behind;
        match policy {
            // Behind a block it costs a row only if all before it is right, and then it brings a token for certain.
            Policy::Goodput if first_behind => survival >= HOPELESS,
            Policy::Goodput => {
                len < self.goodput.longest() && self.goodput.pays(survival / self.validity(travel, start))
            }
            Policy::Fixed { k } => len < k && (!first_behind || survival >= EVEN),
            Policy::Confidence { threshold, k_max } => {
                let before = (start + len).checked_sub(1).and_then(|before| self.confidence(before));
                len < k_max && before.is_none_or(|before| before >= threshold || (len == 0 && !first_behind))
            }
        }
    }

    /// The probability that a block is looked at: behind another, only if its first token is the bonus of that.
    fn validity(&self, travel: Travel, start: Position) -> f64 {
        if travel == Travel::Behind { self.survival(start + 1) } else { 1.0 }
    }

    /// Whether the block of `len`, of this survival, is to wait for a draft that is still to be made, which is to be expected
    /// to be accepted with the probability `next`.
    fn waits_for(&self, policy: Policy, travel: Travel, start: Position, len: usize, survival: f64, next: f64) -> bool {
        match policy {
            Policy::Goodput if len == 0 && travel != Travel::Behind => self.goodput.pays_to_draft(next),
            Policy::Goodput if len == 0 => true,
            Policy::Goodput => {
                let survival = survival / self.validity(travel, start) * next;
                len < self.goodput.longest() && self.goodput.worth_waiting(survival, next, travel)
            }
            Policy::Fixed { .. } | Policy::Confidence { .. } => self.takes(policy, travel, start, len, f64::MAX),
        }
    }

    /// Whether the drafter has nothing to add.
    fn is_drafted_out(&self) -> bool {
        self.exhausted
            || self.sequence.len() + 1 >= self.end()
            || (self.sequence.len() > self.settled
                && self.sequence.tokens().last().is_some_and(|last| self.config.end_of_generation.contains(last)))
    }

    /// Asks for another draft, if one can be made and there is a use for it.
    fn draft_on(&mut self) {
        if self.finished || self.asked.is_some() || self.config.policy.is_none() {
            return;
        }
        let releasing = self.is_releasing();
        let waiting = !self.blocks.is_empty() || !self.link.is_up();
        let full = self.sequence.len() - self.settled >= MAX_DRAFTS;
        let out_of_use = if releasing { self.exhausted } else { full || self.is_drafted_out() };
        // What the server decodes by itself needs no drafts: they would only drain the device.
        let leased = self.blocks.back().is_some_and(|block| block.is_lease);
        let idle = leased || (!self.blocks.is_empty() && self.config.ahead == Ahead::Nothing);
        if out_of_use || idle || (waiting && !releasing && self.survival(self.sequence.len()) < HOPELESS) {
            return;
        }
        let ticket = self.ticket();
        self.asked = Some(ticket);
        self.asked_at = self.clock.now();
        self.actions.push_back(Action::Draft(ticket));
    }

    /// The probability that all drafts before position `end` are right.
    fn survival(&self, end: Position) -> f64 {
        (self.settled..end).map(|position| self.acceptance(position)).product()
    }

    fn acceptance(&self, position: Position) -> f64 {
        self.confidence(position).map_or(1.0, |confidence| self.calibration.acceptance(confidence))
    }

    fn confidence(&self, position: Position) -> Option<f32> {
        self.drafted.get(position.checked_sub(self.settled)?).map(|draft| draft.confidence)
    }

    fn send_block(&mut self, len: usize) {
        let now = self.clock.now();
        let alone = self.blocks.is_empty();
        if alone {
            self.await_reply();
        }
        let start = self.blocks.back().map_or(self.settled, |block| block.end.max(self.settled));
        let lease = self.lease();
        let is_lease = lease.is_some();
        let until = lease.map_or(0, |lease| self.end().min(self.settled + lease));
        if is_lease {
            self.warm = false;
        } else {
            self.goodput.on_drafting();
            self.goodput.on_block(len);
        }
        self.stats.draft_tokens += len as u64;
        self.blocks.push_back(Block { start, end: start + len, until, is_lease, sent: now, alone, again: false });
        self.send_drafts(start, start + len, until);
    }

    /// How many tokens the server is to decode by itself before it hears of this device again; `None` while that does not pay.
    fn lease(&self) -> Option<usize> {
        match self.config.policy {
            None => Some(MAX_UNHEARD),
            Some(Policy::Goodput) if !self.goodput.drafts() => Some(self.goodput.lease()),
            Some(_) => None,
        }
    }

    /// Lets the server decode on by itself, if it soon ends what it was told to and that still pays.
    fn renew_lease(&mut self) {
        let Some(lease) = self.lease() else { return };
        let end = self.end();
        let until = end.min(self.settled + lease);
        let Some(block) = self.blocks.back_mut() else { return };
        let ends_soon = block.is_lease && block.until < end && block.until <= self.settled + lease / 2;
        if ends_soon && self.link.is_up() {
            *block = Block { start: self.settled, end: self.settled, until, ..*block };
            self.send_drafts(self.settled, self.settled, until);
        }
    }

    /// Sends all that is not settled of the blocks again, as one, with what was drafted meanwhile.
    pub(super) fn repeat(&mut self) {
        let (Some(first), Some(last)) = (self.blocks.front(), self.blocks.back()) else { return };
        let (sent, alone, end) = (first.sent, first.alone, last.end);
        let (until, is_lease) = (last.until, last.is_lease);
        let more = if is_lease { 0 } else { self.next_block().unwrap_or(0) };
        let known = end.clamp(self.settled, self.sequence.len());
        let end = (known + more).min(self.sequence.len()).min(self.settled + self.max_draft());
        self.stats.draft_tokens += end.saturating_sub(known) as u64;
        self.blocks.clear();
        self.blocks.push_back(Block { start: self.settled, end, until, is_lease, sent, alone, again: true });
        self.send_drafts(self.settled, end, until);
    }

    fn send_drafts(&mut self, from: Position, end: Position, until: Position) {
        let (Some(tokens), Some(built_on)) = (self.sequence.tokens().get(from..end), self.sequence.digest(from)) else {
            return;
        };
        let block = DraftBlock { turn: self.turn, from, built_on, tokens: tokens.to_vec(), until };
        self.actions.push_back(Action::Send(Request::Draft(block)));
    }
}
