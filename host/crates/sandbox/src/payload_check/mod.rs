//! Payloads held to the schema that their task declares, before a guest is made for them.
//!
//! Both the schema and the payload may be hostile: a library's validator recurses over them, and what it has
//! begun cannot be stopped. This one does neither. The schema is compiled once, when its component is
//! loaded ([`schema`]); a payload is read into a flat list ([`document`]) and held to it by a machine
//! that is left after some steps and gone on with later ([`machine`]). So a check is work of its
//! attempt like any other: under its deadline, its CPU budget and its priority.
//!
//! ```text
//! schema ── keywords ──► program ┐
//!                                ├──► machine ── so many steps ──► valid, invalid, or more to do
//! payload ── document ───────────┘
//! ```

mod document;
mod evaluated;
mod identity;
mod keywords;
mod machine;
mod number;
#[cfg(test)]
mod oracle;
mod pattern;
mod schema;

use serde::{Deserialize, Serialize};

use self::document::{Document, Kind, Unread};
use self::machine::{Fault, Machine, State};
use self::schema::{Draft, Not, Program};
use super::typed::INVALID_PAYLOAD;
use lovage_core::byte_size::ByteSize;
use lovage_core::outcome::Failure;
use lovage_core::text::one_line;

/// The most bytes of a schema that payloads are checked by.
pub const MAX_SCHEMA_BYTES: usize = 256 << 10;

/// The most steps of a check, some seconds' worth. A payload of a mebibyte has half a million values at most, and
/// most schemas take less than a hundred steps for each.
const MAX_STEPS: u64 = 200_000_000;

/// The steps that are done in one piece: less than a millisecond.
const PIECE: u64 = 20_000;

/// The most bytes of the compiled patterns of all schemas of a component.
pub const PATTERNS_BYTES: usize = 16 << 20;

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
    program: Program,
}

impl PayloadCheck {
    /// From a schema's text. The error says what is wrong with it. `patterns` is how many bytes of
    /// compiled patterns are left to its component.
    pub fn of(text: &str, patterns: &mut usize) -> Result<Self, String> {
        if text.len() > MAX_SCHEMA_BYTES {
            is_schema(text)?;
            let (size, most) = (ByteSize(text.len() as u64), ByteSize(MAX_SCHEMA_BYTES as u64));
            return Ok(Self::Unchecked(format!("it has {size}, and {most} are checked at most")));
        }
        let schema = parse(text)?;
        let Some(draft) = draft(&schema) else {
            return Ok(Self::Unchecked("its `$schema` is not known here".to_owned()));
        };
        let unchecked = |not| match not {
            Not::Checked(reason) => Ok(Self::Unchecked(reason)),
            Not::Wrong(reason) => Err(reason),
        };
        if is_anything(&schema) {
            return Program::check(schema, draft).map_or_else(unchecked, |()| Ok(Self::Anything));
        }
        if let Err(not) = Program::check(parse(text)?, draft) {
            return unchecked(not);
        }
        Program::new(schema, draft, patterns)
            .map_or_else(unchecked, |program| Ok(Self::Checked(Box::new(Checker { program }))))
    }
}

/// Checks that a text is a JSON Schema, as far as it can be told. The error says why not.
pub fn check_schema(text: &str) -> Result<(), String> {
    if text.len() > MAX_SCHEMA_BYTES {
        return is_schema(text);
    }
    let schema = parse(text)?;
    let Some(draft) = draft(&schema) else { return Ok(()) };
    match Program::check(schema, draft) {
        Err(Not::Wrong(reason)) => Err(reason),
        Ok(()) | Err(Not::Checked(_)) => Ok(()),
    }
}

const NO_SCHEMA: &str = "is no JSON Schema, which is an object or a boolean";

/// Returns true if a text of any size is JSON that may be a schema.
fn is_schema(text: &str) -> Result<(), String> {
    serde_json::from_str::<serde::de::IgnoredAny>(text)
        .map_err(|error| format!("is no JSON: {error}"))?;
    // JSON Schema 2020-12, section 4.3: a schema is an object or a boolean.
    let is_one = text.trim_ascii_start().starts_with(['{', 't', 'f']);
    if is_one { Ok(()) } else { Err(NO_SCHEMA.to_owned()) }
}

