//! One session: what a device's message means for it.

use std::ops::Range;
use std::time::Duration;

use super::forecast::Forecast;
use super::rate::Pace;
use super::{Answer, Owner, ServerConfig, SessionId};
use crate::Token;
use crate::message::{Commit, ContextUpdate, DraftBlock, Load, MAX_UNHEARD, Reply, Turn};
use crate::policy::Policy;
use crate::sampler::{Logprobs, Sampler};
use crate::sequence::{Digest, Sequence};
use crate::step::SequenceId;
use crate::suspicion::Suspicion;

/// The most tokens of its own that the server tells again at once: messages have a limit, and what is missing is asked for again.
const MAX_RECALL: usize = 1024;

/// How many blocks that build on an unanswered one are kept.
const MAX_AHEAD: usize = 32;

/// The part of a session that the KV cache holds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cached {
    /// The sequence that it is in; `None` while the cache holds nothing of it.
    pub(super) sequence: Option<SequenceId>,
    /// How many tokens of the session's text the cache holds rightly.
    pub(super) valid: usize,
    /// Since it has the sequence: how many verdicts it had, how long their passes took, and how long its text took to read.
    pub(super) verdicts: u32,
    pub(super) deciding: Duration,
    pub(super) reading: Duration,
}

/// What a session wants of the next pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wants {
    /// Nothing: there is no prompt, or its answer is complete.
    Nothing,
    /// Its text is to be read.
    Reading,
    /// It asked for a verdict, or for plain decoding.
    Tokens,
    /// Its device is drafting; a plain row would commit a token that it has not asked for.
    Assistance,
    /// A word from its device: so much was committed since the last that the device may not be there any more.
    Word,
}

/// What a session has had so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Tokens committed.
    pub committed: u64,
    /// Drafts verified, and how many of them were accepted.
    pub drafted: u64,
    /// Accepted drafts.
    pub accepted: u64,
}

/// What is kept of a request that has a name, for the log.
#[derive(Clone, Debug)]
struct Named {
    id: String,
    prompt: usize,
    /// What the session had had before, and since when it has had this.
    before: Tally,
    since: Duration,
}

/// A block that waits for its forward pass.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    pub(super) block: DraftBlock,
    pub(super) arrived: Duration,
}

impl Cached {
    /// A pass took `time`, of whose `rows` so many `read` the text.
    pub(super) fn observe(&mut self, time: Duration, rows: usize, read: usize, verdict: bool) {
        self.reading += time.mul_f64(read as f64 / rows.max(1) as f64);
        if verdict {
            self.verdicts = self.verdicts.saturating_add(1);
            self.deciding += time;
        }
    }
}

impl Pending {
    /// Makes this block and `next` one, if `next` goes on where this one ends, or within it.
    fn join(&mut self, next: &DraftBlock) -> bool {
        let overlap = next.from.checked_sub(self.block.from).and_then(|at| self.block.tokens.get(..at));
        let fits = |tokens: &[Token]| {
            tokens.len() + next.tokens.len() <= Policy::MAX_LENGTH
                && self.block.built_on.then_all(tokens) == next.built_on
        };
        let Some(len) = overlap.filter(|tokens| fits(tokens)).map(<[Token]>::len) else { return false };
        self.block.tokens.truncate(len);
        self.block.tokens.extend(&next.tokens);
        true
    }
}

/// What a draft block means for a session as it stands.
enum Meaning {
    /// It builds on the committed text and goes beyond it.
    Extends,
    /// It builds on the committed text, which has an answer to it already.
    Answered(Commit),
    /// It builds on text that is not committed.
    Ahead,
    /// It builds on text that was rejected, or on another turn's.
    Stale,
}

