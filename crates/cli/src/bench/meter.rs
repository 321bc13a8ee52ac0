//! Counts what travels between devices and a server: all bytes of the TCP streams, HTTP/2 framing included.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A relay in front of a server.
pub struct Meter {
    address: SocketAddr,
    up: Arc<AtomicU64>,
    down: Arc<AtomicU64>,
}

impl Meter {
    /// Starts a relay to `server`.
    pub async fn start(server: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await?;
        let meter = Self { address: listener.local_addr()?, up: Arc::default(), down: Arc::default() };
        let (up, down) = (Arc::clone(&meter.up), Arc::clone(&meter.down));
        tokio::spawn(async move {
            while let Ok((device, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(server).await else { return };
                let _unsupported = (device.set_nodelay(true), server.set_nodelay(true));
                let (from_device, to_device) = device.into_split();
                let (from_server, to_server) = server.into_split();
                tokio::spawn(relay(from_device, to_server, Arc::clone(&up)));
                tokio::spawn(relay(from_server, to_device, Arc::clone(&down)));
            }
        });
        Ok(meter)
    }

    /// Where devices reach the server through the relay.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Bytes so far, from devices and to them.
    pub fn bytes(&self) -> (u64, u64) {
        (self.up.load(Ordering::Relaxed), self.down.load(Ordering::Relaxed))
    }
}

async fn relay(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, count: Arc<AtomicU64>) {
    let mut bytes = vec![0; 16 << 10];
    while let Ok(len @ 1..) = from.read(&mut bytes).await {
        count.fetch_add(len as u64, Ordering::Relaxed);
        if to.write_all(&bytes[..len]).await.is_err() {
            return;
        }
    }
}
