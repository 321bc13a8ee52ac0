//! The event queue.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

/// Events in order of time, and at the same time in the order in which they were put in.
pub(super) struct Queue<E> {
    /// Time, number, and the place of the event: events themselves are too large to be moved about.
    heap: BinaryHeap<Reverse<(Duration, u64, usize)>>,
    events: Vec<Option<E>>,
    free: Vec<usize>,
    number: u64,
}

impl<E> Queue<E> {
    pub(super) fn new() -> Self {
        Self { heap: BinaryHeap::new(), events: Vec::new(), free: Vec::new(), number: 0 }
    }

    pub(super) fn push(&mut self, time: Duration, event: E) {
        let place = self.free.pop().unwrap_or_else(|| {
            self.events.push(None);
            self.events.len() - 1
        });
        self.events[place] = Some(event);
        self.number += 1;
        self.heap.push(Reverse((time, self.number, place)));
    }

    /// The next event, unless it is later than `deadline`.
    pub(super) fn pop(&mut self, deadline: Duration) -> Option<(Duration, E)> {
        self.heap.peek().filter(|Reverse((time, ..))| *time <= deadline)?;
        let Reverse((time, _, place)) = self.heap.pop()?;
        self.free.push(place);
        Some((time, self.events[place].take()?))
    }
}
