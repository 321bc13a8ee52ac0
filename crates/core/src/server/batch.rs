//! The batcher: which rows a forward pass has.

use std::collections::BTreeSet;
use std::time::Duration;

use super::cache::PrefixCache;
use super::choice;
use super::costs::Costs;
use super::memory::Places;
use super::prices::Prices;
use super::reading::{Budget, Reader, Readings};
use super::schedule::Batch;
use super::scheduling::Assist;
use super::sessions::Sessions;
use super::step::{Part, Step, Verify};
use super::tuning::PassTuning;
use super::{ServerConfig, SessionId};
use crate::step::Row;

/// Makes passes, one at a time.
#[derive(Debug)]
pub(super) struct Batcher {
    /// Whether a step was handed out and has not come back.
    running: bool,
    /// Whether the last pass that had rows only for the one or the other was for reading.
    reads: bool,
    readings: Readings,
}

impl Batcher {
    pub(super) fn new(tuning: PassTuning) -> Self {
        Self { running: false, reads: false, readings: Readings::new(tuning.reading_remembered) }
    }

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
        Market { config, prices, costs }: Market<'_>,
        sessions: &mut Sessions,
        cache: &mut PrefixCache,
    ) -> Option<Step> {
        let kept = self.rows_to_read(&batch, config.rows);
        let places = Places { sessions, cache };
        let mut filling = Filling { config, prices, costs, readings: &mut self.readings, places, step: Step::new(now) };
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

/// What rows and tokens are measured by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Market<'a> {
    pub(super) config: &'a ServerConfig,
    pub(super) prices: Prices,
    pub(super) costs: &'a Costs,
}

/// A pass that is being filled.
struct Filling<'a> {
    config: &'a ServerConfig,
    prices: Prices,
    costs: &'a Costs,
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
        let text: usize = readers.iter().map(|(_, tokens)| tokens).sum();
        let shares = self.shares(&batch, self.config.rows - kept, text);
        let longest = shares.iter().map(|&(_, drafts)| drafts).max().unwrap_or(0);
        for (id, drafts) in shares {
            let padding = if batch.padded { longest - drafts } else { 0 };
            self.add(id, Share { context: 1, drafts, padding, reads_all: false });
        }
        let prefill = self.prefill(&batch, text);
        self.read(batch.reading, prefill);
        if !batch.padded {
            self.pad();
        }
    }

    /// How many rows of the `text` that may be read are read: as many as are soonest done, and then as many as fill up the pass.
    fn prefill(&self, batch: &Batch, text: usize) -> usize {
        let decoding = self.step.rows.len();
        if batch.padded || batch.decoding.is_empty() || text < batch.prefill {
            return batch.prefill;
        }
        let most = batch.prefill.min(self.config.rows.saturating_sub(decoding));
        let rows = decoding + self.costs.soonest(decoding, most);
        self.costs.full(rows).min(self.config.rows) - decoding
    }

    /// Fills up the pass with rows that nobody needs, if it is faster with them.
    fn pad(&mut self) {
        let rows = self.step.rows.len();
        let padding = self.costs.full(rows).min(self.config.rows).saturating_sub(rows);
        let (Some(part), Some(&last)) = (self.step.parts.last_mut(), self.step.rows.last()) else { return };
        let has_room = self.places.cache.room() >= rows + padding && last.position + padding < self.config.context;
        // Rows of a text that is not read to its end would pass for text.
        if part.verify.is_none() || !has_room {
            return;
        }
        part.rows.end += padding;
        let row = |i: usize| Row { position: last.position + i, wants_logits: false, ..last };
        self.step.rows.extend((1..=padding).map(row));
    }

    /// Who of the batch decodes, each with the number of its drafts that are verified: everybody has a row before anybody has two,
    /// then come the likeliest drafts, wherever they are from, as many as make the best batch beside `text` rows of text.
    fn shares(&self, batch: &Batch, room: usize, text: usize) -> Vec<(SessionId, usize)> {
        let served = &batch.decoding[..batch.decoding.len().min(room)];
        let room = room - served.len();
        let mut shares: Vec<(SessionId, usize)> = served.iter().map(|&id| (id, self.drafts_of(id).min(room))).collect();
        if batch.padded {
            // Padding takes rows too.
            let each = room / served.len().max(1);
            shares.iter_mut().for_each(|(_, drafts)| *drafts = (*drafts).min(each));
        } else {
            self.keep_best(&mut shares, room, served.len() + text);
        }
        shares
    }

    /// Of the drafts of all, keeps those that make the best batch beside `base` other rows, `room` at most.
    fn keep_best(&self, shares: &mut [(SessionId, usize)], room: usize, base: usize) {
        let mut candidates: Vec<(f64, usize)> = Vec::new();
        for (at, (id, drafts)) in shares.iter_mut().enumerate() {
            let Some(session) = self.places.sessions.get(*id) else { continue };
            let worth = self.prices.worth(self.step.planned, session);
            let forecast = session.record.forecast();
            candidates.extend((1..=std::mem::take(drafts)).map(|len| (worth * forecast.survival(len), at)));
        }
        candidates.sort_by(|a, b| b.0.total_cmp(&a.0));
        candidates.truncate(room);
        let values: Vec<f64> = candidates.iter().map(|&(value, _)| value).collect();
        let taken = choice::best(&values, base, self.prices.second(), self.costs);
        for (_, at) in candidates.into_iter().take(taken) {
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
        if waiting.is_empty() {
            return Vec::new();
        }
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
