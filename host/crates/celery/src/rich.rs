//! Types that JSON lacks, as kombu writes them: `{"__type__": "decimal", "__value__": "1.5"}`.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::{Deserialize, Serialize};

use super::{
    json::{Json, Map},
    python_json,
};

/// What becomes of kombu's rich types in arguments. A guest may answer with rich types in either
/// case: its output passes as it is, and clients make the types of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RichTypes {
    /// Plain JSON: a `decimal` becomes a number with its digits (a text where it is none, such as
    /// `NaN`), a `uuid` its text with hyphens, `datetime`, `date` and `time` their ISO 8601 text,
    /// `bytes` their text, or base64 where they are none, and the numbers that JSON lacks theirs:
    /// `NaN`, `Infinity`, `-Infinity`. Types that kombu does not know stay.
    #[default]
    Plain,
    /// As they came.
    Keep,
}

/// How deep values are looked into. Deeper ones stay as they are.
const MAX_DEPTH: usize = 64;

impl RichTypes {
    /// The value as a guest gets it.
    pub fn apply(self, json: &Json) -> Json {
        // Most values hold none, and need no second look.
        if self == Self::Keep || !json.text().contains("__type__") {
            return json.clone();
        }
        plain(json, 0)
    }
}

/// Whether clients can read a value: kombu refuses a whole result over a rich type that it does not
/// know, or whose value is not one. The error says what is wrong.
pub fn check(json: &Json) -> Result<(), String> {
    let too_deep = || format!("the value nests more than {} deep", python_json::MAX_DEPTH);
    python_json::read(json.text()).map_err(|_| too_deep())?;
    let mut left = vec![(json.clone(), 0)];
    while let Some((value, depth)) = left.pop() {
        // A key may be spelled with escapes.
        let text = value.text();
        if !(text.contains("__type__") || text.contains("\\u005f") || text.contains("\\u005F")) {
            continue;
        }
        if depth >= MAX_DEPTH {
            return Err(format!("a `__type__` stands more than {MAX_DEPTH} deep in the value"));
        }
        if let Some(items) = value.items() {
            left.extend(items.into_iter().map(|item| (item, depth + 1)));
        } else if let Some(fields) = value.fields() {
            if fields.len() == 2
                && let (Some(kind), Some(of)) = (fields.get("__type__"), fields.get("__value__"))
            {
                let kind = kind.as_string().unwrap_or_default();
                if !is_typed(&kind, of) {
                    let kind = lovage_core::text::one_line(&kind, 60);
                    return Err(format!("the value of a `__type__` `{kind}` is none of kombu's"));
                }
            } else {
                left.extend(fields.into_iter().map(|(_, value)| (value, depth + 1)));
            }
        }
    }
    Ok(())
}

/// Returns true if kombu makes a value of it.
fn is_typed(kind: &str, value: &Json) -> bool {
    let text = value.as_string();
    let is = |test: fn(&str) -> bool| text.as_deref().is_some_and(test);
    match kind {
        "decimal" => {
            value.text().parse::<f64>().is_ok()
                || is(|text| {
                    let text = text.strip_prefix(['-', '+']).unwrap_or(text);
                    let number = text.starts_with(|c: char| c.is_ascii_digit() || c == '.')
                        && text.ends_with(|c: char| c.is_ascii_digit() || c == '.')
                        && text.parse::<f64>().is_ok();
                    number || ["NaN", "sNaN", "Infinity"].contains(&text)
                })
        }
        "uuid" => value.fields().is_some_and(|fields| {
            let hex = fields.string("hex");
            fields.len() == 1 && hex.is_some_and(|hex| uuid::Uuid::try_parse(&hex).is_ok())
        }),
        "datetime" => is(|text| super::time::parse(text).is_some()),
        "date" => is(|text| text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok()),
        "time" => is(|text| text.parse::<jiff::civil::Time>().is_ok()),
        "bytes" => text.is_some(),
        "base64" => is(|text| BASE64_STANDARD.decode(text).is_ok()),
        "float" => is(|text| ["NaN", "Infinity", "-Infinity"].contains(&text)),
        _ => false,
    }
}

