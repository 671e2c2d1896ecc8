//! What the log of guests' output promises: a line each, no more than is allowed, and nothing in it
//! that could pass for something else.

use std::sync::Arc;

use lovage::job::Job;
use lovage::outcome::Outcome;
use lovage::sandbox::{Limits, LoadedComponent, Plan, Sandbox};
use serde_json::Value;
use tracing::Level;

use crate::guests::{component_that_imports, load, sandbox};
use crate::support::telemetry::Log;

/// Runs a job with its output logged; the lines of the log that are the guest's.
async fn logged(
    sandbox: &Sandbox,
    component: &Arc<LoadedComponent>,
    job: Job,
    change: impl FnOnce(&mut Plan),
) -> Vec<Value> {
    let log = Log::default();
    let _logging = tracing::subscriber::set_default(log.subscriber(Level::INFO));
    let mut plan = Plan { log_guests: true, ..Plan::default() };
    change(&mut plan);
    let report = sandbox.run(component, job, &plan).await;
    assert!(matches!(report.outcome, Outcome::Done(_)), "{:?}", report.outcome);
    log.lines()
}

fn text(lines: &[Value]) -> Vec<(&str, &str)> {
    lines
        .iter()
        .map(|line| (line["stream"].as_str().unwrap(), line["line"].as_str().unwrap()))
        .collect()
}

/// Writes its payload to standard output and to standard error, through WASI 0.2.
fn repeats() -> Vec<u8> {
    component_that_imports(
        &[
            "package wasi:io@0.2.0;
           interface error { resource error; }
           interface streams {
             use error.{error};
             variant stream-error { last-operation-failed(error), closed }
             resource output-stream {
               blocking-write-and-flush: func(contents: list<u8>) -> result<_, stream-error>;
             }
           }",
            "package wasi:cli@0.2.0;
           interface stdout {
             use wasi:io/streams@0.2.0.{output-stream};
             get-stdout: func() -> output-stream;
           }
           interface stderr {
             use wasi:io/streams@0.2.0.{output-stream};
             get-stderr: func() -> output-stream;
           }",
        ],
        "import wasi:cli/stdout@0.2.0; import wasi:cli/stderr@0.2.0;",
        r#"(module
            (import "wasi:cli/stdout@0.2.0" "get-stdout" (func $stdout (result i32)))
            (import "wasi:cli/stderr@0.2.0" "get-stderr" (func $stderr (result i32)))
            (import "wasi:io/streams@0.2.0" "[method]output-stream.blocking-write-and-flush"
              (func $write (param i32 i32 i32 i32)))
            (memory (export "memory") 1)
            TASK REALLOC
            (data (i32.const 8) "text/plain")
            (func (export "lovage:task/handler@1.0.0#run") (param $invocation i32) (result i32)
              (local $at i32) (local $size i32)
              (local.set $at (i32.load (i32.add (local.get $invocation) (i32.const 76))))
              (local.set $size (i32.load (i32.add (local.get $invocation) (i32.const 80))))
              (call $write (call $stdout) (local.get $at) (local.get $size) (i32.const 600))
              (call $write (call $stderr) (local.get $at) (local.get $size) (i32.const 600))
              (i32.store (i32.const 264) (i32.const 8))
              (i32.store (i32.const 268) (i32.const 10))
              (i32.const 256)))"#,
    )
}

#[tokio::test]
async fn each_line_of_a_guest_is_one_event_where_that_is_wanted() {
    let sandbox = sandbox();
    let repeats = sandbox.prepare_bytes("repeats", &repeats(), &Limits::default()).await.unwrap();
    let lines = logged(&sandbox, &repeats, Job::new("a", "t", "one\ntwo\r\n\nthree"), |_| {}).await;
    let expected = ["one", "two", "", "three"];
    let (out, err): (Vec<_>, Vec<_>) =
        text(&lines).into_iter().partition(|(stream, _)| *stream == "stdout");
    assert_eq!(out.iter().map(|it| it.1).collect::<Vec<_>>(), expected);
    assert_eq!(err.iter().map(|it| it.1).collect::<Vec<_>>(), expected);
    for line in &lines {
        assert_eq!(
            (&line["message"], &line["target"]),
            (&"guest wrote".into(), &"lovage::guest".into())
        );
        let level = if line["stream"] == "stdout" { "INFO" } else { "WARN" };
        assert_eq!(line["level"], level);
    }
    // Nothing by default.
    let log = Log::default();
    let _logging = tracing::subscriber::set_default(log.subscriber(Level::INFO));
    sandbox.run(&repeats, Job::new("a", "t", "one\n"), &Plan::default()).await;
    assert_eq!(log.lines(), Vec::<Value>::new());
}

