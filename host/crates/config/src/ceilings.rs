//! What a component's own advice is cut to where `[defaults]` does not say.

/// Attempts a job gets.
pub const MAX_ATTEMPTS: u32 = 25;
/// Wall time for one attempt, in milliseconds: an hour.
pub const TIMEOUT_MS: u64 = 60 * 60 * 1000;
