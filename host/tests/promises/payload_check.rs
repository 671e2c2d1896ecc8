//! What is promised of a task's input schema: payloads are held to it before a guest is made, and
//! no schema makes that cost without bound.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lovage::outcome::{Failure, Outcome};
use lovage::sandbox::{Limits, LoadedComponent, Problem, Sandbox};
use serde_json::{Map, Value, json};

use crate::guests::{component_from_text, load, run, sandbox};
use crate::support::stage::{Kind, Setup, Stage, guest, job_with, on_both};
use crate::support::worker::{Signal, until};

on_both! {
    a_worker_rejects_what_does_not_fit_and_the_operator_may_turn_that_off
    hostile_checks_hold_up_neither_another_tenant_nor_the_end_of_the_worker
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
async fn schemas_that_a_library_would_take_for_ever_over_are_checked_in_bounded_time() {
    let sandbox = sandbox();
    let many: Vec<Value> = (0..15_000).map(|n| json!({"const": n})).collect();
    let deep = "{\"a\":".repeat(100) + "\"x\"" + &"}".repeat(100);
    for (schema, fits) in [
        (doubling(60), false),
        (json!({"anyOf": many}), false),
        (
            // Each level goes into `a` twice.
            json!({"anyOf": [
                {"allOf": [{"properties": {"a": {"$ref": "#"}}}, {"required": ["b"]}]},
                {"properties": {"a": {"$ref": "#"}}},
            ]}),
            true,
        ),
        (json!({"properties": {"a": {"$ref": "#"}}, "unevaluatedProperties": false}), true),
    ] {
        let began = Instant::now();
        let component = loaded(&sandbox, &schema).await.unwrap();
        assert!(component.unchecked.is_empty(), "{:?}", component.unchecked);
        let report = run(&sandbox, &component, "t", &deep, |_| {}).await;
        match report.outcome {
            Outcome::Crashed(_) => assert!(fits, "{schema}"),
            Outcome::Rejected(failure) => {
                assert!(!fits, "{failure:?}");
                assert_eq!(failure.kind, "invalid_payload");
            }
            other => panic!("{other:?}"),
        }
        assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    }
    // What takes more than linear time is not checked, and told.
    let component = loaded(&sandbox, &json!({"pattern": "^(a+)+\\1$"})).await.unwrap();
    let [unchecked] = component.unchecked.as_slice() else { panic!("{:?}", component.unchecked) };
    assert!(unchecked.reason.contains("the checker does not take it"), "{unchecked:?}");
    let report = run(&sandbox, &component, "t", "1", |_| {}).await;
    assert!(matches!(report.outcome, Outcome::Crashed(_)), "{:?}", report.outcome);
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
    let numbers = format!("[{}]", vec!["\"x\""; 300_000].join(","));
    let schema = json!({"anyOf": [
        {"items": {"type": "integer"}}, {"items": {"type": "boolean"}}, {"type": "null"},
    ]});
    let component = loaded(&sandbox, &schema).await.unwrap();
    let report = run(&sandbox, &component, "t", &numbers, |_| {}).await;
    assert!(report.usage.cpu > Duration::ZERO);
    let failure = rejected(report.outcome);
    assert!(failure.message.starts_with("the payload does not fit: `anyOf`"), "{failure:?}");
    assert!(failure.message.len() < 500, "{failure:?}");
}

/// Schemas in which so many definitions refer to the next one, each under so many levels of a keyword.
fn chained(keyword: &str, definitions: usize, levels: usize) -> Value {
    let around = |inner: Value| match keyword {
        "not" => json!({"not": inner}),
        "then" => json!({"if": true, "then": inner}),
        "dependentSchemas" => json!({"dependentSchemas": {"a": inner}}),
        "properties" => json!({"properties": {"a": inner}}),
        "items" => json!({"items": inner}),
        "prefixItems" => json!({"prefixItems": [inner]}),
        "additionalProperties" => json!({"additionalProperties": inner}),
        "unevaluatedProperties" => json!({"unevaluatedProperties": inner}),
        list => json!({list: [inner]}),
    };
    let mut defs = Map::new();
    for number in 0..definitions {
        let next = if number + 1 < definitions {
            json!({"$ref": format!("#/$defs/d{}", number + 1)})
        } else {
            json!({"type": "integer"})
        };
        defs.insert(format!("d{number}"), (0..levels).fold(next, |inner, _| around(inner)));
    }
    json!({"$defs": defs, "$ref": "#/$defs/d0"})
}

#[tokio::test]
async fn a_schema_of_any_depth_overflows_no_stack() {
    let sandbox = sandbox();
    let nested = "{\"a\":".repeat(120) + "0" + &"}".repeat(120);
    for (keyword, definitions, levels) in [
        ("allOf", 105, 60),
        ("anyOf", 105, 60),
        ("oneOf", 105, 60),
        ("not", 160, 61),
        ("then", 80, 58),
        ("dependentSchemas", 90, 58),
        ("properties", 90, 58),
        ("items", 160, 61),
        ("prefixItems", 105, 60),
        ("additionalProperties", 160, 61),
        ("unevaluatedProperties", 160, 61),
        ("allOf", 5_000, 1),
    ] {
        let component = loaded(&sandbox, &chained(keyword, definitions, levels)).await.unwrap();
        for payload in ["0", "\"x\"", &nested, &("[".repeat(120) + &"]".repeat(120))] {
            let report = run(&sandbox, &component, "t", payload, |_| {}).await;
            let outcome = report.outcome;
            let ended = matches!(outcome, Outcome::Crashed(_) | Outcome::Rejected(_));
            assert!(ended, "{keyword}: {outcome:?}");
        }
    }
    // Deeper than JSON may be, in a schema and in a payload.
    let deep = "[".repeat(100_000) + &"]".repeat(100_000);
    let component = loaded(&sandbox, &json!({"items": {"$ref": "#"}})).await.unwrap();
    let failure = rejected(run(&sandbox, &component, "t", &deep, |_| {}).await.outcome);
    assert!(failure.message.contains("recursion limit exceeded"), "{failure:?}");
    let deep = "{\"not\":".repeat(30_000) + "true" + &"}".repeat(30_000);
    let bytes = with_schema(&deep);
    let error = sandbox.prepare_bytes("a.wasm", &bytes, &Limits::default()).await.err().unwrap();
    assert!(error.to_string().contains("recursion limit exceeded"), "{error}");
}

/// A schema and a payload over which a check takes seconds at least.
fn endless() -> (Value, String) {
    let consts: Vec<Value> = (0..9_000).map(|n| json!({"const": n})).collect();
    (json!({"items": {"anyOf": consts}}), format!("[{}]", vec!["8999"; 100_000].join(",")))
}

#[tokio::test]
async fn a_check_ends_at_the_deadline_the_cpu_budget_and_when_it_is_revoked() {
    let sandbox = sandbox();
    let (schema, payload) = endless();
    let component = loaded(&sandbox, &schema).await.unwrap();
    let timed_out = |outcome| match outcome {
        Outcome::TimedOut(failure) => failure.kind,
        other => panic!("{other:?}"),
    };
    let report = run(&sandbox, &component, "t", &payload, |plan| {
        plan.limits.timeout = Duration::from_millis(200);
    })
    .await;
    assert!(report.usage.wall >= Duration::from_millis(200), "{:?}", report.usage);
    assert!(report.usage.wall < Duration::from_secs(5), "{:?}", report.usage);
    assert!(report.usage.cpu > Duration::ZERO);
    assert_eq!(timed_out(report.outcome), "timeout");
    let report = run(&sandbox, &component, "t", &payload, |plan| {
        plan.limits.cpu = Some(Duration::from_millis(100));
    })
    .await;
    assert!(report.usage.cpu >= Duration::from_millis(100), "{:?}", report.usage);
    assert!(report.usage.cpu < Duration::from_secs(2), "{:?}", report.usage);
    assert_eq!(timed_out(report.outcome), "cpu_limit");
    let cancellation = lovage::cancellation::Cancellation::default();
    let revoked = cancellation.clone();
    let revoking = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(200)).await;
        revoked.revoke();
    });
    let began = Instant::now();
    let report =
        run(&sandbox, &component, "t", &payload, move |plan| plan.cancellation = cancellation)
            .await;
    revoking.await.unwrap();
    assert_eq!(report.outcome, Outcome::Revoked);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checks_keep_no_neighbour_waiting_and_are_gone_when_they_are_dropped() {
    let sandbox = sandbox();
    let greet = load(&sandbox, "greet").await;
    let (schema, payload) = endless();
    let component = loaded(&sandbox, &schema).await.unwrap();
    let uniques = vec![json!({"uniqueItems": true}); 150];
    let nested = json!({"items": {"$ref": "#"}, "allOf": uniques});
    let nested = loaded(&sandbox, &nested).await.unwrap();
    let numbers: Vec<String> =
        (0..100_000).map(|n| format!("{}e{}", 1 + n % 1_000, n / 1_000)).collect();
    let deep = "[".repeat(120) + &numbers.join(",") + &"]".repeat(120);
    // One slot stays free for others: that is what quotas are for.
    let hostile: Vec<_> = (0..3)
        .map(|n| {
            let (sandbox, component) =
                (sandbox.clone(), if n % 2 == 0 { &component } else { &nested });
            let (component, payload) =
                (Arc::clone(component), if n % 2 == 0 { payload.clone() } else { deep.clone() });
            tokio::spawn(async move {
                for _ in 0..20 {
                    run(&sandbox, &component, "t", &payload, |_| {}).await;
                }
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut slowest = Duration::ZERO;
    for _ in 0..20 {
        let began = Instant::now();
        let report = run(&sandbox, &greet, "greet", r#"{"name": "Ada"}"#, |_| {}).await;
        assert!(matches!(report.outcome, Outcome::Done(_)), "{:?}", report.outcome);
        slowest = slowest.max(began.elapsed());
    }
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    for check in &hostile {
        check.abort();
    }
    let began = Instant::now();
    for check in hostile {
        assert!(check.await.is_err_and(|error| error.is_cancelled()));
    }
    // A thread of the pool still has a piece of one in its hands.
    while sandbox.free_slots() < 4 {
        assert!(
            began.elapsed() < Duration::from_secs(5),
            "{} slots are free",
            sandbox.free_slots()
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_payload_that_takes_too_much_to_check_is_rejected() {
    let sandbox = sandbox();
    let component = loaded(&sandbox, &json!({"type": "array"})).await.unwrap();
    let objects = format!("[{}]", vec!["{\"\":0}"; 200_000].join(","));
    let report = run(&sandbox, &component, "t", &objects, |plan| {
        plan.limits.memory_bytes = 16 << 20;
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

async fn hostile_checks_hold_up_neither_another_tenant_nor_the_end_of_the_worker(kind: Kind) {
    let config = "worker.concurrency = 4\nworker.drain_timeout_ms = 3000\n\
                  tasks.t.timeout_ms = 120000\n\
                  [tenants.hostile]\nconcurrency = 3\n[tenants.other]\n";
    let stage = Stage::set(kind, Setup { config, ..Setup::default() }).await;
    let (schema, payload) = endless();
    let file = stage.directory().join("endless.wasm");
    std::fs::write(&file, with_schema(&schema.to_string())).unwrap();
    stage.configure(&format!("components.paths = {:?}", [guest("echo.wasm"), file]));
    let payload: Value = serde_json::from_str(&payload).unwrap();
    let of = |tenant: &str, id: &str, task: &str, data: Value| {
        let job = job_with(id, task, data, json!({"tenant": tenant}));
        lovage::broker::Outgoing { group: Some(tenant.to_owned()), ..job }
    };
    for n in 0..3 {
        stage.send(&[of("hostile", &format!("hostile-{n}"), "t", payload.clone())]).await;
    }
    let mut worker = stage.worker().await;
    until("the checks have begun", || async {
        (worker.logged("attempt started").len() >= 3).then_some(())
    })
    .await;
    let began = Instant::now();
    stage.send(&[of("other", "quick", "echo", json!(1))]).await;
    assert_eq!(stage.result_of("quick").await["status"], "done");
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    worker.signal(Signal::TERM);
    let status = worker.ends_within(Duration::from_secs(20)).await;
    assert!(status.success(), "{status}");
}
