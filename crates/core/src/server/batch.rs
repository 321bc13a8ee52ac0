//! The batcher: which rows a forward pass has.

use std::collections::BTreeSet;
use std::time::Duration;

use super::cache::PrefixCache;
use super::memory::Places;
use super::prices::Prices;
use super::reading::{Budget, Reader, Readings};
use super::schedule::Batch;
use super::scheduling::Assist;
use super::sessions::Sessions;
use super::step::{Part, Step, Verify};
use super::{ServerConfig, SessionId};
use crate::step::Row;

/// Makes passes, one at a time.
#[derive(Debug, Default)]
pub(super) struct Batcher {
    /// Whether a step was handed out and has not come back.
    running: bool,
    /// Whether the last pass that had rows only for the one or the other was for reading.
    reads: bool,
    readings: Readings,
}

impl Batcher {
    /// Whether a step was handed out and has not come back.
    pub(super) fn is_running(&self) -> bool {
        self.running
    }

    /// The step that was handed out came back.
    pub(super) fn end_pass(&mut self) {
        self.running = false;
    }

    /// A session was closed: forgets what was read for whoever has had hardly anything of late.
    pub(super) fn forget(&mut self, now: Duration) {
        self.readings.forget(now);
    }

    /// The rows of a pass for `batch`; `None` if there is no room for any. Sessions may have had to give way all the same.
    pub(super) fn fill(
        &mut self,
        now: Duration,
        batch: Batch,
        config: &ServerConfig,
        prices: Prices,
        sessions: &mut Sessions,
        cache: &mut PrefixCache,
    ) -> Option<Step> {
        let kept = self.rows_to_read(&batch, config.rows);
        let places = Places { sessions, cache };
        let mut filling = Filling { config, prices, readings: &mut self.readings, places, step: Step::new(now) };
        filling.fill(batch, kept);
        let Filling { places, mut step, .. } = filling;
        if step.parts.is_empty() {
            return None;
        }
        step.sharing = u32::try_from(step.parts.len()).unwrap_or(u32::MAX);
        step.cache_ops = places.cache.take_ops();
        self.running = true;
        Some(step)
    }

    /// How many of a pass's `rows` are kept for reading.
    fn rows_to_read(&mut self, batch: &Batch, rows: usize) -> usize {
        if batch.reading.is_empty() {
            return 0;
        }
        let kept = batch.prefill.min(rows.div_ceil(4));
        if kept < rows || batch.decoding.is_empty() {
            return kept;
        }
        // A pass that has room for one of the two is for each in turn.
        self.reads = !self.reads;
        if self.reads { kept } else { 0 }
    }
}

/// What a session is to have of a pass.
#[derive(Clone, Copy, Debug, Default)]
struct Share {
    /// Tokens of its text.
    context: usize,
    /// Drafts behind them.
    drafts: usize,
    /// Rows that nobody needs.
    padding: usize,
    /// Whether its text is read to the end, so that a token is chosen.
    reads_all: bool,
}

/// A pass that is being filled.
struct Filling<'a> {
    config: &'a ServerConfig,
    prices: Prices,
    readings: &'a mut Readings,
    places: Places<'a>,
    step: Step,
}

