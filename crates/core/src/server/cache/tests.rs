//! The cache beside a simple engine, which keeps for each sequence what it has of which cell, and who wrote it there.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const MIN_SHARED: usize = 16;

const SEQUENCES: usize = 4;
const OWNERS: u64 = 3;

/// What befalls the cache.
#[derive(Clone, Debug)]
enum Event {
    /// A session of this owner comes with this text, and reads so much of it.
    Come(u64, Vec<Token>, usize),
    /// The session that has this sequence commits tokens, or is cut.
    Grow(SequenceId, Vec<Token>),
    Cut(SequenceId, usize),
    /// It comes with another text.
    Refill(SequenceId, Vec<Token>),
    /// It is closed, or gives way.
    Leave(SequenceId),
    Evict(SequenceId),
    /// A session of this owner comes with this text, and finds no room to read.
    Turn(u64, Vec<Token>),
    DropLeft,
    Fail,
}

/// A token in a cell, and who wrote it there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Written {
    cell: usize,
    token: Token,
    by: Owner,
}

/// An engine, and whose its sequences are.
#[derive(Default)]
struct Engine {
    sequences: [Vec<Written>; SEQUENCES],
    sessions: [Option<Owner>; SEQUENCES],
    cells: usize,
}

impl Engine {
    fn apply(&mut self, ops: Vec<CacheOp>) {
        for op in ops {
            match op {
                CacheOp::Truncate { sequence, len } => {
                    let sequence = &mut self.sequences[sequence as usize];
                    assert!(len <= sequence.len(), "what is cut is there");
                    sequence.truncate(len);
                }
                CacheOp::CopyPrefix { from, to, len } => {
                    let prefix = self.sequences[from as usize][..len].to_vec();
                    assert!(self.sequences[to as usize].is_empty(), "copies go to empty sequences");
                    self.sequences[to as usize] = prefix;
                }
            }
        }
    }

    fn write(&mut self, sequence: SequenceId, tokens: &[Token], by: Owner) {
        for &token in tokens {
            self.sequences[sequence as usize].push(Written { cell: self.cells, token, by });
            self.cells += 1;
        }
    }

    fn tokens(&self, sequence: usize) -> Vec<Token> {
        self.sequences[sequence].iter().map(|written| written.token).collect()
    }

    fn used(&self) -> usize {
        self.sequences.iter().flatten().map(|written| written.cell).collect::<BTreeSet<_>>().len()
    }
}

/// Texts that often begin alike: blocks of ten equal tokens.
fn text() -> impl Strategy<Value = Vec<Token>> {
    let blocks = prop::collection::vec(0..3u32, 1..7);
    blocks.prop_map(|blocks| blocks.into_iter().flat_map(|block| [block; 10]).collect())
}

fn event() -> impl Strategy<Value = Event> {
    let sequence = || 0..SEQUENCES as SequenceId;
    prop_oneof![
        6 => (0..OWNERS, text(), 0..60usize).prop_map(|(owner, text, read)| Event::Come(owner, text, read)),
        2 => (sequence(), text()).prop_map(|(sequence, tokens)| Event::Grow(sequence, tokens)),
        2 => (sequence(), 0..60usize).prop_map(|(sequence, len)| Event::Cut(sequence, len)),
        2 => (sequence(), text()).prop_map(|(sequence, text)| Event::Refill(sequence, text)),
        4 => sequence().prop_map(Event::Leave),
        2 => sequence().prop_map(Event::Evict),
        2 => (0..OWNERS, text()).prop_map(|(owner, text)| Event::Turn(owner, text)),
        1 => Just(Event::DropLeft),
        1 => Just(Event::Fail),
    ]
}

/// How much of `text` an `owner` may have of what is in `held`: what is its own, and what is public.
fn shareable(owner: Owner, text: &[Token], held: (Owner, &[Token]), public: &[Token]) -> usize {
    let agreed = common_prefix(text, held.1);
    if owner == held.0 { agreed } else { agreed.min(common_prefix(text, public)) }
}

struct Bench {
    cache: PrefixCache,
    engine: Engine,
    public: Vec<Token>,
    now: Duration,
}

impl Bench {
    fn found(&self, owner: Owner, text: &[Token]) -> Option<Found> {
        let found = self.cache.lookup(owner, text);
        let slots = self.cache.slots.iter().filter_map(|slot| Some((slot.owner()?, slot.tokens.as_slice())));
        let longest = slots.map(|held| shareable(owner, text, held, &self.public)).max().unwrap_or(0);
        assert_eq!(found.map_or(0, |found| found.len), if longest < MIN_SHARED { 0 } else { longest });
        found
    }

    fn session(&self, sequence: SequenceId) -> Option<Owner> {
        self.engine.sessions[sequence as usize]
    }

