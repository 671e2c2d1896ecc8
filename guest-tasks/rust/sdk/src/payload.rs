//! From bytes to a task's argument, and from its result to bytes.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::error::Category;
use serde_path_to_error::Segment;

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
///
/// Reasons are logged, and travel with results and dead letters; so this one holds no values of
/// the payload, which may be secrets: only where, what kind of value is there, and what is taken.
#[cold]
fn rejection<T: DeserializeOwned>(payload: &[u8], error: &serde_json::Error) -> String {
    if error.classify() != Category::Data {
        return format!("the payload is no JSON: {error}");
    }
    let mut json = serde_json::Deserializer::from_slice(payload);
    let found_again = serde_path_to_error::deserialize::<_, T>(&mut json).err();
    let (place, error) = match &found_again {
        Some(error) => (place(error), error.inner()),
        None => (String::new(), error),
    };
    let (line, column) = (error.line(), error.column());
    format!(
        "the payload does not fit: {place}{} at line {line} column {column}",
        Reason::of(error).text
    )
}

/// The path to a place, with a colon; empty for the whole. A name that is itself what does not fit
/// is left out.
fn place(error: &serde_path_to_error::Error<serde_json::Error>) -> String {
    let found = Reason::of(error.inner()).found;
    let is_found = |segment: &Segment| match segment {
        Segment::Map { key } | Segment::Enum { variant: key } => {
            [key.clone(), format!("{key:?}"), format!("`{key}`")].contains(&found)
        }
        Segment::Seq { .. } | Segment::Unknown => false,
    };
    let mut segments: Vec<&Segment> = error.path().iter().collect();
    segments.pop_if(|last| is_found(last));
    let mut place = String::new();
    for segment in segments {
        if !place.is_empty() && !matches!(segment, Segment::Seq { .. }) {
            place.push('.');
        }
        place.push_str(&segment.to_string());
    }
    if place.is_empty() { place } else { place + ": " }
}

/// serde's reason, taken apart.
struct Reason {
    /// The reason without what was found.
    text: String,
    /// What was found.
    found: String,
}

impl Reason {
    /// serde has its reasons as text only. What is not one of its own forms comes from the type
    /// that is read, and could hold anything.
    fn of(error: &serde_json::Error) -> Self {
        let text = error.to_string();
        let at = format!(" at line {} column {}", error.line(), error.column());
        let text = text.strip_suffix(&at).unwrap_or(&text);
        for form in ["invalid type", "invalid value"] {
            let rest = text.strip_prefix(form).and_then(|rest| rest.strip_prefix(": "));
            // The last one, since what was found could have these words in it.
            if let Some((found, expected)) = rest.and_then(|rest| rest.rsplit_once(", expected ")) {
                let kind = found.split(['`', '"']).next().unwrap_or_default().trim_end();
                let value = found.strip_prefix(kind).unwrap_or_default().trim_start();
                let kind = if KINDS.contains(&kind) { kind } else { "something else" };
                return Self {
                    text: format!("{form}: {kind}, expected {expected}"),
                    found: value.to_owned(),
                };
            }
        }
        for form in ["unknown field", "unknown variant"] {
            let rest = text.strip_prefix(form).and_then(|rest| rest.strip_prefix(" `"));
            let Some(rest) = rest else { continue };
            let none = ["`, there are no fields", "`, there are no variants"];
            let end = none
                .iter()
                .find(|end| rest.ends_with(**end))
                .map_or_else(|| rest.rfind("`, expected "), |end| Some(rest.len() - end.len()));
            if let Some((found, expected)) = end.and_then(|end| rest.split_at_checked(end)) {
                let expected = expected.trim_start_matches('`');
                return Self { text: format!("{form}{expected}"), found: found.to_owned() };
            }
        }
        let safe = [
            "missing field `",
            "duplicate field `",
            "invalid length ",
            "data did not match any variant of untagged enum ",
        ];
        let text = if safe.iter().any(|form| text.starts_with(form)) {
            text
        } else {
            "a value that the task's type does not take"
        };
        Self { text: text.to_owned(), found: String::new() }
    }
}

