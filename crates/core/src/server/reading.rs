//! Whose text the next pass reads, and how much of it.
//!
//! A pass has room for so many rows of text, which those who wait to be read share:
//!
//! - Half of them go to who came first, the owners of sessions in turn: every text is read in the end.
//! - The others go to who is soonest done, so that a short prompt does not wait for long ones (Smith, *Various optimizers for
//!   single-stage production*, 1956: the mean wait is least where the shortest job is first). An owner's prompts stand behind each
//!   other, and behind what was read for it of late: who asks for more does not get more.
//!
//! Whoever has been begun is gone on with, and a text that the cache has no room for beside those is begun only by who came first:
//! otherwise two texts could throw each other out for ever.

use std::collections::BTreeMap;
use std::time::Duration;

use super::session::Session;
use super::{Owner, SessionId};

/// What was read for whom.
#[derive(Debug)]
pub(super) struct Readings {
    /// What was read for an owner is forgotten after about so many seconds.
    remembered: f64,
    owners: BTreeMap<Owner, Reading>,
}

/// What was read for one owner.
#[derive(Clone, Copy, Debug, Default)]
struct Reading {
    /// Tokens of late, and up to when.
    tokens: f64,
    until: Duration,
    /// When a text of it was last read to the end: it had its turn.
    turn: Duration,
}

impl Reading {
    /// How many tokens count `now`.
    fn of_late(&self, now: Duration, remembered: f64) -> f64 {
        self.tokens * (-now.saturating_sub(self.until).as_secs_f64() / remembered).exp()
    }
}

impl Readings {
    pub(super) fn new(remembered: f64) -> Self {
        Self { remembered, owners: BTreeMap::new() }
    }

    /// `tokens` are read for `owner`, up to the end of a text if `to_the_end`.
    pub(super) fn note(&mut self, now: Duration, owner: Owner, tokens: usize, to_the_end: bool) {
        let reading = self.owners.entry(owner).or_default();
        let turn = if to_the_end { now } else { reading.turn };
        *reading = Reading { tokens: reading.of_late(now, self.remembered) + tokens as f64, until: now, turn };
    }

    /// Forgets whoever has had hardly anything of late.
    pub(super) fn forget(&mut self, now: Duration) {
        self.owners.retain(|_, reading| reading.of_late(now, self.remembered) >= 1.0);
    }

    /// Which of `readers` are read by a pass, and how many tokens of each before its last; by their claims to the cache.
    pub(super) fn shares(&self, now: Duration, readers: Vec<Reader>, budget: Budget) -> Vec<(SessionId, usize)> {
        let Budget { rows, room, cells } = budget;
        let first = readers.iter().min_by_key(|reader| (reader.senior, reader.id)).map(|reader| reader.id);
        let mut shares = Shares { shares: Vec::new(), first, free: cells, room };
        let rows = rows.min(room);
        let left = shares.give_all(&self.by_age(readers.clone()), rows.div_ceil(2));
        shares.give_all(&self.by_length(now, readers), rows / 2 + left);
        let mut shares = shares.shares;
        shares.sort_unstable_by_key(|(reader, _)| (reader.senior, reader.id));
        shares.into_iter().map(|(reader, share)| (reader.id, share)).collect()
    }

    fn of(&self, owner: Owner) -> Reading {
        self.owners.get(&owner).copied().unwrap_or_default()
    }

    /// `readers` by who came first, the owners in turn.
    fn by_age(&self, mut readers: Vec<Reader>) -> Vec<Reader> {
        readers.sort_unstable_by_key(|reader| (reader.senior, reader.id));
        let mut ranks: BTreeMap<Owner, usize> = BTreeMap::new();
        let rank = |reader: Reader| {
            let rank = ranks.entry(reader.owner).or_default();
            *rank += 1;
            ((*rank, reader.senior.max(self.of(reader.owner).turn)), reader)
        };
        sorted(readers.into_iter().map(rank).collect())
    }

    /// `readers` by who is soonest done.
    fn by_length(&self, now: Duration, mut readers: Vec<Reader>) -> Vec<Reader> {
        readers.sort_unstable_by_key(|reader| (reader.unread, reader.senior, reader.id));
        let mut before: BTreeMap<Owner, f64> = BTreeMap::new();
        let done = |reader: Reader| {
            let before =
                before.entry(reader.owner).or_insert_with(|| self.of(reader.owner).of_late(now, self.remembered));
            *before += reader.unread as f64;
            (*before as u64, reader)
        };
        sorted(readers.into_iter().map(done).collect())
    }
}

/// By the keys; equals by who came first.
fn sorted<K: Ord>(mut keyed: Vec<(K, Reader)>) -> Vec<Reader> {
    keyed.sort_by(|(a, first), (b, second)| (a, first.senior, first.id).cmp(&(b, second.senior, second.id)));
    keyed.into_iter().map(|(_, reader)| reader).collect()
}

/// A session whose text waits to be read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader {
    id: SessionId,
    owner: Owner,
    senior: Duration,
    /// Tokens of its text, and how many of them are to be read before the last.
    len: usize,
    unread: usize,
    /// How many of them the cache holds.
    held: usize,
    /// Whether it has a place in the cache, and had its first pass.
    begun: bool,
}

impl Reader {
    pub(super) fn new(id: SessionId, session: &Session) -> Self {
        Self {
            id,
            owner: session.owner,
            senior: session.place.senior(),
            len: session.text.len(),
            unread: session.unread().saturating_sub(1),
            held: if session.is_seated() { session.place.valid() } else { 0 },
            begun: session.has_begun(),
        }
    }
}

/// What a pass has for reading.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    /// Rows that are for it, and those that the pass has room for.
    pub(super) rows: usize,
    pub(super) room: usize,
    /// Cells of the cache that nobody has a claim to who has been begun.
    pub(super) cells: usize,
}

/// How many tokens of whose text are read.
struct Shares {
    shares: Vec<(Reader, usize)>,
    /// Who came first of all.
    first: Option<SessionId>,
    /// Cells that nobody has a claim to.
    free: usize,
    /// Rows that nobody has.
    room: usize,
}

impl Shares {
    /// Gives `reader` up to `most` tokens more; returns how many.
    fn give(&mut self, reader: Reader, most: usize) -> usize {
        let at = self.shares.iter().position(|(other, _)| other.id == reader.id);
        if at.is_none() && !reader.begun {
            let more = reader.len.saturating_sub(reader.held);
            if more > self.free && self.first != Some(reader.id) {
                return 0;
            }
            self.free = self.free.saturating_sub(more);
        }
        let had = at.and_then(|at| self.shares.get(at)).map_or(0, |&(_, had)| had);
        let given = most.min(reader.unread - had).min(self.room);
        // The last token goes with those before it.
        self.room -= given;
        self.room -= usize::from(self.room > 0 && had + given == reader.unread);
        match at.and_then(|at| self.shares.get_mut(at)) {
            Some((_, share)) => *share += given,
            None if given > 0 => self.shares.push((reader, given)),
            None => {}
        }
        given
    }

    /// Gives `readers`, one after the other, `rows` tokens in all; returns how many are left.
    fn give_all(&mut self, readers: &[Reader], mut rows: usize) -> usize {
        for &reader in readers {
            if rows == 0 || self.room == 0 {
                break;
            }
            rows -= self.give(reader, rows);
        }
        rows
    }
}