    fn grow(&mut self, sequence: SequenceId, tokens: &[Token], owner: Owner) {
        let tokens = &tokens[..tokens.len().min(self.cache.room())];
        self.engine.apply(self.cache.take_ops());
        self.engine.write(sequence, tokens, owner);
        self.cache.grow(sequence, tokens.iter().copied());
    }

    fn befall(&mut self, event: Event) {
        self.now += Duration::from_secs(1);
        match event {
            Event::Come(owner, text, read) => {
                let owner = Owner(owner);
                let found = self.found(owner, &text);
                let left = (0..SEQUENCES as SequenceId).filter(|&at| self.cache.slots[at as usize].is_left()).count();
                let free = self.cache.free.len();
                let Some(sequence) = self.cache.claim(owner, found) else {
                    return assert_eq!((free, left), (0, 0), "whoever comes finds a sequence if there is one");
                };
                let left_now = self.cache.slots.iter().filter(|slot| slot.is_left()).count();
                let taken_over = found.is_some_and(|found| found.from == sequence);
                assert!(left_now == left || free == 0 || taken_over, "where a sequence is free, nothing is given up");
                self.engine.sessions[sequence as usize] = Some(owner);
                let begun = self.cache.len(sequence);
                assert_eq!(begun, found.map_or(0, |found| found.len));
                self.grow(sequence, &text[begun..text.len().min(begun + read)], owner);
            }
            Event::Grow(sequence, tokens) => {
                if let Some(owner) = self.session(sequence) {
                    self.grow(sequence, &tokens, owner);
                }
            }
            Event::Cut(sequence, len) => self.cache.cut(sequence, len),
            Event::Refill(sequence, text) => {
                let Some(owner) = self.session(sequence) else { return };
                self.cache.cut(sequence, 0);
                if let Some(found) = self.found(owner, &text) {
                    self.cache.fill(sequence, found);
                    assert_eq!(self.cache.len(sequence), found.len);
                }
            }
            Event::Leave(sequence) => {
                if self.engine.sessions[sequence as usize].take().is_some() {
                    self.cache.leave(self.now, sequence);
                }
            }
            Event::Evict(sequence) => {
                if self.engine.sessions[sequence as usize].take().is_some() {
                    self.cache.evict(sequence);
                }
            }
            Event::Turn(owner, text) => {
                let claim = |cache: &mut PrefixCache| {
                    let found = cache.lookup(Owner(owner), &text);
                    cache.claim(Owner(owner), found).into_iter().for_each(|sequence| cache.give_back(sequence));
                };
                claim(&mut self.cache);
                let ops = self.cache.ops.len();
                claim(&mut self.cache);
                assert_eq!(self.cache.ops.len(), ops, "whoever comes in vain again and again leaves nothing to do");
            }
            Event::DropLeft => drop(self.cache.drop_left()),
            Event::Fail => self.cache.distrust(),
        }
    }

    fn check(&mut self) {
        self.cache.check_invariants();
        self.engine.apply(self.cache.take_ops());
        assert_eq!(self.cache.cells().0, self.engine.used(), "cells are counted as the engine counts them");
        for (at, slot) in self.cache.slots.iter().enumerate() {
            assert_eq!(slot.tokens, self.engine.tokens(at), "the cache knows what the engine holds");
            let Some(owner) = slot.owner() else {
                assert!(slot.tokens.is_empty() && self.cache.free.contains(&(at as SequenceId)));
                continue;
            };
            let others = self.engine.sequences[at].iter().rposition(|written| written.by != owner);
            let others = others.map_or(0, |last| last + 1);
            assert!(others <= common_prefix(&slot.tokens, &self.public), "of others' texts only what is public");
        }
    }
}

proptest! {
    #[test]
    fn whatever_befalls_it_cells_are_counted_rightly_and_texts_stay_private(
        public in text(),
        cells in 40..200usize,
        events in prop::collection::vec(event(), 1..60),
    ) {
        let mut bench =
            Bench { cache: PrefixCache::new(cells, SEQUENCES, MIN_SHARED), engine: Engine::default(), public, now: Duration::ZERO };
        bench.cache.publish(bench.public.clone());
        for event in events {
            bench.befall(event);
            bench.check();
        }
    }
}

#[test]
fn of_what_holds_the_same_that_is_taken_which_has_least_beside() {
    let mut cache = PrefixCache::new(1_000, 8, MIN_SHARED);
    let owner = Owner(1);
    let text = |tail: usize| [vec![1; 20], vec![2; tail]].concat();
    for tail in [50, 5, 80] {
        let sequence = cache.claim(owner, None).unwrap_or_default();
        cache.grow(sequence, text(tail).into_iter());
        cache.leave(Duration::ZERO, sequence);
    }
    let found = cache.lookup(owner, &[vec![1; 20], vec![3; 9]].concat());
    assert_eq!(found, Some(Found { from: 1, len: 20 }));
    assert_eq!(cache.claim(owner, found), Some(1), "hardly anything is lost");
    assert_eq!((cache.len(1), cache.cells().0), (20, 70 + 20 + 100));
}
