//! The event queue.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

/// Events in order of time, and at the same time in the order in which they were put in.
pub(super) struct Queue<E> {
    heap: BinaryHeap<Reverse<Entry<E>>>,
    number: u64,
}

impl<E> Queue<E> {
    pub(super) fn new() -> Self {
        Self { heap: BinaryHeap::new(), number: 0 }
    }

    pub(super) fn push(&mut self, time: Duration, event: E) {
        self.number += 1;
        self.heap.push(Reverse(Entry { time, number: self.number, event }));
    }

    pub(super) fn pop(&mut self) -> Option<(Duration, E)> {
        self.heap.pop().map(|Reverse(Entry { time, event, .. })| (time, event))
    }
}

struct Entry<E> {
    time: Duration,
    number: u64,
    event: E,
}

impl<E> PartialEq for Entry<E> {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl<E> Eq for Entry<E> {}

impl<E> PartialOrd for Entry<E> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Entry<E> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.time, self.number).cmp(&(other.time, other.number))
    }
}
