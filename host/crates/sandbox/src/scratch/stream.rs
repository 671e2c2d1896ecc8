//! Streams of files: what is written is counted, and what the host holds is charged.

use std::fs::File;
use std::sync::Arc;

use bytes::Bytes;
use wasmtime_wasi::p2::{
    DynInputStream, DynOutputStream, InputStream, OutputStream, Pollable, StreamError, StreamResult,
};

use super::quota::{OpenStream, Quota, cost};

/// What wasmtime-wasi reads at once, and so may hold for each stream.
pub(super) const READ_BYTES: u64 = 64 << 10;

/// wasmtime-wasi's stream of what is read.
pub(super) struct Read {
    pub stream: DynInputStream,
    pub _open: OpenStream,
}

#[async_trait::async_trait]
impl Pollable for Read {
    async fn ready(&mut self) {
        self.stream.ready().await;
    }
}

#[async_trait::async_trait]
impl InputStream for Read {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        self.stream.read(size)
    }

    async fn blocking_read(&mut self, size: usize) -> StreamResult<Bytes> {
        self.stream.blocking_read(size).await
    }

    fn skip(&mut self, size: usize) -> StreamResult<usize> {
        self.stream.skip(size)
    }

    async fn blocking_skip(&mut self, size: usize) -> StreamResult<usize> {
        self.stream.blocking_skip(size).await
    }

    async fn cancel(&mut self) {
        self.stream.cancel().await;
    }
}

/// wasmtime-wasi's stream, behind a quota.
pub(super) struct Counted {
    pub stream: DynOutputStream,
    pub file: Arc<File>,
    /// Where the next byte goes; `None` for the end.
    pub at: Option<u64>,
    pub quota: Quota,
    pub open: OpenStream,
    /// True if it was refused a write, which ends it, as any error does.
    pub over: bool,
}

impl Counted {
    fn count(&mut self, bytes: &Bytes) -> StreamResult<()> {
        if self.over {
            return Err(StreamError::Closed);
        }
        let bytes = bytes.len() as u64;
        let cost = self.at.map_or(bytes, |at| cost(&self.file, at, bytes));
        if let Err(refusal) = self.quota.write(cost) {
            self.over = true;
            return Err(StreamError::LastOperationFailed(refusal.into()));
        }
        self.at = self.at.map(|at| at.saturating_add(bytes));
        Ok(())
    }
}

#[async_trait::async_trait]
impl Pollable for Counted {
    async fn ready(&mut self) {
        self.stream.ready().await;
    }
}

#[async_trait::async_trait]
impl OutputStream for Counted {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        // It waits for a thread that writes it.
        if let Err(refusal) = self.open.holds(bytes.len() as u64) {
            self.over = true;
            return Err(StreamError::LastOperationFailed(refusal.into()));
        }
        self.count(&bytes)?;
        self.stream.write(bytes)
    }

    async fn blocking_write_and_flush(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.count(&bytes)?;
        self.stream.blocking_write_and_flush(bytes).await
    }

    fn flush(&mut self) -> StreamResult<()> {
        if self.over { Err(StreamError::Closed) } else { self.stream.flush() }
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        if self.over {
            return Err(StreamError::Closed);
        }
        let room = self.stream.check_write()?;
        if room > 0 {
            // What was to be written is.
            let _ = self.open.holds(0);
        }
        Ok(room)
    }

    async fn cancel(&mut self) {
        self.stream.cancel().await;
    }
}
