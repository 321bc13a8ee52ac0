//! Who has a place in the KV cache, and who gives way when room is short.
//!
//! A session holds a sequence while it is generating, and keeps it afterwards for its next turn until somebody needs it. Who gives
//! way, in this order:
//!
//! 1. what closed sessions left, the longest unused first;
//! 2. sessions whose answer is complete, the longest idle first;
//! 3. sessions in the middle of an answer that came after the one in need, the latest first, or that have had so many passes
//!    that it is another's turn: memory is shared first come, first served, and nobody waits for ever.
//!
//! Where only those who ask have rows (no assist, or static batches), whoever does not ask gives way to any who does.
//!
//! Whoever gives way keeps its tokens, and is evaluated again from them when it has a sequence again.
//!
//! Sessions know who gives way to whom, the cache knows what is in it; here the one is asked, and the other told.

use super::SessionId;
use super::cache::{Found, PrefixCache};
use super::session::Session;
use super::sessions::Sessions;
use super::step::Step;
use crate::step::SequenceId;

/// Whether `id` could have another row, if need be at another's expense.
pub(super) fn may_have_room(sessions: &Sessions, cache: &PrefixCache, id: SessionId) -> bool {
    let has_sequence = sessions.get(id).is_some_and(|session| session.place.sequence().is_some());
    let is_free = cache.room() > 0 && (has_sequence || cache.has_sequence());
    is_free || cache.has_left() || sessions.who_gives_way_to(id, |_| false).is_some()
}

/// The places that sessions have in the cache.
#[derive(Debug)]
pub(super) struct Places<'a> {
    pub(super) sessions: &'a mut Sessions,
    pub(super) cache: &'a mut PrefixCache,
}

impl Places<'_> {
    /// Gives `id` a sequence before anybody has rows, at the expense of whoever is to give way.
    pub(super) fn seat(&mut self, id: SessionId) {
        let stands = self.sessions.get(id).is_some_and(|session| session.place.sequence().is_none());
        // Where there is one, the session finds it, and a prefix to share, when it has its rows.
        if stands && !self.cache.has_sequence() && self.evict_for(id, |_| false) {
            self.claim(id, None);
        }
    }

    /// Sees to it that `id` has a sequence; an empty one is filled with the longest prefix of its text that the cache has. False if
    /// it has to wait: for a sequence, or because a session that has rows in `step` is reading the same just now.
    pub(super) fn take(&mut self, id: SessionId, step: &Step) -> bool {
        let Some(session) = self.sessions.get(id) else { return false };
        if session.place.valid() > 0 {
            return true;
        }
        let found = self.lookup(session);
        if self.coming(session, step) >= found.map_or(0, |found| found.len) + self.cache.min_shared() {
            return false;
        }
        match (session.place.sequence(), found) {
            (Some(sequence), Some(found)) => {
                self.cache.fill(sequence, found);
                self.begin(id, sequence);
                true
            }
            (Some(_), None) => true,
            (None, found) => {
                // Whoever gives way may be the one that has the prefix.
                self.claim(id, found) || (self.evict_for(id, |other| step.has(other)) && self.take(id, step))
            }
        }
    }

    /// What the cache has of a session's text.
    fn lookup(&self, session: &Session) -> Option<Found> {
        self.cache.lookup(session.owner, session.text.before_last())
    }

    /// How much of a session's text it could have of those that have rows in `step`.
    fn coming(&self, session: &Session, step: &Step) -> usize {
        let text = session.text.before_last();
        let others = step.served().filter_map(|other| self.sessions.get(other));
        let agreement = |other: &Session| {
            self.cache.agreement((session.owner, text), (other.owner, other.text.sequence().tokens()))
        };
        others.map(agreement).max().unwrap_or(0)
    }

    /// Gives `id` a sequence; false if sessions have all.
    fn claim(&mut self, id: SessionId, found: Option<Found>) -> bool {
        let Some(session) = self.sessions.get(id) else { return false };
        let sequence = self.cache.claim(session.owner, found);
        if let Some(sequence) = sequence {
            self.begin(id, sequence);
        }
        sequence.is_some()
    }

    /// From now on `id` has this sequence, with what is in it.
    fn begin(&mut self, id: SessionId, sequence: SequenceId) {
        let valid = self.cache.len(sequence);
        if let Some(session) = self.sessions.get_mut(id) {
            session.place.take(sequence, valid);
        }
    }

    /// Whether the cache can have room for up to `rows` more rows of `id` in `step`, whoever may have to give way: nobody is to do so
    /// in vain.
    pub(super) fn may_have_rows(&self, id: SessionId, rows: usize, step: &Step) -> bool {
        if self.cache.room() >= step.rows.len() + rows {
            return true;
        }
        let Some(session) = self.sessions.get(id) else { return false };
        let found = if session.place.valid() > 0 { None } else { self.lookup(session) };
        let rows = rows.min(session.unread() - found.map_or(0, |found| found.len));
        let kept = self.sessions.sequences_beside(id, |other| step.has(other));
        self.cache.room_beside(kept) >= step.rows.len() + rows
    }

    /// Sees to it that the cache has room for `rows` more rows of `id` in `step`. False if it has to wait.
    pub(super) fn make_room(&mut self, id: SessionId, rows: usize, step: &Step) -> bool {
        while self.cache.room() < step.rows.len() + rows {
            if !self.cache.drop_left() && !self.evict_for(id, |other| step.has(other)) {
                return false;
            }
        }
        true
    }

    /// Takes the place back that `id` has just taken: there is no room for rows of it.
    pub(super) fn leave(&mut self, id: SessionId) {
        if let Some(sequence) = self.vacate(id) {
            self.cache.give_back(sequence);
        }
    }

    /// Takes the sequence from whoever is to give way to `id`, but whoever `stays`.
    fn evict_for(&mut self, id: SessionId, stays: impl Fn(SessionId) -> bool) -> bool {
        let Some(victim) = self.sessions.who_gives_way_to(id, stays) else { return false };
        if let Some(sequence) = self.vacate(victim) {
            self.cache.evict(sequence);
        }
        self.sessions.go_behind(victim);
        true
    }

    fn vacate(&mut self, id: SessionId) -> Option<SequenceId> {
        self.sessions.get_mut(id)?.place.vacate()
    }
}
