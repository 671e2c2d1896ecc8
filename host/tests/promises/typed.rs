//! What is promised of components that know nothing of the contract: each function is a task, and
//! JSON is what its types say.

mod hostile;

use std::process::Command;
use std::time::Duration;

use lovage::outcome::{Failure, Outcome};
use lovage::registry::{LoadOptions, Origin, Registry, precompiled};
use lovage::sandbox::{Limits, Problem, TYPED};
use serde_json::{Value, json};

use crate::guests::{component_of_world, file, load, load_options, run, sandbox};
use crate::support::stage::{Kind, Setup, Stage, on_both};

on_both! {
    a_worker_serves_functions_by_their_types
}

/// The order of docs/typed-exports.md.
fn order() -> Value {
    json!({
        "lines": [
            {"article": "tea", "count": 3, "price_cents": 450},
            {"article": "cup", "count": 1, "price_cents": 1250, "note": "a gift"},
        ],
        "currency": "us_dollar",
        "discount": {"percent": 10},
        "customer": ["Ada", 2019],
    })
}

async fn outcome(task: &str, payload: &str) -> Outcome {
    let sandbox = sandbox();
    let component = load(&sandbox, "typed").await;
    run(&sandbox, &component, task, payload, |_| {}).await.outcome
}

fn done(outcome: &Outcome) -> Value {
    match outcome {
        Outcome::Done(output) => {
            assert_eq!(output.content_type, "application/json");
            serde_json::from_slice(&output.data).unwrap()
        }
        other => panic!("{other:?}"),
    }
}

fn retried(outcome: Outcome) -> Failure {
    match outcome {
        Outcome::Retry { failure, after: None } => failure,
        other => panic!("{other:?}"),
    }
}

