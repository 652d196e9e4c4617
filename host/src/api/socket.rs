//! The socket of a connection: it holds the connection's place, and is cut when its client reads nothing. HTTP/2's own
//! pings notice a client that is gone, but not while a full socket holds up the ping.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_io_timeout::TimeoutStream;

use crate::connections::Place;

/// How long a client may read nothing, once all buffers between it and the server are full, before its connection is
/// cut. What a stream has not sent by then is behind its cursor.
pub(super) const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// A socket with its place.
pub(super) struct Socket<S> {
    // Closed before its place is free, since fields drop in order.
    stream: Pin<Box<TimeoutStream<S>>>,
    _place: Place,
}

impl<S: AsyncRead + AsyncWrite> Socket<S> {
    pub(super) fn new(stream: S, place: Place) -> Self {
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(WRITE_TIMEOUT));
        Self { stream: Box::pin(stream), _place: place }
    }
}

impl<S: AsyncRead + AsyncWrite> AsyncRead for Socket<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite> AsyncWrite for Socket<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.stream.as_mut().poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream.as_mut().poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::time::sleep;

    use super::*;
    use crate::connections::Connections;

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_nothing_is_cut_off() {
        let (mut client, server) = tokio::io::duplex(64);
        let place = Connections::new(1, 1).admit().await.unwrap();
        let sending = tokio::spawn(async move { Socket::new(server, place).write_all(&[7; 1024]).await });
        for _ in 0..3 {
            sleep(WRITE_TIMEOUT / 2).await;
            client.read_exact(&mut [0; 64]).await.unwrap();
        }
        assert!(!sending.is_finished(), "one that reads slowly is served");
        assert_eq!(sending.await.unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
