//! Replies on their way to whoever is to read them, bounded by what they weigh.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::Stream;
use sled_core::message::Reply;
use sled_core::server::SessionId;
use tokio::sync::Notify;

/// Bytes of replies that may wait for the reader of one session.
const SESSION_BYTES: usize = 1 << 20;

/// Bytes of replies that may wait for all readers together.
const ALL_BYTES: usize = 64 << 20;

/// What is said to a session whose replies outgrow one of the bounds.
fn unread(bytes: usize) -> Reply {
    let kib = bytes >> 10;
    Reply::Closing(format!(
        "{kib} KiB of replies waited to be read, and the server closed the session; read faster, or over a faster connection"
    ))
}

/// The replies of one session, on the side that says them.
#[derive(Clone)]
pub(super) struct Outbox(Arc<Queue>);

/// The replies of one session, on the side that reads them.
pub(crate) struct Replies {
    id: SessionId,
    queue: Arc<Queue>,
    outboxes: Outboxes,
}

struct Queue {
    state: Mutex<State>,
    /// Wakes the reader.
    ready: Notify,
    /// Wakes those who wait for the end.
    ended: Notify,
    /// Bytes that wait for all readers.
    all: Arc<AtomicUsize>,
}

#[derive(Default)]
struct State {
    replies: VecDeque<Reply>,
    bytes: usize,
    closed: bool,
}

/// Why a reply cannot wait.
enum Refused {
    /// Nobody reads any more.
    Closed,
    /// Too much waits for this reader.
    Session,
    /// Too much waits for all readers.
    All,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the reply if it cannot wait, and why.
    fn push(&self, reply: Reply) -> Option<(Refused, Reply)> {
        let bytes = reply.bytes();
        let mut state = self.lock();
        if reply.is_repeated() {
            self.drop_repeated(&mut state);
        }
        let all = self.all.load(Ordering::Relaxed);
        let refused = match () {
            () if state.closed => Refused::Closed,
            () if state.bytes + bytes > SESSION_BYTES => Refused::Session,
            () if all + bytes > ALL_BYTES => Refused::All,
            () => {
                state.bytes += bytes;
                state.replies.push_back(reply);
                self.all.fetch_add(bytes, Ordering::Relaxed);
                drop(state);
                self.ready.notify_one();
                return None;
            }
        };
        Some((refused, reply))
    }

    /// Drops what is only told again: whoever is told something later needs it no more.
    fn drop_repeated(&self, state: &mut State) {
        state.replies.retain(|reply| !reply.is_repeated());
        let bytes = state.replies.iter().map(Reply::bytes).sum();
        self.all.fetch_sub(state.bytes - bytes, Ordering::Relaxed);
        state.bytes = bytes;
    }

    fn pop(&self) -> Result<Reply, bool> {
        let mut state = self.lock();
        let Some(reply) = state.replies.pop_front() else { return Err(state.closed) };
        let bytes = reply.bytes();
        state.bytes = state.bytes.saturating_sub(bytes);
        self.all.fetch_sub(bytes, Ordering::Relaxed);
        Ok(reply)
    }

    /// Nothing more is said than what waits, and `last`; once only.
    fn close(&self, last: Option<Reply>) {
        let state = self.lock();
        if !state.closed {
            self.end(state, last);
        }
    }

    /// Nothing more is said than `last`, in place of what waits.
    fn cut(&self, last: Option<Reply>) {
        let mut state = self.lock();
        self.all.fetch_sub(std::mem::take(&mut state.bytes), Ordering::Relaxed);
        state.replies = VecDeque::new();
        self.end(state, last);
    }

    fn end(&self, mut state: MutexGuard<'_, State>, last: Option<Reply>) {
        state.closed = true;
        if let Some(last) = last {
            let bytes = last.bytes();
            state.bytes += bytes;
            state.replies.push_back(last);
            self.all.fetch_add(bytes, Ordering::Relaxed);
        }
        drop(state);
        self.ready.notify_one();
        self.ended.notify_waiters();
    }
}

impl Outbox {
    /// Says `reply` too, if there is room for it.
    pub(super) fn offer(&self, reply: Reply) {
        let _full = self.0.push(reply);
    }

    /// Resolves when nothing more is said to the session.
    pub(super) async fn ended(&self) {
        let ended = self.0.ended.notified();
        tokio::pin!(ended);
        ended.as_mut().enable();
        if !self.is_closed() {
            ended.await;
        }
    }

