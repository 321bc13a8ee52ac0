//! The batcher: `plan` a forward pass, let the engine run it, `complete` it.

use std::ops::Range;
use std::time::Duration;

use super::rate::Brought;
use super::schedule::{Batch, Launch};
use super::scheduling::Assist;
use super::session::{Pending, Session, Wants};
use super::{Server, SessionId};
use crate::message::{Commit, Load, Reply};
use crate::sampler::Sampler;
use crate::step::{CacheOp, Row, SequenceId};
use crate::{Position, Token};

/// After this many failed passes in a row with a session, the session is given up.
const MAX_FAILURES: u32 = 3;

/// What the engine is to do.
#[derive(Debug)]
pub enum Plan {
    /// A forward pass.
    Run(Step),
    /// Nothing before this time, unless a message comes.
    Wait(Duration),
    /// Nothing until a message comes.
    Idle,
}

/// One forward pass: what to do to the cache first, and the rows to evaluate.
#[derive(Debug)]
pub struct Step {
    /// Changes to the cache, in order, before the pass.
    pub cache_ops: Vec<CacheOp>,
    /// The rows, those of one session together and in order of position.
    pub rows: Vec<Row>,
    /// How long whoever has rows in it had waited.
    pub waits: Waits,
    parts: Vec<Part>,
    planned: Duration,
    /// How many sessions have rows in it.
    sharing: u32,
    /// What completing it has brought so far.
    brought: Brought,
    /// Whether its duration is known to the cost model.
    observed: bool,
}

/// How long those who are served by a pass had waited when it was planned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Waits {
    /// Since their prompt came, of those of which it is the first pass.
    pub prompts: Vec<Duration>,
    /// Since what they asked for was asked, or since the last token of those who are decoded plainly.
    pub verdicts: Vec<Duration>,
}

impl Step {
    /// How many sessions have rows in it.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.parts.len()
    }

    /// Whoever has rows in it.
    pub(super) fn served(&self) -> impl Iterator<Item = SessionId> {
        self.parts.iter().map(|part| part.session)
    }

    pub(super) fn has(&self, id: SessionId) -> bool {
        self.served().any(|served| served == id)
    }
}

/// One session's share of a step.
#[derive(Debug)]
struct Part {
    session: SessionId,
    sequence: SequenceId,
    epoch: u64,
    /// Its rows among the rows of the step.
    rows: Range<usize>,
    /// What its rows verify; `None` while its text is not read to the end.
    verify: Option<Verify>,
}

/// Rows that a verdict comes from: one for the last committed token, and one for each draft.
#[derive(Debug)]
struct Verify {
    /// The block that is answered; `None` for a row that no block asked for.
    pending: Option<Pending>,
    /// Where the answered block began, and how many of its tokens were committed before.
    from: Position,
    known: usize,
    /// The row of the last committed token.
    first: usize,
    drafts: Vec<Token>,
    waited: Duration,
}

impl Verify {
    /// The first draft of the answered block that has no row.
    fn cut_off(&self) -> Option<Token> {
        self.pending.as_ref()?.block.tokens.get(self.known + self.drafts.len()).copied()
    }
}

impl Server {
    /// What the engine is to do now, if it is free.
    pub fn plan(&mut self, now: Duration) -> Plan {
        if self.running {
            return Plan::Idle;
        }
        // Texts that the memory has no room for wait; the others do not wait for them.
        for with_texts in [true, false] {
            match self.schedule(now, with_texts) {
                Launch::Never => {
                    self.idle = !self.sessions.values().any(Session::is_generating);
                    return Plan::Idle;
                }
                Launch::At(time) => return Plan::Wait(time),
                Launch::Now(batch) => {
                    if let Some(step) = self.fill(now, batch) {
                        return Plan::Run(step);
                    }
                }
            }
        }
        Plan::Idle
    }

