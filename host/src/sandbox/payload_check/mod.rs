//! Payloads held to the schema that their task declares, before a guest is made for them.
//!
//! The validator is made once, when a component is loaded. What a check may take is bounded
//! beforehand: by the schema's steps ([`cost`]) times the payload's values ([`MAX_WORK`]), and by the
//! memory of the attempt. Its time is the attempt's, and so its tenant's.

mod cost;
mod unique;

use jsonschema::{PatternOptions, Validator};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use self::cost::Not;
use super::limits::Bytes;
use super::typed::INVALID_PAYLOAD;
use crate::outcome::Failure;
use crate::text::one_line;

/// The most bytes of a schema that payloads are checked by.
pub const MAX_SCHEMA_BYTES: usize = 256 << 10;

/// The most that the steps of a schema times the values of a payload may be. That many take a second or
/// so: a payload of a mebibyte may have half a million values, and most schemas have less than a
/// hundred steps.
pub const MAX_WORK: u64 = 100_000_000;

/// Up to here it is told where a payload does not fit: the library notes each place that does not fit
/// any branch of an `anyOf`.
const MAX_WORK_TOLD: u64 = 1_000_000;

/// What a value of parsed JSON takes, with what its vector has free; and what an object does, whose
/// members are in nodes of a tree.
const VALUE_BYTES: u64 = 2 * size_of::<Value>() as u64;
const OBJECT_BYTES: u64 = 12 * (size_of::<Value>() + size_of::<String>()) as u64;

/// The most bytes of compiled patterns, each.
const PATTERN_BYTES: usize = 256 << 10;

/// A task whose payloads are not held to the schema that it has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unchecked {
    /// The task.
    pub task: String,
    /// Why.
    pub reason: String,
}

/// What follows from a task's schema.
#[derive(Debug)]
pub enum PayloadCheck {
    /// Any payload fits.
    Anything,
    /// Payloads are held to it.
    Checked(Box<Checker>),
    /// It is more than is checked; why.
    Unchecked(String),
}

/// A schema that payloads are held to.
#[derive(Debug)]
pub struct Checker {
    schema: Value,
    validator: Validator,
    steps: u64,
}

impl PayloadCheck {
    /// From a schema's text. The error says what is wrong with it.
    pub fn of(schema: &str) -> Result<Self, String> {
        let value = parse(schema)?;
        if schema.len() > MAX_SCHEMA_BYTES {
            let (size, most) = (Bytes(schema.len() as u64), Bytes(MAX_SCHEMA_BYTES as u64));
            return Ok(Self::Unchecked(format!("it has {size}, and {most} are checked at most")));
        }
        if is_known(&value) {
            valid(&value)?;
        } else {
            return Ok(Self::Unchecked("its `$schema` is not known here".to_owned()));
        }
        if is_anything(&value) {
            return Ok(Self::Anything);
        }
        let steps = match cost::steps(&value) {
            Ok(steps) => steps,
            Err(Not::Checked(reason)) => return Ok(Self::Unchecked(reason)),
            Err(Not::Wrong(reason)) => return Err(reason),
        };
        let built = jsonschema::options()
            .offline()
            .should_validate_formats(false)
            .with_pattern_options(
                PatternOptions::regex().size_limit(PATTERN_BYTES).dfa_size_limit(PATTERN_BYTES),
            )
            .with_keyword("uniqueItems", unique::keyword)
            .build(&value);
        Ok(match built {
            Ok(validator) => Self::Checked(Box::new(Checker { schema: value, validator, steps })),
            // It is valid; but patterns may look ahead, which takes more than linear time.
            Err(error) => Self::Unchecked(format!(
                "the checker does not take it: {}",
                one_line(&error.to_string(), 300)
            )),
        })
    }
}

/// Checks that a text is a JSON Schema, as far as it can be told. The error says why not.
pub fn check_schema(schema: &str) -> Result<(), String> {
    let value = parse(schema)?;
    if schema.len() <= MAX_SCHEMA_BYTES && is_known(&value) { valid(&value) } else { Ok(()) }
}

fn parse(schema: &str) -> Result<Value, String> {
    match serde_json::from_str::<Value>(schema) {
        // JSON Schema 2020-12, section 4.3: a schema is an object or a boolean.
        Ok(value @ (Value::Object(_) | Value::Bool(_))) => Ok(value),
        Ok(_) => Err("is no JSON Schema, which is an object or a boolean".to_owned()),
        Err(error) => Err(format!("is no JSON: {error}")),
    }
}

