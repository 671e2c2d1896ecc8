//! Where a guest's standard output and error go: the first and the last lines, kept for diagnosis, and
//! the log where the operator wants that.
//!
//! A guest may write gigabytes. All is taken at once, without ever making the guest wait or fail;
//! the first and the last bytes are kept and all are counted. The first error is often the cause of all
//! that follow it.

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

/// Stands where the middle was left out.
const LEFT_OUT: &str = "\n[what was between is left out]\n";

/// The part of what is kept that the first bytes have.
const FIRST_PART: usize = 4;

/// The beginning and the end of what a guest wrote to one stream.
#[derive(Debug, Default, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Tail {
    /// The first bytes.
    pub first: Vec<u8>,
    /// The last bytes of those after the first.
    pub bytes: Vec<u8>,
    /// How many bytes were written in all.
    pub total: u64,
}

impl Tail {
    /// How many bytes were left out between the first and the last.
    fn left_out(&self) -> u64 {
        self.total.saturating_sub((self.first.len() + self.bytes.len()) as u64)
    }

    /// What was kept, with a line feed where bytes were left out.
    pub(super) fn kept(&self) -> Vec<u8> {
        let between: &[u8] = if self.left_out() > 0 { b"\n" } else { b"" };
        [&self.first, between, &self.bytes].concat()
    }

    /// What was kept as text: what is no UTF-8 is replaced, and all control characters but line feed
    /// and tab are escaped, so that a guest cannot paint over an operator's terminal. Says how
    /// much is missing, and where.
    pub fn text(&self) -> String {
        let printable = |bytes: &[u8]| {
            lovage_core::text::printable(&String::from_utf8_lossy(bytes), usize::MAX)
        };
        let first = match self.left_out() {
            0 => return printable(&self.kept()),
            _ if self.first.is_empty() && self.bytes.is_empty() => return String::new(),
            left_out => {
                let first = printable(&self.first);
                let newline = if first.is_empty() || first.ends_with('\n') { "" } else { "\n" };
                format!("{first}{newline}[{left_out} bytes before this were not kept]\n")
            }
        };
        first + &printable(&self.bytes)
    }

    /// [`text`](Self::text), of which no more than `max` bytes are shown: from its beginning, and more
    /// from its end.
    pub(super) fn ends(&self, max: usize) -> String {
        // An escape takes up to ten bytes in place of one; so what fits is found on the text.
        let text = self.text();
        if text.len() <= max {
            return text;
        }
        let room = max.saturating_sub(LEFT_OUT.len());
        let first = text.floor_char_boundary(room / FIRST_PART);
        // Whole lines, unless the first one has no end.
        let first = text.get(..first).unwrap_or_default();
        let first = first.rfind('\n').and_then(|end| first.get(..end)).unwrap_or(first);
        let start = text.ceil_char_boundary(text.len() - (room - first.len()));
        format!("{first}{LEFT_OUT}{}", text.get(start..).unwrap_or_default())
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
    first: Vec<u8>,
    last: VecDeque<u8>,
    total: u64,
    /// Of the first.
    first_capacity: usize,
    /// Of the last.
    capacity: usize,
}

impl Stream {
    /// A stream of which `capacity` bytes are kept, and all goes to the log if there is one.
    pub(super) fn new(capacity: usize, log: Option<(GuestLog, Which)>) -> Self {
        let first_capacity = capacity / FIRST_PART;
        let kept = Kept {
            first: Vec::new(),
            last: VecDeque::new(),
            total: 0,
            first_capacity,
            capacity: capacity - first_capacity,
        };
        Self { kept: Arc::new(Mutex::new(kept)), log }
    }

    /// Takes what was kept, and leaves nothing.
    pub(super) fn take(&self) -> Tail {
        let mut kept = self.lock();
        Tail {
            first: std::mem::take(&mut kept.first),
            bytes: std::mem::take(&mut kept.last).into(),
            total: kept.total,
        }
    }

    /// A copy of what was kept.
    pub(super) fn peek(&self) -> Tail {
        let kept = self.lock();
        Tail {
            first: kept.first.clone(),
            bytes: kept.last.iter().copied().collect(),
            total: kept.total,
        }
    }

    fn push(&self, bytes: &[u8]) {
        if let Some((log, which)) = &self.log {
            log.write(*which, bytes);
        }
        let mut kept = self.lock();
        kept.total = kept.total.saturating_add(bytes.len() as u64);
        let to_first = bytes.len().min(kept.first_capacity.saturating_sub(kept.first.len()));
        let (first, bytes) = bytes.split_at_checked(to_first).unwrap_or((&[], bytes));
        kept.first.extend_from_slice(first);
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
    fn the_first_and_the_last_bytes_are_kept_and_all_are_counted() {
        let stream = Stream::new(4, None);
        stream.push(b"ab");
        stream.push(b"cde");
        let tail = stream.peek();
        assert_eq!((tail.first.as_slice(), tail.bytes.as_slice()), (&b"a"[..], &b"cde"[..]));
        assert_eq!((tail.total, tail.left_out()), (5, 1));
        assert_eq!(tail.text(), "a\n[1 bytes before this were not kept]\ncde");
        assert_eq!(tail.kept(), b"a\ncde");
        assert_eq!(stream.take(), tail);
        let stream = Stream::new(4, None);
        stream.push(b"abcd");
        assert_eq!((stream.peek().text(), stream.take().kept()), ("abcd".into(), b"abcd".into()));
    }

    #[test]
    fn what_is_shown_has_the_first_lines_and_the_last() {
        let stream = Stream::new(16 << 10, None);
        stream.push(b"cause: the disk is full\n");
        for line in 0..10_000 {
            stream.push(format!("line {line}\n").as_bytes());
        }
        let shown = stream.take().ends(400);
        assert!(shown.len() <= 400, "{}", shown.len());
        assert!(shown.starts_with("cause: the disk is full\nline 0\n"), "{shown}");
        assert!(shown.contains(LEFT_OUT) && shown.ends_with("line 9998\nline 9999\n"), "{shown}");
    }

    #[test]
    fn a_stream_that_keeps_nothing_still_counts() {
        let stream = Stream::new(0, None);
        stream.push(b"abc");
        let tail = stream.take();
        assert_eq!((tail.first.len() + tail.bytes.len(), tail.total), (0, 3));
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
