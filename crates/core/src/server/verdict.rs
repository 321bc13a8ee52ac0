//! What the logits of a pass commit, and what becomes of a pass that fails.

use std::time::Duration;

use super::batch::{Part, Step, Verify};
use super::rate::Goal;
use super::session::{Pending, Session, Wants};
use super::{Server, SessionId};
use crate::Token;
use crate::message::{Commit, Load, Reply};

impl Verify {
    /// Learns from what was committed: `accepted` of its drafts, then `tokens`.
    fn learn(&self, now: Duration, terms: &Terms, session: &mut Session, accepted: usize, tokens: &[Token]) {
        let (drafted, committed) = (self.drafts.len(), accepted + tokens.len());
        session.pace.observe(terms.goal, now, committed);
        session.tally.committed += committed as u64;
        session.tally.drafted += drafted as u64;
        session.tally.accepted += accepted as u64;
        let cut_off = self.cut_off().filter(|_| accepted == drafted);
        // The target's own token tells of the first draft that was cut off, too.
        let right = accepted + usize::from(cut_off.is_some() && cut_off == tokens.first().copied());
        session.forecast.on_verdict(drafted + usize::from(cut_off.is_some()), right);
    }

    /// The commit that answers it.
    fn commit(&self, session: &Session, accepted: usize, tokens: Vec<Token>, load: Load) -> Commit {
        Commit {
            turn: session.turn,
            from: self.from,
            accepted: self.known + accepted,
            tokens,
            digest: session.sequence.last_digest(),
            rows: u32::try_from(self.rows).unwrap_or(u32::MAX),
            unasked: self.pending.is_none(),
            logprobs: session.logprobs_of(self.from..session.sequence.len()),
            load,
        }
    }

    /// The first draft of the answered block that has no row.
    fn cut_off(&self) -> Option<Token> {
        self.pending.as_ref()?.block.tokens.get(self.known + self.drafts.len()).copied()
    }
}

/// What tokens of a session are worth when they are committed, and what rows cost it.
struct Terms {
    goal: Goal,
    worth: f64,
    price: f64,
}

