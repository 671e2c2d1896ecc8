//! A stream into a file that counts what it writes.

use std::fs::File;
use std::sync::Arc;

use bytes::Bytes;
use wasmtime_wasi::p2::{DynOutputStream, OutputStream, Pollable, StreamError, StreamResult};

use super::quota::{Quota, cost};

/// wasmtime-wasi's stream, behind a quota.
pub(super) struct Counted {
    pub stream: DynOutputStream,
    pub file: Arc<File>,
    /// Where the next byte goes; `None` for the end.
    pub at: Option<u64>,
    pub quota: Quota,
    /// Whether it was refused a write, which ends it, as any error does.
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
        if self.over { Err(StreamError::Closed) } else { self.stream.check_write() }
    }

    async fn cancel(&mut self) {
        self.stream.cancel().await;
    }
}
