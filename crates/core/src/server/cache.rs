//! The KV cache as the engine has it: its sequences, the texts in them, and the cells that these take.
//!
//! The cache has a fixed number of cells and of sequences; neither is ever exceeded. A cell holds one token, for every sequence
//! that got it: a prefix that is copied takes no cells of its own, and a cell is free when the last sequence lets go of it. So
//! cells are counted as the engine counts them.
//!
//! What a closed session leaves stays for those that come after it, until the place is needed. Texts are private: a session finds
//! what sessions of its own owner read or left, and of others' texts only what is a public prefix. Otherwise the time that a
//! prompt takes, and the figure of its cached tokens, would tell what somebody else has written.
//!
//! The cache knows nothing of sessions but whose they are. They are to say when they claim a sequence, grow, are cut, give way, and
//! leave.

use std::time::Duration;

use crate::Token;
use crate::sequence::common_prefix;
use crate::step::{CacheOp, SequenceId};

/// Whose a session is. Sessions of one owner share what the KV cache holds of their texts; those of different owners share nothing
/// but public prefixes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner(pub u64);

/// What the cache holds of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// In which sequence.
    pub from: SequenceId,
    /// How many of the text's first tokens, at least as many as are worth a copy.
    pub len: usize,
}

/// The KV cache as the engine has it.
#[derive(Debug)]
pub struct PrefixCache {
    cells: Cells,
    slots: Vec<Slot>,
    free: Vec<SequenceId>,
    /// Texts whose prefixes everybody may share.
    public: Vec<Box<[Token]>>,
    /// Changes that the engine has not made yet.
    ops: Vec<CacheOp>,
    /// How many times a session had to give way to another.
    evictions: u64,
    /// A shorter common prefix is not worth a copy.
    min_shared: usize,
}

/// One sequence.
#[derive(Clone, Debug, Default)]
struct Slot {
    holder: Holder,
    /// What the engine holds, and in which cells.
    tokens: Vec<Token>,
    cells: Vec<usize>,
}

#[derive(Clone, Copy, Debug, Default)]
enum Holder {
    #[default]
    Nobody,
    /// A session of this owner.
    Session(Owner),
    /// A session of this owner that was closed at this time.
    Left(Owner, Duration),
}

impl Slot {
    fn owner(&self) -> Option<Owner> {
        match self.holder {
            Holder::Nobody => None,
            Holder::Session(owner) | Holder::Left(owner, _) => Some(owner),
        }
    }

    fn is_left(&self) -> bool {
        matches!(self.holder, Holder::Left(..))
    }
}

/// How many sequences have each cell.
#[derive(Debug, Default)]
struct Cells {
    most: usize,
    used: usize,
    users: Vec<u32>,
    free: Vec<usize>,
}

impl Cells {
    fn take(&mut self) -> usize {
        self.used += 1;
        let cell = self.free.pop().unwrap_or_else(|| {
            self.users.push(0);
            self.users.len() - 1
        });
        self.share(cell);
        cell
    }

    fn share(&mut self, cell: usize) {
        if let Some(users) = self.users.get_mut(cell) {
            *users += 1;
        }
    }

    fn is_shared(&self, cell: usize) -> bool {
        self.users.get(cell).is_some_and(|&users| users > 1)
    }

    fn let_go(&mut self, cell: usize) {
        let Some(users) = self.users.get_mut(cell) else { return };
        *users -= 1;
        if *users == 0 {
            self.used -= 1;
            self.free.push(cell);
        }
    }
}

impl PrefixCache {
    /// An empty cache of so many cells and sequences, of which neither is ever exceeded if none grows by more than there is
    /// [room](Self::room) for; a common prefix of fewer than `min_shared` tokens is not worth a copy.
    #[must_use]
    pub fn new(cells: usize, sequences: usize, min_shared: usize) -> Self {
        let sequences = SequenceId::try_from(sequences).unwrap_or(SequenceId::MAX);
        Self {
            cells: Cells { most: cells, ..Cells::default() },
            slots: vec![Slot::default(); sequences as usize],
            free: (0..sequences).rev().collect(),
            public: Vec::new(),
            ops: Vec::new(),
            evictions: 0,
            min_shared,
        }
    }

    /// A shorter common prefix is not worth a copy.
    pub(super) fn min_shared(&self) -> usize {
        self.min_shared
    }

    /// From now on everybody may share the prefixes of `text`.
    pub fn publish(&mut self, text: Vec<Token>) {
        self.public.push(text.into());
    }

    /// How many cells are in use, of how many.
    pub fn cells(&self) -> (usize, usize) {
        (self.cells.used, self.cells.most)
    }

    /// How many cells are free.
    pub fn room(&self) -> usize {
        self.cells.most.saturating_sub(self.cells.used)
    }

