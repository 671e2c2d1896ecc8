//! Whether two JSON texts are the same value.
//!
//! Numbers are compared as they are written, since an integer may be larger than any type here, and
//! `1.0` and `1` are equal, since languages differ in how they write it. One of the texts is a
//! guest's: depth is bounded.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

/// How deep is looked; the SDKs' readers go no deeper.
const MAX_DEPTH: usize = 128;

/// Where two values differ.
#[derive(Debug, PartialEq, Eq)]
pub struct Difference {
    /// The way there, such as `lines[1].count`; empty at the top.
    pub place: String,
    /// What was expected there.
    pub expected: String,
    /// What is there.
    pub got: String,
}

/// The first place where two values differ.
pub fn difference(expected: &RawValue, got: &RawValue) -> Option<Difference> {
    compare(Some(expected), Some(got), String::new(), 0)
}

/// A value, one level deep.
enum Value<'a> {
    Object(BTreeMap<String, &'a RawValue>),
    Array(Vec<&'a RawValue>),
    Text(String),
    /// Numbers, `true`, `false`, `null`, and what can only be compared as it is written.
    Written(&'a str),
}

impl<'a> Value<'a> {
    fn of(raw: &'a RawValue) -> Self {
        let text = raw.get().trim();
        let read = match text.as_bytes().first() {
            Some(b'{') => serde_json::from_str(text).ok().map(Self::Object),
            Some(b'[') => serde_json::from_str(text).ok().map(Self::Array),
            Some(b'"') => serde_json::from_str(text).ok().map(Self::Text),
            _ => None,
        };
        read.unwrap_or(Self::Written(text))
    }
}

fn compare(
    expected: Option<&RawValue>,
    got: Option<&RawValue>,
    place: String,
    depth: usize,
) -> Option<Difference> {
    let differ = |place| {
        let shown = |it: Option<&RawValue>| it.map_or("nothing", RawValue::get).to_owned();
        Some(Difference { place, expected: shown(expected), got: shown(got) })
    };
    let (Some(one), Some(other)) = (expected, got) else {
        return if expected.is_none() && got.is_none() { None } else { differ(place) };
    };
    if depth > MAX_DEPTH {
        return if one.get() == other.get() { None } else { differ(place) };
    }
    match (Value::of(one), Value::of(other)) {
        (Value::Object(one), Value::Object(other)) => {
            one.keys().chain(other.keys()).find_map(|key| {
                let dot = if place.is_empty() { "" } else { "." };
                let place = format!("{place}{dot}{key}");
                compare(one.get(key).copied(), other.get(key).copied(), place, depth + 1)
            })
        }
        (Value::Array(one), Value::Array(other)) => {
            (0..one.len().max(other.len())).find_map(|at| {
                let place = format!("{place}[{at}]");
                compare(one.get(at).copied(), other.get(at).copied(), place, depth + 1)
            })
        }
        (Value::Text(one), Value::Text(other)) if one == other => None,
        (Value::Written(one), Value::Written(other)) if same_scalar(one, other) => None,
        _ => differ(place),
    }
}

/// Whether two numbers or words are the same.
fn same_scalar(one: &str, other: &str) -> bool {
    let is_integer = |text: &str| {
        let digits = text.strip_prefix('-').unwrap_or(text);
        !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
    };
    if one == other {
        return true;
    }
    if is_integer(one) && is_integer(other) {
        return one.trim_start_matches('-') == "0" && other.trim_start_matches('-') == "0";
    }
    match (one.parse::<f64>(), other.parse::<f64>()) {
        // What is too large for a float is equal to nothing but itself.
        #[allow(clippy::float_cmp, reason = "the same value is what is asked for")]
        (Ok(one), Ok(other)) => one == other && one.is_finite(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    fn place(expected: &str, got: &str) -> Option<String> {
        difference(&raw(expected), &raw(got)).map(|it| it.place)
    }

    #[test]
    fn the_same_value_may_be_written_in_many_ways() {
        for (one, other) in [
            ("1", "1.0"),
            ("-0", "0"),
            ("100", "1e2"),
            (r#"{"a":1,"b":[true,null]}"#, r#" { "b" : [ true , null ] , "a" : 1 } "#),
            (r#""ä""#, r#""\u00e4""#),
            (r#""\ud800""#, r#""\ud800""#),
        ] {
            assert_eq!(place(one, other), None, "{one} {other}");
        }
    }

    #[test]
    fn the_first_difference_is_named() {
        for (expected, got, at) in [
            ("1", "2", ""),
            ("1", "\"1\"", ""),
            ("null", "false", ""),
            // They are the same for a 64-bit float.
            ("9007199254740993", "9007199254740992", ""),
            ("1e999", "2e999", ""),
            ("[1,[2,3]]", "[1,[2,4]]", "[1][1]"),
            ("[1]", "[1,2]", "[1]"),
            (r#"{"a":{"b":1}}"#, r#"{"a":{"b":1,"c":2}}"#, "a.c"),
            (r#"{"a":1,"b":2}"#, r#"{"a":1}"#, "b"),
        ] {
            assert_eq!(place(expected, got).as_deref(), Some(at), "{expected} {got}");
        }
    }

    #[test]
    fn depth_costs_no_stack() {
        let deep = |inner: &str| "[".repeat(100_000) + inner + &"]".repeat(100_000);
        assert_eq!(place(&deep("1"), &deep("1")), None);
        assert!(place(&deep("1"), &deep("2")).is_some());
    }
}
