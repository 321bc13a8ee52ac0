//! One session: what a device's message means for it.
//!
//! | file | what it owns |
//! |---|---|
//! | `text.rs` | what is committed, and the acceptance rule |
//! | `asked.rs` | what the device said: blocks that wait for a verdict, plain decoding |
//! | `place.rs` | its place in the KV cache, and its claim to one |
//! | `record.rs` | what it has had: pace, forecast, tally |

mod asked;
mod place;
mod record;
mod text;

use std::time::Duration;

pub(super) use asked::Asked;
use asked::Pending;
pub(super) use place::Place;
pub use record::Tally;
pub(super) use record::{Brings, Record};
pub(super) use text::Text;

use super::tuning::ForecastTuning;
use super::{Activity, Owner, ServerConfig, SessionId, SessionStatus};
use crate::message::{Commit, ContextUpdate, DraftBlock, MAX_BLOCK, Reply, Turn};
use crate::sampler::Sampler;
use crate::suspicion::Suspicion;
use crate::{Position, Token};

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

/// How long a session had waited for a pass that is planned.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Waited {
    /// Since its prompt came, if it is the first pass of the turn.
    pub(super) prompt: Option<Duration>,
    /// Since it asked for a verdict, or since its last token.
    pub(super) verdict: Duration,
}

#[derive(Debug)]
pub(super) struct Session {
    /// Whose texts in the cache it may share.
    pub(super) owner: Owner,
    pub(super) text: Text,
    pub(super) asked: Asked,
    pub(super) place: Place,
    pub(super) record: Record,
    /// Whether passes fail because of it.
    pub(super) suspicion: Suspicion,
    /// When the turn began.
    begun: Duration,
    /// When a row was last computed for it, or its last message came.
    active: Duration,
}

impl Session {
    pub(super) fn new(now: Duration, owner: Owner, tuning: ForecastTuning) -> Self {
        Self {
            owner,
            text: Text::default(),
            asked: Asked::default(),
            place: Place::new(now),
            record: Record::new(now, tuning),
            suspicion: Suspicion::default(),
            begun: now,
            active: now,
        }
    }

