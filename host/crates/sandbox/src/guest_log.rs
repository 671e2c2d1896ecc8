//! What guests write to standard output and standard error, line by line in the host's log.
//!
//! The text is a stranger's: control characters are escaped, so that no line can pass for another
//! one, lines are cut, and an attempt has only so much room. It stands in a field of its own
//! beside a fixed message, so that nothing in it looks like one of the host's events.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::limits::Limits;
use lovage_core::text::one_line;

/// The target of these lines, for filters such as `info,lovage::guest=off`.
const TARGET: &str = "lovage::guest";

/// The longest line, in bytes; the rest of a longer one is left out.
const LINE_BYTES: usize = 1024;

/// Where a guest writes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    Stdout,
    Stderr,
}

/// The log of one attempt. Clones are the same; the last one ends it.
#[derive(Debug, Clone)]
pub(super) struct GuestLog(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    /// What is left of the limits.
    lines: u64,
    bytes: u64,
    /// Lines that were begun.
    stdout: Line,
    stderr: Line,
    dropped_lines: u64,
    dropped_bytes: u64,
}

#[derive(Debug, Default)]
struct Line {
    kept: Vec<u8>,
    /// Bytes that came after those that are kept.
    cut: u64,
}

/// Takes lines in place of the log of this process.
type Forward = Box<dyn Fn(bool, &str, Option<u64>) + Send + Sync>;

/// Where lines go that this process does not log itself.
static FORWARD: OnceLock<Forward> = OnceLock::new();

/// From now on gives each line that a guest writes to `forward`: whether it is of standard error, the
/// line and how many bytes were cut off it. For a process that has no log of its own.
#[cfg(feature = "isolation")]
pub fn forward_guest_lines(forward: Forward) {
    let _ = FORWARD.set(forward);
}

/// Logs one line that a guest wrote.
pub fn log_guest_line(stderr: bool, line: &str, cut: Option<u64>) {
    if let Some(forward) = FORWARD.get() {
        return forward(stderr, line, cut);
    }
    if stderr {
        tracing::warn!(target: TARGET, stream = "stderr", line, cut_bytes = cut, "guest wrote");
    } else {
        tracing::info!(target: TARGET, stream = "stdout", line, cut_bytes = cut, "guest wrote");
    }
}

impl GuestLog {
    pub(super) fn new(limits: &Limits) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            lines: limits.log_lines,
            bytes: limits.log_bytes,
            stdout: Line::default(),
            stderr: Line::default(),
            dropped_lines: 0,
            dropped_bytes: 0,
        })))
    }

    /// Takes bytes as the guest wrote them.
    pub(super) fn write(&self, which: Which, bytes: &[u8]) {
        let mut lines = self.lock();
        let mut parts = bytes.split(|byte| *byte == b'\n');
        let Some(mut part) = parts.next() else { return };
        for next in parts {
            lines.add(which, part);
            lines.end(which);
            part = next;
        }
        lines.add(which, part);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A log that lacks a line is no reason to fail.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn line(&mut self, which: Which) -> &mut Line {
        match which {
            Which::Stdout => &mut self.stdout,
            Which::Stderr => &mut self.stderr,
        }
    }

    fn add(&mut self, which: Which, bytes: &[u8]) {
        let line = self.line(which);
        let room = LINE_BYTES.saturating_sub(line.kept.len()).min(bytes.len());
        let (kept, cut) = bytes.split_at_checked(room).unwrap_or((bytes, &[]));
        line.kept.extend_from_slice(kept);
        line.cut = line.cut.saturating_add(cut.len() as u64);
    }

    /// A line is whole, and is told if there is room for it.
    fn end(&mut self, which: Which) {
        let Line { kept, cut } = std::mem::take(self.line(which));
        let text = String::from_utf8_lossy(&kept);
        let text = text.strip_suffix('\r').unwrap_or(&text);
        let text = one_line(text, LINE_BYTES);
        let size = text.len() as u64;
        if self.lines == 0 || self.bytes < size {
            // After the first that has no room none is told: what is left out is one piece.
            self.lines = 0;
            self.dropped_lines = self.dropped_lines.saturating_add(1);
            self.dropped_bytes =
                self.dropped_bytes.saturating_add(kept.len() as u64).saturating_add(cut);
            return;
        }
        self.lines -= 1;
        self.bytes -= size;
        let cut = (cut > 0).then_some(cut);
        log_guest_line(which == Which::Stderr, text.as_str(), cut);
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        for which in [Which::Stdout, Which::Stderr] {
            let line = self.line(which);
            if !line.kept.is_empty() || line.cut > 0 {
                self.end(which);
            }
        }
        if self.dropped_lines > 0 {
            tracing::warn!(
                target: TARGET,
                dropped_lines = self.dropped_lines,
                dropped_bytes = self.dropped_bytes,
                "guest wrote more than is logged (`log_lines` and `log_bytes` raise it)"
            );
        }
    }
}
