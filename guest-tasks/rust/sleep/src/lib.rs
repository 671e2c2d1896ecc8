//! `sleep`: keeps a job busy without using a processor.

use std::time::{Duration, Instant};

use lovage_task::task;
use schemars::JsonSchema;
use serde::Deserialize;

/// How long to sleep.
#[derive(Deserialize, JsonSchema)]
struct Request {
    /// Milliseconds.
    ms: u64,
}

/// Sleeps for `ms` milliseconds and gives back how many it slept, by its own clock.
#[task]
fn sleep(request: Request) -> u64 {
    let start = Instant::now();
    std::thread::sleep(Duration::from_millis(request.ms));
    u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX)
}

lovage_task::export!(sleep);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleeps_at_least_as_long_as_it_was_told() {
        assert!(sleep(Request { ms: 5 }) >= 5);
    }
}