    /// What it wants of the next pass.
    pub(super) fn wants(&self) -> Wants {
        let is_incomplete = self.text.is_incomplete();
        let is_heard_of = self.asked.is_heard_of(self.text.len());
        if !self.text.has_prompt() || self.text.has_ended() {
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
        self.asked.asks(self.text.len())
    }

    /// Its device has said something.
    pub(super) fn on_word(&mut self) {
        self.asked.on_word(self.text.len());
    }

    /// Whether an answer is being generated.
    pub(super) fn is_generating(&self) -> bool {
        !matches!(self.wants(), Wants::Nothing | Wants::Word)
    }

    /// Whether an answer is being generated that has a place in the cache.
    pub(super) fn is_seated(&self) -> bool {
        self.place.sequence().is_some() && self.is_generating()
    }

    /// Whether its turn has had a pass.
    pub(super) fn has_begun(&self) -> bool {
        self.is_seated() && self.place.has_begun()
    }

    /// How many cells are its own, in its place. Who keeps the place for another prompt has no claim to more than it holds before
    /// that prompt is begun: else those who had long ones would keep everybody else out with their next.
    pub(super) fn claim(&self) -> usize {
        if self.has_begun() { self.text.len() } else { self.place.valid() }
    }

    /// How many tokens the engine must still evaluate before the next can be chosen.
    pub(super) fn unread(&self) -> usize {
        self.text.len().saturating_sub(self.place.valid())
    }

    /// The first `most` tokens of the pending block that are not committed yet.
    pub(super) fn drafts(&self, most: usize) -> &[Token] {
        self.asked.drafts(self.text.len(), most)
    }

    /// How many drafts wait for a verdict, that a text of at most `context` tokens has room for.
    pub(super) fn drafts_within(&self, context: usize) -> usize {
        self.drafts(context.saturating_sub(self.text.len() + 1)).len()
    }

    /// When what it waits for began to wait; earlier goes first.
    pub(super) fn waiting_since(&self) -> Duration {
        self.asked.arrived().unwrap_or(self.active)
    }

    /// When the turn began.
    pub(super) fn begun(&self) -> Duration {
        self.begun
    }

    /// When a row was last computed for it, or its last message came.
    pub(super) fn active(&self) -> Duration {
        self.active
    }

    /// What it is doing, for people.
    pub(super) fn status(&self, id: SessionId, now: Duration) -> SessionStatus {
        SessionStatus {
            id,
            tokens: self.text.len(),
            cached: self.place.valid(),
            tally: self.record.tally(),
            activity: match self.wants() {
                _ if self.asked.is_verifying() => Activity::Waiting(now.saturating_sub(self.waiting_since())),
                Wants::Nothing | Wants::Word => Activity::Idle(now.saturating_sub(self.active)),
                Wants::Reading => Activity::Reading(now.saturating_sub(self.begun)),
                Wants::Tokens => Activity::Waiting(now.saturating_sub(self.waiting_since())),
                Wants::Assistance => Activity::Drafting,
            },
        }
    }

    pub(super) fn on_context(&mut self, config: &ServerConfig, now: Duration, update: ContextUpdate) -> Option<Reply> {
        if update.turn < self.text.turn() {
            return None;
        }
        let text = self.text.sequence();
        let resend = |from| Some(Reply::Resend { turn: update.turn, from });
        match text.digest(update.from) {
            None => return resend(text.len()),
            Some(digest) if digest != update.built_on => return resend(0),
            Some(_) => {}
        }
        let len = update.from.saturating_add(update.tokens.len());
        let sampler = match usable(config, &update, len) {
            Ok(sampler) => sampler,
            Err(reason) => return Some(Reply::Failed(reason)),
        };
        self.active = now;
        let agreed = update.from + text.agreement(update.from, &update.tokens);
        if update.turn == self.text.turn() && agreed == len {
            // It is repeated. What the device sent as text it has.
            return (text.len() > len).then(|| Reply::Commit(self.text.recall(update.from, update.tokens.len(), len)));
        }
        self.begin_turn(config, now, update, agreed, sampler);
        None
    }

    /// Another text, of which the first `agreed` tokens are as before.
    fn begin_turn(
        &mut self,
        config: &ServerConfig,
        now: Duration,
        update: ContextUpdate,
        agreed: Position,
        sampler: Sampler,
    ) {
        self.text.begin(&update, agreed, sampler, update.limit.min(config.context), &config.end_of_generation);
        self.asked.clear();
        // The last token is always evaluated again: the next one is chosen from its logits.
        self.place.begin_turn(now, agreed.min(self.text.len().saturating_sub(1)));
        self.record.begin_turn(now, update.request_id, update.prompt_len);
        self.begun = now;
    }

    /// The device has what it wanted of this turn.
    pub(super) fn on_stop(&mut self, turn: Turn) {
        if turn == self.text.turn() {
            self.asked.clear();
            self.text.stop();
            self.record.forecast_mut().forget();
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
        let turn = self.text.turn();
        if block.turn > turn || (block.turn == turn && !self.text.has_prompt()) {
            return Some(Reply::Resend { turn: block.turn, from: 0 });
        }
        block.tokens.truncate(MAX_BLOCK);
        match self.meaning(&block) {
            Meaning::Stale => None,
            Meaning::Answered(commit) => {
                if block.tokens.is_empty() {
                    self.asked.allow(block.until.min(config.context));
                }
                Some(Reply::Commit(commit))
            }
            // What builds on a block that was rejected is never looked at again; nor is it worth an answer, since the device
            // learns of the rejection from the verdict, and repeats what was lost when its time runs out.
            Meaning::Ahead => {
                self.asked.keep_ahead(block, now);
                None
            }
            Meaning::Extends if self.text.len() >= config.context => Some(Reply::Failed(format!(
                "the session is full: it has {} tokens, which is all that the server allows; start a new one, or start the \
                 server with a larger -c",
                config.context
            ))),
            Meaning::Extends => {
                // A device repeats a block that it had no answer to, with what it drafted meanwhile: it is to know that the
                // server lives.
                let waits = self.asked.is_waiting();
                if is_new {
                    self.record.forecast_mut().on_draft(now, block.tokens.len());
                }
                self.active = now;
                let until = block.until.min(config.context);
                self.asked.wait(block, now, until);
                waits.then_some(Reply::Pending { turn })
            }
        }
    }

    /// A pass is planned at `now` that has rows for it. Returns how long it had waited for that.
    pub(super) fn on_rows(&mut self, now: Duration) -> Waited {
        let is_first = self.place.note_reused(self.text.sequence().prompt_len());
        let waited = Waited {
            prompt: is_first.then(|| now.saturating_sub(self.begun)),
            verdict: now.saturating_sub(self.waiting_since()),
        };
        self.active = now;
        waited
    }

    /// The pass that had rows for it is over, and took until `now`. Returns the answers that need no further pass.
    pub(super) fn on_pass(&mut self, config: &ServerConfig, now: Duration) -> Vec<Reply> {
        self.active = now;
        self.asked.end_pass();
        self.settle(config)
    }

    /// The session is given up: it wants nothing any more.
    pub(super) fn give_up(&mut self) {
        self.text.give_up();
    }

    /// Looks at the waiting blocks again after something was committed. Returns the answers that need no further pass.
    fn settle(&mut self, config: &ServerConfig) -> Vec<Reply> {
        let waiting = self.asked.take_waiting().into_iter();
        let replies = waiting.filter_map(|(Pending { block, arrived }, is_new)| match self.meaning(&block) {
            // What builds on a rejected block is void, and its device learns that from the verdict on the block.
            Meaning::Ahead if !self.asked.has_pending() => None,
            _ => self.take_block(config, arrived, block, is_new),
        });
        replies.filter(|reply| !matches!(reply, Reply::Pending { .. })).collect()
    }

    fn meaning(&self, block: &DraftBlock) -> Meaning {
        let text = self.text.sequence();
        if block.turn != self.text.turn() {
            return Meaning::Stale;
        }
        match text.digest(block.from) {
            None => return Meaning::Ahead,
            Some(digest) if digest != block.built_on => return Meaning::Stale,
            Some(_) => {}
        }
        let committed = text.since(block.from);
        let agreed = text.agreement(block.from, &block.tokens);
        let all_committed_agree = agreed == committed.len();
        if self.text.has_ended() || !all_committed_agree || (agreed == block.tokens.len() && !committed.is_empty()) {
            return Meaning::Answered(self.text.recall(block.from, agreed, block.from));
        }
        Meaning::Extends
    }

    /// Panics if a part of it contradicts another.
    pub(super) fn check_invariants(&self) {
        self.asked.check_invariants(self.text.len());
        assert!(self.place.valid() <= self.text.len(), "the cache has what the text has not");
        assert!(self.place.sequence().is_some() || self.place.valid() == 0, "cached, and in no sequence");
    }
}

/// The sampler of a prompt that can be taken, after which the text has `len` tokens; or why it cannot, for the user.
fn usable(config: &ServerConfig, update: &ContextUpdate, len: usize) -> Result<Sampler, String> {
    if update.prompt_len == 0 || update.prompt_len > len {
        return Err("the prompt is empty; send at least one token".to_owned());
    }
    if len >= config.context {
        let most = config.context.saturating_sub(1);
        return Err(format!(
            "the prompt has {len} tokens, but the server takes at most {most}; shorten it, or start the server with a larger -c"
        ));
    }
    Sampler::new(update.sampling.clone(), config.vocab_size).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Prompt;
    use crate::sequence::Digest;
    use crate::server::{Assist, Batching, Tuning};

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_block_that_waits_while_a_pass_runs_is_counted_once() {
        let config = ServerConfig {
            vocab_size: 8,
            cells: 100,
            sequences: 1,
            rows: 16,
            context: 100,
            end_of_generation: Vec::new(),
            sessions: 1,
            queue: 1,
            batching: Batching::Continuous,
            assist: Assist::Auto,
            rate_goal: None,
            tuning: Tuning::default(),
        };
        let mut session = Session::new(Duration::ZERO, Owner(1), ForecastTuning::default());
        let prompt = Prompt { tokens: vec![1, 2], max_tokens: 50, ..Prompt::default() };
        assert_eq!(session.on_context(&config, Duration::ZERO, prompt.into_context(1)), None);
        let built_on = Digest::EMPTY.then_all(&[1, 2]);
        let block = DraftBlock { turn: 1, from: 2, built_on, tokens: vec![3; 9], until: 0 };
        assert_eq!(session.on_draft(&config, MS, block), None);
        let counted = session.record.forecast().length();
        assert_eq!(session.settle(&config), []);
        assert_eq!(session.record.forecast().length(), counted);
        assert!(session.asked.has_pending());
    }
}
