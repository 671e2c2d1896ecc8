//! The values that hold where nobody says otherwise. `lovage.sample.toml` shows them.

/// Attempts a job gets.
pub const MAX_ATTEMPTS: u32 = 4;
/// Wall time for one attempt, in milliseconds.
pub const TIMEOUT_MS: u64 = 60_000;
/// Memory for one attempt, in bytes.
pub const MEMORY_BYTES: u64 = 128 << 20;
/// The largest output, in bytes. Leaves room for the envelope in SQS's 1 MiB.
pub const OUTPUT_BYTES: u64 = 1_000_000;
/// What is kept of standard output and error, in bytes each.
pub const STDIO_BYTES: u64 = 16 << 10;
/// The first bound of the back-off, in milliseconds.
pub const RETRY_BASE_MS: u64 = 1_000;
/// The last bound of the back-off, in milliseconds.
pub const RETRY_CAP_MS: u64 = 900_000;
