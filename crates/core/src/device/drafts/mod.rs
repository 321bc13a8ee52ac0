//! What is drafted, behind what is settled, and what its drafter is worth.

mod reconcile;

use std::collections::VecDeque;
use std::time::Duration;

use super::{Ticket, Tuning};
use crate::calibration::Calibration;
use crate::message::Turn;
use crate::sampler::{Context, Draft};
use crate::sequence::{Digest, Sequence, common_prefix};
use crate::{Position, Token};

/// A draft that is not settled.
#[derive(Clone, Copy, Debug)]
struct Drafted {
    /// The drafter's confidence in it.
    confidence: f32,
    /// Whether it was made while a verdict was under way.
    ahead: bool,
}

/// What became of the drafts that were made while a verdict was under way.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct AheadCounts {
    /// They came to stand in the text.
    pub(super) kept: u64,
    /// They did not.
    pub(super) discarded: u64,
}

/// The text: the settled tokens, and the drafts after them.
#[derive(Debug)]
pub(super) struct Drafts {
    /// The settled tokens, committed or provisional, then the drafts.
    sequence: Sequence,
    settled: usize,
    /// What is known of each draft.
    drafted: VecDeque<Drafted>,
    /// Whether the drafter had nothing to propose after the last token.
    exhausted: bool,
    calibration: Calibration,
    ahead: AheadCounts,
    /// The draft that the drafter is at, and since when.
    asked: Option<Ticket>,
    asked_at: Duration,
    /// Whether the drafter has read all of the text; the first draft, for which it reads it, tells nothing of the others.
    warm: bool,
}

impl Drafts {
    pub(super) fn new(tuning: &Tuning) -> Self {
        Self {
            sequence: Sequence::default(),
            settled: 0,
            drafted: VecDeque::new(),
            exhausted: false,
            calibration: Calibration::new(tuning),
            ahead: AheadCounts::default(),
            asked: None,
            asked_at: Duration::ZERO,
            warm: false,
        }
    }

    /// A turn begins with the text `tokens`; how much of it was known.
    pub(super) fn begin(&mut self, tokens: &[Token]) -> usize {
        self.clear();
        let shared = common_prefix(self.sequence.tokens(), tokens);
        self.sequence.truncate(shared);
        self.sequence.extend(tokens.get(shared..).unwrap_or_default());
        self.settled = self.sequence.len();
        self.sequence.set_prompt_len(self.settled);
        self.warm = false;
        self.ahead = AheadCounts::default();
        shared
    }

    /// Drops the drafts.
    pub(super) fn clear(&mut self) {
        self.sequence.truncate(self.settled);
        self.discard();
    }

    /// Drops the drafts, and all settled tokens beyond the first `len`.
    pub(super) fn cut(&mut self, len: usize) {
        self.clear();
        self.settled = self.settled.min(len);
        self.sequence.truncate(self.settled);
    }

    /// All drafts are void: their tokens are gone from the sequence.
    fn discard(&mut self) {
        self.ahead.discarded += self.drafted.drain(..).filter(|draft| draft.ahead).count() as u64;
        self.exhausted = false;
    }