    /// Phase two: the rows of a pass for `batch`; `None` if there is no room for any.
    fn fill(&mut self, now: Duration, batch: Batch) -> Option<Step> {
        let mut step = Step {
            cache_ops: Vec::new(),
            rows: Vec::new(),
            waits: Waits::default(),
            parts: Vec::new(),
            planned: now,
            sharing: 0,
            brought: Brought::default(),
            observed: false,
        };
        // Where others share the pass, rows are dear: then a block waits for the verdict on the one before.
        if let ([only], []) = (&batch.decoding[..], &batch.reading[..])
            && !batch.padded
            && let Some(session) = self.sessions.get_mut(only)
        {
            session.join_ahead();
        }
        let mut unread = 0;
        let first_readers = batch.reading.iter().take_while(|id| {
            let is_in_turn = unread < batch.prefill;
            unread += self.sessions.get(id).map_or(0, Session::unread);
            is_in_turn
        });
        let seated: Vec<_> = batch.decoding.iter().chain(first_readers).copied().collect();
        seated.into_iter().for_each(|id| self.seat(id));
        let reserved = if batch.reading.is_empty() { 0 } else { batch.prefill.min(self.config.rows.div_ceil(4)) };
        let room = self.config.rows - reserved;
        let shares = self.shares(now, &batch, room);
        let longest = shares.iter().map(|&(_, drafts)| drafts).max().unwrap_or(0);
        for (id, drafts) in shares {
            let padding = if batch.padded { longest - drafts } else { 0 };
            self.add(&mut step, id, 1, drafts, padding);
        }
        let mut prefill = batch.prefill;
        for id in batch.reading {
            if prefill == 0 {
                break;
            }
            let room = self.config.rows.saturating_sub(step.rows.len());
            let Some(session) = self.sessions.get(&id) else { continue };
            let unread = session.unread();
            let asked = session.asks() || self.config.assist != Assist::Never;
            // The last token is no prompt row: its logits choose the next token.
            let all = if asked { unread } else { unread - 1 }.min(room);
            let reads_all = all == unread && unread <= prefill + 1;
            let context = if reads_all { unread } else { all.min(prefill) };
            let drafts = if context == unread { self.worthwhile_drafts(now, id, room - context) } else { 0 };
            if context > 0 && self.add(&mut step, id, context, drafts, 0) {
                prefill -= context - usize::from(reads_all);
            }
        }
        step.sharing = u32::try_from(step.parts.len()).unwrap_or(u32::MAX);
        if step.parts.is_empty() {
            return None;
        }
        step.cache_ops = self.cache.take_ops();
        self.running = true;
        Some(step)
    }

    /// How many drafts of each session are verified. Everybody has a row before anybody has two; then the drafts that are
    /// worth most come first, wherever they are from, as far as they are worth their price.
    fn shares(&self, now: Duration, batch: &Batch, room: usize) -> Vec<(SessionId, usize)> {
        let served = &batch.decoding[..batch.decoding.len().min(room)];
        let mut room = room - served.len();
        let mut shares: Vec<(SessionId, usize)> = Vec::with_capacity(served.len());
        for &id in served {
            let most = if batch.padded { self.drafts_of(id) } else { self.worthwhile_drafts(now, id, room) };
            shares.push((id, most));
        }
        let wanted: usize = shares.iter().map(|&(_, drafts)| drafts).sum();
        if batch.padded {
            // Padding takes rows too.
            let each = room / served.len().max(1);
            shares.iter_mut().for_each(|(_, drafts)| *drafts = (*drafts).min(each));
        } else if wanted > room {
            let value = |id: &SessionId, len| {
                self.sessions.get(id).map_or(0.0, |s| self.worth(now, s) * s.forecast.survival(len))
            };
            let mut candidates: Vec<(f64, usize)> = Vec::with_capacity(wanted);
            for (at, (id, drafts)) in shares.iter().enumerate() {
                candidates.extend((1..=*drafts).map(|len| (value(id, len), at)));
            }
            candidates.sort_by(|a, b| b.0.total_cmp(&a.0));
            shares.iter_mut().for_each(|(_, drafts)| *drafts = 0);
            for (_, at) in candidates {
                if room == 0 {
                    break;
                }
                shares[at].1 += 1;
                room -= 1;
            }
        }
        shares
    }

    /// How many drafts wait for a verdict, that the context has room for.
    fn drafts_of(&self, id: SessionId) -> usize {
        self.sessions.get(&id).map_or(0, |session| {
            let most = self.config.context.saturating_sub(session.sequence.len() + 1);
            session.drafts(most).len()
        })
    }

    /// How many of them are likely enough to be worth their rows, up to `room`.
    pub(super) fn worthwhile_drafts(&self, now: Duration, id: SessionId, room: usize) -> usize {
        let there = self.drafts_of(id).min(room);
        let Some(session) = self.sessions.get(&id) else { return 0 };
        let price = self.price(now, session);
        (1..=there).take_while(|&len| session.forecast.survival(len) >= price).count()
    }

