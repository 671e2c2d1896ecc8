//! What a guest returned, held to what the host promises about it.

use std::time::Duration;

use serde::de::IgnoredAny;

use super::crash::too_large;
use super::failure;
use super::limits::Limits;
use lovage_core::media_type::{JSON, is_json};
use lovage_core::outcome::{Failure, Outcome, Output};
use lovage_core::text::one_line;

/// The longest delay that a guest can ask for: a year. Longer ones are shortened, so that nobody
/// who adds one to a time has to think of overflow.
pub(super) const MAX_DELAY: Duration = Duration::from_hours(365 * 24);

/// The shortest snooze: it spends no attempt, so a guest that always asked for none at all would
/// be run in a loop without end or pause.
const MIN_SNOOZE: Duration = Duration::from_secs(1);

/// The longest media type, in bytes.
pub(super) const MAX_CONTENT_TYPE_BYTES: usize = 255;

/// Bounds a guest's texts and delays, and checks its output.
pub(super) fn settle(outcome: Outcome, limits: &Limits) -> Outcome {
    match outcome {
        Outcome::Done(output) => match check(output, limits) {
            Ok(output) => Outcome::Done(output),
            Err(failure) => Outcome::Failed(failure),
        },
        Outcome::Retry { failure, after } => Outcome::Retry {
            failure: failure::fit(failure),
            after: after.map(|after| after.min(MAX_DELAY)),
        },
        Outcome::Snooze { after } => Outcome::Snooze { after: after.clamp(MIN_SNOOZE, MAX_DELAY) },
        Outcome::Failed(failure) => Outcome::Failed(failure::fit(failure)),
        Outcome::Rejected(failure) => Outcome::Rejected(failure::fit(failure)),
        other => other,
    }
}

fn check(mut output: Output, limits: &Limits) -> Result<Output, Failure> {
    let size = output.data.len();
    if size > limits.output_bytes {
        return Err(Failure::new("output_too_large", too_large(Some(size), limits.output_bytes)));
    }
    let invalid = |message: String| Failure::new("invalid_output", message);
    let content_type = output.content_type.as_str();
    if !is_media_type(content_type) {
        let shown = one_line(content_type, MAX_CONTENT_TYPE_BYTES);
        return Err(invalid(format!("the output's content type `{shown}` is no media type")));
    }
    if is_json(content_type) {
        one_json_value(&output.data).map_err(|reason| {
            invalid(format!("the output is said to be {JSON}, and is not one JSON value: {reason}"))
        })?;
        // One way to write it, so that whoever looks at it need not parse. JSON has no parameters
        // (RFC 8259, section 11).
        if content_type != JSON {
            JSON.clone_into(&mut output.content_type);
        }
    }
    Ok(output)
}

/// Whether a text can be a header or an attribute: visible ASCII and spaces, as RFC 9110 has it.
pub(super) fn is_media_type(text: &str) -> bool {
    (1..=MAX_CONTENT_TYPE_BYTES).contains(&text.len())
        && text.bytes().all(|b| b == b' ' || b.is_ascii_graphic())
}

/// Returns true if some bytes are JSON, and if not why.
pub(super) fn one_json_value(data: &[u8]) -> Result<(), String> {
    // serde_json leaves out this check in strings that it only skips.
    let text = std::str::from_utf8(data).map_err(|error| error.to_string())?;
    serde_json::from_str::<IgnoredAny>(text).map(|_| ()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(content_type: &str, data: &[u8]) -> Result<Output, Failure> {
        let limits = Limits { output_bytes: 100, ..Limits::default() };
        let output = Output { content_type: content_type.to_owned(), data: data.to_vec().into() };
        check(output, &limits)
    }

    #[test]
    fn json_is_one_value_and_is_given_on_byte_for_byte() {
        for json in ["42", " {\"a\": [1, 2]} ", "\"ü\"", "1e999", "null"] {
            let output = checked("Application/JSON; charset=utf-8", json.as_bytes()).unwrap();
            assert_eq!(output.data, json.as_bytes());
            assert_eq!(output.content_type, JSON);
        }
        for json in [&b""[..], b"42 43", b"{", b"\xef\xbb\xbf1", b"\"\xff\"", b"NaN", b"'a'"] {
            let failure = checked(JSON, json).unwrap_err();
            assert_eq!(failure.kind, "invalid_output", "{json:?}");
        }
    }

    #[test]
    fn other_types_may_hold_anything() {
        assert!(checked("application/octet-stream", b"\xff\0").is_ok());
        for bad in ["", "a\nb", "text/plain\r\nx: y", &"x".repeat(256)] {
            assert_eq!(checked(bad, b"").unwrap_err().kind, "invalid_output");
        }
    }

    #[test]
    fn an_output_that_is_too_large_says_how_large_and_what_raises_the_limit() {
        let failure = checked("text/plain", &[b'x'; 101]).unwrap_err();
        assert_eq!(failure.kind, "output_too_large");
        assert_eq!(
            failure.message,
            "the output has 101 bytes, and 100 bytes are allowed (`output_bytes` raises it)"
        );
        assert!(checked("text/plain", &[b'x'; 100]).is_ok());
    }

    #[test]
    fn delays_are_bounded() {
        let forever = Duration::from_millis(u64::MAX);
        let settled = settle(Outcome::Snooze { after: forever }, &Limits::default());
        assert_eq!(settled, Outcome::Snooze { after: MAX_DELAY });
        let settled = settle(Outcome::Snooze { after: Duration::ZERO }, &Limits::default());
        assert_eq!(settled, Outcome::Snooze { after: Duration::from_secs(1) });
    }
}