fn parse(text: &str) -> Result<Document<'static>, String> {
    match Document::read(text.as_bytes(), u64::MAX, &|| true) {
        Ok(schema) if matches!(schema.kind(0), Kind::Object(_) | Kind::Bool(_)) => {
            Ok(schema.into_owned())
        }
        Ok(_) => Err(NO_SCHEMA.to_owned()),
        Err(Unread::Syntax(error)) => Err(format!("is no JSON: {error}")),
        Err(Unread::Memory | Unread::Stopped) => Err("is no JSON: it is too long".to_owned()),
    }
}

/// The dialect of a schema, if its keywords are known.
fn draft(schema: &Document<'_>) -> Option<Draft> {
    let Some(dialect) = schema.member(0, "$schema") else { return Some(Draft::D2020) };
    match schema.string(dialect)?.trim_end_matches('#') {
        "https://json-schema.org/draft/2020-12/schema" => Some(Draft::D2020),
        "https://json-schema.org/draft/2019-09/schema" => Some(Draft::D2019),
        "http://json-schema.org/draft-07/schema" => Some(Draft::D7),
        "http://json-schema.org/draft-06/schema" => Some(Draft::D6),
        _ => None,
    }
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

fn is_anything(schema: &Document<'_>) -> bool {
    match schema.kind(0) {
        Kind::Bool(takes) => takes,
        Kind::Object(_) => schema.children(0).all(|it| ANNOTATIONS.contains(&schema.name(it))),
        _ => false,
    }
}

/// A check under way.
pub struct Checking<'c> {
    checker: &'c Checker,
    machine: Machine<'c>,
    max: u64,
    max_steps: u64,
}

fn refused(reason: String) -> Failure {
    Failure::new(INVALID_PAYLOAD, reason)
}

fn over_memory(max: u64) -> Failure {
    refused(format!(
        "to check the payload by the task's input schema takes more than the {} of memory that the \
         attempt may use (`memory_bytes` raises it, `check_payload = false` turns the check off)",
        ByteSize(max)
    ))
}

impl Checker {
    /// Begins to hold a payload to the schema. What it takes of memory is at most so many bytes. The
    /// error says why the payload is rejected; it is `None` if the attempt came to its end meanwhile,
    /// which `goes_on` tells.
    pub fn begin<'c>(
        &'c self,
        payload: &'c [u8],
        max: u64,
        goes_on: &dyn Fn() -> bool,
    ) -> Result<Checking<'c>, Option<Failure>> {
        match Document::read(payload, max, goes_on) {
            Ok(document) => {
                let machine = Machine::new(&self.program, document, max);
                Ok(Checking { checker: self, machine, max, max_steps: MAX_STEPS })
            }
            Err(Unread::Syntax(error)) => {
                Err(Some(refused(format!("the payload is not JSON: {error}"))))
            }
            Err(Unread::Memory) => Err(Some(over_memory(max))),
            Err(Unread::Stopped) => Err(None),
        }
    }

    fn fault(&self, machine: &Machine<'_>, fault: Fault) -> Failure {
        let Fault { schema, keyword, .. } = fault;
        let place = machine.place(fault);
        let at =
            if place.is_empty() { String::new() } else { format!(" at {}", one_line(&place, 300)) };
        if keyword.is_empty() {
            return refused(
                "the payload does not fit: nothing fits the task's input schema".to_owned(),
            );
        }
        let document = &self.program.document;
        let schema = self.program.schema(schema).map_or(0, |schema| schema.at);
        let expected = document.member(schema, keyword).map_or_else(String::new, |value| {
            format!(": {}", one_line(&document.shown(value, 200), 200))
        });
        refused(format!(
            "the payload does not fit{at}: `{keyword}` of the task's input schema is not kept{expected}"
        ))
    }
}

