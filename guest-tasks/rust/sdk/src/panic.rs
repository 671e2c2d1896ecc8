//! How a panic's message reaches the host.
//!
//! A panic traps, and a trap carries no text. What the host does have is the tail of the guest's
//! standard error, where it looks for the last line of this form:
//!
//! ```text
//! lovage: panic: MESSAGE (at FILE:LINE)
//! ```
//!
//! It is one line whatever the message is: line breaks in it are written as `\n` and `\r`.

use std::io::Write as _;
use std::panic::{Location, PanicHookInfo};

/// Replaces the standard hook, which would also read the environment for `RUST_BACKTRACE`.
pub fn install_hook() {
    std::panic::set_hook(Box::new(hook));
}

fn hook(info: &PanicHookInfo<'_>) {
    let message = info.payload_as_str().unwrap_or("a value that is no text");
    // With nowhere to write to there is nobody to tell.
    let _ = std::io::stderr().write_all(line(message, info.location()).as_bytes());
}

fn line(message: &str, location: Option<&Location<'_>>) -> String {
    let message = message.replace('\r', "\\r").replace('\n', "\\n");
    match location {
        Some(at) => format!("lovage: panic: {message} (at {}:{})\n", at.file(), at.line()),
        None => format!("lovage: panic: {message} (at ?:0)\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_one_line() {
        let at = Location::caller();
        let text = line("first\r\nsecond", Some(at));
        assert_eq!(
            text,
            format!("lovage: panic: first\\r\\nsecond (at {}:{})\n", at.file(), at.line())
        );
    }
}
