//! Sessions that come, read, are cut and leave, against the server's prefix cache and a plain list of what each sequence holds.

use std::collections::BTreeSet;
use std::time::Duration;

use sled_core::Token;
use sled_core::sequence::common_prefix;
use sled_core::server::{Found, Owner, PrefixCache};
use sled_core::step::{CacheOp, SequenceId};

use crate::bytes::Bytes;

const SEQUENCES: SequenceId = 4;
const OWNERS: usize = 3;

/// A shorter common prefix is not worth a copy.
const MIN_SHARED_PREFIX: usize = 16;

/// Texts are blocks of so many equal tokens, so that many begin alike, some just long enough to be shared.
const BLOCK: usize = 8;

/// How many texts are remembered for others to begin like.
const KNOWN: usize = 8;

/// Lets happen to a cache what `data` says.
///
/// # Panics
/// If the cache finds another prefix than the longest that may be shared, gives a session another sequence or text than it should,
/// counts other cells than the engine has, has the engine do what it cannot, or shows a session what is not its own.
pub fn cache(data: &[u8]) {
    let mut bytes = Bytes::new(data);
    let mut bench = Bench::new(&mut bytes);
    while let Some(what) = bytes.next() {
        bench.now += Duration::from_secs(u64::from(what >> 4));
        match what % 12 {
            0..=2 => bench.come(&mut bytes),
            3 => bench.come_in_vain(&mut bytes),
            4 => bench.refill(&mut bytes),
            5 | 6 => bench.grow(&mut bytes),
            7 => bench.cut(&mut bytes),
            8 => bench.leave(&mut bytes),
            9 => bench.evict(&mut bytes),
            10 => bench.drop_left(),
            _ if what < 24 => bench.distrust(),
            _ => bench.pass(),
        }
        bench.check(usize::from(what));
    }
    bench.pass();
}

/// A token in the engine's cache: in which cell, and whose session wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cell {
    number: usize,
    token: Token,
    by: Owner,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holder {
    Nobody,
    Session(Owner),
    /// A closed one, since when.
    Left(Owner, Duration),
}

/// A sequence as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Slot {
    holder: Holder,
    cells: Vec<Cell>,
}

impl Slot {
    fn owner(&self) -> Option<Owner> {
        match self.holder {
            Holder::Nobody => None,
            Holder::Session(owner) | Holder::Left(owner, _) => Some(owner),
        }
    }

    fn left(&self) -> Option<Duration> {
        if let Holder::Left(_, since) = self.holder { Some(since) } else { None }
    }

    fn tokens(&self) -> Vec<Token> {
        self.cells.iter().map(|cell| cell.token).collect()
    }

    fn clear(&mut self) {
        *self = Self { holder: Holder::Nobody, cells: Vec::new() };
    }
}

struct Bench {
    cache: PrefixCache,
    most: usize,
    /// What the cache should hold, once the engine has made its changes.
    slots: Vec<Slot>,
    /// What the engine holds.
    engine: Vec<Vec<Cell>>,
    public: Vec<Vec<Token>>,
    /// Texts that others may begin like.
    known: Vec<Vec<Token>>,
    written: usize,
    evictions: u64,
    now: Duration,
}

impl Bench {
    fn new(bytes: &mut Bytes<'_>) -> Self {
        let most = 24 + bytes.below(128);
        let public: Vec<_> = (0..bytes.below(3)).map(|_| blocks(bytes)).collect();
        let mut cache = PrefixCache::new(most, SEQUENCES as usize, MIN_SHARED_PREFIX);
        public.iter().for_each(|text| cache.publish(text.clone()));
        let slots = vec![Slot { holder: Holder::Nobody, cells: Vec::new() }; SEQUENCES as usize];
        let engine = vec![Vec::new(); SEQUENCES as usize];
        let known = public.clone();
        Self { cache, most, slots, engine, public, known, written: 0, evictions: 0, now: Duration::ZERO }
    }

    /// A session comes with a text, and reads a part of it.
    fn come(&mut self, bytes: &mut Bytes<'_>) {
        let (owner, text) = (owner(bytes), self.text(bytes));
        let found = self.lookup(owner, &text);
        if let Some(sequence) = self.claim(owner, found) {
            let begun = self.slots[sequence as usize].cells.len();
            let rows = bytes.below(64).min(text.len() - begun);
            if rows > 0 {
                self.write(sequence, owner, &text[begun..begun + rows]);
            }
        }
    }

    /// A session comes and finds no room for a row.
    fn come_in_vain(&mut self, bytes: &mut Bytes<'_>) {
        let (owner, text) = (owner(bytes), self.text(bytes));
        let found = self.lookup(owner, &text);
        let Some(sequence) = self.claim(owner, found) else { return };
        let cells = &self.slots[sequence as usize].cells;
        let others = (0..SEQUENCES).filter(|&other| other != sequence);
        let elsewhere = self.cells_of(others);
        let is_shared = cells.iter().all(|cell| elsewhere.contains(&cell.number));
        self.cache.give_back(sequence);
        if is_shared {
            self.slots[sequence as usize].clear();
        } else {
            self.expect_left(sequence, owner, Duration::ZERO);
        }
    }

