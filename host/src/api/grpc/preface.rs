//! Watches a connection for its client's preface: 24 fixed bytes and a SETTINGS frame (RFC 9113, section 3.4). A client that
//! has sent them answers pings; one that has not may hold its connection for ever, since nothing is asked of it yet.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;

/// Bytes of the preface before the SETTINGS frame.
const MAGIC_BYTES: usize = 24;

/// Bytes of a frame's head, of which the first three are the length of the rest.
const FRAME_HEAD_BYTES: usize = 9;

/// A connection that says when its preface has come.
pub(super) struct Preface<S> {
    stream: S,
    progress: Progress,
    greeted: Option<oneshot::Sender<()>>,
}

/// How much of the preface has come.
#[derive(Debug, Default)]
struct Progress {
    bytes: usize,
    /// Bytes of the SETTINGS frame behind its head.
    settings_bytes: usize,
}

impl Progress {
    /// Takes what was read; true once it was all of the preface.
    fn take(&mut self, read: &[u8]) -> bool {
        for byte in read {
            if (MAGIC_BYTES..MAGIC_BYTES + 3).contains(&self.bytes) {
                self.settings_bytes = self.settings_bytes << 8 | usize::from(*byte);
            }
            self.bytes += 1;
            if self.bytes >= MAGIC_BYTES + FRAME_HEAD_BYTES + self.settings_bytes {
                return true;
            }
        }
        false
    }
}

impl<S> Preface<S> {
    /// The connection, and what becomes ready once its preface has come, or it is gone.
    pub(super) fn new(stream: S) -> (Self, oneshot::Receiver<()>) {
        let (greeted, is_greeted) = oneshot::channel();
        (Self { stream, progress: Progress::default(), greeted: Some(greeted) }, is_greeted)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Preface<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        if self.greeted.is_some()
            && self.progress.take(&buf.filled()[before..])
            && let Some(greeted) = self.greeted.take()
        {
            // Fails if it is no longer waited for.
            let _ = greeted.send(());
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Preface<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAGIC: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

    /// The head of a SETTINGS frame with so many bytes behind it.
    fn head(bytes: u32) -> [u8; FRAME_HEAD_BYTES] {
        let [_, a, b, c] = bytes.to_be_bytes();
        [a, b, c, 4, 0, 0, 0, 0, 0]
    }

    #[track_caller]
    fn check(sent: &[u8], chunk: usize, expect: bool) {
        let mut progress = Progress::default();
        let all = sent.chunks(chunk).any(|read| progress.take(read));
        assert_eq!(all, expect, "{} bytes, {chunk} at a time", sent.len());
    }

    #[test]
    fn a_preface_has_come_with_the_last_byte_of_its_settings() {
        let empty = [MAGIC, &head(0)].concat();
        let full = [MAGIC, &head(300), &[7; 300]].concat();
        for chunk in [1, 2, 24, 25, 33, 1_000] {
            for sent in [&empty, &full] {
                check(sent, chunk, true);
                check(&sent[..sent.len() - 1], chunk, false);
            }
            check(&[&full[..], b"more"].concat(), chunk, true);
            check(b"", chunk, false);
        }
    }
}
