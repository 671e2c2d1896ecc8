//! Making text from strangers fit for logs, attributes and error messages, and finding the name
//! that somebody meant.
//!
//! Nobody outside is trusted with control characters: a carriage return or an escape sequence
//! rewrites what an operator sees, a line feed forges a log line, and marks of writing direction
//! do the same to the eye (<https://trojansource.codes>). Nor are they with sizes.

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

/// Text with `%XX` decoded; `None` where a `%` stands before no two hexadecimal digits, or what
/// comes out is no UTF-8.
pub fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16);
        let (high, low) = (digit()?, digit()?);
        bytes.push(u8::try_from(high * 16 + low).ok()?);
    }
    String::from_utf8(bytes).ok()
}

/// [`shorten`], with all that is not plain made visible as escapes; line feeds and tabs stay.
pub fn printable(text: &str, max: usize) -> String {
    visible(text, max, |c| c == '\n' || c == '\t')
}

/// [`printable`] on one line: line feeds and tabs are escaped, too.
pub fn one_line(text: &str, max: usize) -> String {
    visible(text, max, |_| false)
}

fn visible(text: &str, max: usize, stays: impl Fn(char) -> bool) -> String {
    // Control characters, the two line separators that are none, and the marks that turn the
    // direction of writing around.
    let hides = |c: char| {
        !stays(c)
            && (c.is_control()
                || matches!(
                    c,
                    '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
                ))
    };
    // Cut first, so that a text of a megabyte is not escaped in vain.
    let text = shorten(text, max);
    if !text.contains(hides) {
        return text;
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

/// What serde has against some input, without the input: of a value its type is left, of an unknown
/// name so much that a misspelling can be told.
pub fn without_values(message: &str) -> String {
    const NAME_BYTES: usize = 40;
    // The last one, since what comes before it is a stranger's.
    let Some((found, expected)) = message.rsplit_once(", expected ") else {
        return one_line(message, NAME_BYTES);
    };
    let is_value = found.starts_with("invalid type: ") || found.starts_with("invalid value: ");
    let found = match found.split_once(['"', '`']) {
        Some((what, _)) if is_value => what.trim_end().to_owned(),
        Some((what, name)) => {
            format!("{what}`{}`", one_line(name.strip_suffix('`').unwrap_or(name), NAME_BYTES))
        }
        None => found.to_owned(),
    };
    format!("{found}, expected {expected}")
}

/// The known name that is most like `name`, if any is much like it.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Names less alike than this have nothing to do with each other.
    const ALIKE: f64 = 0.8;
    known
        .into_iter()
        .map(|other| (strsim::jaro_winkler(name, other), other))
        .filter(|(likeness, _)| *likeness > ALIKE)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, other)| other)
}

/// The name of a component, as people use it: that of its file without an ending.
pub fn component_name(place: &str) -> &str {
    let file = place.rsplit('/').find(|part| !part.is_empty()).unwrap_or(place);
    let file = file.split(['@', ':', '?']).next().unwrap_or(file);
    let name = file.strip_suffix(".wasm").or_else(|| file.strip_suffix(".cwasm"));
    name.unwrap_or(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn escapes_what_could_forge_a_log_or_steer_a_terminal() {
        assert_eq!(
            printable("a\u{1b}[31mb\r\u{202e}\u{85}", 99),
            "a\\u{1b}[31mb\\r\\u{202e}\\u{85}"
        );
        assert_eq!(printable("a\n\tb\rc", 99), "a\n\tb\\rc");
        assert_eq!(one_line("a\nb\tc", 99), "a\\nb\\tc");
        assert_eq!(one_line("grün, 日本, 🦀", 99), "grün, 日本, 🦀");
    }

    #[test]
    fn tells_what_is_wrong_without_the_value_that_is() {
        for (said, told) in [
            (
                r#"invalid type: string "Bearer x, expected y", expected a map at line 1 column 9"#,
                "invalid type: string, expected a map at line 1 column 9",
            ),
            ("invalid value: integer `-1`, expected u32", "invalid value: integer, expected u32"),
            ("invalid type: null, expected u32", "invalid type: null, expected u32"),
            (
                "unknown field `max_atempts`, expected one of `id`, `task`",
                "unknown field `max_atempts`, expected one of `id`, `task`",
            ),
        ] {
            assert_eq!(without_values(said), told);
        }
        let long = format!("unknown field `{}`, expected `id`", "s".repeat(99));
        assert!(without_values(&long).len() < 80);
        assert_eq!(without_values("duplicate field `id`"), "duplicate field `id`");
    }

    #[test]
    fn finds_what_was_meant_and_nothing_far_off() {
        assert_eq!(nearest("proces_data", ["echo", "process_data"]), Some("process_data"));
        assert_eq!(nearest("job", ["jobs", "more"]), Some("jobs"));
        assert_eq!(nearest("xyz", ["jobs", "more"]), None);
    }

    proptest! {
        #[test]
        fn is_never_longer_than_asked_for(text in "\\PC*|[\u{0}-\u{20}]*", max in 0usize..40) {
            prop_assert!(shorten(&text, max).len() <= max);
            prop_assert!(printable(&text, max).len() <= max);
            prop_assert!(one_line(&text, max).len() <= max);
            prop_assert!(!one_line(&text, max).contains('\n'));
        }
    }

    #[test]
    fn a_component_is_called_as_its_file_is() {
        assert_eq!(component_name("/srv/tasks/process_data.wasm"), "process_data");
        assert_eq!(component_name("s3://bucket/tasks/a.b.wasm"), "a.b");
        assert_eq!(component_name("oci://registry:5000/team/resize:1.2"), "resize");
        assert_eq!(component_name("https://example.com/x/mail.wasm?v=1"), "mail");
    }
}
