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
    /// Memory over time: bytes of memories and tables, times the milliseconds that they were held.
    pub memory_byte_ms: u64,
    /// How often it called the host.
    pub host_calls: u64,
    /// Bytes that came in: the payload, HTTP responses, values read from buckets.
    pub bytes_in: u64,
    /// Bytes that went out: the output, HTTP requests, values written to buckets, follow-on jobs.
    pub bytes_out: u64,
}
