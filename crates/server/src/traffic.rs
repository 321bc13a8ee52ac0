//! What travels between devices and the server: all bytes of the TCP streams, HTTP/2 framing included.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Bytes so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Traffic(Arc<[AtomicU64; 2]>);

impl Traffic {
    /// Counts what passes through `stream`.
    pub(crate) fn count(&self, stream: TcpStream) -> Counted {
        Counted { stream, traffic: self.clone() }
    }

    /// Bytes that came from devices.
    pub(crate) fn received(&self) -> u64 {
        self.0[0].load(Ordering::Relaxed)
    }

    /// Bytes that went to devices.
    pub(crate) fn sent(&self) -> u64 {
        self.0[1].load(Ordering::Relaxed)
    }

    fn on_written(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = written {
            self.0[1].fetch_add(bytes as u64, Ordering::Relaxed);
        }
        written
    }
}

/// A stream whose bytes are counted.
pub(crate) struct Counted {
    stream: TcpStream,
    traffic: Traffic,
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, into);
        self.traffic.0[0].fetch_add((into.filled().len() - before) as u64, Ordering::Relaxed);
        read
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.traffic.on_written(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.traffic.on_written(written)
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