    /// Gives `id` rows in `step`: for `context` tokens of its text, for `drafts` drafts behind them, and as padding. False if
    /// the memory has no room for it.
    fn add(&mut self, step: &mut Step, id: SessionId, context: usize, drafts: usize, padding: usize) -> bool {
        let planned = step.rows.len();
        let stood = self.sessions.get(&id).is_some_and(|session| session.cached.sequence.is_none());
        if !self.take_place(id, step) {
            return false;
        }
        let Some(session) = self.sessions.get(&id) else { return false };
        // What was shared need not be read, and what was to be verified may have been evicted since.
        let unread = session.unread();
        let context = context.min(unread);
        let reads_all = context == unread;
        let drafts = if reads_all { drafts } else { 0 };
        let end = session.cached.valid + context + drafts;
        let padding = padding.min(self.config.context.saturating_sub(end));
        // A draft may be wrong: nobody gives way to it.
        if !self.make_room(id, context, step) {
            if stood {
                self.leave_place(id);
            }
            return false;
        }
        let free = self.cache.room().saturating_sub(planned + context);
        let drafts = drafts.min(free);
        let padding = padding.min(free - drafts);
        let Some(session) = self.sessions.get_mut(&id) else { return false };
        let Some(sequence) = session.cached.sequence else { return false };
        let cached = session.cached.valid;
        let drafts = session.drafts(drafts).to_vec();
        let text = session.sequence.since(cached).iter().take(context).chain(&drafts);
        step.rows.extend(text.enumerate().map(|(i, &token)| Row {
            sequence,
            position: cached + i,
            token,
            wants_logits: reads_all && i + 1 >= context,
        }));
        if let Some(&last) = step.rows.last() {
            let position = |i: usize| last.position + i;
            step.rows.extend((1..=padding).map(|i| Row { position: position(i), wants_logits: false, ..last }));
        }
        if session.reused.is_none() {
            session.reused = Some(cached.min(session.sequence.prompt_len()));
            step.waits.prompts.push(step.planned.saturating_sub(session.begun));
        }
        let asks = session.asks();
        let verify = reads_all.then(|| {
            let waited = step.planned.saturating_sub(session.waiting_since());
            if asks {
                step.waits.verdicts.push(waited);
            }
            let pending = session.pending.take();
            session.verifying = pending.is_some();
            let from = pending.as_ref().map_or(session.sequence.len(), |pending| pending.block.from);
            let known = session.sequence.len() - from;
            Verify { pending, from, known, first: planned + context - 1, drafts, waited }
        });
        session.active = step.planned;
        let rows = planned..step.rows.len();
        step.parts.push(Part { session: id, sequence, epoch: session.epoch, rows, verify });
        true
    }

