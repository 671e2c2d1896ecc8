//! How often a guest calls the host, and its end when that is too often.
//!
//! wasmtime's hook for calls does not see those of components. So they are counted where each of
//! them passes: the functions by which what is linked reaches a store's data.

use wasmtime::Engine;

use super::limits::{Limit, Refusal};

/// The calls of one attempt.
#[derive(Debug)]
pub(super) struct HostCalls {
    made: u64,
    allowed: u64,
    engine: Engine,
    /// Why the guest is to end, though its calls are not too many.
    stopped: Option<Refusal>,
}

impl HostCalls {
    pub(super) fn new(allowed: u64, engine: &Engine) -> Self {
        Self { made: 0, allowed, engine: engine.clone(), stopped: None }
    }

    /// A call is made. It cannot be refused from here; but the guest is stopped in the next loop
    /// or function that it comes to, where it looks at the clock of the engine, which is moved on
    /// for it. Who else runs yields once more than otherwise.
    pub(super) fn count(&mut self) {
        self.made = self.made.saturating_add(1);
        if self.made == self.allowed.saturating_add(1) {
            self.engine.increment_epoch();
        }
    }

    /// Ends the guest in the next loop or function that it comes to, as too many calls do.
    pub(super) fn stop(&mut self, refusal: Refusal) {
        self.stopped = Some(refusal);
        self.engine.increment_epoch();
    }

    /// How many there were.
    pub(super) fn made(&self) -> u64 {
        self.made
    }

    /// Whether they were too many, or the guest was stopped for what they left behind.
    pub fn check(&self) -> Result<(), Refusal> {
        if let Some(refusal) = self.stopped {
            return Err(refusal);
        }
        if self.made > self.allowed {
            return Err(Refusal {
                limit: Limit::HostCalls,
                asked: self.made,
                allowed: self.allowed,
            });
        }
        Ok(())
    }
}
