//! An open stream to a server.

use futures_util::FutureExt;
use sled_core::message::{Reply, Request};
use sled_wire::{Bounds, FromServer, Open, pb};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::error::brief;
use crate::{Counters, Error, Link};

/// Messages that may wait for the network. More are dropped: a connection that takes so few is dead, which the device's
/// timer finds out, and what was dropped is sent again.
const REQUEST_QUEUE: usize = 64;

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
    Ended(String),
}

impl Connection {
    /// Opens a session over `link`; what its messages weigh is added to `counters`.
    pub(crate) async fn open(link: &Link, open: Open, counters: &Counters) -> Result<Self, Error> {
        let mut bounds = link.description().bounds;
        let (requests, outbox) = mpsc::channel(REQUEST_QUEUE);
        let closed = || Error::Broken("it was closed before the session was open".to_owned());
        requests.send(sled_wire::encode_open(open)).await.map_err(|_closed| closed())?;
        let mut replies = link.client.clone().session(ReceiverStream::new(outbox)).await?.into_inner();
        let first = replies.message().await?.ok_or_else(closed)?;
        if let FromServer::Opened(opened) = sled_wire::decode_server(first, &bounds)? {
            bounds.context = opened.context.min(bounds.context);
            bounds.max_draft = opened.max_draft.min(bounds.max_draft);
        }
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
    pub(crate) fn ended(&mut self) -> Option<String> {
        loop {
            match self.receive().now_or_never()? {
                Ok(Incoming::Reply(Reply::Failed(reason) | Reply::Closing(reason)) | Incoming::Ended(reason)) => {
                    return Some(reason);
                }
                Ok(Incoming::Reply(_)) => {}
                Err(error) => return Some(error.in_brief()),
            }
        }
    }

    /// The next message from the server.
    ///
    /// # Errors
    /// If it cannot be.
    pub(crate) async fn receive(&mut self) -> Result<Incoming, Error> {
        loop {
            match self.replies.message().await {
                Ok(Some(message)) => {
                    self.counters.bytes_received.inc_by(sled_wire::wire_bytes(&message));
                    if let FromServer::Reply(reply) = sled_wire::decode_server(message, &self.bounds)? {
                        return Ok(Incoming::Reply(reply));
                    }
                }
                Ok(None) => return Ok(Incoming::Ended("it closed the connection".to_owned())),
                Err(status) => return Ok(ending(&status)),
            }
        }
    }
}

/// What a status means that ends an open session: whether another server could do better.
fn ending(status: &Status) -> Incoming {
    match status.code() {
        Code::FailedPrecondition | Code::InvalidArgument | Code::OutOfRange => {
            Incoming::Reply(Reply::Failed(status.message().to_owned()))
        }
        _ if std::error::Error::source(status).is_some() => Incoming::Ended(brief(status)),
        _ => Incoming::Ended(status.message().to_owned()),
    }
}