    /// Takes the logits of a pass that `plan` handed out, and returns what it commits. `logits(i)` are the logits of row `i`
    /// of the step; they are asked for only as far as drafts are accepted.
    ///
    /// # Errors
    /// Whatever `logits` returns; the step must then be handed to [`Server::fail`].
    pub fn complete<'a, E>(
        &mut self,
        now: Duration,
        step: &mut Step,
        mut logits: impl FnMut(usize) -> Result<&'a [f32], E>,
    ) -> Result<Vec<(SessionId, Reply)>, E> {
        let duration = now.saturating_sub(step.planned);
        if !step.observed {
            step.observed = true;
            let deciding = |part: &Part| part.verify.as_ref().map_or(0, |verify| part.rows.end - verify.first);
            self.cost.observe(step.rows.len(), step.parts.iter().map(deciding).sum(), duration);
        }
        let row = Duration::try_from_secs_f64(self.cost.row()).unwrap_or_default();
        let goal = self.goal;
        let mut replies = Vec::new();
        while let Some(part) = step.parts.last_mut() {
            let (rows, sequence) = (part.rows.len(), part.sequence);
            let tokens = step.rows.get(part.rows.clone()).unwrap_or_default().iter().map(|row| row.token);
            let (worth, price) = self
                .sessions
                .get(&part.session)
                .map_or((1.0, 1.0), |session| (self.worth(now, session), self.price(now, session)));
            let Some(session) = self.sessions.get_mut(&part.session) else {
                let left = self.cache.len(sequence);
                self.cache.grow(sequence, tokens);
                self.cache.cut(sequence, left);
                step.parts.pop();
                continue;
            };
            if session.epoch == part.epoch {
                match &mut part.verify {
                    None => {
                        session.cached.valid += rows;
                        session.cached.observe(duration, step.rows.len(), rows, false);
                        step.brought.read += rows;
                    }
                    Some(verify) => {
                        let first = verify.first;
                        let before = session.sequence.len();
                        let (accepted, tokens) =
                            session.accept(&self.config.end_of_generation, &verify.drafts, |i| logits(first + i))?;
                        let committed = session.sequence.len() - before;
                        let read = first - part.rows.start;
                        session.cached.valid += read + 1 + accepted;
                        session.cached.observe(duration, step.rows.len(), read, true);
                        session.pace.observe(goal, now, committed);
                        session.tally.committed += committed as u64;
                        session.tally.drafted += verify.drafts.len() as u64;
                        session.tally.accepted += accepted as u64;
                        self.totals.add(committed, verify.drafts.len(), accepted);
                        let cut_off = verify.cut_off().filter(|_| accepted == verify.drafts.len());
                        // The target's own token tells of the first draft that was cut off, too.
                        let right = accepted + usize::from(cut_off.is_some() && cut_off == tokens.first().copied());
                        session.forecast.on_verdict(verify.drafts.len() + usize::from(cut_off.is_some()), right);
                        step.brought.worth += worth * committed as f64;
                        step.brought.committed += committed;
                        step.brought.read += read;
                        let commit = Commit {
                            turn: session.turn,
                            from: verify.from,
                            accepted: verify.known + accepted,
                            tokens,
                            digest: session.sequence.last_digest(),
                            rows: u32::try_from(part.rows.end - first).unwrap_or(u32::MAX),
                            unasked: verify.pending.is_none(),
                            logprobs: session.logprobs_of(verify.from..session.sequence.len()),
                            load: Load {
                                queue: verify.waited,
                                step: duration,
                                row,
                                sharing: step.sharing,
                                price: (1e3 * price) as u32,
                            },
                        };
                        let reply = match session.sampler.as_ref().and_then(Sampler::failure) {
                            None => Reply::Commit(commit),
                            Some(failure) => {
                                session.sampler = None;
                                Reply::Failed(format!("the answer cannot go on: {failure}"))
                            }
                        };
                        replies.push((part.session, reply));
                        // What was cut off a block is still to be answered, if nothing newer has come; it waits from now on.
                        let is_cut = verify.cut_off().is_some();
                        let rest = verify.pending.take().filter(|_| is_cut);
                        session.pending =
                            session.pending.take().or(rest.map(|pending| Pending { arrived: now, ..pending }));
                    }
                }
                session.failures = 0;
            }
            self.cache.grow(sequence, tokens);
            self.cache.cut(sequence, session.cached.valid);
            session.active = now;
            session.verifying = false;
            let settled = session.settle(&self.config);
            match session.wants() {
                Wants::Assistance => session.forecast.expect(now),
                Wants::Nothing => self.answered.extend(session.take_answer(part.session, now)),
                Wants::Reading | Wants::Tokens => {}
            }
            replies.extend(settled.into_iter().map(|reply| (part.session, reply)));
            step.parts.pop();
        }
        self.running = false;
        let rows = step.rows.len();
        let without = self.cost.pass(rows.saturating_sub(step.brought.read) as f64);
        step.brought.reading = 1.0 - (without / self.cost.pass(rows as f64).max(f64::MIN_POSITIVE)).min(1.0);
        self.rate.observe(step.planned, now, step.brought, std::mem::take(&mut self.idle));
        Ok(replies)
    }

    /// Takes back a step that the engine could not run. Sessions are evaluated anew from their tokens; one that fails
    /// again and again is given up, and only that one.
    pub fn fail(&mut self, step: Step, reason: &str) -> Vec<(SessionId, Reply)> {
        self.running = false;
        // How far the engine got with the cache is unknown, for whoever had an operation or a row in the step.
        self.cache.distrust();
        for session in self.sessions.values_mut() {
            session.cached.valid = 0;
        }
        let mut replies = Vec::new();
        for part in step.parts {
            let Some(session) = self.sessions.get_mut(&part.session) else { continue };
            session.verifying = false;
            session.failures += 1;
            if session.failures >= MAX_FAILURES {
                replies.push((part.session, Reply::Closing(format!("the server's engine failed: {reason}"))));
                session.sampler = None;
            } else if session.epoch == part.epoch && session.pending.is_none() {
                session.pending = part.verify.and_then(|verify| verify.pending);
            }
        }
        replies
    }
}
