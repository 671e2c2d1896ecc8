//! What is promised of a task's input schema: payloads are held to it before a guest is made, and
//! no schema makes that cost without bound.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lovage::outcome::{Failure, Outcome};
use lovage::sandbox::{Limits, LoadedComponent, Problem, Sandbox};
use serde_json::{Map, Value, json};

use crate::guests::{component_from_text, load, run, sandbox};
use crate::support::stage::{Kind, Setup, Stage, on_both};

on_both! {
    a_worker_rejects_what_does_not_fit_and_the_operator_may_turn_that_off
}

/// A component with one task, `t`, whose guest traps when it is run, and whose input schema is this.
fn with_schema(schema: &str) -> Vec<u8> {
    const AT: usize = 8192;
    let pages = 1 + (AT + schema.len()) / 65536;
    let word = |number: usize| {
        u32::try_from(number).unwrap().to_le_bytes().map(|byte| format!("\\{byte:02x}")).concat()
    };
    let text = schema.bytes().map(|byte| format!("\\{byte:02x}")).collect::<Vec<_>>().concat();
    component_from_text(&format!(
        r#"(module (memory (export "memory") {pages}) REALLOC TASK
             (data (i32.const 96) "\01\00\00\00{}{}")
             (data (i32.const {AT}) "{text}")
             (func (export "lovage:task/handler@1.0.0#run") (param i32) (result i32)
               unreachable))"#,
        word(AT),
        word(schema.len()),
    ))
}

async fn loaded(sandbox: &Sandbox, schema: &Value) -> Result<Arc<LoadedComponent>, Problem> {
    let bytes = with_schema(&schema.to_string());
    let loaded = sandbox.prepare_bytes("a.wasm", &bytes, &Limits::default()).await;
    loaded.map_err(|error| error.problem)
}

