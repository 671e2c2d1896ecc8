//! Takes memory: without end, or a given amount.

use std::hint::black_box;

use lovage_task::task;
use schemars::JsonSchema;
use serde::Deserialize;

/// How much.
#[derive(Deserialize, JsonSchema)]
struct Request {
    /// Bytes; without end when absent.
    bytes: Option<usize>,
}

/// Allocates `bytes` bytes, writes to each page of them and gives the number back, or allocates
/// until it is stopped.
#[task]
fn hoard(request: Option<Request>) -> usize {
    const STEP: usize = 1 << 20;

    let Some(bytes) = request.and_then(|request| request.bytes) else {
        let mut hoard = Vec::new();
        loop {
            hoard.push(touched(STEP));
            black_box(&hoard);
        }
    };
    black_box(touched(bytes)).len()
}

/// Zeroed memory fresh from the host is not there yet: a page appears when it is written to.
fn touched(bytes: usize) -> Vec<u8> {
    const PAGE: usize = 4096;

    let mut memory = vec![0; bytes];
    for byte in memory.iter_mut().step_by(PAGE) {
        *byte = black_box(1);
    }
    memory
}

lovage_task::export!(hoard);