    /// The settled tokens and the drafts.
    pub(super) fn context(&self) -> Context<'_> {
        self.sequence.context()
    }

    /// The settled tokens.
    pub(super) fn settled_tokens(&self) -> &[Token] {
        self.sequence.tokens().get(..self.settled).unwrap_or_default()
    }

    /// How many tokens are settled.
    pub(super) fn settled(&self) -> usize {
        self.settled
    }

    /// Where the next draft comes.
    pub(super) fn end(&self) -> Position {
        self.sequence.len()
    }

    /// How many drafts there are.
    pub(super) fn count(&self) -> usize {
        self.drafted.len()
    }

    pub(super) fn prompt_len(&self) -> usize {
        self.sequence.prompt_len()
    }

    pub(super) fn is_exhausted(&self) -> bool {
        self.exhausted
    }

    /// The digest of what stands before `from`, and the tokens from there to `end`.
    pub(super) fn slice(&self, from: Position, end: Position) -> Option<(Digest, &[Token])> {
        Some((self.sequence.digest(from)?, self.sequence.tokens().get(from..end)?))
    }

    /// Whether the last draft is one of `tokens`.
    pub(super) fn ends_with(&self, tokens: &[Token]) -> bool {
        !self.drafted.is_empty() && self.sequence.tokens().last().is_some_and(|last| tokens.contains(last))
    }

    /// Whether the drafter is at a draft.
    pub(super) fn is_asked(&self) -> bool {
        self.asked.is_some()
    }

    /// The drafter is asked for the next draft.
    pub(super) fn ask(&mut self, now: Duration, turn: Turn) -> Ticket {
        let ticket = self.ticket(turn);
        self.asked = Some(ticket);
        self.asked_at = now;
        ticket
    }

    /// The drafter will not be asked after all.
    pub(super) fn withdraw(&mut self) {
        self.asked = None;
    }

    /// The server decodes for a while: the drafter will have to read what it decoded.
    pub(super) fn fall_behind(&mut self) {
        self.warm = false;
    }

    /// The drafter is done with `ticket`; false if it was asked for something else since.
    pub(super) fn is_answer(&mut self, ticket: Ticket) -> bool {
        let is_answer = self.asked == Some(ticket);
        if is_answer {
            self.asked = None;
        }
        is_answer
    }

    /// How long the draft took that has just come; `None` if the drafter also read text for it.
    pub(super) fn draft_time(&mut self, now: Duration) -> Option<Duration> {
        std::mem::replace(&mut self.warm, true).then(|| now.saturating_sub(self.asked_at))
    }

    /// Takes what the drafter proposed for `ticket`, if the text is still the same. `ahead`: a verdict is under way.
    pub(super) fn add(&mut self, ticket: Ticket, turn: Turn, draft: Option<Draft>, ahead: bool) {
        if ticket != self.ticket(turn) {
            return;
        }
        match draft {
            Some(Draft { token, confidence }) => {
                self.sequence.push(token);
                self.drafted.push_back(Drafted { confidence, ahead });
            }
            None => self.exhausted = true,
        }
    }

    fn ticket(&self, turn: Turn) -> Ticket {
        Ticket { turn, digest: self.sequence.last_digest() }
    }

    /// The probability that all drafts before position `end` are right.
    pub(super) fn survival(&self, end: Position) -> f64 {
        (self.settled..end).map(|position| self.acceptance(position)).product()
    }

    /// The probability that the draft at `position` is right if all before it are; 1 where no draft is.
    pub(super) fn acceptance(&self, position: Position) -> f64 {
        self.confidence(position).map_or(1.0, |confidence| self.calibration.acceptance(confidence))
    }

    /// The probability for a draft that is not made yet, of which nothing is known.
    pub(super) fn mean_acceptance(&self) -> f64 {
        self.calibration.mean()
    }

    /// The drafter's confidence in the draft at `position`.
    pub(super) fn confidence(&self, position: Position) -> Option<f32> {
        self.drafted.get(position.checked_sub(self.settled)?).map(|draft| draft.confidence)
    }

    pub(super) fn ahead_counts(&self) -> AheadCounts {
        self.ahead
    }

    /// # Panics
    /// If the text is not what it should be.
    pub(super) fn check_invariants(&self) {
        let Self { sequence, settled, drafted, .. } = self;
        assert_eq!(
            settled + drafted.len(),
            sequence.len(),
            "behind the settled tokens there are drafts, and all are known"
        );
        assert!(sequence.prompt_len() <= *settled || drafted.is_empty(), "nothing of a prompt is a draft");
        assert_eq!(sequence.last_digest(), Digest::EMPTY.then_all(sequence.tokens()), "the digest is of these tokens");
    }
}
