//! Panics.

use lovage_task::task;

/// Panics with its payload as the message.
#[task]
#[allow(clippy::panic, reason = "to show what becomes of it is what it is for")]
fn panic(message: String) {
    std::panic!("{message}")
}

lovage_task::export!(panic);
