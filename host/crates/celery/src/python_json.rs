//! JSON as Python's `json` writes it: with `NaN`, `Infinity` and `-Infinity`, which are not JSON.
//!
//! Inside, each of them stands as kombu would write a type that JSON lacks:
//! `{"__type__": "float", "__value__": "NaN"}`. Guests get its text, and whatever goes back to Celery
//! has Python's own spelling again. A guest that answers with such an object answers with the number.

use std::borrow::Cow;

/// How deep values may nest in a message. Python's own decoder ends near 1,000.
pub(super) const MAX_DEPTH: usize = 512;

/// Python's spellings, and what stands for them.
const NUMBERS: [(&str, &str); 3] = [
    ("NaN", r#"{"__type__": "float", "__value__": "NaN"}"#),
    ("Infinity", r#"{"__type__": "float", "__value__": "Infinity"}"#),
    ("-Infinity", r#"{"__type__": "float", "__value__": "-Infinity"}"#),
];

/// The same as guests may write them, without blanks.
const COMPACT: [(&str, &str); 3] = [
    ("NaN", r#"{"__type__":"float","__value__":"NaN"}"#),
    ("Infinity", r#"{"__type__":"float","__value__":"Infinity"}"#),
    ("-Infinity", r#"{"__type__":"float","__value__":"-Infinity"}"#),
];

/// A text whose values nest deeper than [`MAX_DEPTH`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooDeep;

/// What stands for a number that JSON lacks.
pub(super) fn of_float(number: f64) -> Option<&'static str> {
    let [nan, infinity, negative] = NUMBERS.map(|(_, inside)| inside);
    match number {
        _ if number.is_nan() => Some(nan),
        _ if number == f64::INFINITY => Some(infinity),
        _ if number == f64::NEG_INFINITY => Some(negative),
        _ => None,
    }
}

/// A text with Python's numbers replaced, held to [`MAX_DEPTH`]. One pass, and no copy where there is
/// none of them.
pub(super) fn read(text: &str) -> Result<Cow<'_, str>, TooDeep> {
    let mut depth = 0_usize;
    let mut quoted = false;
    let mut escaped = false;
    let mut out = String::new();
    let mut copied = 0;
    let mut skip = 0;
    for (at, byte) in text.bytes().enumerate() {
        if at < skip {
            continue;
        }
        if quoted {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => quoted = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => quoted = true,
            b'[' | b'{' => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return Err(TooDeep);
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            b'N' | b'I' | b'-' => {
                let rest = text.get(at..).unwrap_or_default();
                let found = NUMBERS.iter().find(|(python, _)| rest.starts_with(python));
                if let Some((python, inside)) = found {
                    out.push_str(text.get(copied..at).unwrap_or_default());
                    out.push_str(inside);
                    skip = at + python.len();
                    copied = skip;
                }
            }
            _ => {}
        }
    }
    if copied == 0 {
        return Ok(Cow::Borrowed(text));
    }
    out.push_str(text.get(copied..).unwrap_or_default());
    Ok(Cow::Owned(out))
}

/// A text with Python's own spelling, for Celery. What stands for a number cannot be part of a JSON
/// string, whose quotes are escaped.
pub(super) fn write(text: String) -> String {
    if !text.contains(r#""float""#) {
        return text;
    }
    NUMBERS.iter().chain(&COMPACT).fold(text, |text, (python, inside)| {
        if text.contains(inside) { text.replace(inside, python) } else { text }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_json_lacks_go_in_and_come_out_as_python_writes_them() {
        for text in [
            r#"[NaN, -Infinity, {"a": Infinity}, "NaN \" -Infinity", -1]"#,
            "NaN",
            r#"{"NaN": "\\", "x": NaN}"#,
        ] {
            let inside = read(text).unwrap();
            assert!(serde_json::from_str::<serde_json::Value>(&inside).is_ok(), "{inside}");
            assert_eq!(write(inside.into_owned()), text);
        }
        assert_eq!(write(r#"[{"__type__":"float","__value__":"NaN"}]"#.to_owned()), "[NaN]");
        assert!(matches!(read(r#"{"a": [1, "NaN"]}"#), Ok(Cow::Borrowed(_))));
    }

    #[test]
    fn depth_is_bounded_without_recursion() {
        let nest = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
        assert!(read(&nest(MAX_DEPTH)).is_ok());
        assert_eq!(read(&nest(MAX_DEPTH + 1)), Err(TooDeep));
        assert_eq!(read(&"[{\"a\":".repeat(4_000_000)), Err(TooDeep));
    }
}