fn rejected(outcome: Outcome) -> Failure {
    match outcome {
        Outcome::Rejected(failure) => failure,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_payload_that_does_not_fit_makes_no_guest() {
    let sandbox = sandbox();
    let greet = load(&sandbox, "greet").await;
    for (payload, message) in [
        (
            r#"{"joy": 1}"#,
            "the payload does not fit: `required` of the task's input schema is not kept: [\"name\"]",
        ),
        (
            r#"{"name": 1}"#,
            "the payload does not fit at /name: `type` of the task's input schema is not kept: \
             \"string\"",
        ),
    ] {
        let report = run(&sandbox, &greet, "greet", payload, |_| {}).await;
        assert_eq!(report.usage.peak_memory_bytes, 0, "a guest was made for it");
        assert!(report.usage.cpu > Duration::ZERO, "nobody pays for the check");
        let failure = rejected(report.outcome);
        assert_eq!((failure.kind.as_str(), failure.message.as_str()), ("invalid_payload", message));
    }
    let good = run(&sandbox, &greet, "greet", r#"{"name": "Ada", "joy": 1}"#, |_| {}).await;
    assert!(matches!(good.outcome, Outcome::Done(_)), "{:?}", good.outcome);
    // The guest looks for itself, as it did before there were checks.
    let off = |plan: &mut lovage::sandbox::Plan| plan.check_payload = false;
    let report = run(&sandbox, &greet, "greet", r#"{"joy": 1}"#, off).await;
    assert!(report.usage.peak_memory_bytes > 0);
    assert_eq!(rejected(report.outcome).kind, "rejected");
}

#[tokio::test]
async fn a_schema_that_is_none_is_refused_with_its_component() {
    let sandbox = sandbox();
    for (schema, words) in [
        (json!({"type": "strange"}), "input-schema is no valid JSON Schema: /type: "),
        (json!({"$ref": "https://example.com/schema.json"}), "may refer to its own parts only"),
        (json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}), "without end"),
    ] {
        let problem = loaded(&sandbox, &schema).await.err().unwrap().to_string();
        assert!(problem.starts_with("describes the task `t` wrongly: input-schema "), "{problem}");
        assert!(problem.contains(words), "{problem}");
    }
}

/// A definition for each level, which is there twice in the next one.
fn doubling(levels: usize) -> Value {
    let mut defs = Map::new();
    defs.insert("d0".to_owned(), json!({"type": "integer"}));
    for level in 1..=levels {
        let inner = json!({"$ref": format!("#/$defs/d{}", level - 1)});
        defs.insert(format!("d{level}"), json!({"allOf": [inner, inner]}));
    }
    json!({"$defs": defs, "$ref": format!("#/$defs/d{levels}")})
}

#[tokio::test]
async fn schemas_that_could_take_for_ever_are_loaded_and_not_checked() {
    let sandbox = sandbox();
    let many: Vec<Value> = (0..15_000).map(|n| json!({"const": n})).collect();
    for (schema, words) in [
        (doubling(60), "comes to more than 20000 steps"),
        (json!({"anyOf": many}), "comes to more than 20000 steps"),
        (
            json!({"oneOf": [{"properties": {"a": {"$ref": "#"}}}, {"properties": {"a": {"$ref": "#"}}}]}),
            "it is recursive by two ways",
        ),
        (
            json!({"properties": {"a": {"$ref": "#"}}, "unevaluatedProperties": false}),
            "it is recursive, and has",
        ),
        (json!({"pattern": "^(a+)+\\1$"}), "the checker does not take it"),
    ] {
        let began = Instant::now();
        let component = loaded(&sandbox, &schema).await.unwrap();
        assert_eq!(component.unchecked.len(), 1, "{schema}");
        assert_eq!(component.unchecked[0].task, "t");
        assert!(component.unchecked[0].reason.contains(words), "{:?}", component.unchecked);
        // The guest is run, and traps.
        let report = run(&sandbox, &component, "t", r#"{"a": "x"}"#, |_| {}).await;
        assert!(matches!(report.outcome, Outcome::Crashed(_)), "{:?}", report.outcome);
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    }
}

#[tokio::test]
async fn what_is_checked_takes_a_time_that_goes_with_the_payload() {
    let sandbox = sandbox();
    let json_of_any_depth = json!({"anyOf": [
        {"type": ["null", "boolean", "number"]},
        {"type": "array", "items": {"$ref": "#"}, "uniqueItems": true},
        {"type": "object", "additionalProperties": {"$ref": "#"}}
    ]});
    let deep = "[".repeat(100) + "\"no\"" + &"]".repeat(100);
    // Arrays that differ only in their brackets.
    let alike: Vec<String> = (0_u32..16_384)
        .map(|bits| {
            let each = (0..14).map(|at| match bits >> at & 1 {
                1 => format!("[{at}]"),
                _ => at.to_string(),
            });
            format!("[{}]", each.collect::<Vec<_>>().join(","))
        })
        .collect();
    let alike = format!("[{}]", alike.join(","));
    let wide = format!("[{}\"no\"]", (0..9_999).map(|n| n.to_string() + ",").collect::<String>());
    let component = loaded(&sandbox, &json_of_any_depth).await.unwrap();
    for (payload, fits) in [(&deep, false), (&alike, true), (&wide, false)] {
        let report = run(&sandbox, &component, "t", payload, |_| {}).await;
        let took = report.usage.cpu;
        match report.outcome {
            Outcome::Crashed(_) => assert!(fits, "{}", payload.len()),
            Outcome::Rejected(failure) => {
                assert!(!fits, "{}: {failure:?}", payload.len());
                assert_eq!(failure.kind, "invalid_payload");
            }
            other => panic!("{other:?}"),
        }
        assert!(took < Duration::from_secs(20), "{took:?}");
    }
    // Nobody has words for this many places.
    let numbers = format!("[{}]", vec!["\"x\""; 300_000].join(","));
    let schema = json!({"anyOf": [
        {"items": {"type": "integer"}}, {"items": {"type": "boolean"}}, {"type": "null"},
    ]});
    let component = loaded(&sandbox, &schema).await.unwrap();
    let report = run(&sandbox, &component, "t", &numbers, |_| {}).await;
    assert!(report.usage.cpu > Duration::ZERO);
    let failure = rejected(report.outcome);
    assert_eq!(failure.message, "the payload does not fit the task's input schema");
}

#[tokio::test]
async fn a_payload_that_takes_too_much_to_check_is_rejected() {
    let sandbox = sandbox();
    let component = loaded(&sandbox, &json!({"type": "array"})).await.unwrap();
    let objects = format!("[{}]", vec!["{\"\":0}"; 200_000].join(","));
    let report = run(&sandbox, &component, "t", &objects, |plan| {
        plan.limits.memory_bytes = 64 << 20;
    })
    .await;
    let failure = rejected(report.outcome);
    assert!(failure.message.contains("`memory_bytes` raises it"), "{}", failure.message);
}

async fn a_worker_rejects_what_does_not_fit_and_the_operator_may_turn_that_off(kind: Kind) {
    let stage = Stage::set(kind, Setup::default()).await;
    let send = async |id: &str| {
        let sent = stage.lovage(&["send", "greet", "--data", r#"{"joy": 1}"#, "--id", id]).await;
        assert_eq!(sent.code, Some(0), "{sent:?}");
    };
    send("checked").await;
    let worker = stage.worker().await;
    let checked = stage.result_of("checked").await;
    worker.stop().await;
    assert_eq!(checked["status"], "rejected");
    assert_eq!(checked["error"]["kind"], "invalid_payload");
    stage.configure("tasks.greet.check_payload = false");
    send("unchecked").await;
    let worker = stage.worker().await;
    let unchecked = stage.result_of("unchecked").await;
    worker.stop().await;
    assert_eq!(unchecked["status"], "rejected");
    assert_eq!(unchecked["error"]["kind"], "rejected");
}