/// What serde and `serde_json` call the kinds of values that they found.
const KINDS: [&str; 17] = [
    "boolean",
    "integer",
    "floating point",
    "number",
    "character",
    "string",
    "byte array",
    "null",
    "unit value",
    "Option value",
    "newtype struct",
    "sequence",
    "map",
    "enum",
    "unit variant",
    "newtype variant",
    "struct variant",
];

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
            "the payload does not fit: lines[1].count: invalid value: integer, expected u32 at line \
             1 column 33"
        );
    }

    #[test]
    fn a_rejection_of_the_whole_has_no_path() {
        assert_eq!(
            rejected::<String>("1"),
            "the payload does not fit: invalid type: integer, expected a string at line 1 column 1"
        );
    }

    #[derive(Debug, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields, rename_all = "lowercase")]
    #[allow(dead_code, reason = "only ever read")]
    enum Unit {
        Piece,
        Kilo(f32),
        Pack { of: u8 },
    }

    #[derive(Debug, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code, reason = "only ever read")]
    struct Strict {
        unit: Option<Unit>,
        prices: Option<BTreeMap<u8, u8>>,
        letter: Option<char>,
        #[serde(default, deserialize_with = "never")]
        custom: (),
    }

    fn never<'de, D: serde::Deserializer<'de>>(from: D) -> Result<(), D::Error> {
        let text = String::deserialize(from)?;
        Err(serde::de::Error::custom(format!("{text} is refused")))
    }

    #[derive(Debug, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Nothing {}

    #[test]
    fn a_rejection_holds_no_values_of_the_payload() {
        let cases = [
            (r#"{"unit": "SECRET"}"#, "unit: unknown variant, expected one of `piece`,"),
            (r#"{"unit": {"SECRET": 1}}"#, "unit: unknown variant, expected one of `piece`,"),
            (r#"{"unit": {"kilo": "SECRET"}}"#, "unit.kilo: invalid type: string, expected f32"),
            (r#"{"unit": {"pack": {"SECRET": 1}}}"#, "unit.pack: unknown field, expected `of`"),
            (r#"{"unit": {"pack": {"of": "SECRET"}}}"#, "unit.pack.of: invalid type: string"),
            (r#"{"unit": {"pack": {}}}"#, "unit.pack: missing field `of`"),
            (r#"{"SECRET": 1}"#, "unknown field, expected one of `unit`, `prices`,"),
            (r#"{"a`, expected SECRET": 1}"#, "unknown field, expected one of `unit`, `prices`,"),
            (
                r#"{"prices": {"7": "a\", expected SECRET"}}"#,
                "prices.7: invalid type: string, expected u8",
            ),
            (r#"{"prices": {"7": 31337}}"#, "prices.7: invalid value: integer, expected u8"),
            (r#"{"prices": {"7": 3.1337}}"#, "prices.7: invalid type: floating point, expected u8"),
            (r#"{"prices": ["SECRET"]}"#, "prices: invalid type: sequence, expected a map"),
            (r#"{"letter": "SECRET"}"#, "letter: invalid value: string, expected a character"),
            (r#"{"custom": "SECRET"}"#, "custom: a value that the task's type does not take"),
        ];
        for (payload, reason) in cases {
            let rejected = rejected::<Strict>(payload);
            let reason = format!("the payload does not fit: {reason}");
            assert!(rejected.starts_with(&reason), "{payload}: {rejected}");
            assert!(!rejected.contains("SECRET") && !rejected.contains("1337"), "{rejected}");
        }
        assert_eq!(
            rejected::<Nothing>(r#"{"SECRET, there are no fields": 1}"#),
            "the payload does not fit: unknown field, there are no fields at line 1 column 30"
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
