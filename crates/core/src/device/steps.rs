//! What is done after each event: blocks go out, drafts are asked for, tokens are settled; and how an answer ends.

use super::blocks::{Block, Bounds};
use super::tolerance::Tolerance;
use super::{Action, Device, Emitted, FinishReason, Loss, Provenance, Tuning};
use crate::message::{Commit, DraftBlock, MAX_UNHEARD, Request};
use crate::sampler::Logprobs;
use crate::{Position, Token};

/// Sending and drafting.
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
        if self.answer.is_finished() || !self.link.is_up() {
            return None;
        }
        match &self.policy {
            Some(policy) if policy.lease().is_none() => {
                let bounds =
                    Bounds { end: self.end(), max_draft: self.max_draft(), drafted_out: self.is_drafted_out() };
                self.blocks.next(&self.drafts, policy.as_ref(), bounds)
            }
            _ => self.blocks.is_empty().then_some(0),
        }
    }

    fn send_block(&mut self, len: usize) {
        let (now, settled) = (self.clock.now(), self.drafts.settled());
        if self.blocks.is_empty() {
            self.link.wait_from(now);
        }
        let lease = self.lease().map(|lease| self.end().min(settled + lease));
        match &mut self.policy {
            Some(policy) if lease.is_none() => policy.on_block(len),
            _ => self.drafts.fall_behind(),
        }
        let block = self.blocks.send(now, settled, len, lease);
        self.send_drafts(block);
    }

    /// How many tokens the server is to decode by itself before it hears of this device again; `None` if drafts are made here.
    fn lease(&self) -> Option<usize> {
        self.policy.as_ref().map_or(Some(MAX_UNHEARD), |policy| policy.lease())
    }

    /// Lets the server decode on by itself, if it soon ends what it was told to and that still pays.
    fn renew_lease(&mut self) {
        let Some(lease) = self.lease().filter(|_| self.link.is_up()) else { return };
        if let Some(block) = self.blocks.renew_lease(self.drafts.settled(), lease, self.end()) {
            self.send_drafts(block);
        }
    }

    /// Sends all that is not settled of the blocks again, as one, with what was drafted meanwhile.
    pub(super) fn repeat(&mut self) {
        let more = if self.blocks.is_leased() { 0 } else { self.next_block().unwrap_or(0) };
        if let Some(block) = self.blocks.repeat(&self.drafts, more, self.max_draft()) {
            self.send_drafts(block);
        }
    }

    fn send_drafts(&mut self, block: Block) {
        let (from, end) = block.range();
        let Some((built_on, tokens)) = self.drafts.slice(from, end) else { return };
        let (turn, tokens, until) = (self.answer.turn(), tokens.to_vec(), block.until());
        self.outbox.push(Action::Send(Request::Draft(DraftBlock { turn, from, built_on, tokens, until })));
    }

    /// Asks for another draft, if one can be made and there is a use for it.
    fn draft_on(&mut self) {
        if self.answer.is_finished()
            || self.drafts.is_asked()
            || self.policy.is_none()
            || !self.blocks.allows_drafting()
        {
            return;
        }
        let Tuning { max_drafts, hopeless, .. } = self.config.tuning;
        let is_of_use = if self.link.is_releasing() {
            !self.drafts.is_exhausted()
        } else {
            let waiting = !self.blocks.is_empty() || !self.link.is_up();
            let is_hopeless = waiting && self.drafts.survival(self.drafts.end()) < hopeless;
            self.drafts.count() < max_drafts && !self.is_drafted_out() && !is_hopeless
        };
        if is_of_use {
            let ticket = self.drafts.ask(self.clock.now(), self.answer.turn());
            self.outbox.push(Action::Draft(ticket));
        }
    }

    /// Whether the drafter has nothing to add.
    fn is_drafted_out(&self) -> bool {
        self.drafts.is_exhausted()
            || self.drafts.end() + 1 >= self.end()
            || self.drafts.ends_with(&self.config.end_of_generation)
    }

    /// How long the text gets, as far as the server at hand takes it.
    fn end(&self) -> usize {
        let limit = self.answer.limit();
        self.link.terms().map_or(limit, |terms| limit.min(terms.context))
    }

    /// The longest block that the server at hand takes.
    fn max_draft(&self) -> usize {
        self.config.max_draft.min(self.link.max_draft())
    }
}