#[derive(Debug)]
pub(super) struct Session {
    /// Whose texts in the cache it may share.
    pub(super) owner: Owner,
    pub(super) cached: Cached,
    /// The prompt and the committed tokens.
    pub(super) sequence: Sequence,
    pub(super) turn: Turn,
    /// How the turn's tokens are chosen; `None` before the first prompt.
    pub(super) sampler: Option<Sampler>,
    /// The log probabilities of the last tokens: those that were decided since the device last told its text. `None` if they
    /// are not asked for.
    logprobs: Option<(u8, Vec<Logprobs>)>,
    /// The request that the turn answers, if it has a name and its answer is not complete.
    named: Option<Named>,
    pub(super) pending: Option<Pending>,
    /// Blocks that build on the pending one.
    ahead: Vec<Pending>,
    /// The server decodes by itself while fewer tokens are committed.
    until: usize,
    /// The answer has at most so many tokens, prompt included.
    limit: usize,
    /// Whether the last token ended the generation.
    pub(super) ended: bool,
    /// Changes whenever the sequence changes other than by committing: a pass planned before is void for it.
    pub(super) epoch: u64,
    /// Whether the pass that is under way answers a block of it.
    pub(super) verifying: bool,
    /// When a row was last computed for it, or its last message came.
    pub(super) active: Duration,
    /// When the turn began.
    pub(super) begun: Duration,
    /// Since when it has a claim to a place in the cache; earlier goes first.
    pub(super) senior: Duration,
    /// How many tokens it had when its device last said anything.
    heard: usize,
    /// Whether passes fail because of it.
    pub(super) suspicion: Suspicion,
    /// How many tokens of the turn's prompt were in the cache before its first pass; `None` until then.
    pub(super) reused: Option<usize>,
    pub(super) forecast: Forecast,
    pub(super) pace: Pace,
    pub(super) tally: Tally,
}

impl Session {
    pub(super) fn new(now: Duration, owner: Owner) -> Self {
        Self {
            owner,
            cached: Cached::default(),
            sequence: Sequence::default(),
            turn: 0,
            sampler: None,
            logprobs: None,
            named: None,
            pending: None,
            ahead: Vec::new(),
            until: 0,
            limit: 0,
            ended: false,
            epoch: 0,
            verifying: false,
            active: now,
            begun: now,
            senior: now,
            heard: 0,
            suspicion: Suspicion::default(),
            reused: None,
            forecast: Forecast::default(),
            pace: Pace::new(now),
            tally: Tally::default(),
        }
    }

    /// What it wants of the next pass.
    pub(super) fn wants(&self) -> Wants {
        let is_incomplete = self.sequence.len() < self.limit;
        let is_heard_of = self.is_heard_of();
        if self.sampler.is_none() || self.ended {
            Wants::Nothing
        } else if self.unread() > 1 && (is_incomplete && is_heard_of || self.asks()) {
            Wants::Reading
        } else if self.asks() {
            Wants::Tokens
        } else if is_incomplete {
            if is_heard_of { Wants::Assistance } else { Wants::Word }
        } else {
            Wants::Nothing
        }
    }

    /// Whether the device asked for tokens: for a verdict, or for plain decoding.
    pub(super) fn asks(&self) -> bool {
        self.pending.is_some() || (self.sequence.len() < self.until && self.is_heard_of())
    }

    /// Whether its device said something not too many tokens ago.
    fn is_heard_of(&self) -> bool {
        self.sequence.len() < self.heard.saturating_add(MAX_UNHEARD)
    }

    /// Its device has said something.
    pub(super) fn on_word(&mut self) {
        self.heard = self.sequence.len();
    }

    /// Whether an answer is being generated.
    pub(super) fn is_generating(&self) -> bool {
        !matches!(self.wants(), Wants::Nothing | Wants::Word)
    }

    /// Whether an answer is being generated that has a place in the cache.
    pub(super) fn is_seated(&self) -> bool {
        self.cached.sequence.is_some() && self.is_generating()
    }

    /// How many tokens the engine must still evaluate before the next can be chosen.
    pub(super) fn unread(&self) -> usize {
        self.sequence.len().saturating_sub(self.cached.valid)
    }

    /// Makes the pending block and those that build on it one. It saves passes, and costs the rows of all of them if the first
    /// is rejected.
    pub(super) fn join_ahead(&mut self) {
        if let Some(pending) = &mut self.pending {
            self.ahead.retain(|next| {
                let joined = pending.join(&next.block);
                self.until = if joined { self.until.max(next.block.until) } else { self.until };
                !joined
            });
        }
    }

