//! All sessions of a server: who is there, what they have had, and who of them gives way to whom.

use std::collections::BTreeMap;
use std::time::Duration;

use super::session::Session;
use super::{Answer, Owner, SessionId, Totals, Tuning};
use crate::step::SequenceId;

/// The sessions that are open.
#[derive(Debug)]
pub(super) struct Sessions {
    tuning: Tuning,
    /// Whether who does not ask has rows too.
    are_assisted: bool,
    table: BTreeMap<SessionId, Session>,
    next_id: u64,
    /// Answers that have ended since they were last asked for.
    answered: Vec<Answer>,
    totals: Totals,
}

impl Sessions {
    /// None yet; whether those who do not ask will have rows.
    pub(super) fn new(tuning: Tuning, are_assisted: bool) -> Self {
        Self {
            tuning,
            are_assisted,
            table: BTreeMap::new(),
            next_id: 0,
            answered: Vec::new(),
            totals: Totals::default(),
        }
    }

    /// Opens a session of `owner`.
    pub(super) fn open(&mut self, now: Duration, owner: Owner) -> SessionId {
        let id = SessionId(self.next_id);
        self.next_id += 1;
        self.table.insert(id, Session::new(now, owner, self.tuning.forecast));
        id
    }

    /// Closes a session. Returns what it was.
    pub(super) fn close(&mut self, now: Duration, id: SessionId) -> Option<Session> {
        self.end_answer(now, id);
        self.table.remove(&id)
    }

    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    pub(super) fn get(&self, id: SessionId) -> Option<&Session> {
        self.table.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: SessionId) -> Option<&mut Session> {
        self.table.get_mut(&id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (SessionId, &Session)> {
        self.table.iter().map(|(&id, session)| (id, session))
    }

    /// How many tokens the texts have that are being answered and have a place in the cache.
    pub(super) fn seated_tokens(&self) -> usize {
        self.table.values().filter(|session| session.is_seated()).map(Session::claim).sum()
    }

    /// The cache holds nothing of anybody any more.
    pub(super) fn empty_places(&mut self) {
        self.table.values_mut().for_each(|session| session.place.empty());
    }

    /// The answer to the request of `id` has ended, if it has a name and was not told of before.
    pub(super) fn end_answer(&mut self, now: Duration, id: SessionId) {
        if let Some(session) = self.table.get_mut(&id) {
            self.answered.extend(session.record.take_answer(id, now));
        }
    }

    /// The answers that have ended since the last call.
    pub(super) fn take_answered(&mut self) -> Vec<Answer> {
        std::mem::take(&mut self.answered)
    }

    /// A verdict committed so many tokens.
    pub(super) fn count(&mut self, committed: usize, drafted: usize, accepted: usize) {
        self.totals.add(committed, drafted, accepted);
    }

    pub(super) fn totals(&self) -> &Totals {
        &self.totals
    }

    /// Who is to give way to `id`, but whoever `stays`: the idlest of the idle, else the latest of the busy.
    pub(super) fn who_gives_way_to(&self, id: SessionId, stays: impl Fn(SessionId) -> bool) -> Option<SessionId> {
        let senior = self.seniority(id)?;
        let candidates = self.iter().filter(|&(other, session)| {
            session.place.sequence().is_some() && other != id && !stays(other) && self.gives_way(other, session, senior)
        });
        let ordered = candidates.map(|(other, session)| {
            let order = match session.is_generating() {
                true => (1, Duration::MAX - session.place.senior()),
                false => (0, session.active()),
            };
            (order, other)
        });
        ordered.min().map(|(_, victim)| victim)
    }

    /// The sequences of `id`, of whoever `stays`, and of whoever does not give way to `id`.
    pub(super) fn sequences_beside(
        &self,
        id: SessionId,
        stays: impl Fn(SessionId) -> bool,
    ) -> impl Iterator<Item = SequenceId> {
        let senior = self.seniority(id);
        self.iter().filter_map(move |(other, session)| {
            let gives_way = senior.is_some_and(|senior| self.gives_way(other, session, senior));
            session.place.sequence().filter(|_| other == id || stays(other) || !gives_way)
        })
    }

    /// `id` has had its turn: it is the last to come to it again.
    pub(super) fn go_behind(&mut self, id: SessionId) {
        let last = self.table.values().map(|session| session.place.senior()).max().unwrap_or_default();
        if let Some(session) = self.table.get_mut(&id) {
            session.place.go_behind(last);
        }
    }

    /// Whether `id` gives way to a session of this seniority. Where only those who ask have rows, whoever does not ask has no use for
    /// a place, and its device may never say anything again.
    fn gives_way(&self, id: SessionId, session: &Session, senior: (Duration, SessionId)) -> bool {
        !session.is_generating()
            || !self.are_assisted && !session.asks()
            || (session.place.senior(), id) > senior
            || session.place.has_had_its_turn(self.tuning.memory)
    }

    fn seniority(&self, id: SessionId) -> Option<(Duration, SessionId)> {
        self.get(id).map(|session| (session.place.senior(), id))
    }

    /// Panics if the figures contradict each other.
    pub(super) fn check_invariants(&self) {
        self.table.values().for_each(Session::check_invariants);
        let committed: u64 = self.table.values().map(|session| session.record.tally().committed).sum();
        assert!(committed <= self.totals.committed, "sessions have {committed} tokens of {}", self.totals.committed);
        assert!(self.table.keys().all(|id| id.0 < self.next_id), "an id that nobody was given");
    }
}