/// Whether the schema is of a dialect whose keywords are known.
fn is_known(schema: &Value) -> bool {
    const KNOWN: [&str; 4] = [
        "https://json-schema.org/draft/2020-12/schema",
        "https://json-schema.org/draft/2019-09/schema",
        "http://json-schema.org/draft-07/schema",
        "http://json-schema.org/draft-06/schema",
    ];
    match schema.get("$schema") {
        None => true,
        Some(Value::String(dialect)) => KNOWN.contains(&dialect.trim_end_matches('#')),
        Some(_) => false,
    }
}

fn valid(schema: &Value) -> Result<(), String> {
    jsonschema::meta::validate(schema).map_err(|error| {
        // A schema is no secret; but it may be long.
        let place = error.instance_path().as_str();
        let place = if place.is_empty() { String::new() } else { one_line(place, 200) + ": " };
        format!("is no valid JSON Schema: {place}{}", one_line(&error.to_string(), 300))
    })
}

/// Keywords that say nothing of what is valid.
const ANNOTATIONS: [&str; 11] = [
    "$schema",
    "$id",
    "$comment",
    "$defs",
    "definitions",
    "title",
    "description",
    "default",
    "examples",
    "deprecated",
    "format",
];

fn is_anything(schema: &Value) -> bool {
    match schema {
        Value::Bool(takes) => *takes,
        Value::Object(members) => members.keys().all(|name| ANNOTATIONS.contains(&name.as_str())),
        _ => false,
    }
}

impl Checker {
    /// How long it would take to check a payload, in steps.
    pub fn work(&self, payload: &[u8]) -> u64 {
        Size::of(payload).values.saturating_mul(self.steps)
    }

    /// Holds a payload to the schema. What it takes of memory is at most so many bytes.
    pub fn check(&self, payload: &[u8], max: u64) -> Result<(), Failure> {
        let refused = |reason: String| Failure::new(INVALID_PAYLOAD, reason);
        let size = Size::of(payload);
        let work = size.values.saturating_mul(self.steps);
        if work > MAX_WORK {
            return Err(refused(format!(
                "the payload is too large to be checked by the task's input schema, which comes to \
                 {} steps for each of its {} values (`check_payload = false` turns that off)",
                self.steps, size.values
            )));
        }
        if size.memory > max {
            return Err(refused(format!(
                "to check the payload by the task's input schema takes more than the {} of memory \
                 that the attempt may use (`memory_bytes` raises it, `check_payload = false` turns \
                 the check off)",
                Bytes(max)
            )));
        }
        let value: Value = serde_json::from_slice(payload)
            .map_err(|error| refused(format!("the payload is not JSON: {error}")))?;
        if self.validator.is_valid(&value) {
            return Ok(());
        }
        let error =
            (work <= MAX_WORK_TOLD).then(|| self.validator.validate(&value).err()).flatten();
        let Some(error) = error else {
            return Err(refused("the payload does not fit the task's input schema".to_owned()));
        };
        let place = error.instance_path().as_str();
        let at =
            if place.is_empty() { String::new() } else { format!(" at {}", one_line(place, 300)) };
        let rule = error.schema_path().as_str();
        let (_, keyword) = rule.rsplit_once('/').unwrap_or(("", rule));
        let expected = self.schema.pointer(rule).map(Value::to_string);
        let expected = expected.map_or_else(String::new, |it| format!(": {}", one_line(&it, 200)));
        Err(refused(format!(
            "the payload does not fit{at}: `{keyword}` of the task's input schema is not kept{expected}"
        )))
    }
}

/// How large JSON would be.
struct Size {
    /// Its values; each some bytes of text count as one, too, since patterns look at each.
    values: u64,
    /// What it takes when it is parsed, in bytes.
    memory: u64,
}