fn rejected(outcome: Outcome) -> String {
    match outcome {
        Outcome::Rejected(failure) => {
            assert_eq!(failure.kind, "invalid_payload");
            failure.message
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn each_function_of_a_rust_guest_is_a_task() {
    let sandbox = sandbox();
    let component = load(&sandbox, "typed").await;
    assert_eq!(component.contract, TYPED);
    let tasks: Vec<_> = component.tasks.iter().map(|task| task.name.as_str()).collect();
    let mut sorted = tasks.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, ["checksum", "pricing.total_of", "tidy_up", "welcome"]);
    let total = outcome("pricing.total_of", &order().to_string()).await;
    let expected = json!({
        "cents": 2340, "currency": "us_dollar", "notes": ["Ada, here since 2019", "a gift"],
    });
    assert_eq!(done(&total), expected);
    assert_eq!(done(&outcome("checksum", "\"AAEC\"").await), json!(32_802));
    assert_eq!(done(&outcome("welcome", r#"{"name": "Ü"}"#).await), json!("Welcome, Ü"));
    assert_eq!(done(&outcome("welcome", r#"["Ü", true]"#).await), json!("WELCOME, Ü"));
    for nothing in ["", "null", "{}", "[]"] {
        assert_eq!(done(&outcome("tidy_up", nothing).await), Value::Null);
    }
}

#[tokio::test]
async fn an_error_of_a_function_is_a_failure_that_is_tried_again() {
    let failure = retried(outcome("welcome", r#"{"name": ""}"#).await);
    assert_eq!((failure.kind.as_str(), failure.message.as_str()), ("error", "nobody to welcome"));
    let empty = json!({"lines": [], "currency": "euro", "discount": "none"}).to_string();
    let failure = retried(outcome("pricing.total_of", &empty).await);
    assert_eq!(failure.kind, "nothing_ordered");
    assert_eq!(failure.message, "the function returned an error: `nothing_ordered`");
    let mut wrong = order();
    wrong["discount"] = json!({"percent": 200});
    let failure = retried(outcome("pricing.total_of", &wrong.to_string()).await);
    assert_eq!(failure.kind, "no_such_discount");
    assert_eq!(failure.detail.as_deref(), Some(r#"{"no_such_discount":200}"#));
    wrong["discount"] = json!("none");
    wrong["lines"][1]["price_cents"] = json!(u64::MAX);
    let failure = retried(outcome("pricing.total_of", &wrong.to_string()).await);
    assert_eq!((failure.kind.as_str(), failure.message.as_str()), ("too_much", "too many of cup"));
}

#[tokio::test]
async fn a_payload_that_does_not_fit_is_rejected_before_the_guest_runs() {
    let mut wrong = order();
    wrong["lines"][1]["count"] = json!("s3cret");
    let message = rejected(outcome("pricing.total_of", &wrong.to_string()).await);
    assert_eq!(message, "the payload does not fit at /lines/1/count: expected u32, found a string");
    let message = rejected(outcome("checksum", "\"AA").await);
    assert!(message.starts_with("the payload is not JSON: EOF"), "{message}");
    let sandbox = sandbox();
    let component = load(&sandbox, "typed").await;
    let mut job = lovage::job::Job::new("j", "checksum", "abc");
    job.content_type = "text/plain".to_owned();
    let report = sandbox.run(&component, job, &lovage::sandbox::Plan::default()).await;
    assert_eq!(report.usage.peak_memory_bytes, 0, "a guest was made for it");
    let message = rejected(report.outcome);
    assert_eq!(message, "the task takes application/json, and the payload is `text/plain`");
}

#[tokio::test]
async fn limits_and_crashes_are_as_for_the_contract() {
    let sandbox = sandbox();
    let bytes = component_of_world(
        "",
        "export spin: func(); export crash: func() -> u32; export big: func() -> string;",
        r#"(module (memory (export "memory") 20) REALLOC
             (func (export "spin") (loop $l (br $l)))
             (func (export "crash") (result i32) unreachable)
             (func (export "big") (result i32)
               (i32.store (i32.const 8) (i32.const 64))
               (i32.store (i32.const 12) (i32.const 1000000))
               (i32.const 8)))"#,
    );
    let component = sandbox.prepare_bytes("a.wasm", &bytes, &Limits::default()).await.unwrap();
    let soon = Duration::from_millis(200);
    let report = run(&sandbox, &component, "spin", "", |plan| plan.limits.timeout = soon).await;
    assert!(matches!(&report.outcome, Outcome::TimedOut(it) if it.kind == "timeout"), "{report:?}");
    let report = run(&sandbox, &component, "spin", "", |plan| plan.limits.cpu = Some(soon)).await;
    assert!(matches!(&report.outcome, Outcome::TimedOut(it) if it.kind == "cpu_limit"));
    assert!(report.usage.cpu >= soon, "{:?}", report.usage);
    let report = run(&sandbox, &component, "crash", "", |_| {}).await;
    assert!(matches!(&report.outcome, Outcome::Crashed(it) if it.kind == "trap:unreachable"));
    let report = run(&sandbox, &component, "big", "", |plan| {
        plan.limits.output_bytes = 1000;
    })
    .await;
    assert!(
        matches!(&report.outcome, Outcome::Failed(it) if it.kind == "output_too_large"),
        "{:?}",
        report.outcome
    );
}

#[tokio::test]
async fn outputs_that_json_has_no_numbers_for_are_failures() {
    let sandbox = sandbox();
    let bytes = component_of_world(
        "interface numbers { record both { one: f32, other: list<f64> } get: func() -> both; }",
        "export numbers; export minus: func() -> f64;",
        r#"(module (memory (export "memory") 1) REALLOC
             (func (export "minus") (result f64) (f64.const -1.5))
             (func (export "test:typed/numbers@1.0.0#get") (result i32)
               (f32.store (i32.const 8) (f32.const 1))
               (i32.store (i32.const 12) (i32.const 64))
               (i32.store (i32.const 16) (i32.const 2))
               (f64.store (i32.const 72) (f64.const nan))
               (i32.const 8)))"#,
    );
    let component = sandbox.prepare_bytes("a.wasm", &bytes, &Limits::default()).await.unwrap();
    let report = run(&sandbox, &component, "minus", "", |_| {}).await;
    assert_eq!(done(&report.outcome), json!(-1.5));
    match run(&sandbox, &component, "numbers.get", "", |_| {}).await.outcome {
        Outcome::Failed(failure) => {
            assert_eq!(failure.kind, "invalid_output");
            assert!(failure.message.contains("the number at `/other/1` is not finite"));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn functions_that_are_no_tasks_are_told_with_the_reason() {
    let sandbox = sandbox();
    let bytes = component_of_world(
        "interface things { resource thing; make: func() -> thing; count: func() -> u32; }",
        "export things;",
        r#"(module (memory (export "memory") 1)
             (func (export "test:typed/things@1.0.0#make") (result i32) unreachable)
             (func (export "test:typed/things@1.0.0#count") (result i32) (i32.const 7)))"#,
    );
    let component = sandbox.prepare_bytes("a.wasm", &bytes, &Limits::default()).await.unwrap();
    assert_eq!(component.tasks.len(), 1);
    assert_eq!(component.others.len(), 1);
    assert_eq!(component.others[0].function, "test:typed/things@1.0.0#make");
    assert_eq!(component.others[0].reason, "its types have a resource, which cannot be JSON");
    let report = run(&sandbox, &component, "things.count", "", |_| {}).await;
    assert_eq!(done(&report.outcome), json!(7));
}

#[tokio::test]
async fn what_others_call_is_no_task() {
    let sandbox = sandbox();
    let text = r#"(component
        (core module $m (func (export "f") (result i32) (i32.const 0)))
        (core instance $i (instantiate $m))
        (type $r (result))
        (func $f (result $r) (canon lift (core func $i "f")))
        (instance $run (export "run" (func $f)))
        (export "wasi:cli/run@0.2.0" (instance $run)))"#;
    let error = sandbox
        .prepare_bytes("a.wasm", &wat::parse_str(text).unwrap(), &Limits::default())
        .await
        .unwrap_err();
    assert!(matches!(error.problem, Problem::NoHandler { .. }), "{error}");
}

#[tokio::test]
async fn two_functions_of_one_name_are_refused() {
    let sandbox = sandbox();
    let text = r#"(component
        (core module $m (func (export "f")))
        (core instance $i (instantiate $m))
        (func $f (canon lift (core func $i "f")))
        (instance $tools (export "tidy-up" (func $f)))
        (export "test:one/tools@1.0.0" (instance $tools))
        (export "test:two/tools@2.0.0" (instance $tools)))"#;
    let error = sandbox
        .prepare_bytes("a.wasm", &wat::parse_str(text).unwrap(), &Limits::default())
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "a.wasm: exports two functions that would both be the task `tools.tidy_up`: \
         `test:one/tools@1.0.0#tidy-up` and `test:two/tools@2.0.0#tidy-up`; rename one"
    );
}

#[tokio::test]
async fn precompiled_code_serves_functions_as_lambda_loads_it() {
    let dir = tempfile::TempDir::new().unwrap();
    let limits = Limits::default();
    let (_, manifest) =
        precompiled::compile(&sandbox(), &file("typed"), None, dir.path(), &limits).await.unwrap();
    assert_eq!((manifest.contract.as_str(), manifest.tasks.len()), (TYPED, 4));
    let sandbox = sandbox();
    let origin = Origin::Precompiled(dir.path().to_owned());
    let registry = Registry::load(&sandbox, &[origin], &LoadOptions::default()).await.unwrap();
    let task = registry.get("pricing.total_of").unwrap();
    assert_eq!(Some(&task.spec), manifest.tasks.iter().find(|it| it.name == task.spec.name));
    let payload = order().to_string();
    let report = run(&sandbox, &task.component, &task.spec.name, &payload, |_| {}).await;
    assert_eq!(done(&report.outcome)["cents"], 2340);
}

#[tokio::test]
async fn calls_of_celery_give_parameters_by_place_and_by_name() {
    use lovage::celery::arguments::{Mapping, payload};
    use lovage::celery::{
        json::{Json, Map},
        rich::RichTypes,
    };
    let sandbox = sandbox();
    let origin = Origin::Wasm(file("typed"));
    let registry = Registry::load(&sandbox, &[origin], &load_options()).await.unwrap();
    let payload_of = |task: &str, args: &str, kwargs: &str| {
        let task = registry.get(task).unwrap();
        let args: Vec<Json> = Json::parse(args).unwrap().items().unwrap();
        let kwargs: Map = Json::parse(kwargs).unwrap().fields().unwrap();
        payload(&args, &kwargs, task.shape(), Mapping::Auto, RichTypes::Plain).unwrap()
    };
    for (task, args, kwargs, expected) in [
        ("welcome", r#"["Ada", true]"#, "{}", r#"{"name": "Ada", "loud": true}"#),
        ("welcome", r#"["Ada"]"#, r#"{"loud": true}"#, r#"{"name": "Ada", "loud": true}"#),
        ("welcome", "[]", r#"{"name": "Ada"}"#, r#"{"name": "Ada"}"#),
        ("welcome", r#"["Ada"]"#, "{}", r#"{"name": "Ada"}"#),
        ("checksum", r#"["AAEC"]"#, "{}", r#""AAEC""#),
        ("checksum", "[]", r#"{"data": "AAEC"}"#, r#""AAEC""#),
        ("tidy_up", "[]", "{}", "null"),
    ] {
        let payload = payload_of(task, args, kwargs);
        let same = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        assert_eq!(same(&payload), same(expected), "{task} {args} {kwargs}");
        let component = &registry.get(task).unwrap().component;
        done(&run(&sandbox, component, task, &payload, |_| {}).await.outcome);
    }
}

async fn a_worker_serves_functions_by_their_types(kind: Kind) {
    let stage = Stage::set(kind, Setup::default()).await;
    let data = order().to_string();
    let sent = ["send", "pricing.total_of", "--data", &data, "--id", "total"];
    assert_eq!(stage.lovage(&sent).await.code, Some(0));
    let sent = ["send", "welcome", "--data", r#"{"nam": ""}"#, "--id", "wrong"];
    assert_eq!(stage.lovage(&sent).await.code, Some(0));
    let sent =
        ["send", "welcome", "--data", r#"{"name": ""}"#, "--id", "fails", "--max-attempts", "1"];
    assert_eq!(stage.lovage(&sent).await.code, Some(0));
    let worker = stage.worker().await;
    let results = stage.results_of(["total", "wrong", "fails"]).await;
    worker.stop().await;
    assert_eq!(results["total"].envelope["data"]["cents"], 2340);
    let wrong = &results["wrong"].envelope;
    assert_eq!(wrong["status"], "rejected");
    assert_eq!(wrong["error"]["kind"], "invalid_payload");
    let fails = &results["fails"].envelope;
    assert_eq!((&fails["status"], &fails["error"]["kind"]), (&json!("failed"), &json!("error")));
}

fn cli(arguments: &[&str]) -> (i32, String) {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_lovage"));
    command.args(arguments).current_dir(folder.path());
    command.env("LOVAGE__COMPONENTS__CACHE_DIR", crate::support::stage::cache());
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let seen = text(output.stdout) + &text(output.stderr);
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).display().to_string();
    (output.status.code().unwrap(), seen.replace(&root, "HOST"))
}

/// What differs from build to build is left out.
fn shown(arguments: &[&str]) -> String {
    let (code, seen) = cli(arguments);
    let stays = |line: &&str| {
        !line.starts_with("digest") && !line.starts_with("size") && !line.starts_with("import")
    };
    format!("exit {code}\n{}\n", seen.lines().filter(stays).collect::<Vec<_>>().join("\n"))
}

#[test]
fn inspect_and_check_show_functions_as_tasks() {
    let file = file("typed");
    let file = file.to_str().unwrap();
    insta::assert_snapshot!("inspect-typed", shown(&["inspect", file]));
    insta::assert_snapshot!("inspect-typed-schema", shown(&["inspect", file, "--schema"]));
    insta::assert_snapshot!("check-typed", shown(&["check", file]));
    let stranger = crate::guests::file("hostile/no-handler");
    insta::assert_snapshot!("inspect-no-task", shown(&["inspect", stranger.to_str().unwrap()]));
    let (code, seen) = cli(&["run", file, "welcome", "--data", r#"{"name": "Ada"}"#]);
    assert_eq!((code, seen.as_str()), (0, "\"Welcome, Ada\"\n"));
    let (code, seen) = cli(&["run", file, "welcome", "--data", r#"{"name": 1}"#]);
    assert_eq!(code, 1);
    assert_eq!(
        seen,
        "rejected: invalid_payload: the payload does not fit at /name: expected string, found a \
         number\n"
    );
}
