//! The KV cache: which session has which sequence, what is shared, and who gives way when room is short.
//!
//! The cache has a fixed number of cells and of sequences; neither is ever exceeded. A session holds a sequence while it is
//! generating, and keeps it afterwards for its next turn until somebody needs it. What a closed session leaves stays too: the
//! next session with the same system prompt begins with it. Who gives way, in this order:
//!
//! 1. what closed sessions left, the longest unused first;
//! 2. sessions whose answer is complete, the longest idle first;
//! 3. sessions in the middle of an answer that came after the one in need, the latest first, or that have had so many passes
//!    that it is another's turn: memory is shared first come, first served, and nobody waits for ever.
//!
//! Whoever gives way keeps its tokens, and is evaluated again from them when it has a sequence again.

use std::collections::BTreeMap;
use std::time::Duration;

use super::session::Session;
use super::{Server, SessionId};
use crate::Token;
use crate::sequence::common_prefix;
use crate::step::{CacheOp, SequenceId};

/// A shorter common prefix is not worth a copy in the cache.
const MIN_SHARED_PREFIX: usize = 16;

/// After so many passes a session in the middle of an answer gives way to one that waits for memory.
const TURN: u32 = 256;

/// The KV cache as the engine has it.
#[derive(Debug)]
pub(super) struct Memory {
    cells: usize,
    slots: Vec<Slot>,
    free: Vec<SequenceId>,
    /// Cells in use. A shared prefix counts for each sequence that has it, though the engine stores it once.
    used: usize,
    /// Changes that the engine has not made yet.
    ops: Vec<CacheOp>,
}

/// One sequence.
#[derive(Clone, Debug, Default)]
struct Slot {
    holder: Holder,
    /// How many tokens the engine holds; what is beyond the valid ones was rejected and goes before the next pass.
    held: usize,
}

#[derive(Clone, Debug, Default)]
enum Holder {
    #[default]
    Nobody,
    Session(SessionId),
    /// A session that was closed at this time, and the tokens that it left.
    Closed(Duration, Box<[Token]>),
}

impl Memory {
    pub(super) fn new(cells: usize, sequences: usize) -> Self {
        let sequences = SequenceId::try_from(sequences).unwrap_or(SequenceId::MAX);
        let slots = vec![Slot::default(); sequences as usize];
        Self { cells, slots, free: (0..sequences).rev().collect(), used: 0, ops: Vec::new() }
    }

    /// How many cells are in use.
    pub(super) fn used(&self) -> usize {
        self.used
    }

    /// How many cells there are.
    pub(super) fn cells(&self) -> usize {
        self.cells
    }

    /// The changes to make before the next pass.
    pub(super) fn take_ops(&mut self) -> Vec<CacheOp> {
        std::mem::take(&mut self.ops)
    }

    /// Brings a sequence down to its first `len` tokens.
    pub(super) fn cut(&mut self, sequence: SequenceId, len: usize) {
        if let Some(slot) = self.slots.get_mut(sequence as usize).filter(|slot| slot.held > len) {
            self.used -= slot.held - len;
            slot.held = len;
            self.ops.push(CacheOp::Truncate { sequence, len });
        }
    }

    /// A pass added `rows` tokens to a sequence.
    pub(super) fn grow(&mut self, sequence: SequenceId, rows: usize) {
        if let Some(slot) = self.slots.get_mut(sequence as usize) {
            slot.held += rows;
            self.used += rows;
        }
    }

    /// Rows were computed for a session that is closed by now: they go.
    pub(super) fn forget_rows(&mut self, sequence: SequenceId) {
        let left = match self.slots.get(sequence as usize).map(|slot| &slot.holder) {
            Some(Holder::Closed(_, tokens)) => tokens.len(),
            _ => 0,
        };
        self.cut(sequence, left);
    }

    /// Nothing is known any more of what the engine holds: every sequence is emptied before the next pass.
    pub(super) fn distrust(&mut self) {
        self.ops.clear();
        for (sequence, slot) in (0..).zip(&mut self.slots) {
            slot.held = 0;
            self.ops.push(CacheOp::Truncate { sequence, len: 0 });
            if let Holder::Closed(..) = slot.holder {
                slot.holder = Holder::Nobody;
                self.free.push(sequence);
            }
        }
        self.used = 0;
    }

