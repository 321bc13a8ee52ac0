//! The batcher: which rows a forward pass has.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;

use super::rate::Brought;
use super::schedule::{Batch, Launch};
use super::scheduling::Assist;
use super::session::{Pending, Session};
use super::{Server, SessionId};
use crate::message::Reply;
use crate::step::{CacheOp, Row, SequenceId};
use crate::{Position, Token};

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
    pub(super) parts: Vec<Part>,
    pub(super) planned: Duration,
    /// How many sessions have rows in it.
    pub(super) sharing: u32,
    /// What completing it has brought so far.
    pub(super) brought: Brought,
    /// How long it took; `None` until the engine has run it.
    pub(super) duration: Option<Duration>,
    /// What completing it has to tell so far.
    pub(super) replies: Vec<(SessionId, Reply)>,
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
    fn new(planned: Duration) -> Self {
        Self {
            cache_ops: Vec::new(),
            rows: Vec::new(),
            waits: Waits::default(),
            parts: Vec::new(),
            planned,
            sharing: 0,
            brought: Brought::default(),
            duration: None,
            replies: Vec::new(),
        }
    }

    /// How many sessions have rows in it.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.parts.len()
    }

    /// The tokens of the rows of `part`.
    pub(super) fn tokens(&self, part: &Part) -> impl Iterator<Item = Token> {
        self.rows.get(part.rows.clone()).unwrap_or_default().iter().map(|row| row.token)
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
pub(super) struct Part {
    pub(super) session: SessionId,
    pub(super) sequence: SequenceId,
    pub(super) epoch: u64,
    /// Its rows among the rows of the step.
    pub(super) rows: Range<usize>,
    /// What its rows verify; `None` while its text is not read to the end.
    pub(super) verify: Option<Verify>,
}

/// Rows that a verdict comes from: one for the last committed token, and one for each draft.
#[derive(Debug)]
pub(super) struct Verify {
    /// The block that is answered; `None` for a row that no block asked for.
    pub(super) pending: Option<Pending>,
    /// Where the answered block began, and how many of its tokens were committed before.
    pub(super) from: Position,
    pub(super) known: usize,
    /// The row of the last committed token, and how many there are from there on.
    pub(super) first: usize,
    pub(super) rows: usize,
    pub(super) drafts: Vec<Token>,
    pub(super) waited: Duration,
}

impl Server {
    /// What the engine is to do now, if it is free.
    pub fn plan(&mut self, now: Duration) -> Plan {
        if self.running {
            return Plan::Idle;
        }
        // Suspects take turns with all others, so that neither wait for the other.
        let others_first = std::mem::take(&mut self.tried);
        if !others_first && let Some(step) = self.plan_suspect(now) {
            return Plan::Run(step);
        }
        match self.plan_others(now) {
            Plan::Run(step) => Plan::Run(step),
            plan if others_first => self.plan_suspect(now).map_or(plan, Plan::Run),
            plan => plan,
        }
    }

    /// A pass for one of those whose fault it may be that a pass failed.
    fn plan_suspect(&mut self, now: Duration) -> Option<Step> {
        let step = self.suspects().into_iter().find_map(|batch| self.fill(now, batch));
        self.tried = step.is_some();
        step
    }

    fn plan_others(&mut self, now: Duration) -> Plan {
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
        let mut step = Step::new(now);
        // Where others share the pass, rows are dear: then a block waits for the verdict on the one before.
        if let ([only], []) = (&batch.decoding[..], &batch.reading[..])
            && !batch.padded
            && let Some(session) = self.sessions.get_mut(only)
        {
            session.join_ahead();
        }
        let readers = self.shares_of_reading(now, &batch.reading, batch.prefill, self.config.rows);
        batch.decoding.iter().chain(readers.iter().map(|(id, _)| id)).for_each(|&id| self.seat(id));
        let room = self.config.rows - self.rows_to_read(&batch);
        let shares = self.shares(now, &batch, room);
        let longest = shares.iter().map(|&(_, drafts)| drafts).max().unwrap_or(0);
        for (id, drafts) in shares {
            let padding = if batch.padded { longest - drafts } else { 0 };
            self.add(&mut step, id, 1, drafts, padding);
        }
        self.read(&mut step, batch.reading, batch.prefill);
        step.sharing = u32::try_from(step.parts.len()).unwrap_or(u32::MAX);
        if step.parts.is_empty() {
            return None;
        }
        step.cache_ops = self.cache.take_ops();
        self.running = true;
        Some(step)
    }

    /// How many rows are kept for reading.
    fn rows_to_read(&mut self, batch: &Batch) -> usize {
        if batch.reading.is_empty() {
            return 0;
        }
        let kept = batch.prefill.min(self.config.rows.div_ceil(4));
        if kept < self.config.rows || batch.decoding.is_empty() {
            return kept;
        }
        // A pass that has room for one of the two is for each in turn.
        self.reads = !self.reads;
        if self.reads { kept } else { 0 }
    }

    /// Reads `prefill` tokens of the texts of `waiting`, as far as `step` has rows and the memory has room.
    fn read(&mut self, step: &mut Step, waiting: Vec<SessionId>, mut prefill: usize) {
        let mut waiting: BTreeSet<SessionId> = waiting.into_iter().collect();
        // What somebody cannot use is for the others.
        while prefill > 0 && step.rows.len() < self.config.rows {
            let readers: Vec<_> = waiting.iter().copied().collect();
            let room = self.config.rows - step.rows.len();
            let shares = self.shares_of_reading(step.planned, &readers, prefill, room);
            if shares.is_empty() {
                break;
            }
            for (id, most) in shares {
                waiting.remove(&id);
                prefill -= self.read_text(step, id, most);
            }
        }
    }

    /// Reads up to `most` tokens of the text of `id`; returns how many. With them goes its last token, if there is a use for what
    /// is chosen there: that is no row of a text.
    fn read_text(&mut self, step: &mut Step, id: SessionId, most: usize) -> usize {
        let room = self.config.rows.saturating_sub(step.rows.len());
        let Some(session) = self.sessions.get(&id) else { return 0 };
        let is_asked = session.asks() || self.config.assist != Assist::Never;
        let text = session.unread().saturating_sub(1);
        let read = text.min(most).min(room);
        let reads_all = read == text && is_asked && read < room;
        let context = read + usize::from(reads_all);
        let drafts = if reads_all { self.worthwhile_drafts(step.planned, id, room - context) } else { 0 };
        if context == 0 || !self.add(step, id, context, drafts, 0) {
            return 0;
        }
        if let Some(session) = self.sessions.get(&id) {
            self.readings.note(step.planned, session.owner, read, read == text);
        }
        read
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
        if !self.may_have_rows(id, context, step) || !self.take_place(id, step) {
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
            let first = planned + context - 1;
            Verify { pending, from, known, first, rows: step.rows.len() - first, drafts, waited }
        });
        session.active = step.planned;
        let rows = planned..step.rows.len();
        step.parts.push(Part { session: id, sequence, epoch: session.epoch, rows, verify });
        true
    }
}