    /// How many cells would be free if there were only these `sequences`.
    pub fn room_beside(&self, sequences: impl Iterator<Item = SequenceId>) -> usize {
        let mut is_kept = vec![false; self.cells.users.len()];
        let kept = sequences.filter_map(|sequence| self.slots.get(sequence as usize)).flat_map(|slot| &slot.cells);
        let kept =
            kept.filter(|&&cell| is_kept.get_mut(cell).is_some_and(|kept| !std::mem::replace(kept, true))).count();
        self.cells.most.saturating_sub(kept)
    }

    /// Whether a sequence can be had without taking it from a session.
    pub fn has_sequence(&self) -> bool {
        !self.free.is_empty() || self.has_left()
    }

    /// Whether there is something that closed sessions left.
    pub fn has_left(&self) -> bool {
        self.slots.iter().any(Slot::is_left)
    }

    /// The changes to make before the next pass.
    pub fn take_ops(&mut self) -> Vec<CacheOp> {
        std::mem::take(&mut self.ops)
    }

    /// How many of its first tokens a `text` of `owner` may have of `other`, which is the text of `others`.
    pub(super) fn agreement(&self, (owner, text): (Owner, &[Token]), (others, other): (Owner, &[Token])) -> usize {
        let agreed = common_prefix(other, text);
        if owner == others || agreed < self.min_shared {
            return agreed;
        }
        let public = self.public.iter().map(|public| common_prefix(public, text)).max();
        agreed.min(public.unwrap_or(0))
    }

    /// The longest prefix of a `text` of `owner` that is in the cache and that it may have.
    pub fn lookup(&self, owner: Owner, text: &[Token]) -> Option<Found> {
        let found = (0..).zip(&self.slots).filter_map(|(from, slot)| {
            let len = self.agreement((owner, text), (slot.owner()?, &slot.tokens));
            // Of the same, what is left over is better than what somebody has, and best is what has little beside.
            let spare = slot.is_left().then(|| usize::MAX - slot.tokens.len());
            (len >= self.min_shared).then_some((len, spare, Found { from, len }))
        });
        found.max_by_key(|&(len, spare, _)| (len, spare)).map(|(_, _, found)| found)
    }

    /// A sequence for a session of `owner`, which begins with what was `found` of its text. What closed sessions left gives way if
    /// need be; `None` if sessions have all.
    pub fn claim(&mut self, owner: Owner, found: Option<Found>) -> Option<SequenceId> {
        if let Some(Found { from, len }) = found.filter(|&found| self.is_to_be_taken_over(found))
            && let Some(slot) = self.slots.get_mut(from as usize)
        {
            slot.holder = Holder::Session(owner);
            self.cut(from, len);
            return Some(from);
        }
        if self.free.is_empty() {
            self.drop_left();
        }
        let sequence = self.free.pop()?;
        if let Some(slot) = self.slots.get_mut(sequence as usize) {
            slot.holder = Holder::Session(owner);
        }
        if let Some(found) = found {
            self.fill(sequence, found);
        }
        Some(sequence)
    }

    /// Whether what a closed session left is better cut to what was `found` in it than copied: if hardly anything is lost, or if a
    /// sequence is to be given up and it is this one, or most of this one is used again.
    fn is_to_be_taken_over(&self, Found { from, len }: Found) -> bool {
        let Some(slot) = self.slots.get(from as usize).filter(|slot| slot.is_left()) else { return false };
        let held = slot.tokens.len();
        let gives_way = || self.oldest_left() == Some(from) || 2 * len > held;
        held - len < self.min_shared || (self.free.is_empty() && gives_way())
    }

    /// Makes what was `found` of its text the beginning of `sequence`, which is emptied.
    pub fn fill(&mut self, sequence: SequenceId, Found { from, len }: Found) {
        self.cut(sequence, 0);
        let prefix = self.slots.get(from as usize).map(|slot| (slot.tokens.get(..len), slot.cells.get(..len)));
        let Some((Some(tokens), Some(cells))) = prefix else { return };
        let (tokens, cells) = (tokens.to_vec(), cells.to_vec());
        cells.iter().for_each(|&cell| self.cells.share(cell));
        if let Some(slot) = self.slots.get_mut(sequence as usize) {
            (slot.tokens, slot.cells) = (tokens, cells);
            self.ops.push(CacheOp::CopyPrefix { from, to: sequence, len });
        }
    }

    /// How many tokens a sequence has.
    pub fn len(&self, sequence: SequenceId) -> usize {
        self.slots.get(sequence as usize).map_or(0, |slot| slot.tokens.len())
    }

    /// A pass added `tokens` to a sequence.
    pub fn grow(&mut self, sequence: SequenceId, tokens: impl Iterator<Item = Token>) {
        let Some(slot) = self.slots.get_mut(sequence as usize) else { return };
        slot.tokens.extend(tokens);
        while slot.cells.len() < slot.tokens.len() {
            slot.cells.push(self.cells.take());
        }
    }