impl Checking<'_> {
    /// Goes on for less than a millisecond or so. `None` if that was not all.
    pub fn go_on(&mut self) -> Option<Result<(), Failure>> {
        Some(match self.machine.run(PIECE) {
            State::Valid => Ok(()),
            State::Invalid(fault) => Err(self.checker.fault(&self.machine, fault)),
            State::Memory => Err(over_memory(self.max)),
            State::Goes if self.machine.steps() > self.max_steps => Err(refused(format!(
                "the payload is too large to be checked by the task's input schema: that takes more \
                 than {} steps (`check_payload = false` turns it off)",
                self.max_steps
            ))),
            State::Goes => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(schema: &str) -> Result<PayloadCheck, String> {
        PayloadCheck::of(schema, &mut { PATTERNS_BYTES })
    }

    fn checker(schema: &str) -> Checker {
        match of(schema).unwrap() {
            PayloadCheck::Checked(checker) => *checker,
            other => panic!("{other:?}"),
        }
    }

    fn check(checker: &Checker, payload: &[u8], max: u64) -> Result<(), Failure> {
        let mut checking = checker.begin(payload, max, &|| true).map_err(Option::unwrap)?;
        loop {
            if let Some(ended) = checking.go_on() {
                return ended;
            }
        }
    }

    fn reason(checker: &Checker, payload: &str) -> String {
        let failure = check(checker, payload.as_bytes(), 64 << 20).unwrap_err();
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
        check(&checker, br#"{"name": "ada", "tags": ["a", "b"]}"#, 64 << 20).unwrap();
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
            let error = of(schema).unwrap_err();
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
            assert!(matches!(of(any), Ok(PayloadCheck::Anything)), "{any}");
        }
        let long = format!(r#"{{"type": "object", "title": "{}"}}"#, "x".repeat(300 << 10));
        for (schema, words) in [
            (long.as_str(), "256 KiB are checked at most"),
            (r#"{"$schema": "https://example.com/mine", "type": "object"}"#, "not known here"),
            (r#"{"pattern": "^(?=a)"}"#, "the checker does not take it"),
            (r#"{"pattern": "(a{100}){100}{100}"}"#, "the checker does not take it"),
        ] {
            match of(schema) {
                Ok(PayloadCheck::Unchecked(reason)) => assert!(reason.contains(words), "{reason}"),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn recursion_by_two_ways_takes_steps_by_the_size_of_the_payload() {
        let checker = checker(
            r##"{"anyOf": [
                {"allOf": [{"properties": {"a": {"$ref": "#"}}}, {"required": ["b"]}]},
                {"properties": {"a": {"$ref": "#"}}}
            ]}"##,
        );
        let deep = "{\"a\":".repeat(120) + "1" + &"}".repeat(120);
        let mut checking = checker.begin(deep.as_bytes(), 64 << 20, &|| true).unwrap();
        checking.max_steps = 1_000_000;
        let ended = std::iter::repeat_with(|| checking.go_on()).find_map(|ended| ended);
        assert_eq!(ended, Some(Ok(())));
    }

    #[test]
    fn what_would_take_too_long_or_too_much_memory_is_refused_before() {
        let strings = vec![r#"{"items": {"pattern": "x"}}"#; 100].join(",");
        let checker =
            checker(&format!(r#"{{"allOf": [{strings}], "items": {{"type": "string"}}}}"#));
        let payload = format!("[{}]", vec!["\"x\""; 10_000].join(","));
        check(&checker, payload.as_bytes(), 64 << 20).unwrap();
        let mut checking = checker.begin(payload.as_bytes(), 64 << 20, &|| true).unwrap();
        checking.max_steps = 100_000;
        let pieces = std::iter::repeat_with(|| checking.go_on()).take_while(Option::is_none);
        assert!(pieces.count() < 10);
        let failure = checking.go_on().unwrap().unwrap_err();
        assert!(failure.message.contains("too large to be checked"), "{}", failure.message);
        let objects = format!("[{}]", vec!["{}"; 1_000].join(","));
        let failure = check(&checker, objects.as_bytes(), 50_000).unwrap_err();
        assert!(failure.message.contains("`memory_bytes` raises it"), "{}", failure.message);
    }
}