    /// A session is closed; its tokens may serve another.
    pub(super) fn close(&mut self, now: Duration, session: &Session) {
        let Some(sequence) = session.cached.sequence else { return };
        let valid = session.cached.valid;
        self.cut(sequence, valid);
        let Some(slot) = self.slots.get_mut(sequence as usize) else { return };
        let left = session.sequence.tokens().get(..valid).unwrap_or_default();
        if left.len() < MIN_SHARED_PREFIX {
            self.release(sequence);
        } else {
            slot.holder = Holder::Closed(now, left.into());
        }
    }

    fn release(&mut self, sequence: SequenceId) {
        self.cut(sequence, 0);
        if let Some(slot) = self.slots.get_mut(sequence as usize) {
            slot.holder = Holder::Nobody;
            self.free.push(sequence);
        }
    }

    /// Frees the sequence of the session that was closed first.
    fn drop_oldest_closed(&mut self) -> bool {
        let closed = (0..).zip(&self.slots).filter_map(|(sequence, slot)| match slot.holder {
            Holder::Closed(since, _) => Some((since, sequence)),
            _ => None,
        });
        let oldest = closed.min();
        if let Some((_, sequence)) = oldest {
            self.release(sequence);
        }
        oldest.is_some()
    }
}

impl Server {
    /// Sees to it that `id` has a sequence and the cache has room for `wanted` more rows of it, beside `planned` rows of
    /// sessions for which `is_planned`. False if it has to wait.
    pub(super) fn make_room(
        &mut self,
        id: SessionId,
        wanted: usize,
        planned: usize,
        is_planned: impl Fn(SessionId) -> bool,
    ) -> bool {
        loop {
            let has_sequence = self.sessions.get(&id).is_some_and(|session| session.cached.sequence.is_some());
            let has_room = self.memory.used + planned + wanted <= self.memory.cells;
            if has_room && (has_sequence || self.take_sequence(id)) {
                return true;
            }
            if !self.memory.drop_oldest_closed() && !self.evict_for(id, &is_planned) {
                return false;
            }
        }
    }

    /// Gives `id` a sequence before anybody has rows, at the expense of whoever is to give way.
    pub(super) fn seat(&mut self, id: SessionId) {
        let stands = self.sessions.get(&id).is_some_and(|session| session.cached.sequence.is_none());
        let is_full = || {
            self.memory.free.is_empty()
                && !self.memory.slots.iter().any(|slot| matches!(slot.holder, Holder::Closed(..)))
        };
        // Where there is room, the session finds it, and a prefix to share, when it has its rows.
        if stands && is_full() {
            self.make_room(id, 1, 0, |_| false);
        }
    }

    fn take_sequence(&mut self, id: SessionId) -> bool {
        let Some(session) = self.sessions.get_mut(&id) else { return false };
        let Some(sequence) = self.memory.free.pop() else { return false };
        if let Some(slot) = self.memory.slots.get_mut(sequence as usize) {
            slot.holder = Holder::Session(id);
        }
        session.cached = super::session::Cached { sequence: Some(sequence), valid: 0, passes: 0 };
        true
    }

    /// Whether `id` could have another row, if need be at another's expense.
    pub(super) fn may_have_room(&self, id: SessionId) -> bool {
        let has_sequence = self.sessions.get(&id).is_some_and(|session| session.cached.sequence.is_some());
        let is_free = self.memory.used < self.memory.cells && (has_sequence || !self.memory.free.is_empty());
        let has_closed = || self.memory.slots.iter().any(|slot| matches!(slot.holder, Holder::Closed(..)));
        is_free || has_closed() || self.victim(id, &|_| false).is_some()
    }