    /// Brings a sequence down to its first `len` tokens.
    pub fn cut(&mut self, sequence: SequenceId, len: usize) {
        if let Some(slot) = self.slots.get_mut(sequence as usize).filter(|slot| slot.tokens.len() > len) {
            slot.tokens.truncate(len);
            slot.cells.drain(len..).for_each(|cell| self.cells.let_go(cell));
            match self.ops.last() {
                // A copy that was not made yet need not be made: sequences are empty before they are filled.
                Some(&CacheOp::CopyPrefix { to, .. }) if to == sequence && len == 0 => drop(self.ops.pop()),
                _ => self.ops.push(CacheOp::Truncate { sequence, len }),
            }
        }
    }

    /// The session that has this sequence is closed; what it leaves may serve another.
    pub fn leave(&mut self, now: Duration, sequence: SequenceId) {
        let Some(slot) = self.slots.get_mut(sequence as usize) else { return };
        let Holder::Session(owner) = slot.holder else { return };
        if slot.tokens.len() < self.min_shared {
            self.release(sequence);
        } else {
            slot.holder = Holder::Left(owner, now);
        }
    }

    /// Whoever has claimed this sequence has no room for a row: it is as if it had not.
    pub fn give_back(&mut self, sequence: SequenceId) {
        let Some(slot) = self.slots.get(sequence as usize) else { return };
        if slot.cells.iter().all(|&cell| self.cells.is_shared(cell)) {
            self.release(sequence);
        } else {
            self.leave(Duration::ZERO, sequence);
        }
    }

    /// The session that has this sequence gives way to another: it is emptied and free.
    pub fn evict(&mut self, sequence: SequenceId) {
        self.evictions += 1;
        self.release(sequence);
    }

    /// How many times a session had to give way to another.
    pub fn evictions(&self) -> u64 {
        self.evictions
    }

    /// Empties a sequence and frees it.
    pub(super) fn release(&mut self, sequence: SequenceId) {
        self.cut(sequence, 0);
        if let Some(slot) = self.slots.get_mut(sequence as usize) {
            slot.holder = Holder::Nobody;
            self.free.push(sequence);
        }
    }

    /// Gives up what the session left that was closed first. False if there is nothing.
    pub fn drop_left(&mut self) -> bool {
        let oldest = self.oldest_left();
        if let Some(sequence) = oldest {
            self.release(sequence);
        }
        oldest.is_some()
    }

    fn oldest_left(&self) -> Option<SequenceId> {
        let left = (0..).zip(&self.slots).filter_map(|(sequence, slot)| match slot.holder {
            Holder::Left(_, since) => Some((since, sequence)),
            _ => None,
        });
        left.min().map(|(_, sequence)| sequence)
    }

    /// Nothing is known any more of what the engine holds: every sequence is emptied before the next pass.
    pub fn distrust(&mut self) {
        self.ops.clear();
        self.cells = Cells { most: self.cells.most, ..Cells::default() };
        for (sequence, slot) in (0..).zip(&mut self.slots) {
            slot.tokens.clear();
            slot.cells.clear();
            self.ops.push(CacheOp::Truncate { sequence, len: 0 });
            if slot.is_left() {
                slot.holder = Holder::Nobody;
                self.free.push(sequence);
            }
        }
    }

    /// Whether a session of `owner` has this sequence, and so many tokens in it.
    pub fn is_held(&self, owner: Owner, sequence: SequenceId, len: usize) -> bool {
        self.slots.get(sequence as usize).is_some_and(|slot| {
            matches!(slot.holder, Holder::Session(holder) if holder == owner) && slot.tokens.len() == len
        })
    }

    /// How many sequences sessions have.
    pub fn held(&self) -> usize {
        self.slots.iter().filter(|slot| matches!(slot.holder, Holder::Session(_))).count()
    }

    /// What a sequence holds.
    pub fn tokens(&self, sequence: SequenceId) -> &[Token] {
        self.slots.get(sequence as usize).map_or(&[], |slot| &slot.tokens)
    }

    /// For tests: compares what is counted with what is there.
    ///
    /// # Panics
    /// If cells are not counted by the sequences that have them, more are in use than there are, or a sequence that nobody has is not
    /// empty or not free.
    pub fn check_invariants(&self) {
        let mut users = vec![0; self.cells.users.len()];
        for (sequence, slot) in (0..).zip(&self.slots) {
            assert_eq!(slot.tokens.len(), slot.cells.len(), "a cell for each token of sequence {sequence}");
            for &cell in &slot.cells {
                assert!(cell < users.len(), "cell {cell} of sequence {sequence} is unknown");
                users[cell] += 1;
            }
            let is_free = self.free.iter().filter(|&&free| free == sequence).count();
            assert_eq!(is_free, usize::from(slot.owner().is_none()), "sequence {sequence} is free if nobody has it");
            assert!(is_free == 0 || slot.tokens.is_empty(), "sequence {sequence} is free and not empty");
        }
        assert_eq!(users, self.cells.users, "how many sequences have each cell");
        let used = users.iter().filter(|&&users| users > 0).count();
        assert!(used == self.cells.used && used <= self.cells.most, "{used} cells in use, counted {:?}", self.cells());
        assert_eq!(used + self.cells.free.len(), users.len(), "a cell is free or in use");
    }
}

#[cfg(test)]
mod tests;
