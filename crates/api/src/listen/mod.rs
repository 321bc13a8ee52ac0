//! Ports: who is let in, how long a connection may say, read or take nothing, and how a port is closed.
//!
//! A [`Port`] serves a router over HTTP/1.1, or over HTTP/2 for gRPC. Strangers may connect, so that whatever a connection holds is
//! bounded: how many there are ([`Gate`]), what their headers weigh, and how long they may go on without a request, or without
//! reading what they asked for.
//!
//! | file | what it decides |
//! |---|---|
//! | `gate.rs` | how many are inside at once, over all and of one client |
//! | `connection.rs` | one connection, from its first byte to its last |
//! | `pulse.rs` | whether a connection is still of use to anybody |

mod connection;
mod gate;
mod pulse;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use connection::Terms;
pub use gate::{Gate, Pass};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use crate::backend::Client;

/// How long nobody is let in after the system had no descriptor or memory for a connection.
const EXHAUSTED: Duration = Duration::from_millis(100);

/// How long the system must have had enough of both before the log is told again that it has not.
const RECOVERED: Duration = Duration::from_secs(60);

/// What whoever finds no place at an HTTP/1.1 port is told.
const FULL: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\n\
                    connection: close\r\ncontent-length: 135\r\n\r\n\
                    {\"error\":{\"message\":\"too many connections are open; try again later\",\
                    \"type\":\"server_error\",\"param\":null,\"code\":\"too_many_connections\"}}";

/// What a port allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most connections at once.
    pub connections: usize,
    /// The most of them from one address; of IPv6, from one network of 64 bits.
    pub per_client: usize,
    /// How long a connection may take to its first request, all headers of it included.
    pub opening: Duration,
    /// How long a connection may go on without a request under way.
    pub idle: Duration,
    /// How long whoever asked for something may read nothing of what is there.
    pub unread: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 2048,
            per_client: 256,
            opening: Duration::from_secs(10),
            idle: Duration::from_secs(120),
            unread: Duration::from_secs(60),
        }
    }
}

/// What is spoken at a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 without TLS, as gRPC has it.
    Http2,
}

/// A port that is served, until it is closed or dropped. Each request that it hands to its router has a [`Client`] among its
/// extensions.
#[derive(Debug)]
pub struct Port {
    stop: watch::Sender<()>,
    serving: JoinHandle<()>,
}

impl Port {
    /// Serves `router` to whoever connects to `listener`; `wrap` is given each stream first.
    pub fn serve<S>(
        listener: TcpListener,
        router: Router,
        protocol: Protocol,
        limits: Limits,
        wrap: impl Fn(TcpStream) -> S + Send + 'static,
    ) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (stop, stopped) = watch::channel(());
        let terms = Terms { router, protocol, limits, stop: stopped };
        Self { stop, serving: tokio::spawn(accept(listener, terms, wrap)) }
    }

    /// Lets nobody in any more, lets requests under way be answered, and cuts off what is left after `patience`.
    pub async fn close(mut self, patience: Duration) {
        let _ended = self.stop.send(());
        let _cut_off = tokio::time::timeout(patience, &mut self.serving).await;
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Lets clients in until it is told to stop, and returns when all have left.
async fn accept<S>(listener: TcpListener, mut terms: Terms, wrap: impl Fn(TcpStream) -> S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let gate = Arc::new(Gate::new(terms.limits.connections, terms.limits.per_client));
    // Connections end with the port: when it is dropped, so is this.
    let mut connections = JoinSet::new();
    let mut exhausted: Option<Instant> = None;
    loop {
        let accepted = tokio::select! {
            _stop = terms.stop.changed() => break,
            Some(_ended) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, address)) => match gate.enter(address.ip()) {
                Some(pass) => {
                    // A verdict is not to wait for the acknowledgement of the one before.
                    let _unsupported = stream.set_nodelay(true);
                    let client = Client::connected_from(address);
                    let (stream, terms) = (wrap(stream), terms.clone());
                    connections.spawn(async move {
                        connection::serve(stream, client, terms).await;
                        drop(pass);
                    });
                }
                None => turn_away(&stream, terms.protocol),
            },
            Err(error) if concerns_the_client(&error) => {}
            Err(error) => {
                // Whoever leaves makes room for one, and then there is none again: that is no news.
                if exhausted.is_none_or(|latest| latest.elapsed() > RECOVERED) {
                    tracing::warn!(%error, "nobody can be let in for a moment; raise the limit of open files");
                }
                exhausted = Some(Instant::now());
                tokio::time::sleep(EXHAUSTED).await;
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Whether it was the client that went away while it was being let in.
fn concerns_the_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// Tells whoever finds no place why, as far as that can be done without waiting, and hangs up.
fn turn_away(stream: &TcpStream, protocol: Protocol) {
    tracing::debug!("a connection was turned away: there are too many");
    if protocol == Protocol::Http1 {
        // What was not read when a socket is closed makes the system forget what was written.
        let _nothing = stream.try_read(&mut [0; 4096]);
        let _full = stream.try_write(FULL.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_answer_to_one_too_many_is_as_long_as_it_says() {
        let (head, body) = FULL.split_once("\r\n\r\n").unwrap();
        assert!(head.ends_with(&format!("content-length: {}", body.len())), "{}", body.len());
        assert!(serde_json::from_str::<serde_json::Value>(body).is_ok());
    }
}
