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
//! Whoever gives way keeps its tokens, and is evaluated again from them when it has a sequence again.

use std::time::Duration;

use super::batch::Step;
use super::cache::{Found, MIN_SHARED_PREFIX};
use super::session::{Cached, Session};
use super::{Server, SessionId};
use crate::step::SequenceId;

/// After so many verdicts a session in the middle of an answer gives way to one that waits for memory.
const TURN: u32 = 256;

/// Where reading its text took long, a session's turn takes so many times as long: no more than a fifth of the time goes into
/// reading what was there before.
const TURN_PER_READING: u32 = 4;

impl Server {
    /// Gives `id` a sequence before anybody has rows, at the expense of whoever is to give way.
    pub(super) fn seat(&mut self, id: SessionId) {
        let stands = self.sessions.get(&id).is_some_and(|session| session.cached.sequence.is_none());
        // Where there is one, the session finds it, and a prefix to share, when it has its rows.
        if stands && !self.cache.has_sequence() && self.evict_for(id, |_| false) {
            self.claim(id, None);
        }
    }

    /// Sees to it that `id` has a sequence; an empty one is filled with the longest prefix of its text that the cache has. False if
    /// it has to wait: for a sequence, or because a session that has rows in `step` is reading the same just now.
    pub(super) fn take_place(&mut self, id: SessionId, step: &Step) -> bool {
        let Some(session) = self.sessions.get(&id) else { return false };
        if session.cached.valid > 0 {
            return true;
        }
        // The last token is evaluated in any case.
        let text = session.sequence.tokens().split_last().map_or(&[][..], |(_, before)| before);
        let found = self.cache.lookup(session.owner, text);
        let agreement =
            |other: &Session| self.cache.agreement((session.owner, text), (other.owner, other.sequence.tokens()));
        let coming = step.served().filter_map(|other| self.sessions.get(&other)).map(agreement).max().unwrap_or(0);
        if coming >= found.map_or(0, |found| found.len) + MIN_SHARED_PREFIX {
            return false;
        }
        match (session.cached.sequence, found) {
            (Some(sequence), Some(found)) => {
                self.cache.fill(sequence, found);
                self.begin(id, sequence);
                true
            }
            (Some(_), None) => true,
            (None, found) => {
                // Whoever gives way may be the one that has the prefix.
                self.claim(id, found) || (self.evict_for(id, |other| step.has(other)) && self.take_place(id, step))
            }
        }
    }

    /// Gives `id` a sequence; false if sessions have all.
    fn claim(&mut self, id: SessionId, found: Option<Found>) -> bool {
        let Some(session) = self.sessions.get(&id) else { return false };
        let sequence = self.cache.claim(session.owner, found);
        if let Some(sequence) = sequence {
            self.begin(id, sequence);
        }
        sequence.is_some()
    }

    /// From now on `id` has this sequence, with what is in it.
    fn begin(&mut self, id: SessionId, sequence: SequenceId) {
        let valid = self.cache.len(sequence);
        if let Some(session) = self.sessions.get_mut(&id) {
            session.cached = Cached { sequence: Some(sequence), valid, ..Cached::default() };
        }
    }

    /// Whether the cache can have room for up to `rows` more rows of `id` in `step`, whoever may have to give way: nobody is to do so
    /// in vain.
    pub(super) fn may_have_rows(&self, id: SessionId, rows: usize, step: &Step) -> bool {
        if self.cache.room() >= step.rows.len() + rows {
            return true;
        }
        let Some(session) = self.sessions.get(&id) else { return false };
        let text = session.sequence.tokens().split_last().map_or(&[][..], |(_, before)| before);
        let found = if session.cached.valid > 0 { None } else { self.cache.lookup(session.owner, text) };
        let rows = rows.min(session.unread() - found.map_or(0, |found| found.len));
        let senior = (session.senior, id);
        let stays = |(&other, session): (&SessionId, &Session)| {
            session
                .cached
                .sequence
                .filter(|_| other == id || step.has(other) || !self.gives_way(other, session, senior))
        };
        self.cache.room_beside(self.sessions.iter().filter_map(stays)) >= step.rows.len() + rows
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
    pub(super) fn leave_place(&mut self, id: SessionId) {
        if let Some(session) = self.sessions.get_mut(&id)
            && let Some(sequence) = std::mem::take(&mut session.cached).sequence
        {
            self.cache.give_back(sequence);
        }
    }

    /// Whether `id` could have another row, if need be at another's expense.
    pub(super) fn may_have_room(&self, id: SessionId) -> bool {
        let has_sequence = self.sessions.get(&id).is_some_and(|session| session.cached.sequence.is_some());
        let is_free = self.cache.room() > 0 && (has_sequence || self.cache.has_sequence());
        is_free || self.cache.has_left() || self.victim(id, |_| false).is_some()
    }

    /// Takes the sequence from whoever is to give way to `id`.
    fn evict_for(&mut self, id: SessionId, is_planned: impl Fn(SessionId) -> bool) -> bool {
        let victim = self.victim(id, is_planned);
        if let Some(victim) = victim {
            self.evict(victim);
            // Whoever has had its turn is the last to come to it again.
            let after = self.sessions.values().map(|session| session.senior).max().unwrap_or_default();
            if let Some(session) = self.sessions.get_mut(&victim) {
                session.senior = after + Duration::from_nanos(1);
            }
        }
        victim.is_some()
    }

    /// Who is to give way to `id`.
    fn victim(&self, id: SessionId, is_planned: impl Fn(SessionId) -> bool) -> Option<SessionId> {
        let senior = (self.sessions.get(&id)?.senior, id);
        let holders = self.sessions.iter().filter(|(_, session)| session.cached.sequence.is_some());
        let victims =
            holders.filter(|&(&other, _)| other != id && !is_planned(other)).filter_map(|(&other, session)| {
                // The idlest of the idle, else the latest of the busy.
                let order = match session.is_generating() {
                    true => (1, Duration::MAX - session.senior),
                    false => (0, session.active),
                };
                self.gives_way(other, session, senior).then_some((order, other))
            });
        victims.min().map(|(_, victim)| victim)
    }

    /// Whether `id` gives way to a session of this seniority.
    fn gives_way(&self, id: SessionId, session: &Session, senior: (Duration, SessionId)) -> bool {
        !session.is_generating() || (session.senior, id) > senior || self.has_had_its_turn(session)
    }

    /// Whether it is another's turn. Who had to read much since it has its sequence has a longer one: it has paid for it, and would
    /// have to read all of it again.
    fn has_had_its_turn(&self, session: &Session) -> bool {
        let Cached { verdicts, deciding, reading, .. } = session.cached;
        verdicts >= TURN && deciding >= TURN_PER_READING * reading
    }

    /// Takes the sequence from `id`, which keeps its tokens.
    fn evict(&mut self, id: SessionId) {
        if let Some(session) = self.sessions.get_mut(&id)
            && let Some(sequence) = std::mem::take(&mut session.cached).sequence
        {
            self.evictions += 1;
            self.cache.release(sequence);
        }
    }
}