    fn is_closed(&self) -> bool {
        self.0.lock().closed
    }

    fn bytes(&self) -> usize {
        self.0.lock().bytes
    }
}

impl Replies {
    /// The next reply; `None` after the last. Nothing is lost if this is dropped while it waits.
    pub(crate) async fn next(&mut self) -> Option<Reply> {
        loop {
            match self.queue.pop() {
                Ok(reply) => return Some(reply),
                Err(true) => return None,
                Err(false) => self.queue.ready.notified().await,
            }
        }
    }

    /// All of them.
    pub(crate) fn into_stream(self) -> impl Stream<Item = Reply> + Send {
        futures_util::stream::unfold(self, |mut replies| async move { Some((replies.next().await?, replies)) })
    }
}

impl Drop for Replies {
    fn drop(&mut self) {
        self.outboxes.lock().all.remove(&self.id);
        self.queue.cut(None);
    }
}

/// The outboxes of all sessions; clones share them.
#[derive(Clone, Default)]
pub(super) struct Outboxes {
    known: Arc<Mutex<Known>>,
    bytes: Arc<AtomicUsize>,
}

#[derive(Default)]
struct Known {
    /// Those that somebody may still read, closed ones among them.
    all: HashMap<SessionId, Outbox>,
    /// What everybody is told, once nothing else is said to anybody.
    farewell: Option<Reply>,
}

impl Outboxes {
    /// An outbox for a session that was opened.
    pub(super) fn open(&self, id: SessionId) -> (Outbox, Replies) {
        let queue = Arc::new(Queue {
            state: Mutex::default(),
            ready: Notify::new(),
            ended: Notify::new(),
            all: Arc::clone(&self.bytes),
        });
        let outbox = Outbox(Arc::clone(&queue));
        let mut known = self.lock();
        if let Some(farewell) = &known.farewell {
            queue.close(Some(farewell.clone()));
        }
        known.all.insert(id, outbox.clone());
        (outbox, Replies { id, queue, outboxes: self.clone() })
    }

    /// Says `reply` to a session. The error is the session that is to be closed: this one if it reads no more, or too slowly;
    /// whoever has most to read, if all together have too much.
    pub(super) fn deliver(&self, id: SessionId, reply: Reply) -> Result<(), SessionId> {
        let known = self.lock();
        let outbox = known.all.get(&id).ok_or(id)?;
        let Some((refused, reply)) = outbox.0.push(reply) else { return Ok(()) };
        match refused {
            Refused::Closed => Err(id),
            Refused::Session => {
                let bytes = outbox.bytes();
                outbox.0.cut(Some(unread(bytes)));
                Err(id)
            }
            Refused::All => {
                let fullest = known.all.iter().max_by_key(|(_, outbox)| outbox.bytes());
                let (closed, fullest) = fullest.map_or((id, outbox), |(&id, outbox)| (id, outbox));
                let bytes = fullest.bytes();
                fullest.0.cut(Some(unread(bytes)));
                outbox.offer(reply);
                Err(closed)
            }
        }
    }

    /// Ends a session's replies, with `last` if there is something to say.
    pub(super) fn close(&self, id: SessionId, last: Option<Reply>) {
        if let Some(outbox) = self.lock().all.get(&id) {
            outbox.0.close(last);
        }
    }

    /// Ends the replies of all sessions, of those too that are opened later.
    pub(super) fn end_all(&self, reason: &str) {
        let mut known = self.lock();
        if known.farewell.is_some() {
            return;
        }
        let farewell = Reply::Closing(reason.to_owned());
        known.all.values().for_each(|outbox| outbox.0.close(Some(farewell.clone())));
        known.farewell = Some(farewell);
    }

    /// Whether nothing is said to anybody any more.
    pub(super) fn have_ended(&self) -> bool {
        self.lock().farewell.is_some()
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]

    use sled_core::message::{Commit, Load};
    use sled_core::sampler::Logprobs;
    use sled_core::sequence::Digest;

    use super::*;

    fn commit(tokens: usize) -> Reply {
        Reply::Commit(Commit {
            turn: 1,
            from: 0,
            accepted: 0,
            tokens: vec![7; tokens],
            digest: Digest::EMPTY,
            rows: 1,
            unasked: false,
            logprobs: vec![Logprobs { chosen: -1.0, top: vec![(7, -1.0); 20] }; tokens],
            load: Load::default(),
        })
    }