    /// Takes the sequence from whoever is to give way to `id`.
    fn evict_for(&mut self, id: SessionId, is_planned: &impl Fn(SessionId) -> bool) -> bool {
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
    fn victim(&self, id: SessionId, is_planned: &impl Fn(SessionId) -> bool) -> Option<SessionId> {
        let senior = (self.sessions.get(&id)?.senior, id);
        let victims =
            self.holders().filter(|(other, _)| *other != id && !is_planned(*other)).filter_map(|(other, session)| {
                let generating = session.is_generating();
                let later = (session.senior, other) > senior;
                let yields = !generating || later || session.cached.passes >= TURN;
                // The idlest of the idle, else the latest of the busy.
                let order = if generating { (1, Duration::MAX - session.senior) } else { (0, session.active) };
                yields.then_some((order, other))
            });
        victims.min().map(|(_, victim)| victim)
    }

    /// Takes the sequence from `id`, which keeps its tokens.
    fn evict(&mut self, id: SessionId) {
        if let Some(session) = self.sessions.get_mut(&id)
            && let Some(sequence) = std::mem::take(&mut session.cached).sequence
        {
            self.evictions += 1;
            self.memory.release(sequence);
        }
    }

    fn holders(&self) -> impl Iterator<Item = (SessionId, &Session)> {
        holders(&self.memory, &self.sessions)
    }

    /// Fills the empty cache of `id` with the longest prefix that it shares with another. False if it is better to wait: a
    /// session for which `is_planned` is reading the same just now.
    pub(super) fn share_prefix(
        &mut self,
        id: SessionId,
        planned: usize,
        is_planned: impl Fn(SessionId) -> bool,
    ) -> bool {
        let Some(session) = self.sessions.get(&id).filter(|session| session.cached.valid == 0) else { return true };
        let most = session.sequence.len().saturating_sub(1);
        if most < MIN_SHARED_PREFIX {
            return true;
        }
        let common = |tokens: &[Token]| common_prefix(tokens, session.sequence.tokens()).min(most);
        let living = self.holders().filter(|(other, _)| *other != id).map(|(other, donor)| {
            let all = common(donor.sequence.tokens());
            // Most share nothing, and to look for one in a pass takes as long as the pass has sessions.
            let coming = if all >= MIN_SHARED_PREFIX && is_planned(other) { all } else { 0 };
            (all.min(donor.cached.valid), coming, donor.cached.sequence)
        });
        let left = (0..).zip(&self.memory.slots).filter_map(|(sequence, slot)| match &slot.holder {
            Holder::Closed(_, tokens) => Some((common(tokens), 0, Some(sequence))),
            _ => None,
        });
        let mut best = (0, None);
        let mut coming = 0;
        for (there, soon, donor) in living.chain(left) {
            coming = coming.max(soon);
            if there > best.0 {
                best = (there, donor);
            }
        }
        if coming >= best.0 + MIN_SHARED_PREFIX {
            return false;
        }
        let (len, Some(from)) = best else { return true };
        if len < MIN_SHARED_PREFIX {
            return true;
        }
        if let Some(Slot { holder: holder @ Holder::Closed(..), .. }) = self.memory.slots.get_mut(from as usize)
            && session.cached.sequence.is_none()
        {
            // What nobody else has is taken over as it is.
            *holder = Holder::Session(id);
            self.memory.cut(from, len);
        } else {
            // The copy may be shorter than it could be, but nobody is evicted for it: a copy saves no memory.
            if self.memory.used + planned + len > self.memory.cells || !self.make_room(id, len, planned, is_planned) {
                return true;
            }
            let Some(to) = self.sessions.get(&id).and_then(|session| session.cached.sequence) else { return true };
            // To make room may have cost the donor its sequence.
            if self.memory.slots.get(from as usize).is_none_or(|slot| slot.held < len) {
                return true;
            }
            self.memory.cut(to, 0);
            self.memory.ops.push(CacheOp::CopyPrefix { from, to, len });
            self.memory.grow(to, len);
            if let Some(session) = self.sessions.get_mut(&id) {
                session.cached.valid = len;
            }
            return true;
        }
        if let Some(session) = self.sessions.get_mut(&id) {
            session.cached = super::session::Cached { sequence: Some(from), valid: len, passes: 0 };
        }
        true
    }
}

/// The sessions that hold a sequence.
fn holders<'a>(
    memory: &'a Memory,
    sessions: &'a BTreeMap<SessionId, Session>,
) -> impl Iterator<Item = (SessionId, &'a Session)> {
    memory.slots.iter().filter_map(|slot| match slot.holder {
        Holder::Session(id) => sessions.get(&id).map(|session| (id, session)),
        _ => None,
    })
}