/// What a server says.
impl Device {
    pub(super) fn on_commit(&mut self, commit: &Commit) {
        let settled = self.drafts.settled();
        if commit.end() <= settled {
            return;
        }
        if commit.from > settled {
            // A commit before this one is late or lost: ask for what was committed since.
            if self.blocks.ask_again() {
                self.repeat();
            }
            return;
        }
        let Some(tokens) = self.drafts.reconstruct(commit, self.config.context) else {
            if self.allows_misfit() {
                self.repeat();
            }
            return;
        };
        self.tolerance = Tolerance::default();
        self.blocks.on_commit();
        self.answer.on_verdict(commit.rows);
        let (now, oldest) = (self.clock.now(), self.blocks.oldest());
        let answer_time = self.meter.on_commit(now, commit, tokens.len(), oldest, self.policy.as_deref_mut());
        if let Some(time) = answer_time {
            self.link.on_answer(time);
        }
        self.hear();
        self.settle(commit, tokens);
        if self.answer.is_finished() {
            return;
        }
        self.blocks.on_settled(self.drafts.settled());
        if self.is_full() {
            self.leave_full_server();
        } else {
            self.advance();
        }
    }

    /// The server said something that makes sense.
    pub(super) fn hear(&mut self) {
        self.link.on_sign_of_life(self.clock.now(), &mut self.outbox);
    }

    /// Counts a reply that does not fit; false, and the session has failed, if there were too many in a row.
    pub(super) fn allows_misfit(&mut self) -> bool {
        let is_allowed = self.tolerance.allows_misfit();
        if !is_allowed {
            self.finish(FinishReason::Failed(Tolerance::EXCEEDED.to_owned()));
        }
        is_allowed
    }

    /// Commits `tokens` one by one, up to one that ends the generation.
    fn settle(&mut self, commit: &Commit, tokens: Vec<Token>) {
        let mut opens_verdict = true;
        for token in tokens {
            let logprobs = commit.logprobs_at(self.drafts.settled()).filter(|_| self.answer.wants_logprobs()).cloned();
            self.commit(token, std::mem::take(&mut opens_verdict), logprobs);
            if self.answer.is_finished() {
                break;
            }
        }
    }

    fn commit(&mut self, token: Token, opens_verdict: bool, logprobs: Option<Logprobs>) {
        let position = self.drafts.settled();
        let was_sent = self.blocks.covers(position);
        let agrees = self.drafts.commit(token);
        if !agrees {
            self.blocks.on_miss(position);
        }
        let provenance = match (was_sent, agrees) {
            (true, true) => Provenance::Accepted,
            (true, false) => Provenance::Corrected,
            (false, _) => Provenance::Bonus,
        };
        self.emit(Emitted { position, token, provenance, opens_verdict, logprobs });
    }
}

/// Without a server.
impl Device {
    /// Tells the server the text, of which it knows the first `shared` tokens if it knows any.
    pub(super) fn tell_text(&mut self, shared: usize) {
        if self.is_full() {
            self.leave_full_server();
        } else if self.link.is_up() {
            let from = if self.link.tell() { shared } else { 0 };
            self.send_text(from);
        } else {
            self.link.seek(self.clock.now(), self.drafts.settled(), &mut self.outbox);
        }
    }

    pub(super) fn send_text(&mut self, from: Position) {
        let settled = self.drafts.settled();
        let from = from.min(settled);
        let Some((built_on, tokens)) = self.drafts.slice(from, settled) else { return };
        let update = self.answer.context(from, built_on, tokens, self.drafts.prompt_len());
        self.outbox.push(Action::Send(Request::Context(update)));
    }

