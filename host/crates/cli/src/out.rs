//! Standard output: where results go, for other programs and for people.

use std::io::{self, IsTerminal as _, Write as _};

use anyhow::Context as _;

use lovage_core::text::printable;

/// Whoever read standard output has seen enough, as `head` does: nobody's fault, and the command's
/// end.
#[derive(Debug, thiserror::Error)]
#[error("standard output is closed")]
pub struct Closed;

/// Prints a line: `println!` would panic where nobody reads.
macro_rules! say {
    ($($what:tt)*) => {
        $crate::out::write(format!("{}\n", format_args!($($what)*)).as_bytes())
    };
}
pub(super) use say;

/// Prints a line on standard error: `eprintln!` would panic where nobody reads.
macro_rules! complain {
    ($($what:tt)*) => {
        lovage_runtime::telemetry::say(&format!($($what)*))
    };
}
pub(super) use complain;

/// Writes bytes as they are.
pub fn write(bytes: &[u8]) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Closed.into()),
        written => written.context("cannot write to standard output"),
    }
}

/// Writes what a guest or a stranger wrote: byte for byte where a program reads it, and made
/// visible where a terminal would obey it.
pub fn write_foreign(bytes: &[u8]) -> anyhow::Result<()> {
    if io::stdout().is_terminal() {
        return write(for_terminal(bytes).as_bytes());
    }
    write(bytes)
}

/// Rows of as many cells each, with columns in line: the first `left` to the left, the others, which
/// are numbers, to the right.
pub fn columns<const N: usize>(rows: &[[String; N]], left: usize) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..N).map(width).collect();
    rows.iter().fold(String::new(), |text, row| {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
            if column < left { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        text + cells.collect::<Vec<_>>().join("  ").trim_end() + "\n"
    })
}

fn for_terminal(bytes: &[u8]) -> String {
    printable(&String::from_utf8_lossy(bytes), usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_does_not_steer_a_terminal() {
        assert_eq!(for_terminal(b"\x1b]0;title\x07 \xff\n"), "\\u{1b}]0;title\\u{7} \u{fffd}\n");
        // C1 controls need no escape in JSON.
        assert_eq!(for_terminal("\"\u{9b}2J\"".as_bytes()), "\"\\u{9b}2J\"");
    }
}