impl Server {
    /// Takes the logits of a pass that `plan` handed out, and returns what it commits. `logits(i)` are the logits of row `i`
    /// of the step; they are asked for only as far as drafts are accepted.
    ///
    /// # Errors
    /// Whatever `logits` returned first. Whoever has all its logits is served all the same; the step must be handed to
    /// [`Server::fail`], which tells what there is to tell.
    pub fn complete<'a, E>(
        &mut self,
        now: Duration,
        step: &mut Step,
        mut logits: impl FnMut(usize) -> Result<&'a [f32], E>,
    ) -> Result<Vec<(SessionId, Reply)>, E> {
        self.observe(now, step);
        let mut failure = None;
        for mut part in std::mem::take(&mut step.parts) {
            if let Err(error) = self.complete_part(now, step, &mut part, &mut logits) {
                failure.get_or_insert(error);
                step.parts.push(part);
            }
        }
        let rows = step.rows.len();
        let without = self.cost.pass(rows.saturating_sub(step.brought.read) as f64);
        step.brought.reading = 1.0 - (without / self.cost.pass(rows as f64).max(f64::MIN_POSITIVE)).min(1.0);
        self.rate.observe(step.planned, now, step.brought, std::mem::take(&mut self.idle));
        self.running = failure.is_some();
        failure.map_or_else(|| Ok(std::mem::take(&mut step.replies)), Err)
    }

    /// Learns what a pass costs.
    fn observe(&mut self, now: Duration, step: &mut Step) {
        let duration = now.saturating_sub(step.planned);
        step.duration = Some(duration);
        let deciding = step.parts.iter().filter_map(|part| part.verify.as_ref()).map(|verify| verify.rows).sum();
        self.cost.observe(step.rows.len(), deciding, duration);
    }

    /// What the rows of one session have come to.
    fn complete_part<'a, E>(
        &mut self,
        now: Duration,
        step: &mut Step,
        part: &mut Part,
        logits: &mut impl FnMut(usize) -> Result<&'a [f32], E>,
    ) -> Result<(), E> {
        let (id, sequence, rows) = (part.session, part.sequence, part.rows.len());
        let duration = step.duration.unwrap_or_default();
        let Some(terms) = self.terms(now, id) else {
            // It is closed by now: what was computed for it goes.
            let left = self.cache.len(sequence);
            self.cache.grow(sequence, step.tokens(part));
            self.cache.cut(sequence, left);
            return Ok(());
        };
        let Some(session) = self.sessions.get_mut(&id) else { return Ok(()) };
        let is_current = session.epoch == part.epoch;
        if is_current {
            let mut read = rows;
            if let Some(verify) = &mut part.verify {
                read = verify.first - part.rows.start;
                let end_of_generation = &self.config.end_of_generation;
                let (accepted, tokens) =
                    session.accept(end_of_generation, &verify.drafts, |i| logits(verify.first + i))?;
                session.cached.valid += 1 + accepted;
                step.replies.push((
                    id,
                    match session.take_failure() {
                        Some(failure) => Reply::Failed(format!("the answer cannot go on: {failure}")),
                        None => {
                            verify.learn(now, &terms, session, accepted, &tokens);
                            step.brought.add(terms.worth, accepted + tokens.len());
                            self.totals.add(accepted + tokens.len(), verify.drafts.len(), accepted);
                            let load = Load {
                                queue: verify.waited,
                                step: duration,
                                row: Duration::try_from_secs_f64(self.cost.row()).unwrap_or_default(),
                                sharing: step.sharing,
                                price: (1e3 * terms.price) as u32,
                            };
                            Reply::Commit(verify.commit(session, accepted, tokens, load))
                        }
                    },
                ));
                // What was cut off a block is still to be answered, if nothing newer has come; it waits from now on.
                let is_cut = verify.cut_off().is_some();
                let rest = verify.pending.take().filter(|_| is_cut && session.pending.is_none());
                session.pending = rest.map(|pending| Pending { arrived: now, ..pending }).or(session.pending.take());
            }
            session.cached.valid += read;
            session.cached.observe(duration, step.rows.len(), read, part.verify.is_some());
            step.brought.read += read;
        }
        self.cache.grow(sequence, step.tokens(part));
        self.cache.cut(sequence, session.cached.valid);
        session.active = now;
        session.verifying = false;
        let settled = session.settle(&self.config);
        step.replies.extend(settled.into_iter().map(|reply| (id, reply)));
        if is_current && (part.verify.is_some() || session.wants() != Wants::Reading) {
            session.suspicion.clear();
        }
        match session.wants() {
            Wants::Assistance | Wants::Word => session.forecast.expect(now),
            Wants::Nothing => self.answered.extend(session.take_answer(id, now)),
            Wants::Reading | Wants::Tokens => {}
        }
        Ok(())
    }

    fn terms(&self, now: Duration, id: SessionId) -> Option<Terms> {
        let session = self.sessions.get(&id)?;
        Some(Terms { goal: self.goal, worth: self.worth(now, session), price: self.price(now, session) })
    }

    /// Takes back a step that the engine could not run, or not for all. Its sessions are evaluated anew from their tokens, by
    /// themselves; one that fails so again and again is given up, and only that one. Returns what there is to tell, also of those
    /// who were served.
    pub fn fail(&mut self, mut step: Step, reason: &str) -> Vec<(SessionId, Reply)> {
        self.running = false;
        let has_run = step.duration.is_some();
        if !has_run {
            // How far the engine got with the cache is unknown, for whoever had an operation or a row in the step.
            self.cache.distrust();
            self.sessions.values_mut().for_each(|session| session.cached.valid = 0);
        }
        // Logits that are missing are missing for one session.
        let is_alone = has_run || step.parts.len() == 1;
        for part in std::mem::take(&mut step.parts) {
            let Some(session) = self.sessions.get_mut(&part.session) else { continue };
            if has_run {
                self.cache.grow(part.sequence, step.tokens(&part));
                self.cache.cut(part.sequence, 0);
                session.cached.valid = 0;
            }
            session.verifying = false;
            if session.suspicion.on_failure(is_alone) {
                step.replies.push((part.session, Reply::Closing(format!("the server's engine failed: {reason}"))));
                session.sampler = None;
            } else if session.epoch == part.epoch && session.pending.is_none() {
                session.pending = part.verify.and_then(|verify| verify.pending);
            }
        }
        step.replies
    }
}