    /// The first `most` tokens of the pending block that are not committed yet.
    pub(super) fn drafts(&self, most: usize) -> &[Token] {
        let Some(Pending { block, .. }) = &self.pending else { return &[] };
        let drafts = block.tokens.get(self.sequence.len() - block.from..).unwrap_or_default();
        &drafts[..drafts.len().min(most)]
    }

    /// When what it waits for began to wait; earlier goes first.
    pub(super) fn waiting_since(&self) -> Duration {
        self.pending.as_ref().map_or(self.active, |pending| pending.arrived)
    }

    pub(super) fn on_context(&mut self, config: &ServerConfig, now: Duration, update: ContextUpdate) -> Option<Reply> {
        if update.turn < self.turn {
            return None;
        }
        let resend = |from| Some(Reply::Resend { turn: update.turn, from });
        match self.sequence.digest(update.from) {
            None => return resend(self.sequence.len()),
            Some(digest) if digest != update.built_on => return resend(0),
            Some(_) => {}
        }
        let len = update.from.saturating_add(update.tokens.len());
        if update.prompt_len == 0 || update.prompt_len > len {
            return Some(Reply::Failed("the prompt is empty; send at least one token".to_owned()));
        }
        if len >= config.context {
            let most = config.context.saturating_sub(1);
            return Some(Reply::Failed(format!(
                "the prompt has {len} tokens, but the server takes at most {most}; shorten it, or start the server with a larger -c"
            )));
        }
        let sampler = match Sampler::new(update.sampling, config.vocab_size) {
            Ok(sampler) => sampler,
            Err(error) => return Some(Reply::Failed(error.to_string())),
        };

        self.active = now;
        let agreed = update.from + self.sequence.agreement(update.from, &update.tokens);
        let repeated = update.turn == self.turn && agreed == len;
        if repeated {
            // What the device sent as text it has.
            return (self.sequence.len() > len)
                .then(|| Reply::Commit(self.recall(update.from, update.tokens.len(), len)));
        }
        self.sequence.truncate(agreed);
        self.sequence.extend(update.tokens.get(agreed - update.from..).unwrap_or_default());
        self.sequence.set_prompt_len(update.prompt_len);
        // The last token is always evaluated again: the next one is chosen from its logits.
        self.cached.valid = self.cached.valid.min(agreed).min(len - 1);
        self.turn = update.turn;
        self.sampler = Some(sampler);
        self.logprobs = update.logprobs.map(|top| (top, Vec::new()));
        let (prompt, before) = (update.prompt_len, self.tally);
        self.named = update.request_id.map(|id| Named { id, prompt, before, since: now });
        self.pending = None;
        self.ahead.clear();
        self.until = 0;
        self.limit = update.limit.min(config.context);
        self.begun = now;
        self.pace.rest(now);
        self.senior = now;
        self.forecast.forget();
        self.reused = None;
        self.epoch += 1;
        self.ended = len > update.prompt_len
            && self.sequence.tokens().last().is_some_and(|token| config.end_of_generation.contains(token));
        None
    }

    /// The device has what it wanted of this turn.
    pub(super) fn on_stop(&mut self, turn: Turn) {
        if turn == self.turn {
            self.pending = None;
            self.ahead.clear();
            self.until = 0;
            self.limit = 0;
            self.epoch += 1;
            self.forecast.forget();
        }
    }

    pub(super) fn on_draft(&mut self, config: &ServerConfig, now: Duration, block: DraftBlock) -> Option<Reply> {
        self.take_block(config, now, block, true)
    }