    #[tokio::test]
    async fn of_what_is_told_again_the_newest_waits_and_nothing_else_is_dropped() {
        let outboxes = Outboxes::default();
        let (outbox, mut replies) = outboxes.open(SessionId(1));
        let again = |tokens| {
            let Reply::Commit(told) = commit(tokens) else { panic!() };
            Reply::Commit(Commit { rows: 0, ..told })
        };
        for reply in [again(1), commit(2), again(3), Reply::Pending { turn: 1 }, again(4)] {
            outboxes.deliver(SessionId(1), reply).unwrap();
        }
        let waiting = [commit(2), Reply::Pending { turn: 1 }, again(4)];
        assert_eq!(outbox.bytes(), waiting.iter().map(Reply::bytes).sum::<usize>());
        for reply in waiting {
            assert_eq!(replies.next().await, Some(reply));
        }
        assert_eq!((outbox.bytes(), outboxes.bytes.load(Ordering::Relaxed)), (0, 0));
    }

    fn fill(outboxes: &Outboxes, id: SessionId, until: usize) {
        let before = outboxes.bytes.load(Ordering::Relaxed);
        while outboxes.bytes.load(Ordering::Relaxed) + commit(100).bytes() <= before + until {
            outboxes.deliver(id, commit(100)).unwrap();
        }
    }

    #[tokio::test]
    async fn replies_come_out_as_they_went_in_and_weigh_nothing_afterwards() {
        let outboxes = Outboxes::default();
        let (_, mut replies) = outboxes.open(SessionId(0));
        for tokens in 0..10 {
            outboxes.deliver(SessionId(0), commit(tokens)).unwrap();
        }
        outboxes.close(SessionId(0), None);
        for tokens in 0..10 {
            assert_eq!(replies.next().await, Some(commit(tokens)));
        }
        assert_eq!(replies.next().await, None);
        assert_eq!(outboxes.bytes.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn whoever_reads_nothing_is_closed_at_a_mebibyte_and_told_why() {
        let outboxes = Outboxes::default();
        let (slow, mut replies) = outboxes.open(SessionId(0));
        let (_, mut others) = outboxes.open(SessionId(1));
        fill(&outboxes, SessionId(0), SESSION_BYTES);
        assert_eq!(outboxes.deliver(SessionId(0), commit(100)), Err(SessionId(0)));
        slow.ended().await;
        let Some(Reply::Closing(reason)) = replies.next().await else { panic!("no last word") };
        assert!(reason.contains("KiB of replies waited to be read") && reason.contains("; "), "{reason}");
        assert_eq!(replies.next().await, None);
        outboxes.deliver(SessionId(1), commit(1)).unwrap();
        assert_eq!(others.next().await, Some(commit(1)));
        assert_eq!(outboxes.bytes.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn where_all_have_too_much_to_read_whoever_has_most_is_closed() {
        let outboxes = Outboxes::default();
        let mut readers: Vec<_> = (0..80).map(|id| outboxes.open(SessionId(id)).1).collect();
        fill(&outboxes, SessionId(3), SESSION_BYTES);
        let mut closed = None;
        'full: for id in (0..80).filter(|&id| id != 3) {
            for _ in 0..(SESSION_BYTES / commit(100).bytes() - 1) {
                if let Err(id) = outboxes.deliver(SessionId(id), commit(100)) {
                    closed = Some(id);
                    break 'full;
                }
            }
        }
        assert_eq!(closed, Some(SessionId(3)));
        assert!(matches!(readers[3].next().await, Some(Reply::Closing(_))));
        assert_eq!(readers[0].next().await, Some(commit(100)));
        drop(readers);
        assert_eq!(outboxes.bytes.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn after_the_farewell_nobody_is_told_anything_else() {
        let outboxes = Outboxes::default();
        let (_, mut before) = outboxes.open(SessionId(0));
        outboxes.deliver(SessionId(0), commit(1)).unwrap();
        assert_eq!(before.next().await, Some(commit(1)));
        outboxes.end_all("goodbye");
        outboxes.end_all("again");
        let (late, mut after) = outboxes.open(SessionId(1));
        late.ended().await;
        for replies in [&mut before, &mut after] {
            assert_eq!(replies.next().await, Some(Reply::Closing("goodbye".to_owned())));
            assert_eq!(replies.next().await, None);
        }
    }
}
