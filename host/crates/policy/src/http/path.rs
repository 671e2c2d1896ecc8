//! Paths, and what is below a prefix of one.
//!
//! Whoever answers a request decides what its path means, and not all do it alike: some decode
//! twice, some take `\` for `/`, some drop what follows a `;`. A path below a prefix must be so for
//! all of them. So a path that goes upwards in any of these readings is below no prefix.

use std::fmt;

use lovage_core::text::one_line;

/// How much of a path is shown.
const SHOWN_BYTES: usize = 200;

/// How often a path is decoded in search of what is hidden in it.
const MAX_DECODINGS: usize = 8;

/// A path of a URL, without a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Path {
    text: String,
}

impl Path {
    pub fn new(text: &str) -> Self {
        Self { text: if text.is_empty() { "/".to_owned() } else { text.to_owned() } }
    }

    /// Returns true if the path begins with all of these segments.
    pub fn is_below(&self, prefix: &[Vec<u8>]) -> bool {
        if prefix.is_empty() {
            return true;
        }
        let mut mine = segments(&self.text);
        prefix.iter().all(|segment| mine.next().as_ref() == Some(segment)) && !self.goes_up()
    }

    fn goes_up(&self) -> bool {
        let mut path = self.text.clone().into_bytes();
        for _ in 0..MAX_DECODINGS {
            if has_dots(&path) {
                return true;
            }
            let decoded = decode(&path);
            if decoded == path {
                return false;
            }
            path = decoded;
        }
        // Nobody needs to encode a path this often.
        true
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&one_line(&self.text, SHOWN_BYTES))
    }
}

/// The segments of a path, decoded once, each by itself: a slash that was encoded divides nothing.
pub(super) fn segments(path: &str) -> impl Iterator<Item = Vec<u8>> {
    let path = path.strip_prefix('/').unwrap_or(path);
    path.split('/').map(|segment| decode(segment.as_bytes()))
}

/// Returns true if there is a segment that somebody could take for `.` or `..`.
fn has_dots(path: &[u8]) -> bool {
    // The two that have the bits of `.` and `/` in more bytes than they need (CVE-2000-0884).
    let mut plain = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((&first, after)) = rest.split_first() {
        let (byte, after) = match rest {
            [0xc0, 0xae, after @ ..] => (b'.', after),
            [0xc0, 0xaf, after @ ..] => (b'/', after),
            _ => (first, after),
        };
        plain.push(byte);
        rest = after;
    }
    plain.split(|byte| matches!(byte, b'/' | b'\\')).any(|segment| {
        let name = segment.split(|byte| *byte == b';').next().unwrap_or_default();
        let ignored = |byte: &u8| *byte <= b' ' || *byte == 0x7f;
        let mut seen = name.iter().filter(|byte| !ignored(byte)).peekable();
        seen.peek().is_some() && seen.all(|byte| *byte == b'.')
    })
}

/// Percent-decodes once. What is no encoding stays.
pub fn decode(text: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        let byte = match after {
            [high, low, after @ ..] if first == b'%' => match (digit(*high), digit(*low)) {
                (Some(high), Some(low)) => {
                    rest = after;
                    high << 4 | low
                }
                _ => first,
            },
            _ => first,
        };
        decoded.push(byte);
    }
    decoded
}

fn digit(character: u8) -> Option<u8> {
    char::from(character).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn below(path: &str, prefix: &str) -> bool {
        Path::new(path).is_below(&segments(prefix).collect::<Vec<_>>())
    }

    #[test]
    fn a_prefix_is_of_whole_segments() {
        for path in ["/v1", "/v1/", "/v1/a", "/v1/a/b.c", "/%76%31/a", "/v1//a", "/v1/a%2Fb"] {
            assert!(below(path, "/v1"), "{path}");
        }
        for path in ["/", "", "/v", "/v11", "/v1x", "/V1", "//v1", "/a/v1", "/v1%2fa", "/v1;x/a"] {
            assert!(!below(path, "/v1"), "{path}");
        }
        assert!(below("/v1/admin/x", "/v1/admin") && !below("/v1%2fadmin", "/v1/admin"));
        assert!(Path::new("/../x").is_below(&[]));
    }

    #[test]
    fn no_way_leads_up_from_a_prefix() {
        for up in [
            "..",
            ".",
            "%2e%2e",
            "%2E.",
            ".%2e",
            "%252e%252e",
            "%25252e%25252e",
            "..;",
            "..;a=b",
            "..%3b",
            "..%00",
            "..%20",
            "%20..",
            "...",
            "%c0%ae%c0%ae",
            "%25c0%25ae.",
        ] {
            for path in [
                format!("/v1/{up}/admin"),
                format!("/v1/{up}"),
                format!("/v1/a%2f{up}%2fadmin"),
                format!("/v1/a\\{up}\\admin"),
                format!("/v1/a%5c{up}%5cadmin"),
                format!("/v1/a%c0%af{up}%c0%afadmin"),
            ] {
                assert!(!below(&path, "/v1"), "{path}");
            }
        }
        assert!(!below(&format!("/v1/%{}2e/", "25".repeat(20)), "/v1"));
        for path in ["/v1/a.b", "/v1/.well-known", "/v1/a..b", "/v1/%", "/v1/100%", "/v1/%zz/%2"] {
            assert!(below(path, "/v1"), "{path}");
        }
    }

    proptest! {
        #[test]
        fn what_is_below_is_below_for_who_decodes_and_resolves(path in "/v1/([a./\\\\;]|%2[eEfF]|%25|%5c){0,12}") {
            if below(&path, "/v1") {
                let mut text = path.clone().into_bytes();
                for _ in 0..4 {
                    let mut depth = 0;
                    for segment in text.split(|b| matches!(b, b'/' | b'\\')).skip(2) {
                        if segment == b".." { depth -= 1; } else { depth += 1; }
                        prop_assert!(depth >= 0, "{path}");
                    }
                    text = decode(&text);
                }
            }
        }
    }
}
