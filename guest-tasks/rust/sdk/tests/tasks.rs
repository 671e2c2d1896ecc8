//! What `#[task]` and `export!` make of functions, seen the way the host sees it.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::unnecessary_wraps,
    reason = "a test says what it expects by failing; and its tasks are there for their types"
)]

use lovage_task::__private::{Entry, Invocation, Task, WitError, WitOutput, describe, run};
use lovage_task::{Context, Raw, TaskError, Value, json, serde_json, task};

/// Adds one.
///
/// Slowly.
#[task(name = "math:add-one", max_attempts = 5, timeout_ms = 10_000)]
fn add_one(number: i64) -> i64 {
    number + 1
}

#[task]
fn nothing() {}

#[task]
fn parse(text: String) -> Result<i32, std::num::ParseIntError> {
    text.parse()
}

#[task]
fn shout(ctx: &Context, text: Raw) -> std::io::Result<Raw> {
    let mut text = text;
    text.data.make_ascii_uppercase();
    text.data.extend_from_slice(ctx.id.as_bytes());
    Ok(text)
}

#[task]
fn wait(_payload: Value, ctx: &Context) -> Result<Value, TaskError> {
    match ctx.attempt {
        1 => Err(TaskError::retry("not yet")),
        attempt => Ok(json!({ "attempt": attempt })),
    }
}

mod inner {
    /// Tasks may live in modules, and need not be public there.
    #[lovage_task::task]
    pub(super) fn r#yield() -> bool {
        true
    }
}

lovage_task::export!(add_one, nothing, parse, shout, wait, inner::r#yield);

const ENTRIES: &[Entry] = &[
    add_one::ENTRY,
    nothing::ENTRY,
    parse::ENTRY,
    shout::ENTRY,
    wait::ENTRY,
    inner::r#yield::ENTRY,
];

fn attempt(task: &str, content_type: &str, payload: &[u8], attempt: u32) -> Result<Raw, WitError> {
    let invocation = Invocation {
        id: "7".to_owned(),
        task: task.to_owned(),
        tenant: String::new(),
        attempt,
        max_attempts: 3,
        deadline: 0,
        root_id: "7".to_owned(),
        parent_id: None,
        headers: Vec::new(),
        content_type: content_type.to_owned(),
        payload: payload.to_vec(),
    };
    run(ENTRIES, invocation).map(|WitOutput { content_type, data }| Raw { content_type, data })
}

fn json(task: &str, payload: &str) -> Result<Value, WitError> {
    let raw = attempt(task, "application/json", payload.as_bytes(), 1)?;
    assert_eq!(raw.content_type, "application/json");
    Ok(serde_json::from_slice(&raw.data).unwrap())
}

#[test]
fn describes_every_task_in_the_order_of_export() {
    let specs = describe(ENTRIES);
    let names: Vec<_> = specs.iter().map(|spec| spec.name.as_str()).collect();
    assert_eq!(names, ["math:add-one", "nothing", "parse", "shout", "wait", "yield"]);
    assert_eq!(specs[0].description, "Adds one.\n\nSlowly.");
    assert_eq!(specs[0].max_attempts, Some(5));
    assert_eq!(specs[0].timeout, Some(10_000));
    assert_eq!(specs[1].description, "");
    assert_eq!(specs[1].max_attempts, None);
    assert_eq!(specs[1].timeout, None);
}

#[test]
fn schemas_are_those_of_the_types_inside() {
    let specs = describe(ENTRIES);
    let kind = |schema: &Option<String>| {
        let schema: Value = serde_json::from_str(schema.as_deref()?).unwrap();
        schema["type"].as_str().map(str::to_owned)
    };
    assert_eq!(kind(&specs[0].input_schema).as_deref(), Some("integer"));
    assert_eq!(kind(&specs[0].output_schema).as_deref(), Some("integer"));
    assert_eq!(specs[1].input_schema, None);
    assert_eq!(kind(&specs[1].output_schema).as_deref(), Some("null"));
    assert_eq!(kind(&specs[2].input_schema).as_deref(), Some("string"));
    assert_eq!(kind(&specs[2].output_schema).as_deref(), Some("integer"));
    assert_eq!(specs[3].input_schema, None);
    assert_eq!(specs[3].output_schema, None);
}

#[test]
fn every_shape_of_a_function_runs() {
    assert_eq!(json("math:add-one", "41").unwrap(), json!(42));
    assert_eq!(json("nothing", "what ever").unwrap(), Value::Null);
    assert_eq!(json("parse", r#""12""#).unwrap(), json!(12));
    assert_eq!(json("yield", "").unwrap(), json!(true));
    assert_eq!(attempt("shout", "text/plain", b"hey", 1).unwrap(), Raw::new("text/plain", "HEY7"));
}

#[test]
fn errors_become_those_of_the_contract() {
    assert!(matches!(
        json("wait", "null"),
        Err(WitError::Retry(request)) if request.reason == "not yet" && request.after.is_none()
    ));
    assert_eq!(attempt("wait", "application/json", b"null", 2).unwrap().data, br#"{"attempt":2}"#);
    assert!(matches!(
        json("parse", r#""x""#),
        Err(WitError::Fail(failure)) if failure.kind == "ParseIntError"
    ));
    assert!(matches!(json("parse", "7"), Err(WitError::Reject(_))));
    assert!(matches!(
        json("add_one", "1"),
        Err(WitError::Fail(failure)) if failure.kind == "UnknownTask"
    ));
}
