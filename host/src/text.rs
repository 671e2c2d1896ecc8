//! Making text from strangers fit for logs, attributes and error messages.

/// Stands where something was cut off.
const MARK: &str = "…";

/// Cuts `text` to at most `max` bytes, at a character's edge, and says that it did.
pub fn shorten(text: &str, max: usize) -> String {
    if text.len() <= max {
        return text.to_owned();
    }
    let room = text.floor_char_boundary(max.saturating_sub(MARK.len()));
    let mut short = text.get(..room).unwrap_or_default().to_owned();
    if max >= MARK.len() {
        short.push_str(MARK);
    }
    short
}

/// [`shorten`], with control characters (but `\n` and `\t`) and the marks that turn the direction
/// of text made visible as escapes, so that nobody's text can forge lines or colours of a log.
pub fn printable(text: &str, max: usize) -> String {
    let hides = |c: char| {
        (c.is_control() && c != '\n' && c != '\t')
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if !text.contains(hides) {
        return shorten(text, max);
    }
    let escaped = text.chars().fold(String::with_capacity(text.len()), |mut all, c| {
        if hides(c) {
            all.extend(c.escape_default());
        } else {
            all.push(c);
        }
        all
    });
    shorten(&escaped, max)
}

/// [`printable`] on one line.
pub fn one_line(text: &str, max: usize) -> String {
    printable(&text.replace('\n', "\\n"), max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn escapes_what_could_forge_a_log() {
        assert_eq!(printable("a\u{1b}[31mb\r\u{202e}", 99), "a\\u{1b}[31mb\\r\\u{202e}");
        assert_eq!(one_line("a\nb", 99), "a\\nb");
    }

    proptest! {
        #[test]
        fn is_never_longer_than_asked_for(text in "\\PC*|[\u{0}-\u{20}]*", max in 0usize..40) {
            prop_assert!(shorten(&text, max).len() <= max);
            prop_assert!(printable(&text, max).len() <= max);
            prop_assert!(!one_line(&text, max).contains('\n'));
        }
    }
}
