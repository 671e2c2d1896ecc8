//! Telling of an attempt that is given up, in the span of its job.
//!
//! Whoever gives an attempt up (a lease that is lost, a worker that has to stop now, a bug in the
//! host) drops its future, and knows of no job. So it is the drop that tells.

use lovage_core::events::AttemptAbandoned;

/// Tells that an attempt was given up, unless it is told of its end first.
#[derive(Debug)]
pub struct AbortReport<'a> {
    queue: &'a str,
    ended: bool,
}

impl<'a> AbortReport<'a> {
    /// An attempt on a message of `queue` begins.
    pub fn new(queue: &'a str) -> Self {
        Self { queue, ended: false }
    }

    /// The attempt has ended.
    pub fn ended(mut self) {
        self.ended = true;
    }
}

impl Drop for AbortReport<'_> {
    fn drop(&mut self) {
        if !self.ended {
            AttemptAbandoned { queue: self.queue }.emit();
        }
    }
}
