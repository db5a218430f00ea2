//! One socket with what was read from it and what is to be written to it. Bounded by those who fill it; never interprets a byte.

use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

/// Bytes asked for in one read: large enough that a bulk COPY needs few calls, small enough to keep 10,000 sessions cheap.
const READ_SIZE: usize = 32 * 1024;
/// Bytes waiting in one direction above which no more are read from the other side.
pub(super) const HIGH_WATER: usize = 256 * 1024;
/// A drained buffer keeps at most this capacity: one large row must not cost its memory for the session's life.
const KEEP_CAPACITY: usize = 256 * 1024;

/// A connected socket.
#[derive(Debug)]
pub(super) enum Stream {
    /// TCP, without delay.
    Tcp(TcpStream),
    /// A Unix socket.
    Unix(UnixStream),
}

impl Stream {
    /// Connects by TCP.
    pub(super) async fn tcp(host: &str, port: u16) -> io::Result<Self> {
        let stream = TcpStream::connect((host, port)).await?;
        stream.set_nodelay(true)?;
        Ok(Self::Tcp(stream))
    }

    /// Connects to a Unix socket.
    pub(super) async fn unix(path: &Path) -> io::Result<Self> {
        Ok(Self::Unix(UnixStream::connect(path).await?))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// A socket and its two buffers.
#[derive(Debug)]
pub(super) struct Link {
    stream: Stream,
    /// Read, not yet taken.
    pub(super) inbox: BytesMut,
    /// To be written.
    pub(super) outbox: BytesMut,
    /// The other end sends no more.
    pub(super) ended: bool,
}

impl Link {
    pub(super) fn new(stream: Stream) -> Self {
        Self {
            stream,
            inbox: BytesMut::new(),
            outbox: BytesMut::new(),
            ended: false,
        }
    }

    /// Reads once what is there; ready when bytes arrived or the other end has ended.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inbox.reserve(READ_SIZE);
        let read = match &mut self.stream {
            Stream::Tcp(stream) => pin!(stream.read_buf(&mut self.inbox)).poll(cx),
            Stream::Unix(stream) => pin!(stream.read_buf(&mut self.inbox)).poll(cx),
        };
        self.ended = ready!(read)? == 0;
        Poll::Ready(Ok(()))
    }

    /// Writes what is to be written; ready when nothing is left.
    pub(super) fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outbox.is_empty() {
            let written = ready!(self.stream.poll_write(cx, &self.outbox))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.outbox.advance(written);
        }
        if self.outbox.capacity() > KEEP_CAPACITY {
            self.outbox = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }

    /// Reads once. Cancel-safe.
    pub(super) async fn fill(&mut self) -> io::Result<()> {
        std::future::poll_fn(|cx| self.poll_fill(cx)).await
    }

    /// Writes everything. Cancel-safe: what is left stays to be written.
    pub(super) async fn drain(&mut self) -> io::Result<()> {
        std::future::poll_fn(|cx| self.poll_drain(cx)).await
    }

    /// Writes everything and says that no more comes.
    pub(super) async fn finish(&mut self) -> io::Result<()> {
        self.drain().await?;
        std::future::poll_fn(|cx| self.stream.poll_shutdown(cx)).await
    }
}
