//! Recurses until its stack ends.

use std::hint::black_box;

use lovage_task::task;

/// Recurses without end.
#[task]
fn recurse() -> u64 {
    deeper(0)
}

#[allow(unconditional_recursion, reason = "to show what becomes of it is what it is for")]
fn deeper(depth: u64) -> u64 {
    // On the stack and still needed after the call, so that the call is no jump.
    let frame = black_box([depth; 16]);
    let below = deeper(depth + 1);
    below + black_box(&frame).iter().sum::<u64>()
}

lovage_task::export!(recurse);