impl Filling<'_> {
    /// Gives rows to whoever is in `batch`; `kept` of them are for reading.
    fn fill(&mut self, batch: Batch, kept: usize) {
        // Where others share the pass, rows are dear: then a block waits for the verdict on the one before.
        if let ([only], []) = (&batch.decoding[..], &batch.reading[..])
            && !batch.padded
            && let Some(session) = self.places.sessions.get_mut(*only)
        {
            session.asked.join_ahead();
        }
        let readers = self.readers(&batch.reading, batch.prefill, self.config.rows);
        batch.decoding.iter().chain(readers.iter().map(|(id, _)| id)).for_each(|&id| self.places.seat(id));
        let shares = self.shares(&batch, self.config.rows - kept);
        let longest = shares.iter().map(|&(_, drafts)| drafts).max().unwrap_or(0);
        for (id, drafts) in shares {
            let padding = if batch.padded { longest - drafts } else { 0 };
            self.add(id, Share { context: 1, drafts, padding, reads_all: false });
        }
        self.read(batch.reading, batch.prefill);
    }

    /// Who of the batch decodes, each with the number of its drafts that are verified: everybody has a row before anybody has two,
    /// then come the likeliest drafts, wherever they are from, as far as they are worth their price.
    fn shares(&self, batch: &Batch, room: usize) -> Vec<(SessionId, usize)> {
        let served = &batch.decoding[..batch.decoding.len().min(room)];
        let room = room - served.len();
        let most = |id| if batch.padded { self.drafts_of(id) } else { self.worthwhile_drafts(id, room) };
        let mut shares: Vec<(SessionId, usize)> = served.iter().map(|&id| (id, most(id))).collect();
        let wanted: usize = shares.iter().map(|&(_, drafts)| drafts).sum();
        if batch.padded {
            // Padding takes rows too.
            let each = room / served.len().max(1);
            shares.iter_mut().for_each(|(_, drafts)| *drafts = (*drafts).min(each));
        } else if wanted > room {
            self.keep_likeliest(&mut shares, wanted, room);
        }
        shares
    }

    /// Of the `wanted` drafts of all, keeps the `room` ones that bring most.
    fn keep_likeliest(&self, shares: &mut [(SessionId, usize)], wanted: usize, room: usize) {
        let now = self.step.planned;
        let value = |id: SessionId, len| {
            let session = self.places.sessions.get(id);
            session.map_or(0.0, |s| self.prices.worth(now, s) * s.record.forecast().survival(len))
        };
        let mut candidates: Vec<(f64, usize)> = Vec::with_capacity(wanted);
        for (at, (id, drafts)) in shares.iter().enumerate() {
            candidates.extend((1..=*drafts).map(|len| (value(*id, len), at)));
        }
        candidates.sort_by(|a, b| b.0.total_cmp(&a.0));
        shares.iter_mut().for_each(|(_, drafts)| *drafts = 0);
        for (_, at) in candidates.into_iter().take(room) {
            shares[at].1 += 1;
        }
    }

    /// How many drafts wait for a verdict, that the context has room for.
    fn drafts_of(&self, id: SessionId) -> usize {
        self.places.sessions.get(id).map_or(0, |session| session.drafts_within(self.config.context))
    }

    /// How many of them are likely enough to be worth their rows, up to `room`.
    fn worthwhile_drafts(&self, id: SessionId, room: usize) -> usize {
        let Some(session) = self.places.sessions.get(id) else { return 0 };
        self.prices.worthwhile(self.step.planned, session, self.drafts_of(id).min(room))
    }

    /// Which of `waiting` are read by a pass that has room for `room` rows, `rows` of them for that, and how many tokens of each
    /// before its last.
    fn readers(&self, waiting: &[SessionId], rows: usize, room: usize) -> Vec<(SessionId, usize)> {
        let Places { sessions, cache } = &self.places;
        let readers = waiting.iter().filter_map(|&id| Some(Reader::new(id, sessions.get(id)?))).collect();
        let cells = cache.cells().1.saturating_sub(sessions.seated_tokens());
        self.readings.shares(self.step.planned, readers, Budget { rows, room, cells })
    }

    /// Reads `prefill` tokens of the texts of `waiting`, as far as the step has rows and the memory has room.
    fn read(&mut self, waiting: Vec<SessionId>, mut prefill: usize) {
        let mut waiting: BTreeSet<SessionId> = waiting.into_iter().collect();
        // What somebody cannot use is for the others.
        while prefill > 0 && self.step.rows.len() < self.config.rows {
            let readers: Vec<_> = waiting.iter().copied().collect();
            let room = self.config.rows - self.step.rows.len();
            let shares = self.readers(&readers, prefill, room);
            if shares.is_empty() {
                break;
            }
            for (id, most) in shares {
                waiting.remove(&id);
                prefill -= self.read_text(id, most);
            }
        }
    }

    /// Reads up to `most` tokens of the text of `id`; returns how many. With them goes its last token, if there is a use for what
    /// is chosen there: that is no row of a text.
    fn read_text(&mut self, id: SessionId, most: usize) -> usize {
        let room = self.config.rows.saturating_sub(self.step.rows.len());
        let Some(session) = self.places.sessions.get(id) else { return 0 };
        let owner = session.owner;
        let is_asked = session.asks() || self.config.assist != Assist::Never;
        let text = session.unread().saturating_sub(1);
        let read = text.min(most).min(room);
        let reads_all = read == text && is_asked && read < room;
        let context = read + usize::from(reads_all);
        let drafts = if reads_all { self.worthwhile_drafts(id, room - context) } else { 0 };
        if context == 0 || !self.add(id, Share { context, drafts, padding: 0, reads_all }) {
            return 0;
        }
        self.readings.note(self.step.planned, owner, read, read == text);
        read
    }

    /// Gives `id` rows for what is `wanted`. False if the memory has no room for it.
    fn add(&mut self, id: SessionId, wanted: Share) -> bool {
        let share = self.make_room(id, wanted);
        share.and_then(|share| self.push(id, share)).is_some()
    }

    /// Makes room in the cache for what is `wanted` for `id`, as much as can be had of it.
    fn make_room(&mut self, id: SessionId, wanted: Share) -> Option<Share> {
        let stood = self.places.sessions.get(id).is_some_and(|session| session.place.sequence().is_none());
        if !self.places.may_have_rows(id, wanted.context, &self.step) || !self.places.take(id, &self.step) {
            return None;
        }
        let session = self.places.sessions.get(id)?;
        // What was shared need not be read, and what was to be verified may have been evicted since.
        let unread = session.unread();
        let context = wanted.context.min(unread);
        let reads_all = context == unread;
        // Padding counts for nothing as long as text is read: it would pass for text.
        let Share { drafts, padding, .. } = if reads_all { wanted } else { Share::default() };
        let end = session.place.valid() + context + drafts;
        let padding = padding.min(self.config.context.saturating_sub(end));
        // A draft may be wrong: nobody gives way to it.
        if !self.places.make_room(id, context, &self.step) {
            if stood {
                self.places.leave(id);
            }
            return None;
        }
        let free = self.places.cache.room().saturating_sub(self.step.rows.len() + context);
        let drafts = drafts.min(free);
        Some(Share { context, drafts, padding: padding.min(free - drafts), reads_all })
    }

    /// The rows of a session that has room for its `share`.
    fn push(&mut self, id: SessionId, share: Share) -> Option<()> {
        let step = &mut self.step;
        let session = self.places.sessions.get_mut(id)?;
        let sequence = session.place.sequence()?;
        let (planned, cached) = (step.rows.len(), session.place.valid());
        let drafts = session.drafts(share.drafts).to_vec();
        let text = session.text.sequence().since(cached).iter().take(share.context).chain(&drafts);
        step.rows.extend(text.enumerate().map(|(i, &token)| Row {
            sequence,
            position: cached + i,
            token,
            wants_logits: share.reads_all && i + 1 >= share.context,
        }));
        if let Some(&last) = step.rows.last() {
            let position = |i: usize| last.position + i;
            step.rows.extend((1..=share.padding).map(|i| Row { position: position(i), wants_logits: false, ..last }));
        }
        let asks = session.asks();
        let waited = session.on_rows(step.planned);
        step.waits.prompts.extend(waited.prompt);
        let verify = share.reads_all.then(|| {
            if asks {
                step.waits.verdicts.push(waited.verdict);
            }
            let len = session.text.len();
            let from = session.asked.verify().unwrap_or(len);
            let first = planned + share.context - 1;
            Verify { from, known: len - from, first, rows: step.rows.len() - first, drafts, waited: waited.verdict }
        });
        let (rows, epoch) = (planned..step.rows.len(), session.text.epoch());
        step.parts.push(Part { session: id, sequence, epoch, rows, verify });
        Some(())
    }
}
