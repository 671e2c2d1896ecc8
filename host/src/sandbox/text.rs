//! Texts that a guest wrote, made fit for logs, terminals and results.
//!
//! A guest is not trusted with control characters: a carriage return or an escape sequence
//! rewrites what an operator sees, a line feed forges a log line, and marks of writing direction
//! do the same to the eye (<https://trojansource.codes>). And it is not trusted with sizes.

use std::fmt::Write as _;

use crate::outcome::Failure;

/// The most bytes of a failure's kind.
pub const KIND_BYTES: usize = 200;
/// The most bytes of a failure's message.
pub const MESSAGE_BYTES: usize = 8 << 10;
/// The most bytes of a failure's detail.
pub const DETAIL_BYTES: usize = 64 << 10;

/// One line: everything that is not plain is escaped, line feeds included.
pub fn line(text: &str) -> String {
    escape(text, false)
}

/// A block of lines: line feeds and tabs stay.
pub fn block(text: &str) -> String {
    escape(text, true)
}

fn escape(text: &str, block: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' if block => out.push(c),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            // Control characters, the two line separators that are none, and the marks that
            // turn the direction of writing around.
            c if c.is_control()
                || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') =>
            {
                // Writing to a string cannot fail.
                let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out
}

/// Cuts a text to so many bytes, at a character's boundary, and says so in its end.
pub fn cut(text: &mut String, max: usize) {
    const MARK: &str = "… [cut]";
    if text.len() <= max {
        return;
    }
    let keep = text.floor_char_boundary(max.saturating_sub(MARK.len()));
    text.truncate(keep);
    if max >= MARK.len() {
        text.push_str(MARK);
    }
}

/// Makes a guest's failure fit: one line each for kind and message, lengths bounded. A kind or a
/// message that is empty is given a word, since both are looked at by people and machines.
pub fn failure(failure: Failure) -> Failure {
    let fit = |text: &str, max, empty: &str| {
        // Cut first, so that a text of a megabyte is not escaped in vain.
        let mut text = text.trim().to_owned();
        cut(&mut text, max);
        let mut text = line(&text);
        cut(&mut text, max);
        if text.is_empty() {
            text.push_str(empty);
        }
        text
    };
    Failure {
        kind: fit(&failure.kind, KIND_BYTES, "failed"),
        message: fit(&failure.message, MESSAGE_BYTES, "the guest gave no reason"),
        detail: failure
            .detail
            .map(|detail| {
                let mut detail = detail;
                cut(&mut detail, DETAIL_BYTES);
                let mut detail = block(&detail);
                cut(&mut detail, DETAIL_BYTES);
                detail
            })
            .filter(|detail| !detail.is_empty()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_cannot_forge_lines_or_steer_a_terminal() {
        let given = "ok\n2026-01-01 ERROR forged\r\x1b[2Jx\u{202e}y\u{85}";
        assert_eq!(line(given), r"ok\n2026-01-01 ERROR forged\r\u{1b}[2Jx\u{202e}y\u{85}");
        assert_eq!(block("a\n\tb\rc"), "a\n\tb\\rc");
        assert_eq!(line("grün, 日本, 🦀"), "grün, 日本, 🦀");
    }

    #[test]
    fn texts_are_cut_between_characters() {
        for max in 0..40 {
            let mut text = "日本語のテキスト、とても長い".to_owned();
            cut(&mut text, max);
            assert!(text.len() <= max, "{max}: {text}");
        }
        let mut text = "short".to_owned();
        cut(&mut text, 5);
        assert_eq!(text, "short");
    }

    #[test]
    fn a_failure_is_bounded_whatever_the_guest_says() {
        let huge = "\u{1b}".repeat(1 << 20);
        let fit = failure(Failure::new(huge.clone(), huge.clone()).with_detail(huge));
        assert!(fit.kind.len() <= KIND_BYTES);
        assert!(fit.message.len() <= MESSAGE_BYTES);
        assert!(fit.detail.unwrap().len() <= DETAIL_BYTES);
        let empty = failure(Failure::new(" ", ""));
        assert_eq!(empty.kind, "failed");
        assert_eq!(empty.message, "the guest gave no reason");
        assert_eq!(empty.detail, None);
    }
}