    /// A session comes with another text, and begins with what there is of it.
    fn refill(&mut self, bytes: &mut Bytes<'_>) {
        let Some((sequence, owner)) = self.session(bytes) else { return };
        let text = self.text(bytes);
        self.cache.cut(sequence, 0);
        self.slots[sequence as usize].cells.clear();
        if let Some(found) = self.lookup(owner, &text) {
            self.cache.fill(sequence, found);
            self.slots[sequence as usize].cells = self.prefix(found);
        }
    }

    fn grow(&mut self, bytes: &mut Bytes<'_>) {
        let Some((sequence, owner)) = self.session(bytes) else { return };
        let tokens = bytes.list(12, 3);
        self.write(sequence, owner, &tokens);
    }

    fn cut(&mut self, bytes: &mut Bytes<'_>) {
        let Some((sequence, _)) = self.session(bytes) else { return };
        let len = bytes.below(64);
        self.cache.cut(sequence, len);
        self.slots[sequence as usize].cells.truncate(len);
    }

    fn leave(&mut self, bytes: &mut Bytes<'_>) {
        let Some((sequence, owner)) = self.session(bytes) else { return };
        self.cache.leave(self.now, sequence);
        self.expect_left(sequence, owner, self.now);
    }

    fn evict(&mut self, bytes: &mut Bytes<'_>) {
        let Some((sequence, _)) = self.session(bytes) else { return };
        self.cache.evict(sequence);
        self.slots[sequence as usize].clear();
        self.evictions += 1;
    }

    fn drop_left(&mut self) {
        let oldest = self.oldest_left();
        assert_eq!(self.cache.drop_left(), oldest.is_some());
        if let Some(oldest) = oldest {
            self.slots[oldest as usize].clear();
        }
    }

    /// A pass failed.
    fn distrust(&mut self) {
        self.cache.distrust();
        for slot in &mut self.slots {
            slot.cells.clear();
            if slot.left().is_some() {
                slot.clear();
            }
        }
    }

    /// The engine makes the changes that came up since the last pass.
    fn pass(&mut self) {
        for op in self.cache.take_ops() {
            match op {
                CacheOp::Truncate { sequence, len } => {
                    let cells = &mut self.engine[sequence as usize];
                    assert!(len <= cells.len(), "{len} of {} tokens are to stay", cells.len());
                    cells.truncate(len);
                }
                CacheOp::CopyPrefix { from, to, len } => {
                    assert!(self.engine[to as usize].is_empty(), "a prefix is copied to an empty sequence");
                    self.engine[to as usize] = self.engine[from as usize][..len].to_vec();
                }
            }
        }
        let held = self.slots.iter().map(|slot| &slot.cells);
        assert!(held.eq(&self.engine), "the engine holds {:?}, and should {:?}", self.engine, self.slots);
    }

    /// A pass adds as many of `tokens` as there is room for.
    fn write(&mut self, sequence: SequenceId, by: Owner, tokens: &[Token]) {
        self.pass();
        let tokens = &tokens[..tokens.len().min(self.cache.room())];
        for &token in tokens {
            let cell = Cell { number: self.written, token, by };
            self.engine[sequence as usize].push(cell);
            self.slots[sequence as usize].cells.push(cell);
            self.written += 1;
        }
        self.cache.grow(sequence, tokens.iter().copied());
    }

    /// What the cache finds of a text, which is the best that there is.
    fn lookup(&self, owner: Owner, text: &[Token]) -> Option<Found> {
        // The longest, then what is left over, then what has least beside.
        let rank = |slot: &Slot| {
            let len = self.shareable(owner, text, slot);
            (len, slot.left().map(|_| usize::MAX - slot.cells.len()))
        };
        let best = self.slots.iter().map(rank).max().filter(|&(len, _)| len >= MIN_SHARED_PREFIX);
        let found = self.cache.lookup(owner, text);
        assert_eq!(found.map(|found| rank(&self.slots[found.from as usize])), best, "{found:?} of {text:?}");
        assert_eq!(found.map(|found| found.len), best.map(|(len, _)| len));
        found
    }

    /// How much of `text` an `owner` may have of a sequence: of its own all, of others' what is public.
    fn shareable(&self, owner: Owner, text: &[Token], slot: &Slot) -> usize {
        let agreed = common_prefix(&slot.tokens(), text);
        match slot.owner() {
            None => 0,
            Some(other) if other == owner => agreed,
            Some(_) => agreed.min(self.public(text)),
        }
    }

    /// How much of `text` everybody may have.
    fn public(&self, text: &[Token]) -> usize {
        self.public.iter().map(|public| common_prefix(public, text)).max().unwrap_or(0)
    }

    fn prefix(&self, found: Found) -> Vec<Cell> {
        self.slots[found.from as usize].cells[..found.len].to_vec()
    }