fn plain(json: &Json, depth: usize) -> Json {
    if depth >= MAX_DEPTH || !json.text().contains("__type__") {
        return json.clone();
    }
    if let Some(items) = json.items() {
        return Json::list(&items.iter().map(|item| plain(item, depth + 1)).collect::<Vec<_>>());
    }
    let Some(fields) = json.fields() else { return json.clone() };
    if fields.len() == 2
        && let (Some(kind), Some(value)) = (fields.string("__type__"), fields.get("__value__"))
        && let Some(plain) = typed(&kind, value)
    {
        return plain;
    }
    fields.into_iter().map(|(name, value)| (name, plain(&value, depth + 1))).collect::<Map>().into()
}

fn typed(kind: &str, value: &Json) -> Option<Json> {
    match kind {
        "decimal" => {
            let text = value.as_string()?;
            let number = text.starts_with(|c: char| c == '-' || c.is_ascii_digit());
            Json::parse(&text).filter(|_| number).or_else(|| Some(Json::string(&text)))
        }
        "uuid" => {
            let hex =
                value.fields().and_then(|it| it.string("hex")).or_else(|| value.as_string())?;
            let uuid = uuid::Uuid::try_parse(&hex).ok()?;
            Some(Json::string(&uuid.to_string()))
        }
        "datetime" | "date" | "time" | "bytes" | "base64" | "float" => {
            value.as_string().map(|_| value.clone())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rich_types_become_plain_json_or_stay() {
        let json = Json::parse(
            r#"{"d": {"__type__": "decimal", "__value__": "1.50"}, "n": {"__type__": "decimal", "__value__": "NaN"}, "u": [{"__type__": "uuid", "__value__": {"hex": "00000000000000000000000000000001"}}], "b": {"__type__": "base64", "__value__": "AP8="}, "t": {"__type__": "datetime", "__value__": "2026-01-31T12:00:00"}, "x": {"__type__": "mine", "__value__": 1}, "y": {"__type__": "decimal", "__value__": "1", "more": 1.10}}"#,
        )
        .unwrap();
        assert_eq!(RichTypes::Keep.apply(&json), json);
        assert_eq!(
            RichTypes::Plain.apply(&json).text(),
            r#"{"d": 1.50, "n": "NaN", "u": ["00000000-0000-0000-0000-000000000001"], "b": "AP8=", "t": "2026-01-31T12:00:00", "x": {"__type__": "mine", "__value__": 1}, "y": {"__type__": "decimal", "__value__": "1", "more": 1.10}}"#
        );
    }

    #[test]
    fn what_clients_cannot_read_is_found() {
        let check = |text: &str| check(&Json::parse(text).unwrap());
        for good in [
            r#"[1, {"__type__": "decimal", "__value__": "1.50"}]"#,
            r#"{"a": {"__type__": "uuid", "__value__": {"hex": "00000000000000000000000000000001"}}}"#,
            r#"{"__type__": "datetime", "__value__": "2026-01-31T12:00:00"}"#,
            r#"{"__type__": "date", "__value__": "2026-01-31"}"#,
            r#"{"__type__": "time", "__value__": "12:00:00"}"#,
            r#"{"__type__": "bytes", "__value__": "a"}"#,
            r#"{"__type__": "float", "__value__": "NaN"}"#,
            r#"{"__type__": "mine", "__value__": 1, "more": 2}"#,
            r#"{"__type__": "mine"}"#,
            r#""__type__""#,
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in [
            r#"{"__type__": "mine", "__value__": 1}"#,
            r#"[[{"\u005f_type__": "mine", "__value__": 1}]]"#,
            r#"{"__type__": 1, "__value__": 1}"#,
            r#"{"__type__": "decimal", "__value__": "a"}"#,
            r#"{"__type__": "decimal", "__value__": "inf"}"#,
            r#"{"__type__": "uuid", "__value__": {"hex": "1"}}"#,
            r#"{"__type__": "datetime", "__value__": "soon"}"#,
            r#"{"__type__": "base64", "__value__": "a"}"#,
            r#"{"__value__": 1, "__type__": "bytes"}"#,
        ] {
            assert!(check(bad).is_err(), "{bad}");
        }
        assert!(check(&format!("{}1{}", "[".repeat(600), "]".repeat(600))).is_err());
    }

    #[test]
    fn what_holds_none_stays_byte_for_byte() {
        let json = Json::parse(r#"{"a" :[1.0,  2]}"#).unwrap();
        assert_eq!(RichTypes::Plain.apply(&json), json);
    }
}
