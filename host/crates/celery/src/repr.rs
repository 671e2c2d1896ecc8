//! JSON as Python's `repr` shows it: what Celery puts into logs and into the messages of errors.

use std::fmt::Write as _;

use serde_json::Value;

use super::json::{Json, Map};

/// The longest that is shown, in bytes, as in Celery.
const MAX_BYTES: usize = 1024;

/// A value as Python shows it, shortened.
pub(super) fn of(json: &Json) -> String {
    shown(|out| value(out, json))
}

/// Positional arguments as Python shows a tuple.
pub(super) fn tuple(args: &[Json]) -> String {
    shown(|out| {
        out.push('(');
        list(out, args);
        out.push_str(if args.len() == 1 { ",)" } else { ")" });
    })
}

/// Keyword arguments as Python shows a dict.
pub(super) fn dict(kwargs: &Map) -> String {
    shown(|out| {
        out.push('{');
        for (n, (name, json)) in kwargs.iter().enumerate() {
            if n > 0 {
                out.push_str(", ");
            }
            text(out, name);
            out.push_str(": ");
            value(out, json);
            if out.len() > MAX_BYTES {
                break;
            }
        }
        out.push('}');
    })
}

fn shown(write: impl FnOnce(&mut String)) -> String {
    let mut out = String::new();
    write(&mut out);
    if out.len() > MAX_BYTES {
        out.truncate(out.floor_char_boundary(MAX_BYTES - 3));
        out.push_str("...");
    }
    out
}

fn list(out: &mut String, items: &[Json]) {
    for (n, item) in items.iter().enumerate() {
        if n > 0 {
            out.push_str(", ");
        }
        value(out, item);
        if out.len() > MAX_BYTES {
            break;
        }
    }
}

fn value(out: &mut String, json: &Json) {
    match json.text() {
        "null" => out.push_str("None"),
        "true" => out.push_str("True"),
        "false" => out.push_str("False"),
        // What is not shown whole need not be read whole.
        long if long.len() > 4 * MAX_BYTES => {
            out.push_str(if json.is_list() { "[...]" } else { "..." });
        }
        whole => match whole.bytes().next() {
            Some(b'"') => text(out, &json.as_string().unwrap_or_default()),
            Some(b'[' | b'{') => match json.read() {
                Some(nested) => tree(out, &nested),
                None => out.push_str("..."),
            },
            _ => out.push_str(whole),
        },
    }
}

fn tree(out: &mut String, nested: &Value) {
    match nested {
        Value::Null => out.push_str("None"),
        Value::Bool(true) => out.push_str("True"),
        Value::Bool(false) => out.push_str("False"),
        Value::Number(number) => {
            let _ = write!(out, "{number}");
        }
        Value::String(string) => text(out, string),
        Value::Array(items) => {
            out.push('[');
            for (n, item) in items.iter().enumerate() {
                out.push_str(if n > 0 { ", " } else { "" });
                tree(out, item);
            }
            out.push(']');
        }
        Value::Object(fields) => {
            out.push('{');
            for (n, (name, item)) in fields.iter().enumerate() {
                out.push_str(if n > 0 { ", " } else { "" });
                text(out, name);
                out.push_str(": ");
                tree(out, item);
            }
            out.push('}');
        }
    }
}

fn text(out: &mut String, string: &str) {
    let quote = if string.contains('\'') && !string.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in string.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            c if c.is_control() => {
                let _ = write!(out, "\\x{:02x}", u32::from(c));
            }
            c => out.push(c),
        }
        if out.len() > MAX_BYTES {
            break;
        }
    }
    out.push(quote);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_shown_as_python_shows_them() {
        for (json, shown) in [
            ("[1, null, true]", "[1, None, True]"),
            (r#"{"a": "it's"}"#, r#"{'a': "it's"}"#),
            (r#""a\nb""#, r"'a\nb'"),
            ("1.50", "1.50"),
        ] {
            assert_eq!(of(&Json::parse(json).unwrap()), shown);
        }
        assert_eq!(tuple(&[Json::number(21)]), "(21,)");
        assert_eq!(tuple(&[Json::number(1), Json::string("a")]), "(1, 'a')");
        assert_eq!(dict(&Map::from_iter([("data", Json::number(21))])), "{'data': 21}");
        let long = tuple(&vec![Json::string("ääää"); 1000]);
        assert!(long.len() <= MAX_BYTES && long.ends_with("..."), "{long}");
    }
}
