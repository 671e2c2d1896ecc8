//! What an attempt cost.

use std::time::Duration;

/// What one attempt cost the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// CPU time spent on the guest's behalf, instantiation included.
    pub cpu: Duration,
    /// From the beginning of the attempt to its end.
    pub wall: Duration,
    /// The most that its memories and tables held at once, in bytes.
    pub peak_memory_bytes: u64,
}