impl Size {
    /// By its punctuation, wherever that is: at least as large as it is.
    fn of(json: &[u8]) -> Self {
        let (mut parts, mut objects) = (1, 0);
        for byte in json {
            match byte {
                b',' | b'[' => parts += 1,
                b'{' => {
                    parts += 1;
                    objects += 1;
                }
                _ => {}
            }
        }
        let bytes = json.len() as u64;
        Self {
            values: parts + bytes / 16,
            memory: parts * (VALUE_BYTES + size_of::<String>() as u64)
                + objects * OBJECT_BYTES
                + 2 * bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checker(schema: &str) -> Checker {
        match PayloadCheck::of(schema).unwrap() {
            PayloadCheck::Checked(checker) => *checker,
            other => panic!("{other:?}"),
        }
    }

    fn reason(checker: &Checker, payload: &str) -> String {
        let failure = checker.check(payload.as_bytes(), 64 << 20).unwrap_err();
        assert_eq!(failure.kind, "invalid_payload");
        failure.message
    }

    const PERSON: &str = r##"{
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {
            "name": {"type": "string", "pattern": "^[a-z]+$"},
            "tags": {"type": "array", "items": {"$ref": "#/$defs/tag"}, "uniqueItems": true}
        },
        "required": ["name"],
        "$defs": {"tag": {"enum": ["a", "b"]}}
    }"##;

    #[test]
    fn a_payload_that_does_not_fit_is_told_where_and_by_which_rule() {
        let checker = checker(PERSON);
        checker.check(br#"{"name": "ada", "tags": ["a", "b"]}"#, 64 << 20).unwrap();
        for (payload, expected) in [
            (
                r#"{"name": "S3CRET"}"#,
                "the payload does not fit at /name: `pattern` of the task's input schema is not \
                 kept: \"^[a-z]+$\"",
            ),
            (
                r#"{"name": "ada", "tags": ["S3CRET"]}"#,
                "the payload does not fit at /tags/0: `enum` of the task's input schema is not \
                 kept: [\"a\",\"b\"]",
            ),
            (
                r#"{"S3CRET": 1}"#,
                "the payload does not fit: `required` of the task's input schema is not kept: \
                 [\"name\"]",
            ),
            (
                r#"{"name": "ada", "tags": ["a", "a"]}"#,
                "the payload does not fit at /tags: `uniqueItems` of the task's input schema is \
                 not kept: true",
            ),
            (
                "\"S3CRET\"",
                "the payload does not fit: `type` of the task's input schema is not kept: \
                 \"object\"",
            ),
        ] {
            assert_eq!(reason(&checker, payload), expected);
        }
        assert!(reason(&checker, "{").starts_with("the payload is not JSON: EOF"));
    }

    #[test]
    fn a_schema_that_is_none_is_told_why() {
        for (schema, words) in [
            ("{", "is no JSON:"),
            ("3", "is no JSON Schema"),
            (r#"{"type": "strange"}"#, "is no valid JSON Schema: /type"),
            (r#"{"minLength": -1}"#, "is no valid JSON Schema: /minLength"),
            (r#"{"$ref": "https://example.com/x"}"#, "may refer to its own parts only"),
        ] {
            let error = PayloadCheck::of(schema).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn what_takes_anything_is_not_checked_and_what_takes_too_much_is_told() {
        for any in [
            "true",
            "{}",
            r#"{"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "AnyValue"}"#,
        ] {
            assert!(matches!(PayloadCheck::of(any), Ok(PayloadCheck::Anything)), "{any}");
        }
        let long = format!(r#"{{"type": "object", "title": "{}"}}"#, "x".repeat(300 << 10));
        for (schema, words) in [
            (long.as_str(), "256 KiB are checked at most"),
            (r#"{"$schema": "https://example.com/mine", "type": "object"}"#, "not known here"),
            (r#"{"pattern": "^(?=a)"}"#, "the checker does not take it"),
            (r#"{"pattern": "(a{100}){100}{100}"}"#, "the checker does not take it"),
        ] {
            match PayloadCheck::of(schema) {
                Ok(PayloadCheck::Unchecked(reason)) => assert!(reason.contains(words), "{reason}"),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn what_would_take_too_long_or_too_much_memory_is_refused_before() {
        let names: Vec<String> = (0..5_000).map(|n| format!("\"n{n}\"")).collect();
        let wide = format!(r#"{{"type": "array", "items": {{"enum": [{}]}}}}"#, names.join(","));
        let checker = checker(&wide);
        let payload = format!("[{}]", vec!["1"; 100_000].join(","));
        assert!(reason(&checker, &payload).contains("too large to be checked"));
        let objects = format!("[{}]", vec!["{}"; 1_000].join(","));
        let failure = checker.check(objects.as_bytes(), 100_000).unwrap_err();
        assert!(failure.message.contains("`memory_bytes` raises it"), "{}", failure.message);
    }
}