/// Attacks: whoever reads the log, by lines that look like the host's, escapes that steer a
/// terminal, and bytes that are no text.
#[tokio::test]
async fn a_guest_forges_nothing_in_the_log() {
    let sandbox = sandbox();
    let repeats = sandbox.prepare_bytes("repeats", &repeats(), &Limits::default()).await.unwrap();
    let attack = b"x\" level=ERROR message=\"worker stopped\n\
        \x1b]0;mine\x07\x1b[2J\r2026-01-01T00:00:00Z ERROR job finished\n\
        \xff\xfe\x00 \xe2\x80\xae backwards\n\
        {\"level\":\"ERROR\",\"message\":\"worker stopped\"}\n";
    let lines = logged(&sandbox, &repeats, Job::new("a", "t", attack.to_vec()), |_| {}).await;
    assert_eq!(lines.len(), 8);
    for line in &lines {
        assert_eq!(line["message"], "guest wrote");
        let told = line["line"].as_str().unwrap();
        assert!(!told.contains(|c: char| c.is_control() || c == '\u{202e}'), "{told:?}");
    }
    let told: Vec<_> = text(&lines).into_iter().take(4).map(|it| it.1).collect();
    assert_eq!(told[1], "\\u{1b}]0;mine\\u{7}\\u{1b}[2J\\r2026-01-01T00:00:00Z ERROR job finished");
    assert_eq!(told[2], "\u{fffd}\u{fffd}\\u{0} \\u{202e} backwards");

    // For people, too: it stays within its quotes.
    let bytes = Log::default();
    let writer = bytes.clone();
    let human = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_target(false)
        .with_writer(move || writer.clone())
        .finish();
    {
        let _logging = tracing::subscriber::set_default(human);
        let plan = Plan { log_guests: true, ..Plan::default() };
        sandbox.run(&repeats, Job::new("a", "t", attack.to_vec()), &plan).await;
    }
    let shown = bytes.text();
    assert_eq!(shown.lines().count(), 8, "{shown}");
    let first = shown.lines().next().unwrap();
    assert!(
        first.ends_with(
            r#"guest wrote stream="stdout" line="x\" level=ERROR message=\"worker stopped""#
        ),
        "{first}"
    );
}

/// Attacks: the disk that the log is on.
#[tokio::test]
async fn a_flood_is_cut_and_what_was_left_out_is_told_once() {
    let sandbox = sandbox();
    let flood = load(&sandbox, "hostile/flood").await;
    let job = |request: &str| Job::new("a", "flood", request.to_owned());
    let lines = logged(&sandbox, &flood, job(r#"{"stdout_bytes": 6400000}"#), |plan| {
        plan.limits.log_lines = 10;
    })
    .await;
    assert_eq!(lines.len(), 11);
    let note = lines.last().unwrap();
    assert_eq!(
        note["message"],
        "guest wrote more than is logged (`log_lines` and `log_bytes` raise it)"
    );
    assert_eq!(
        (&note["dropped_lines"], &note["dropped_bytes"]),
        (&99_990.into(), &6_299_370.into())
    );
    assert_eq!(note["level"], "WARN");

    let lines = logged(&sandbox, &flood, job(r#"{"stderr_bytes": 6400}"#), |plan| {
        plan.limits.log_bytes = 640;
    })
    .await;
    assert_eq!(lines.len(), 11, "ten lines of 63 bytes, and the note");

    // One line without end.
    let repeats = sandbox.prepare_bytes("repeats", &repeats(), &Limits::default()).await.unwrap();
    let long = Job::new("a", "t", "y".repeat(4_000));
    let lines = logged(&sandbox, &repeats, long, |_| {}).await;
    assert_eq!(lines.len(), 2);
    for line in &lines {
        assert_eq!(line["line"].as_str().unwrap().len(), 1024);
        assert_eq!(line["cut_bytes"], 4_000 - 1024);
    }
}

#[tokio::test]
async fn output_through_wasi_0_3_is_logged_too() {
    let component = component_that_imports(
        &["package wasi:cli@0.3.0;
           interface types { enum error-code { io, illegal-byte-sequence, pipe } }
           interface stderr {
             use types.{error-code};
             write-via-stream: func(data: stream<u8>) -> future<result<_, error-code>>;
           }"],
        "import wasi:cli/stderr@0.3.0;",
        r#"(module
            (import "wasi:cli/stderr@0.3.0" "[stream-new-0]write-via-stream"
              (func $new (result i64)))
            (import "wasi:cli/stderr@0.3.0" "[async-lower][stream-write-0]write-via-stream"
              (func $write (param i32 i32 i32) (result i32)))
            (import "wasi:cli/stderr@0.3.0" "write-via-stream" (func $via (param i32) (result i32)))
            (memory (export "memory") 1)
            TASK REALLOC
            (data (i32.const 8) "text/plain")
            (data (i32.const 512) "one\ntwo")
            (func (export "lovage:task/handler@1.0.0#run") (param i32) (result i32)
              (local $ends i64)
              (local.set $ends (call $new))
              (drop (call $via (i32.wrap_i64 (local.get $ends))))
              (drop (call $write
                (i32.wrap_i64 (i64.shr_u (local.get $ends) (i64.const 32)))
                (i32.const 512) (i32.const 7)))
              (i32.store (i32.const 264) (i32.const 8))
              (i32.store (i32.const 268) (i32.const 10))
              (i32.const 256)))"#,
    );
    let sandbox = sandbox();
    let component = sandbox.prepare_bytes("writes", &component, &Limits::default()).await.unwrap();
    let lines = logged(&sandbox, &component, Job::new("a", "t", ""), |_| {}).await;
    assert_eq!(text(&lines), [("stderr", "one"), ("stderr", "two")]);
}
