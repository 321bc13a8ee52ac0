//! A relay between devices and a server: it counts what travels, all bytes of the TCP streams with HTTP/2 framing included, and
//! can hold it up.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// A relay in front of a server.
pub struct Meter {
    address: SocketAddr,
    up: Arc<AtomicU64>,
    down: Arc<AtomicU64>,
}

impl Meter {
    /// Starts a relay to `server`; every byte arrives `delay` after it was sent, in each direction.
    pub async fn start(server: SocketAddr, delay: Duration) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await?;
        let meter = Self { address: listener.local_addr()?, up: Arc::default(), down: Arc::default() };
        let (up, down) = (Arc::clone(&meter.up), Arc::clone(&meter.down));
        tokio::spawn(async move {
            while let Ok((device, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(server).await else { return };
                let _unsupported = (device.set_nodelay(true), server.set_nodelay(true));
                let (from_device, to_device) = device.into_split();
                let (from_server, to_server) = server.into_split();
                relay(from_device, to_server, Arc::clone(&up), delay);
                relay(from_server, to_device, Arc::clone(&down), delay);
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

/// Passes on what comes `from`. Reading goes on while what was read waits: delay does not limit throughput.
fn relay(
    mut from: impl AsyncRead + Unpin + Send + 'static,
    mut to: impl AsyncWrite + Unpin + Send + 'static,
    count: Arc<AtomicU64>,
    delay: Duration,
) {
    let (line, mut waiting) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    tokio::spawn(async move {
        let mut bytes = vec![0; 16 << 10];
        while let Ok(len @ 1..) = from.read(&mut bytes).await {
            count.fetch_add(len as u64, Ordering::Relaxed);
            if line.send((Instant::now() + delay, bytes[..len].to_vec())).is_err() {
                return;
            }
        }
    });
    tokio::spawn(async move {
        while let Some((arrival, bytes)) = waiting.recv().await {
            tokio::time::sleep_until(arrival).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    });
}
