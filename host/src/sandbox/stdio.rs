//! Where a guest's standard output and error go: a short tail, kept for diagnosis, and the log
//! where the operator wants that.
//!
//! A guest may write gigabytes. All is taken at once, without ever making the guest wait or fail;
//! the last bytes are kept and all are counted.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

use super::guest_log::{GuestLog, Which};

/// Stands where the beginning of a tail was left out.
const LEFT_OUT: &str = "[what was before this is left out]\n";

/// The end of what a guest wrote to one stream.
#[derive(Debug, Default, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Tail {
    /// The last bytes.
    pub bytes: Vec<u8>,
    /// How many bytes were written in all.
    pub total: u64,
}

impl Tail {
    /// The tail as text: what is no UTF-8 is replaced, and all control characters but line feed
    /// and tab are escaped, so that a guest cannot paint over an operator's terminal. Says how
    /// much is missing in front.
    pub fn text(&self) -> String {
        if self.bytes.is_empty() {
            return String::new();
        }
        let text = crate::text::printable(&String::from_utf8_lossy(&self.bytes), usize::MAX);
        match self.total.saturating_sub(self.bytes.len() as u64) {
            0 => text,
            left_out => format!("[{left_out} bytes before this were not kept]\n{text}"),
        }
    }

    /// [`text`](Self::text), of which no more than the last `max` bytes are shown.
    pub(super) fn end(&self, max: usize) -> String {
        // An escape takes up to ten bytes in place of one; so what fits is found on the text.
        let text = self.text();
        if text.len() <= max {
            return text;
        }
        let start = text.ceil_char_boundary(text.len() - max.saturating_sub(LEFT_OUT.len()));
        format!("{LEFT_OUT}{}", text.get(start..).unwrap_or_default())
    }
}

/// One stream, shared by all the handles that a guest takes to it.
#[derive(Debug, Clone)]
pub(super) struct Stream {
    kept: Arc<Mutex<Kept>>,
    log: Option<(GuestLog, Which)>,
}

#[derive(Debug)]
struct Kept {
    // Empty, and so without an allocation, for the many guests that write nothing.
    last: VecDeque<u8>,
    total: u64,
    capacity: usize,
}

impl Stream {
    /// A stream of which the last `capacity` bytes are kept, and all goes to the log if there is
    /// one.
    pub(super) fn new(capacity: usize, log: Option<(GuestLog, Which)>) -> Self {
        let kept = Kept { last: VecDeque::new(), total: 0, capacity };
        Self { kept: Arc::new(Mutex::new(kept)), log }
    }

    /// Takes what was kept, and leaves nothing.
    pub(super) fn take(&self) -> Tail {
        let mut kept = self.lock();
        Tail { bytes: std::mem::take(&mut kept.last).into(), total: kept.total }
    }

    /// A copy of what was kept.
    pub(super) fn peek(&self) -> Tail {
        let kept = self.lock();
        Tail { bytes: kept.last.iter().copied().collect(), total: kept.total }
    }

    fn push(&self, bytes: &[u8]) {
        if let Some((log, which)) = &self.log {
            log.write(*which, bytes);
        }
        let mut kept = self.lock();
        kept.total = kept.total.saturating_add(bytes.len() as u64);
        let start = bytes.len().saturating_sub(kept.capacity);
        let bytes = bytes.get(start..).unwrap_or_default();
        let room = kept.capacity - bytes.len();
        let surplus = kept.last.len().saturating_sub(room);
        kept.last.drain(..surplus);
        kept.last.extend(bytes);
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        // Nothing in here panics half-way; and a tail that lacks a line is no reason to fail.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How much a guest of WASI 0.2 is told that it may write at once, which is also how much the
/// host allocates for it.
const CHUNK_BYTES: usize = 64 << 10;

impl IsTerminal for Stream {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Stream {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    // The default puts a task and a queue between the guest and `async_stream`.
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[async_trait::async_trait]
impl Pollable for Stream {
    async fn ready(&mut self) {}
}

impl OutputStream for Stream {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.push(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(CHUNK_BYTES)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.push(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_bytes_are_kept_and_all_are_counted() {
        let stream = Stream::new(4, None);
        stream.push(b"ab");
        stream.push(b"cde");
        let tail = stream.take();
        assert_eq!((tail.bytes.as_slice(), tail.total), (&b"bcde"[..], 5));
        assert_eq!(tail.text(), "[1 bytes before this were not kept]\nbcde");
        stream.push(b"0123456789");
        assert_eq!(stream.take().bytes, b"6789");
        assert_eq!(stream.take().bytes, b"");
    }

    #[test]
    fn a_stream_that_keeps_nothing_still_counts() {
        let stream = Stream::new(0, None);
        stream.push(b"abc");
        let tail = stream.take();
        assert_eq!((tail.bytes.len(), tail.total), (0, 3));
        assert_eq!(tail.text(), "");
    }

    #[test]
    fn a_flood_takes_no_more_memory_than_the_tail() {
        let stream = Stream::new(16 << 10, None);
        let chunk = vec![b'x'; 1 << 20];
        for _ in 0..64 {
            stream.push(&chunk);
        }
        assert!(stream.lock().last.capacity() <= 64 << 10);
        assert_eq!(stream.take().total, 64 << 20);
    }
}