    /// Takes a block that came at `now`; `is_new` if nobody has counted it.
    fn take_block(
        &mut self,
        config: &ServerConfig,
        now: Duration,
        mut block: DraftBlock,
        is_new: bool,
    ) -> Option<Reply> {
        if block.turn > self.turn || (block.turn == self.turn && self.sampler.is_none()) {
            return Some(Reply::Resend { turn: block.turn, from: 0 });
        }
        block.tokens.truncate(Policy::MAX_LENGTH);
        match self.meaning(&block) {
            Meaning::Stale => None,
            Meaning::Answered(commit) => {
                if block.tokens.is_empty() {
                    self.until = self.until.max(block.until.min(config.context));
                }
                Some(Reply::Commit(commit))
            }
            // What builds on a block that was rejected is never looked at again; nor is it worth an answer, since the device
            // learns of the rejection from the verdict, and repeats what was lost when its time runs out.
            Meaning::Ahead => {
                if self.ahead.len() < MAX_AHEAD {
                    self.ahead.push(Pending { block, arrived: now });
                }
                None
            }
            Meaning::Extends if self.sequence.len() >= config.context => Some(Reply::Failed(format!(
                "the session is full: it has {} tokens, which is all that the server allows; start a new one, or start the \
                 server with a larger -c",
                config.context
            ))),
            Meaning::Extends => {
                // A device repeats a block that it had no answer to, with what it drafted meanwhile: it is to know that the
                // server lives.
                let waits = self.verifying || self.pending.is_some();
                if is_new {
                    self.forecast.on_draft(now, block.tokens.len());
                }
                let arrived = self.pending.as_ref().map_or(now, |pending| pending.arrived);
                self.active = now;
                self.until = block.until.min(config.context);
                self.pending = Some(Pending { block, arrived });
                waits.then_some(Reply::Pending { turn: self.turn })
            }
        }
    }

    /// The acceptance rule: the target chooses at each position, and goes on as long as the draft chose the same. Appends
    /// what it commits; returns how many drafts were accepted, and the target's own token after them. There is none after
    /// an accepted token that ends the generation.
    ///
    /// `logits(i)` are those after the last committed token and `i` drafts. If they are missing, nothing is committed.
    pub(super) fn accept<'a, E>(
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
    pub(super) fn take_failure(&mut self) -> Option<String> {
        let failure = self.sampler.as_ref()?.failure()?;
        self.sampler = None;
        Some(failure)
    }

    /// Looks at the waiting blocks again after something was committed. Returns the answers that need no further pass.
    pub(super) fn settle(&mut self, config: &ServerConfig) -> Vec<Reply> {
        let pending = self.pending.take().map(|pending| (pending, false));
        let ahead = std::mem::take(&mut self.ahead).into_iter().map(|ahead| (ahead, true));
        let replies = pending.into_iter().chain(ahead).filter_map(|(Pending { block, arrived }, is_new)| {
            match self.meaning(&block) {
                // What builds on a rejected block is void, and its device learns that from the verdict on the block.
                Meaning::Ahead if self.pending.is_none() => None,
                _ => self.take_block(config, arrived, block, is_new),
            }
        });
        replies.filter(|reply| !matches!(reply, Reply::Pending { .. })).collect()
    }

    fn meaning(&self, block: &DraftBlock) -> Meaning {
        if block.turn != self.turn {
            return Meaning::Stale;
        }
        match self.sequence.digest(block.from) {
            None => return Meaning::Ahead,
            Some(digest) if digest != block.built_on => return Meaning::Stale,
            Some(_) => {}
        }
        let committed = self.sequence.since(block.from);
        let agreed = self.sequence.agreement(block.from, &block.tokens);
        let all_committed_agree = agreed == committed.len();
        if self.ended || !all_committed_agree || (agreed == block.tokens.len() && !committed.is_empty()) {
            return Meaning::Answered(self.recall(block.from, agreed, block.from));
        }
        Meaning::Extends
    }

    /// What is committed from `from` on, of which the device has proposed the first `agreed` tokens; with the log probabilities
    /// from `unknown` on.
    fn recall(&self, from: usize, agreed: usize, unknown: usize) -> Commit {
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
    pub(super) fn logprobs_of(&self, positions: Range<usize>) -> Vec<Logprobs> {
        let Some((_, decided)) = &self.logprobs else { return Vec::new() };
        let first = self.sequence.len() - decided.len();
        let at = positions.start.saturating_sub(first)..positions.end.saturating_sub(first);
        decided.get(at).unwrap_or_default().to_vec()
    }

    /// What the request that was answered last took, if it has a name and was not told of before.
    pub(super) fn take_answer(&mut self, id: SessionId, now: Duration) -> Option<Answer> {
        let Named { id: request, prompt, before, since } = self.named.take()?;
        let tally = Tally {
            committed: self.tally.committed - before.committed,
            drafted: self.tally.drafted - before.drafted,
            accepted: self.tally.accepted - before.accepted,
        };
        Some(Answer { session: id, request, prompt, tally, took: now.saturating_sub(since) })
    }
}
