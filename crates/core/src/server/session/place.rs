//! A session's place in the KV cache, and its claim to one.

use std::time::Duration;

use crate::server::tuning::MemoryTuning;
use crate::step::SequenceId;

/// What the KV cache has of a session.
#[derive(Clone, Copy, Debug)]
pub(in crate::server) struct Place {
    held: Held,
    /// Since when the session has a claim to a place in the cache; earlier goes first.
    senior: Duration,
    /// How many tokens of the turn's prompt were in the cache before its first pass; `None` until then.
    reused: Option<usize>,
}

/// The part of a session that the KV cache holds.
#[derive(Clone, Copy, Debug, Default)]
struct Held {
    /// The sequence that it is in; `None` while the cache holds nothing of it.
    sequence: Option<SequenceId>,
    /// How many tokens of the session's text the cache holds rightly.
    valid: usize,
    /// Since it has the sequence: how many verdicts it had, how long their passes took, and how long its text took to read.
    verdicts: u32,
    deciding: Duration,
    reading: Duration,
}

impl Place {
    pub(super) fn new(now: Duration) -> Self {
        Self { held: Held::default(), senior: now, reused: None }
    }

    /// A new turn, of whose text the first `agreed` tokens are as before.
    pub(super) fn begin_turn(&mut self, now: Duration, agreed: usize) {
        self.held.valid = self.held.valid.min(agreed);
        self.senior = now;
        self.reused = None;
    }

    pub(in crate::server) fn sequence(&self) -> Option<SequenceId> {
        self.held.sequence
    }

    /// How many tokens of the text the cache holds rightly.
    pub(in crate::server) fn valid(&self) -> usize {
        self.held.valid
    }

    pub(in crate::server) fn senior(&self) -> Duration {
        self.senior
    }

    /// Whoever has had its turn is the last to come to it again.
    pub(in crate::server) fn go_behind(&mut self, last: Duration) {
        self.senior = last + Duration::from_nanos(1);
    }

    /// It has this sequence from now on, which begins with `valid` tokens of its text.
    pub(in crate::server) fn take(&mut self, sequence: SequenceId, valid: usize) {
        self.held = Held { sequence: Some(sequence), valid, ..Held::default() };
    }

    /// Gives its sequence up, if it has one.
    pub(in crate::server) fn vacate(&mut self) -> Option<SequenceId> {
        std::mem::take(&mut self.held).sequence
    }

    /// The cache holds nothing of the text any more, though it has a sequence.
    pub(in crate::server) fn empty(&mut self) {
        self.held.valid = 0;
    }

    /// The cache holds so many `tokens` of the text more.
    pub(in crate::server) fn extend(&mut self, tokens: usize) {
        self.held.valid += tokens;
    }

    /// A pass took `time`, of whose `rows` so many `read` the text.
    pub(in crate::server) fn observe(&mut self, time: Duration, rows: usize, read: usize, verdict: bool) {
        let held = &mut self.held;
        held.reading += time.mul_f64(read as f64 / rows.max(1) as f64);
        if verdict {
            held.verdicts = held.verdicts.saturating_add(1);
            held.deciding += time;
        }
    }

    /// Whether it is another's turn. Who had to read much since it has its sequence has a longer one: it has paid for it, and would
    /// have to read all of it again.
    pub(in crate::server) fn has_had_its_turn(&self, tuning: MemoryTuning) -> bool {
        let Held { verdicts, deciding, reading, .. } = self.held;
        verdicts >= tuning.turn && deciding >= tuning.turn_per_reading * reading
    }

    /// Whether the turn has had a pass.
    pub(super) fn has_begun(&self) -> bool {
        self.reused.is_some()
    }

    /// The first pass of a turn is planned. False if there was one before.
    pub(super) fn note_reused(&mut self, prompt_len: usize) -> bool {
        let is_first = self.reused.is_none();
        self.reused.get_or_insert(self.held.valid.min(prompt_len));
        is_first
    }

    /// How many tokens of the turn's prompt needed not be read; 0 before its first pass.
    pub(in crate::server) fn reused(&self) -> usize {
        self.reused.unwrap_or(0)
    }
}
