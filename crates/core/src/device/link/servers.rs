//! What is known of each server.

use std::time::Duration;

/// What is known of a server.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// Until when it asked to be left alone.
    busy_until: Duration,
    /// The longest text that it takes, if it said so in this turn.
    context: Option<usize>,
}

/// What is known of each server.
#[derive(Debug)]
pub(super) struct Servers {
    known: Vec<Known>,
}

impl Servers {
    pub(super) fn new(count: usize) -> Self {
        Self { known: vec![Known::default(); count.max(1)] }
    }

    /// The server to try next with a text of `len` tokens: of those that are not known to have no room for it, the one that may be
    /// asked first, from `first` on.
    pub(super) fn best(&self, first: usize, len: usize, now: Duration) -> usize {
        let count = self.known.len();
        let in_turn = (0..count).map(|step| (first + step) % count);
        in_turn
            .filter(|&server| self.has_room(server, len))
            .min_by_key(|&server| self.free_at(server, now))
            .unwrap_or(first)
    }

    /// When a server may be asked.
    pub(super) fn free_at(&self, server: usize, now: Duration) -> Duration {
        self.known.get(server).map_or(Duration::ZERO, |known| known.busy_until).max(now)
    }

    /// Whether any server may take a text of more than `len` tokens.
    pub(super) fn have_room(&self, len: usize) -> bool {
        (0..self.known.len()).any(|server| self.has_room(server, len))
    }

    fn has_room(&self, server: usize, len: usize) -> bool {
        let context = self.known.get(server).and_then(|known| known.context);
        context.is_none_or(|context| context > len)
    }

    /// A server asks to be left alone until then.
    pub(super) fn note_busy(&mut self, server: usize, until: Duration) {
        if let Some(known) = self.known.get_mut(server) {
            known.busy_until = until;
        }
    }

    /// The longest text that a server takes.
    pub(super) fn note_context(&mut self, server: usize, context: usize) {
        if let Some(known) = self.known.get_mut(server) {
            known.context = Some(context);
        }
    }

    /// Another text: a server that was too small for the last may do for this one.
    pub(super) fn forget_contexts(&mut self) {
        self.known.iter_mut().for_each(|known| known.context = None);
    }
}