    /// Claims a sequence, which takes nothing from anybody that it need not.
    fn claim(&mut self, owner: Owner, found: Option<Found>) -> Option<SequenceId> {
        let is_full = !self.slots.iter().any(|slot| slot.holder == Holder::Nobody);
        let oldest = self.oldest_left();
        let cells = found.map_or_else(Vec::new, |found| self.prefix(found));
        let Some(sequence) = self.cache.claim(owner, found) else {
            assert!(is_full && oldest.is_none(), "there is a sequence for {owner:?}");
            return None;
        };
        let slot = &mut self.slots[sequence as usize];
        let lost = slot.cells.len() - if found.is_some_and(|found| found.from == sequence) { cells.len() } else { 0 };
        match slot.holder {
            Holder::Nobody => {}
            Holder::Session(_) => panic!("sequence {sequence} is another session's"),
            Holder::Left(..) if lost < MIN_SHARED_PREFIX => {}
            // It is the one to be given up, or most of it is used again.
            Holder::Left(..) => assert!(is_full && (oldest == Some(sequence) || lost < cells.len()), "{lost} are lost"),
        }
        *slot = Slot { holder: Holder::Session(owner), cells };
        Some(sequence)
    }

    /// What a session leaves stays if it is long enough to be shared.
    fn expect_left(&mut self, sequence: SequenceId, owner: Owner, since: Duration) {
        let slot = &mut self.slots[sequence as usize];
        if slot.cells.len() < MIN_SHARED_PREFIX {
            slot.clear();
        } else {
            slot.holder = Holder::Left(owner, since);
        }
    }

    fn oldest_left(&self) -> Option<SequenceId> {
        let left = (0..).zip(&self.slots).filter_map(|(sequence, slot)| Some((slot.left()?, sequence)));
        left.min().map(|(_, sequence)| sequence)
    }

    /// A text, which may begin like another.
    fn text(&mut self, bytes: &mut Bytes<'_>) -> Vec<Token> {
        let which = bytes.below(2 * self.known.len() + 1);
        let mut text = self.known.get(which).cloned().unwrap_or_default();
        text.truncate(text.len().saturating_sub(bytes.below(3) * BLOCK));
        text.extend(blocks(bytes));
        if self.known.len() < KNOWN {
            self.known.push(text.clone());
        }
        text
    }

    /// A session, if there is one at the place that is chosen.
    fn session(&self, bytes: &mut Bytes<'_>) -> Option<(SequenceId, Owner)> {
        let sequence = bytes.below(SEQUENCES as usize);
        match self.slots[sequence].holder {
            Holder::Session(owner) => Some((sequence as SequenceId, owner)),
            _ => None,
        }
    }

    /// The cells that `sequences` have.
    fn cells_of(&self, sequences: impl Iterator<Item = SequenceId>) -> BTreeSet<usize> {
        sequences.flat_map(|sequence| &self.slots[sequence as usize].cells).map(|cell| cell.number).collect()
    }

    /// Compares all that the cache answers with what it should. `some`: sequences, as bits.
    fn check(&self, some: usize) {
        self.cache.check_invariants();
        let used = self.cells_of(0..SEQUENCES).len();
        assert_eq!((self.cache.cells(), self.cache.room()), ((used, self.most), self.most - used));
        let some = || (0..SEQUENCES).filter(|sequence| some >> sequence & 1 == 1);
        assert_eq!(self.cache.room_beside(some()), self.most - self.cells_of(some()).len());
        let is_free = self.slots.iter().any(|slot| slot.holder == Holder::Nobody);
        assert_eq!(self.cache.has_left(), self.oldest_left().is_some());
        assert_eq!(self.cache.has_sequence(), is_free || self.cache.has_left());
        assert_eq!(
            self.cache.held(),
            self.slots.iter().filter(|slot| matches!(slot.holder, Holder::Session(_))).count()
        );
        assert_eq!(self.cache.evictions(), self.evictions);
        for (sequence, slot) in (0..).zip(&self.slots) {
            let tokens = slot.tokens();
            assert_eq!(self.cache.tokens(sequence), tokens, "sequence {sequence}");
            assert_eq!(self.cache.len(sequence), tokens.len());
            let Some(owner) = slot.owner() else { continue };
            assert_eq!(self.cache.is_held(owner, sequence, tokens.len()), slot.left().is_none());
            let foreign = slot.cells.iter().rposition(|cell| cell.by != owner).map_or(0, |last| last + 1);
            assert!(foreign <= self.public(&tokens), "{foreign} tokens of sequence {sequence} are others'");
        }
    }
}

fn owner(bytes: &mut Bytes<'_>) -> Owner {
    Owner(bytes.below(OWNERS) as u64)
}

fn blocks(bytes: &mut Bytes<'_>) -> Vec<Token> {
    bytes.list(5, 3).into_iter().flat_map(|token| [token; BLOCK]).collect()
}
