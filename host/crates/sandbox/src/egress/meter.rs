//! Counts what crosses a connection, and ends it where an attempt has had its share.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio::time::Instant;

use super::Attempt;
use super::connection::Current;
use super::fault::{Code, Fault};
use lovage_core::byte_size::ByteSize;

/// Bytes of all the requests and responses of an attempt.
#[derive(Debug)]
pub(super) struct Traffic {
    received: AtomicU64,
    sent: AtomicU64,
    /// Each way.
    allowed: u64,
}

impl Traffic {
    pub fn new(allowed: u64) -> Self {
        Self { received: AtomicU64::new(0), sent: AtomicU64::new(0), allowed }
    }

    /// What was received, and what was sent.
    pub fn bytes(&self) -> (u64, u64) {
        (self.received.load(Ordering::Relaxed), self.sent.load(Ordering::Relaxed))
    }

    #[cfg(test)]
    pub fn receive_for_test(&self, bytes: u64) {
        self.received.fetch_add(bytes, Ordering::Relaxed);
    }

    /// How much may still be sent.
    pub fn left_to_send(&self) -> u64 {
        self.allowed.saturating_sub(self.sent.load(Ordering::Relaxed))
    }
}

/// A share of what is left, for connections that run at the same time. What is not used is given
/// back when it is dropped.
struct Share<'a> {
    counter: &'a AtomicU64,
    bytes: usize,
}

impl<'a> Share<'a> {
    fn take(counter: &'a AtomicU64, allowed: u64, wanted: usize) -> Self {
        let mut bytes = 0;
        let _ = counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            let left = usize::try_from(allowed.saturating_sub(used)).unwrap_or(usize::MAX);
            bytes = wanted.min(left);
            Some(used.saturating_add(bytes as u64))
        });
        Self { counter, bytes }
    }

    fn used(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        self.counter.fetch_sub(self.bytes as u64, Ordering::Relaxed);
    }
}

/// A stream whose bytes are counted.
pub(super) struct Metered<S> {
    pub stream: S,
    pub attempt: Arc<Attempt>,
    /// The request that is being served, with its deadline.
    pub exchange: watch::Receiver<(Instant, Current)>,
}

impl<S> Metered<S> {
    fn end(&self, code: fn(u64) -> Code, what: &str) -> io::Error {
        let allowed = self.attempt.traffic.allowed;
        let why = format!(
            "the {what} of the attempt have more than {} together (`http_bytes` raises it)",
            ByteSize(allowed)
        );
        if let Some(exchange) = &self.exchange.borrow().1 {
            exchange.fail(Fault::new(code(allowed), why));
        }
        io::ErrorKind::QuotaExceeded.into()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let wanted = buffer.remaining();
        let traffic = &this.attempt.traffic;
        let mut share = Share::take(&traffic.received, traffic.allowed, wanted);
        if share.bytes == wanted {
            let before = buffer.filled().len();
            ready!(Pin::new(&mut this.stream).poll_read(cx, buffer))?;
            share.used(buffer.filled().len().saturating_sub(before));
            return Poll::Ready(Ok(()));
        }
        // Near the end. Where nothing is left, only one more byte tells a response that is too
        // large from one that has just ended.
        let mut few = [0; 1024];
        let room = share.bytes.clamp(1, few.len());
        let mut part = ReadBuf::new(few.get_mut(..room).unwrap_or_default());
        ready!(Pin::new(&mut this.stream).poll_read(cx, &mut part))?;
        let got = part.filled();
        if got.len() > share.bytes {
            drop(share);
            return Poll::Ready(Err(this.end(Code::ResponseSize, "responses")));
        }
        share.used(got.len());
        buffer.put_slice(got);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let traffic = &this.attempt.traffic;
        let mut share = Share::take(&traffic.sent, traffic.allowed, bytes.len());
        if share.bytes == 0 && !bytes.is_empty() {
            drop(share);
            return Poll::Ready(Err(this.end(Code::RequestSize, "requests")));
        }
        let part = bytes.get(..share.bytes).unwrap_or_default();
        let written = ready!(Pin::new(&mut this.stream).poll_write(cx, part))?;
        share.used(written);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
