//! How far an attempt is, and whether it is still wanted.

use crate::Context;
#[cfg(target_family = "wasm")]
use crate::bindings::lovage::task::progress;

/// Why an attempt should end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Revocation {
    /// Somebody revoked the job; nobody wants its result.
    Revoked,
    /// The attempt's soft time limit has passed; it is stopped at its deadline.
    OutOfTime,
    /// The worker is stopping: what is not done soon is run again elsewhere, from the start.
    Stopping,
}

/// In a unit test, where there is no host, reports go nowhere and nothing is revoked.
impl Context {
    /// Says how far the attempt is: `percent` is 0 to 100, the message is for a person. Cheap: the
    /// host keeps the last report, and passes it on at most once a second.
    #[cfg_attr(not(target_family = "wasm"), allow(unused_variables))]
    pub fn progress(&self, percent: u8, message: &str) {
        #[cfg(target_family = "wasm")]
        progress::report(percent, message);
    }

    /// Whether the attempt should end. A task that does ends early with what it has, or asks to be
    /// tried again.
    pub fn is_revoked(&self) -> bool {
        #[cfg(target_family = "wasm")]
        return progress::is_revoked();
        #[cfg(not(target_family = "wasm"))]
        false
    }

    /// Why the attempt should end; `None` while it is wanted.
    pub fn why_revoked(&self) -> Option<Revocation> {
        #[cfg(target_family = "wasm")]
        return Some(match progress::why_revoked()? {
            progress::Revocation::Revoked => Revocation::Revoked,
            progress::Revocation::OutOfTime => Revocation::OutOfTime,
            progress::Revocation::Stopping => Revocation::Stopping,
        });
        #[cfg(not(target_family = "wasm"))]
        None
    }
}
