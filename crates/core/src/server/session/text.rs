//! What is committed: the text of a session, how its next token is chosen, and what is told of it again.

use std::ops::Range;

use crate::message::{Commit, ContextUpdate, Load, Turn};
use crate::sampler::{Logprobs, Sampler};
use crate::sequence::{Digest, Sequence};
use crate::{Position, Token};

/// The most tokens of its own that the server tells again at once: messages have a limit, and what is missing is asked for again.
const MAX_RECALL: usize = 1024;

/// The prompt and the committed tokens.
#[derive(Debug, Default)]
pub(in crate::server) struct Text {
    sequence: Sequence,
    turn: Turn,
    /// How the turn's tokens are chosen; `None` before the first prompt, and when none can be chosen any more.
    sampler: Option<Sampler>,
    /// The log probabilities of the last tokens: those that were decided since the device last told its text. `None` if they
    /// are not asked for.
    logprobs: Option<(u8, Vec<Logprobs>)>,
    /// The answer has at most so many tokens, prompt included.
    limit: usize,
    /// Whether the last token ended the generation.
    ended: bool,
    /// Changes whenever the sequence changes other than by committing: a pass planned before is void for it.
    epoch: u64,
}

impl Text {
    pub(in crate::server) fn sequence(&self) -> &Sequence {
        &self.sequence
    }

    pub(in crate::server) fn len(&self) -> usize {
        self.sequence.len()
    }

    /// What the cache may know of it already. The last token is evaluated in any case.
    pub(in crate::server) fn before_last(&self) -> &[Token] {
        self.sequence.tokens().split_last().map_or(&[][..], |(_, before)| before)
    }

    pub(in crate::server) fn turn(&self) -> Turn {
        self.turn
    }

    pub(in crate::server) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Whether there was a prompt, and tokens can be chosen.
    pub(super) fn has_prompt(&self) -> bool {
        self.sampler.is_some()
    }

    /// Whether the last token ended the generation.
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Whether the answer may have more tokens.
    pub(super) fn is_incomplete(&self) -> bool {
        self.sequence.len() < self.limit
    }

    /// A new text, of which the first `agreed` tokens are as before, with at most `limit` tokens in the end.
    pub(super) fn begin(
        &mut self,
        update: &ContextUpdate,
        agreed: usize,
        sampler: Sampler,
        limit: usize,
        end_of_generation: &[Token],
    ) {
        self.sequence.truncate(agreed);
        self.sequence.extend(update.tokens.get(agreed - update.from..).unwrap_or_default());
        self.sequence.set_prompt_len(update.prompt_len);
        self.turn = update.turn;
        self.sampler = Some(sampler);
        self.logprobs = update.logprobs.map(|top| (top, Vec::new()));
        self.limit = limit;
        self.epoch += 1;
        self.ended = self.len() > update.prompt_len
            && self.sequence.tokens().last().is_some_and(|token| end_of_generation.contains(token));
    }

    /// The device has what it wanted of this turn.
    pub(super) fn stop(&mut self) {
        self.limit = 0;
        self.epoch += 1;
    }

    /// No token is chosen any more.
    pub(super) fn give_up(&mut self) {
        self.sampler = None;
    }

    /// The acceptance rule: the target chooses at each position, and goes on as long as the draft chose the same. Appends
    /// what it commits; returns how many drafts were accepted, and the target's own token after them. There is none after
    /// an accepted token that ends the generation.
    ///
    /// `logits(i)` are those after the last committed token and `i` drafts. If they are missing, nothing is committed.
    pub(in crate::server) fn accept<'a, E>(
        &mut self,
        end_of_generation: &[Token],
        drafts: &[Token],
        mut logits: impl FnMut(usize) -> Result<&'a [f32], E>,
    ) -> Result<(usize, Vec<Token>), E> {
        let Some(sampler) = &self.sampler else { return Ok((0, Vec::new())) };
        let before = self.sequence.len();
        for i in 0..=drafts.len() {
            let logits = match logits(i) {
                Ok(logits) => logits,
                Err(error) => {
                    self.sequence.truncate(before);
                    if let Some((_, decided)) = &mut self.logprobs {
                        decided.truncate(decided.len() - i);
                    }
                    return Err(error);
                }
            };
            let token = sampler.choose(logits, self.sequence.context());
            if let Some((top, decided)) = &mut self.logprobs {
                decided.push(sampler.logprobs(logits, token, *top));
            }
            self.sequence.push(token);
            self.ended = end_of_generation.contains(&token);
            if drafts.get(i) != Some(&token) {
                return Ok((i, vec![token]));
            }
            if self.ended {
                return Ok((i + 1, Vec::new()));
            }
        }
        Ok((drafts.len(), Vec::new()))
    }

    /// Why no token can be chosen any more, if that is so; then the session wants nothing more.
    pub(in crate::server) fn take_failure(&mut self) -> Option<String> {
        let failure = self.sampler.as_ref()?.failure()?;
        self.sampler = None;
        Some(failure)
    }

    /// What is committed from `from` on, of which the device has proposed the first `agreed` tokens; with the log probabilities
    /// from `unknown` on.
    pub(super) fn recall(&self, from: Position, agreed: usize, unknown: Position) -> Commit {
        let end = self.sequence.len().min(from + agreed + MAX_RECALL);
        Commit {
            turn: self.turn,
            from,
            accepted: agreed,
            tokens: self.sequence.tokens().get(from + agreed..end).unwrap_or_default().to_vec(),
            digest: self.sequence.digest(end).unwrap_or(Digest::EMPTY),
            rows: 0,
            unasked: false,
            logprobs: self.logprobs_of(unknown..end),
            load: Load::default(),
        }
    }

    /// The log probabilities at the end of these positions, as far as they were asked for and the server decided the tokens.
    pub(in crate::server) fn logprobs_of(&self, positions: Range<Position>) -> Vec<Logprobs> {
        let Some((_, decided)) = &self.logprobs else { return Vec::new() };
        let first = self.sequence.len() - decided.len();
        let at = positions.start.saturating_sub(first)..positions.end.saturating_sub(first);
        decided.get(at).unwrap_or_default().to_vec()
    }
}
