//! Flushes of files to their disk that threads of this process wait for.
//!
//! Linux sends a flush to the disk by a worker of its own, on the processor of who asks for it. Where a
//! thread keeps that processor busy, the worker comes to its turn late, now and then, however low that
//! thread's priority is: the kernel shares a processor first among groups (a session's processes, a
//! container's), and then among a group's threads. On 6.18 it was 4 to 8 ms. On a processor that is idle for a
//! moment it runs at once. So who computes for long looks here from time to time, and [rests](Flushes::rest).

use std::{
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    thread,
    time::Duration,
};

/// How long a rest is, at least: the kernel makes some 50 µs more of it.
const REST: Duration = Duration::from_micros(10);

/// Those of this process.
pub static FLUSHES: Flushes = Flushes(AtomicUsize::new(0));

/// How many are under way. Nothing else is told by it.
#[derive(Debug)]
pub struct Flushes(AtomicUsize);

/// One of them. Only the embedded broker and the embedded key-value store flush anything.
struct UnderWay<'a>(&'a Flushes);

impl Flushes {
    /// Flushes something, which takes as long as it takes.
    pub fn flush<T>(&self, flush: impl FnOnce() -> T) -> T {
        self.0.fetch_add(1, Relaxed);
        let _until_it_ends = UnderWay(self);
        flush()
    }

    /// Leaves this processor to others for a moment, if anything is being flushed.
    pub fn rest(&self) {
        if self.are_under_way() {
            thread::sleep(REST);
        }
    }

    fn are_under_way(&self) -> bool {
        self.0.load(Relaxed) > 0
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::panic::catch_unwind;

    use super::*;

    #[test]
    fn a_flush_is_under_way_until_it_ends_however_it_does() {
        static FLUSHES: Flushes = Flushes(AtomicUsize::new(0));
        assert!(!FLUSHES.are_under_way());
        let both = FLUSHES.flush(|| {
            FLUSHES.flush(|| ());
            FLUSHES.are_under_way()
        });
        assert!(both && !FLUSHES.are_under_way());
        let panicked = catch_unwind(|| FLUSHES.flush(|| std::panic::resume_unwind(Box::new(()))));
        assert!(panicked.is_err() && !FLUSHES.are_under_way());
    }
}
