//! Whether a connection is still of use to anybody: has it requests under way, and does its client read what it asked for?

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use axum::body::{Body, Bytes, HttpBody};
use http_body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::Limits;

/// What a connection has done of late.
#[derive(Clone)]
pub(super) struct Pulse(Arc<Mutex<State>>);

struct State {
    /// Requests under way.
    requests: usize,
    /// Whether there has been one.
    has_asked: bool,
    /// Since when there is none under way.
    quiet_since: Instant,
    /// The number of the next request.
    next: u64,
    /// The requests whose client has not taken the latest piece of their answer; so long since.
    unread: HashMap<u64, Instant>,
    /// Since when the system takes no byte, because the client reads none.
    blocked_since: Option<Instant>,
}

/// What is to become of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is in order; think again at this time.
    Wait(Instant),
    /// Nothing has been asked for too long: it may end.
    Rest,
    /// It has never asked anything, or does not read what it asked for: it must end.
    End,
}

impl Pulse {
    pub(super) fn start() -> Self {
        Self(Arc::new(Mutex::new(State {
            requests: 0,
            has_asked: false,
            quiet_since: Instant::now(),
            next: 0,
            unread: HashMap::new(),
            blocked_since: None,
        })))
    }

    /// A request comes in; it is under way until what is returned is dropped.
    pub(super) fn begin(&self) -> Underway {
        let mut state = self.state();
        state.requests += 1;
        state.has_asked = true;
        state.next += 1;
        Underway { id: state.next, pulse: self.clone() }
    }

    /// Whether no request is under way.
    pub(super) fn is_quiet(&self) -> bool {
        self.state().requests == 0
    }

    /// What is to become of the connection.
    pub(super) fn judge(&self, limits: &Limits, now: Instant) -> Verdict {
        let state = self.state();
        let stuck_since = state.unread.values().copied().chain(state.blocked_since).min();
        if let Some(since) = stuck_since {
            let until = since + limits.unread;
            return if until <= now { Verdict::End } else { Verdict::Wait(until) };
        }
        if state.requests > 0 {
            return Verdict::Wait(now + limits.unread);
        }
        let patience = if state.has_asked { limits.idle } else { limits.opening };
        match state.quiet_since + patience {
            until if until > now => Verdict::Wait(until),
            _ if state.has_asked => Verdict::Rest,
            _ => Verdict::End,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request under way, from its last header to the last byte of its answer.
pub(super) struct Underway {
    id: u64,
    pulse: Pulse,
}

impl Underway {
    /// Follows what is sent of `body`.
    pub(super) fn answered_with(self, body: Body) -> Answer {
        Answer { body, request: self }
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        let mut state = self.pulse.state();
        state.unread.remove(&self.id);
        state.requests -= 1;
        if state.requests == 0 {
            state.quiet_since = Instant::now();
        }
    }
}

/// The body of an answer. When its next piece is asked for, the one before has gone.
pub(super) struct Answer {
    body: Body,
    request: Underway,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.request.pulse.state().unread.remove(&self.request.id);
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if let Some(Ok(frame)) = &frame
            && frame.is_data()
        {
            self.request.pulse.state().unread.insert(self.request.id, Instant::now());
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A stream that tells when the system takes nothing to be sent.
pub(super) struct Watched<S> {
    stream: S,
    pulse: Pulse,
}

impl<S> Watched<S> {
    pub(super) fn new(stream: S, pulse: Pulse) -> Self {
        Self { stream, pulse }
    }

    fn on_written(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        let mut state = self.pulse.state();
        state.blocked_since = match written {
            Poll::Pending => state.blocked_since.or_else(|| Some(Instant::now())),
            Poll::Ready(_) => None,
        };
        written
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.on_written(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.on_written(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
