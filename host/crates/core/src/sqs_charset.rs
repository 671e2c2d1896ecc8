//! Which characters SQS takes.
//!
//! "A message can include only XML, JSON, and unformatted text. The following Unicode characters
//! are allowed: #x9 | #xA | #xD | #x20 to #xD7FF | #xE000 to #xFFFD | #x10000 to #x10FFFF"
//! (Amazon SQS API reference, `SendMessage`). That leaves out most control characters and the two
//! non-characters U+FFFE and U+FFFF, all of which are legal in a string of a programming language
//! and so turn up in what tasks return.

use std::{borrow::Cow, fmt::Write as _};

/// Returns true if SQS takes this character.
///
/// Surrogates (U+D800 to U+DFFF) need no test, since a `char` is never one.
pub const fn is_allowed(character: char) -> bool {
    matches!(character,
        '\u{9}' | '\u{A}' | '\u{D}' | '\u{20}'..='\u{FFFD}' | '\u{10000}'..='\u{10FFFF}')
}

/// The first character that SQS refuses, with its byte offset.
pub fn first_refused(text: &str) -> Option<(usize, char)> {
    // So many bytes at a time are looked at in a few instructions.
    const STEP: usize = 64;
    // All that is refused begins with one of these: the non-characters are EF BF BE and EF BF BF.
    let suspect = |byte: &u8| *byte < 0x20 || *byte == 0xEF;
    let mut chunks = text.as_bytes().chunks(STEP).enumerate();
    chunks.find_map(|(chunk, bytes)| {
        if !bytes.iter().fold(false, |any, byte| any | suspect(byte)) {
            return None;
        }
        let suspects = bytes.iter().enumerate().filter(|(_, byte)| suspect(byte));
        let mut places = suspects.map(|(at, _)| chunk * STEP + at);
        places.find_map(|at| {
            let character = text.get(at..)?.chars().next()?;
            (!is_allowed(character)).then_some((at, character))
        })
    })
}

/// The same JSON, in characters that SQS takes: what it refuses is written as `\uXXXX`.
///
/// `json` must be a JSON text. In one, such characters can stand inside strings only (of the
/// control characters whitespace alone may stand elsewhere, and SQS takes that), so the escapes
/// mean what the characters meant. Borrows when there is nothing to do, which is nearly always:
/// serializers escape control characters themselves, and U+FFFE and U+FFFF are rare.
pub fn escape_json(json: &str) -> Cow<'_, str> {
    let Some((first, _)) = first_refused(json) else {
        return Cow::Borrowed(json);
    };
    let (clean, rest) = json.split_at(first);
    let mut escaped = String::with_capacity(json.len() + 16);
    escaped.push_str(clean);
    for character in rest.chars() {
        if is_allowed(character) {
            escaped.push(character);
        } else {
            // All that is refused lies below U+10000, so one escape of four digits is enough.
            // Writing to a String cannot fail.
            let _ = write!(escaped, "\\u{:04x}", u32::from(character));
        }
    }
    Cow::Owned(escaped)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_edges_of_the_allowed_ranges_are_those_of_the_api_reference() {
        for allowed in [
            '\t',
            '\n',
            '\r',
            ' ',
            '\u{7f}',
            '\u{D7FF}',
            '\u{E000}',
            '\u{FFFD}',
            '\u{10000}',
            '\u{1FFFE}',
            '\u{10FFFF}',
        ] {
            assert!(is_allowed(allowed), "{allowed:?}");
        }
        for refused in ['\0', '\u{8}', '\u{b}', '\u{c}', '\u{e}', '\u{1f}', '\u{FFFE}', '\u{FFFF}']
        {
            assert!(!is_allowed(refused), "{refused:?}");
        }
    }

    #[test]
    fn the_first_refused_character_is_named_with_its_byte_offset() {
        assert_eq!(first_refused("aé\u{0}b\u{1}"), Some((3, '\0')));
        assert_eq!(first_refused("plain\ttext\r\n"), None);
    }

    #[test]
    fn text_that_needs_nothing_is_borrowed() {
        assert!(matches!(escape_json("{\"a\":\"ü\"}"), Cow::Borrowed(_)));
    }

    proptest! {
        #[test]
        fn escaped_json_is_taken_by_sqs_and_means_the_same(text in any::<String>()) {
            // serde_json leaves U+FFFE and U+FFFF as they are.
            let value = serde_json::json!({ &text: [&text, "\u{fffe}\u{ffff}"] });
            let json = value.to_string();
            let escaped = escape_json(&json);
            prop_assert_eq!(first_refused(&escaped), None);
            let back: serde_json::Value = serde_json::from_str(&escaped).unwrap();
            prop_assert_eq!(back, value);
        }

        #[test]
        fn any_text_is_taken_after_escaping(text in any::<String>()) {
            prop_assert_eq!(first_refused(&escape_json(&text)), None);
            let slowly = text.char_indices().find(|(_, character)| !is_allowed(*character));
            prop_assert_eq!(first_refused(&text), slowly);
        }
    }
}
