//! Burns CPU: without end, or for a given time.

use std::hint::black_box;
use std::time::{Duration, Instant};

use lovage_task::task;
use schemars::JsonSchema;
use serde::Deserialize;

/// For how long.
#[derive(Deserialize, JsonSchema)]
struct Request {
    /// Milliseconds; without end when absent.
    ms: Option<u64>,
}

/// Burns CPU for `ms` milliseconds and gives back the number of rounds it made, or never ends.
#[task]
fn spin(request: Option<Request>) -> u64 {
    // Long between two looks at the clock: they are host calls, where a guest can be stopped.
    const ROUNDS_PER_LOOK: u64 = 1 << 20;

    let time = request.and_then(|request| request.ms).map(Duration::from_millis);
    let start = Instant::now();
    let mut rounds: u64 = 0;
    loop {
        for _ in 0..ROUNDS_PER_LOOK {
            rounds = black_box(rounds + 1);
        }
        if time.is_some_and(|time| start.elapsed() >= time) {
            return rounds;
        }
    }
}

lovage_task::export!(spin);
