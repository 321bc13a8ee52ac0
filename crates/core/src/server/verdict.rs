//! What the logits of a pass commit, and what becomes of a pass that fails.

use std::time::Duration;

use super::cache::PrefixCache;
use super::prices::Prices;
use super::session::{Brings, Session, Wants};
use super::sessions::Sessions;
use super::step::{Part, Step, Verify};
use super::{ServerConfig, SessionId};
use crate::Token;
use crate::message::{Commit, Load, Reply};

impl Verify {
    /// What `accepted` of its drafts and then `tokens` bring.
    fn brings(&self, session: &Session, accepted: usize, tokens: &[Token]) -> Brings {
        let drafted = self.drafts.len();
        let cut_off = self.cut_off(session).filter(|_| accepted == drafted);
        // The target's own token tells of the first draft that was cut off, too.
        let next_is_right = cut_off.map(|token| Some(&token) == tokens.first());
        Brings { committed: accepted + tokens.len(), drafted, accepted, next_is_right }
    }

    /// The commit that answers it.
    fn commit(&self, session: &Session, accepted: usize, tokens: Vec<Token>, load: Load) -> Commit {
        let text = &session.text;
        Commit {
            turn: text.turn(),
            from: self.from,
            accepted: self.known + accepted,
            tokens,
            digest: text.sequence().last_digest(),
            rows: u32::try_from(self.rows).unwrap_or(u32::MAX),
            unasked: session.asked.verified().is_none(),
            logprobs: text.logprobs_of(self.from..text.len()),
            load,
        }
    }

    /// The first draft of the answered block that has no row.
    fn cut_off(&self, session: &Session) -> Option<Token> {
        session.asked.verified()?.tokens.get(self.known + self.drafts.len()).copied()
    }
}

/// What a pass that came back means for the sessions that had rows in it, and for the cache.
pub(super) struct Outcome<'a> {
    pub(super) config: &'a ServerConfig,
    pub(super) prices: Prices,
    /// What one more row adds to a pass.
    pub(super) row: Duration,
    pub(super) sessions: &'a mut Sessions,
    pub(super) cache: &'a mut PrefixCache,
}

impl Outcome<'_> {
    /// What the rows of each session have come to. Parts whose logits are missing stay in the step; returns the first error.
    pub(super) fn complete<'a, E>(
        &mut self,
        now: Duration,
        step: &mut Step,
        mut logits: impl FnMut(usize) -> Result<&'a [f32], E>,
    ) -> Result<(), E> {
        let mut failure = None;
        for part in std::mem::take(&mut step.parts) {
            if let Err(error) = self.complete_part(now, step, &part, &mut logits) {
                failure.get_or_insert(error);
                step.parts.push(part);
            }
        }
        failure.map_or(Ok(()), Err)
    }

    /// What the rows of one session have come to.
    fn complete_part<'a, E>(
        &mut self,
        now: Duration,
        step: &mut Step,
        part: &Part,
        logits: &mut impl FnMut(usize) -> Result<&'a [f32], E>,
    ) -> Result<(), E> {
        let id = part.session;
        let Some(session) = self.sessions.get(id) else {
            self.discard(step, part);
            return Ok(());
        };
        let is_current = session.text.epoch() == part.epoch;
        if is_current {
            if let Some(verify) = &part.verify {
                self.decide(now, step, id, verify, logits)?;
            }
            self.note_rows(step, part);
        }
        let Some(session) = self.sessions.get_mut(id) else { return Ok(()) };
        self.cache.grow(part.sequence, step.tokens(part));
        self.cache.cut(part.sequence, session.place.valid());
        let settled = session.on_pass(self.config, now);
        step.replies.extend(settled.into_iter().map(|reply| (id, reply)));
        let wants = session.wants();
        if is_current && (part.verify.is_some() || wants != Wants::Reading) {
            session.suspicion.clear();
        }
        match wants {
            Wants::Assistance | Wants::Word => session.record.forecast_mut().expect(now),
            Wants::Nothing => self.sessions.end_answer(now, id),
            Wants::Reading | Wants::Tokens => {}
        }
        Ok(())
    }

    /// The session was closed meanwhile: what was computed for it goes.
    fn discard(&mut self, step: &Step, part: &Part) {
        let left = self.cache.len(part.sequence);
        self.cache.grow(part.sequence, step.tokens(part));
        self.cache.cut(part.sequence, left);
    }

    /// The target's verdict on the drafts of a session, which takes it, and the reply that tells it.
    fn decide<'a, E>(
        &mut self,
        now: Duration,
        step: &mut Step,
        id: SessionId,
        verify: &Verify,
        logits: &mut impl FnMut(usize) -> Result<&'a [f32], E>,
    ) -> Result<(), E> {
        let Some(session) = self.sessions.get_mut(id) else { return Ok(()) };
        // Prices as of before the verdict, which changes the session's pace.
        let (worth, price) = (self.prices.worth(now, session), self.prices.price(now, session));
        let (accepted, tokens) =
            session.text.accept(&self.config.end_of_generation, &verify.drafts, |i| logits(verify.first + i))?;
        session.place.extend(1 + accepted);
        let is_cut = verify.cut_off(session).is_some();
        let mut count = None;
        let reply = match session.text.take_failure() {
            Some(failure) => Reply::Failed(format!("the answer cannot go on: {failure}")),
            None => {
                let brings = verify.brings(session, accepted, &tokens);
                session.record.on_verdict(self.prices.goal(), now, brings);
                step.brought.add(worth, brings.committed);
                count = Some(brings);
                let load = Load {
                    queue: verify.waited,
                    step: step.duration.unwrap_or_default(),
                    row: self.row,
                    sharing: step.sharing,
                    price: (1e3 * price) as u32,
                };
                Reply::Commit(verify.commit(session, accepted, tokens, load))
            }
        };
        step.replies.push((id, reply));
        if is_cut {
            session.asked.wait_for_rest(now);
        }
        if let Some(Brings { committed, drafted, accepted, .. }) = count {
            self.sessions.count(committed, drafted, accepted);
        }
        Ok(())
    }

    /// The cache has the rows of `part` that read its session's text.
    fn note_rows(&mut self, step: &mut Step, part: &Part) {
        let Some(session) = self.sessions.get_mut(part.session) else { return };
        let read = part.verify.as_ref().map_or(part.rows.len(), |verify| verify.first - part.rows.start);
        session.place.extend(read);
        let duration = step.duration.unwrap_or_default();
        session.place.observe(duration, step.rows.len(), read, part.verify.is_some());
        step.brought.read += read;
    }

    /// Takes back a step that the engine could not run, or the parts of it that lack their logits.
    pub(super) fn fail(&mut self, step: &mut Step, reason: &str) {
        let has_run = step.duration.is_some();
        if !has_run {
            // How far the engine got with the cache is unknown, for whoever had an operation or a row in the step.
            self.cache.distrust();
            self.sessions.empty_places();
        }
        // Logits that are missing are missing for one session.
        let is_alone = has_run || step.parts.len() == 1;
        for part in std::mem::take(&mut step.parts) {
            let Some(session) = self.sessions.get_mut(part.session) else { continue };
            if has_run {
                self.cache.grow(part.sequence, step.tokens(&part));
                self.cache.cut(part.sequence, 0);
                session.place.empty();
            }
            let is_given_up = session.suspicion.on_failure(is_alone);
            session.asked.take_back(!is_given_up && session.text.epoch() == part.epoch);
            if is_given_up {
                session.give_up();
                step.replies.push((part.session, Reply::Closing(format!("the server's engine failed: {reason}"))));
            }
        }
    }
}
