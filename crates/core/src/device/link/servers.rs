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

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(10);

    #[test]
    fn the_next_server_in_turn_is_tried_unless_it_is_busy() {
        let mut servers = Servers::new(3);
        assert_eq!([0, 1, 2].map(|first| servers.best(first, 0, NOW)), [0, 1, 2]);
        servers.note_busy(1, NOW + Duration::from_secs(5));
        assert_eq!([0, 1, 2].map(|first| servers.best(first, 0, NOW)), [0, 2, 2]);
        assert_eq!(servers.free_at(1, NOW), NOW + Duration::from_secs(5));
        servers.note_busy(2, NOW + Duration::from_secs(2));
        servers.note_busy(0, NOW + Duration::from_secs(9));
        assert_eq!(
            [0, 1, 2].map(|first| servers.best(first, 0, NOW)),
            [2, 2, 2],
            "of those that are all busy, the first free"
        );
        let later = NOW + Duration::from_secs(20);
        assert_eq!(servers.best(1, 0, later), 1, "it was busy");
        assert_eq!(servers.free_at(1, later), later);
    }

    #[test]
    fn a_server_that_is_too_small_for_a_text_is_passed_over_in_this_turn() {
        let mut servers = Servers::new(2);
        servers.note_context(0, 100);
        assert_eq!((servers.best(0, 99, NOW), servers.best(0, 100, NOW)), (0, 1));
        servers.note_context(1, 50);
        assert!(servers.have_room(99) && !servers.have_room(100));
        assert_eq!(servers.best(1, 100, NOW), 1, "where none has room, it is the next in turn");
        servers.forget_contexts();
        assert!(servers.have_room(100));
        assert_eq!(servers.best(0, 100, NOW), 0);
    }
}
