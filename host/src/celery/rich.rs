//! Types that JSON lacks, as kombu writes them: `{"__type__": "decimal", "__value__": "1.5"}`.

use serde::{Deserialize, Serialize};

use super::json::{Json, Map};

/// What becomes of kombu's rich types in arguments. A guest may answer with rich types in either
/// case: its output passes as it is, and clients make the types of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RichTypes {
    /// Plain JSON: a `decimal` becomes a number with its digits (a text where it is none, such as
    /// `NaN`), a `uuid` its text with hyphens, `datetime`, `date` and `time` their ISO 8601 text,
    /// `bytes` their text, or base64 where they are none. Types that kombu does not know stay.
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
        "datetime" | "date" | "time" | "bytes" | "base64" => {
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
    fn what_holds_none_stays_byte_for_byte() {
        let json = Json::parse(r#"{"a" :[1.0,  2]}"#).unwrap();
        assert_eq!(RichTypes::Plain.apply(&json), json);
    }
}
