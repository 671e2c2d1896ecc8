//! From bytes to a task's argument, and from its result to bytes.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::error::Category;

use crate::bindings::exports::lovage::task::handler::Output as WitOutput;
use crate::{Context, TaskError};

const JSON: &str = "application/json";

/// Bytes with their media type: a payload as it was sent, or an output as it shall be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Raw {
    /// Media type of `data`, such as `text/csv`.
    pub content_type: String,
    /// The bytes.
    pub data: Vec<u8>,
}

impl Raw {
    /// Bytes of the given media type. For `application/json` the host checks that they are one
    /// JSON value.
    pub fn new(content_type: impl Into<String>, data: impl Into<Vec<u8>>) -> Self {
        Self { content_type: content_type.into(), data: data.into() }
    }
}

/// What a task can take as its payload: [`Raw`], or whatever is `Deserialize + JsonSchema`.
pub trait Input: Sized {
    /// Reads the payload, or rejects it with a reason.
    fn from_payload(payload: Vec<u8>, ctx: &Context) -> Result<Self, TaskError>;

    /// JSON Schema (2020-12) of the payload, as JSON text; none where it is no JSON.
    fn schema() -> Option<String>;
}

/// What a task can give back: [`Raw`], or whatever is `Serialize + JsonSchema`.
pub trait Output {
    /// Writes the result as bytes with a media type.
    fn into_raw(self) -> Result<Raw, TaskError>;

    /// JSON Schema (2020-12) of the output, as JSON text; none where it is no JSON.
    fn schema() -> Option<String>;
}

impl Input for Raw {
    fn from_payload(payload: Vec<u8>, ctx: &Context) -> Result<Self, TaskError> {
        Ok(Self::new(ctx.content_type.as_str(), payload))
    }

    fn schema() -> Option<String> {
        None
    }
}

impl Output for Raw {
    fn into_raw(self) -> Result<Raw, TaskError> {
        Ok(self)
    }

    fn schema() -> Option<String> {
        None
    }
}

impl<T: DeserializeOwned + JsonSchema> Input for T {
    fn from_payload(payload: Vec<u8>, ctx: &Context) -> Result<Self, TaskError> {
        if !is_json(&ctx.content_type) {
            return Err(TaskError::Reject(format!(
                "the payload is `{}`, and this task takes `{JSON}`",
                ctx.content_type
            )));
        }
        serde_json::from_slice(&payload)
            .map_err(|error| TaskError::Reject(rejection::<T>(&payload, &error)))
    }

    fn schema() -> Option<String> {
        schema_of::<T>(SchemaSettings::draft2020_12().for_deserialize())
    }
}

impl<T: Serialize + JsonSchema> Output for T {
    fn into_raw(self) -> Result<Raw, TaskError> {
        Ok(Raw::new(JSON, serde_json::to_vec(&self)?))
    }

    fn schema() -> Option<String> {
        schema_of::<T>(SchemaSettings::draft2020_12().for_serialize())
    }
}

impl From<Raw> for WitOutput {
    fn from(raw: Raw) -> Self {
        Self { content_type: raw.content_type, data: raw.data }
    }
}

fn schema_of<T: JsonSchema>(settings: SchemaSettings) -> Option<String> {
    let schema = settings.into_generator().into_root_schema_for::<T>();
    serde_json::to_string(&schema).ok()
}

/// `application/json` and its relatives such as `application/cloudevents+json`; parameters such
/// as a charset say nothing about JSON, which is UTF-8.
fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    let Some((_, subtype)) = essence.split_once('/') else {
        return essence.is_empty();
    };
    let suffix = subtype.rsplit('+').next().unwrap_or(subtype);
    suffix.eq_ignore_ascii_case("json")
}

