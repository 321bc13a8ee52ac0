//! An open stream to a server.

use std::time::Duration;

use futures_util::FutureExt;
use sled_core::message::{Reply, Request};
use sled_core::names::PlainText;
use sled_wire::{Bounds, FromServer, Open, pb};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::error::reason_of;
use crate::remedy::{Phase, Remedy};
use crate::{Counters, Error, RemoteServer};

/// Messages that may wait for the network. More are dropped: a connection that takes so few is dead, which the device's
/// timer finds out, and what was dropped is sent again.
const REQUEST_QUEUE: usize = 64;

/// How long a server may take to open a session: it does so between two passes of its engine.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// An open session on a server, which frees it when this is dropped.
pub(crate) struct Connection {
    requests: mpsc::Sender<pb::DeviceMessage>,
    replies: Streaming<pb::ServerMessage>,
    counters: Counters,
    pub(crate) bounds: Bounds,
}

/// What came from the server.
pub(crate) enum Incoming {
    Reply(Reply),
    /// The stream ended, for this reason; the session may go on over another.
    Ended(PlainText),
    /// The stream ended: the server is busy, and asks to be left alone for so long.
    Busy(PlainText, Duration),
}

impl Connection {
    /// Opens a session on `remote`; what its messages weigh is added to `counters`.
    ///
    /// # Errors
    /// If the server refuses, or does not open it in time.
    pub(crate) async fn open(remote: &RemoteServer, open: Open, counters: &Counters) -> Result<Self, Error> {
        let silent = |_elapsed| Error::Unreachable {
            url: remote.address().to_owned(),
            reason: "it does not open a session".into(),
        };
        tokio::time::timeout(OPEN_TIMEOUT, Self::try_open(remote, open, counters)).await.map_err(silent)?
    }

    async fn try_open(remote: &RemoteServer, open: Open, counters: &Counters) -> Result<Self, Error> {
        let mut bounds = remote.description().bounds;
        let (requests, outbox) = mpsc::channel(REQUEST_QUEUE);
        let closed = || Error::Broken("it was closed before the session was open".into());
        requests.send(sled_wire::encode_open(open)).await.map_err(|_closed| closed())?;
        let mut replies = remote.client.clone().session(ReceiverStream::new(outbox)).await?.into_inner();
        let first = replies.message().await?.ok_or_else(closed)?;
        let FromServer::Opened(opened) = sled_wire::decode_server(first, &bounds)? else {
            return Err(Error::Broken("it answers before the session is open".into()));
        };
        bounds.context = opened.context.min(bounds.context);
        bounds.max_draft = opened.max_draft.min(bounds.max_draft);
        Ok(Self { requests, replies, counters: counters.clone(), bounds })
    }

    pub(crate) fn send(&self, request: Request) {
        let message = sled_wire::encode_request(request);
        let bytes = sled_wire::wire_bytes(&message);
        // If the stream has ended, the reason is what comes in next.
        if self.requests.try_send(message).is_ok() {
            self.counters.bytes_sent.inc_by(bytes);
        }
    }

    /// Why the stream has ended, if it has while nobody listened. Replies that came before are dropped: they are of an answer
    /// that is complete.
    pub(crate) fn ended(&mut self) -> Option<PlainText> {
        loop {
            match self.receive().now_or_never()? {
                Incoming::Ended(reason) | Incoming::Busy(reason, _) => return Some(reason),
                Incoming::Reply(_) => {}
            }
        }
    }

    /// The next message from the server. What cannot be is an end: another server may make sense.
    pub(crate) async fn receive(&mut self) -> Incoming {
        let message = match self.replies.message().await {
            Ok(Some(message)) => message,
            Ok(None) => return Incoming::Ended("it closed the connection".into()),
            Err(status) => return ending(&status),
        };
        self.counters.bytes_received.inc_by(sled_wire::wire_bytes(&message));
        match sled_wire::decode_server(message, &self.bounds) {
            Ok(FromServer::Reply(reply)) => Incoming::Reply(reply),
            Ok(FromServer::Opened(_)) => Incoming::Ended("it opened the session twice".into()),
            Err(error) => Incoming::Ended(error.to_string().into()),
        }
    }
}

/// What a status means that ends an open session: whether another server could do better.
fn ending(status: &Status) -> Incoming {
    let reason = reason_of(status);
    match Remedy::of(status, Phase::Open) {
        Remedy::End => Incoming::Reply(Reply::Failed(reason.into())),
        Remedy::Elsewhere | Remedy::Reconnect => Incoming::Ended(reason),
        Remedy::Later(after) => Incoming::Busy(reason, after),
    }
}