    /// Gives up the connection, or the attempt to make it.
    pub(super) fn leave(&mut self, loss: Loss) {
        self.outbox.push(Action::Disconnect);
        self.lose(loss);
    }

    /// There is no connection any more: the next server is to be tried, and what was in flight is to be sent anew.
    pub(super) fn lose(&mut self, loss: Loss) {
        let now = self.clock.now();
        if self.answer.is_finished() && self.link.is_up() {
            // Nobody waits for anything: a server may close what is idle, and the next prompt opens it again.
            self.link.rest(now);
            return;
        }
        if self.link.is_up() {
            self.answer.on_disconnected();
        }
        self.link.go_down(now, self.drafts.settled(), loss);
        self.blocks.clear();
        self.meter.pause();
        self.outbox.drop_server();
        if self.answer.is_finished() {
            // Nobody waits for it: a session that is idle may be closed.
            return;
        }
        self.count_failure();
        if self.answer.is_finished() {
            return;
        }
        self.link.tell_loss(&mut self.outbox);
        self.advance();
    }

    /// Counts a failure, of which only so many are borne.
    pub(super) fn count_failure(&mut self) {
        if let Some(reason) = self.link.on_failure() {
            self.finish(FinishReason::Failed(reason));
        }
    }

    /// Whether the server at hand takes no longer text than this one is, and this one is to get longer.
    fn is_full(&self) -> bool {
        self.link.terms().is_some_and(|terms| (terms.context..self.answer.limit()).contains(&self.drafts.settled()))
    }

    /// Goes on with a server that takes longer texts. If there is none, the answer ends.
    fn leave_full_server(&mut self) {
        let (len, context) = (self.drafts.settled(), self.link.context());
        if self.link.has_room(len) {
            self.leave(Loss::Broken(format!("its texts have {context} tokens at most, and this one has {len}")));
        } else if len > self.drafts.prompt_len() {
            self.finish(FinishReason::Length);
        } else {
            self.finish(FinishReason::Failed(format!(
                "the text has {len} tokens, and the servers take {context} at most; shorten it, or start one with a larger -c"
            )));
        }
    }

    /// Shows the drafts as they are, if the device goes on alone. They become text that the next server takes as given.
    fn release(&mut self) {
        if !self.link.is_releasing() || self.answer.is_finished() {
            return;
        }
        if self.drafts.count() == 0 {
            // Nobody else will add anything.
            if self.drafts.is_exhausted() && self.link.is_alone() {
                self.finish(FinishReason::Length);
            }
            return;
        }
        if self.link.retell() {
            self.answer.renumber();
        }
        while let Some((position, token)) = self.drafts.release() {
            self.answer.on_provisional();
            let provenance = Provenance::Provisional;
            self.emit(Emitted { position, token, provenance, opens_verdict: false, logprobs: None });
            if self.answer.is_finished() {
                return;
            }
        }
    }
}

/// What becomes of an answer.
impl Device {
    /// Hands out a token that was just settled.
    fn emit(&mut self, emitted: Emitted) {
        let token = emitted.token;
        self.answer.on_token(self.clock.now());
        self.outbox.push(Action::Emit(emitted));
        if self.config.end_of_generation.contains(&token) {
            self.finish(FinishReason::Stop);
        } else if self.drafts.settled() >= self.answer.limit() {
            self.finish(FinishReason::Length);
        }
    }

    pub(super) fn finish(&mut self, reason: FinishReason) {
        self.drafts.clear();
        self.blocks.clear();
        self.answer.finish();
        self.outbox.push(Action::Finish(reason));
    }

    /// Drops what the shell was to do for the answer.
    pub(super) fn drop_actions(&mut self) {
        if self.outbox.drop_answer() {
            self.drafts.withdraw();
        }
    }
}