/// Why the payload does not fit, with the path to the place. The path is found by reading the
/// payload a second time, so that a payload that fits does not pay for it; a payload that is no
/// JSON at all has a line and a column instead.
#[cold]
fn rejection<T: DeserializeOwned>(payload: &[u8], error: &serde_json::Error) -> String {
    if error.classify() == Category::Data {
        let mut json = serde_json::Deserializer::from_slice(payload);
        if let Err(error) = serde_path_to_error::deserialize::<_, T>(&mut json) {
            let path = error.path().to_string();
            if path != "." {
                return format!("the payload does not fit: {path}: {}", error.inner());
            }
        }
        return format!("the payload does not fit: {error}");
    }
    format!("the payload is no JSON: {error}")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;
    use serde_json::{Value, json};

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
    struct Order {
        lines: Vec<Line>,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
    struct Line {
        count: u32,
    }

    fn read<T: Input>(payload: &str) -> Result<T, TaskError> {
        T::from_payload(payload.as_bytes().to_vec(), &Context::default())
    }

    fn rejected<T: Input>(payload: &str) -> String {
        match read::<T>(payload) {
            Err(TaskError::Reject(message)) => message,
            Err(other) => panic!("not a rejection: {other:?}"),
            Ok(_) => panic!("accepted"),
        }
    }

    #[test]
    fn a_payload_that_fits_is_read() {
        let order: Order = read(r#"{"lines":[{"count":2}]}"#).unwrap();
        assert_eq!(order, Order { lines: vec![Line { count: 2 }] });
    }

    #[test]
    fn a_rejection_names_the_path() {
        assert_eq!(
            rejected::<Order>(r#"{"lines":[{"count":1},{"count":-1}]}"#),
            "the payload does not fit: lines[1].count: invalid value: integer `-1`, expected u32 \
             at line 1 column 33"
        );
    }

    #[test]
    fn a_rejection_of_the_whole_has_no_path() {
        assert_eq!(
            rejected::<String>("1"),
            "the payload does not fit: invalid type: integer `1`, expected a string at line 1 column 1"
        );
    }

    #[test]
    fn what_is_no_json_is_rejected_as_such() {
        assert_eq!(
            rejected::<Value>("{"),
            "the payload is no JSON: EOF while parsing an object at line 1 column 1"
        );
        assert!(rejected::<Value>("1 2").contains("trailing characters"));
        assert!(rejected::<Value>("").contains("EOF"));
    }

    #[test]
    fn only_json_is_read_as_json() {
        for yes in [
            "",
            "application/json",
            "Application/JSON; charset=utf-8",
            "text/json",
            "application/vnd.api+json",
        ] {
            assert!(is_json(yes), "{yes}");
        }
        for no in ["text/plain", "application/jsonl", "json", "application/json+xml"] {
            assert!(!is_json(no), "{no}");
        }
        let ctx = Context { content_type: "text/csv".to_owned(), ..Context::default() };
        assert_eq!(
            Value::from_payload(b"1".to_vec(), &ctx),
            Err(TaskError::reject(
                "the payload is `text/csv`, and this task takes `application/json`"
            ))
        );
    }

    #[test]
    fn raw_bytes_pass_untouched() {
        let ctx = Context { content_type: "image/png".to_owned(), ..Context::default() };
        let raw = Raw::from_payload(vec![0, 255], &ctx).unwrap();
        assert_eq!(raw, Raw::new("image/png", [0, 255]));
        assert_eq!(raw.clone().into_raw().unwrap(), raw);
        assert_eq!(<Raw as Input>::schema(), None);
        assert_eq!(<Raw as Output>::schema(), None);
    }

    #[test]
    #[cfg(feature = "exact-numbers")]
    fn numbers_survive_as_they_are_written() {
        for text in [
            "1606938044258990275541962092341162602522202993782792835301376",
            "-123456789012345678901234567890",
            "1.50",
            "0.1",
            "18446744073709551616",
        ] {
            let value: Value = read(text).unwrap();
            assert_eq!(value.into_raw().unwrap().data, text.as_bytes());
        }
    }

    #[test]
    fn an_output_that_json_cannot_hold_fails() {
        let map = BTreeMap::from([(vec![1_u8], 1_u8)]);
        assert!(matches!(
            map.into_raw(),
            Err(TaskError::Fail { kind, .. }) if kind == "serde_json::Error"
        ));
    }

    #[test]
    fn schemas_are_of_draft_2020_12() {
        let schema: Value = serde_json::from_str(&<Order as Input>::schema().unwrap()).unwrap();
        assert_eq!(
            schema,
            json!({
                "$schema": "https://json-schema.org/draft/2020-12/schema",
                "title": "Order",
                "type": "object",
                "properties": { "lines": { "type": "array", "items": { "$ref": "#/$defs/Line" } } },
                "required": ["lines"],
                "$defs": { "Line": {
                    "type": "object",
                    "properties": { "count": { "type": "integer", "format": "uint32", "minimum": 0 } },
                    "required": ["count"],
                } },
            })
        );
    }
}
