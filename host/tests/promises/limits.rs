//! What limits promise: that they hold, and that a refusal says by which limit, how much that is,
//! and what raises it.

use std::time::{Duration, Instant};

use lovage::outcome::{Failure, Outcome};
use lovage::sandbox::{Limits, Plan, Sandbox};

use crate::guests::{component_from_text, component_that_imports, load, run, sandbox};
use crate::wasm::with_instances;

/// Reads the clock as often as its payload is long, or for ever where that is nothing.
fn asks_for_the_time() -> Vec<u8> {
    component_that_imports(
        &["package wasi:clocks@0.2.0;
           interface monotonic-clock {
             type instant = u64;
             now: func() -> instant;
           }"],
        "import wasi:clocks/monotonic-clock@0.2.0;",
        r#"(module
            (import "wasi:clocks/monotonic-clock@0.2.0" "now" (func $now (result i64)))
            (memory (export "memory") 1)
            TASK REALLOC
            (data (i32.const 8) "text/plain")
            (func (export "lovage:task/handler@1.0.0#run") (param $invocation i32) (result i32)
              (local $left i32)
              ;; The payload's length.
              (local.set $left (i32.load (i32.add (local.get $invocation) (i32.const 80))))
              (loop $again
                (drop (call $now))
                (local.set $left (i32.sub (local.get $left) (i32.const 1)))
                (br_if $again (local.get $left)))
              (i32.store (i32.const 264) (i32.const 8))
              (i32.store (i32.const 268) (i32.const 10))
              (i32.const 256)))"#,
    )
}

type Change = fn(&mut Limits);

async fn crash(
    sandbox: &Sandbox,
    component: &[u8],
    payload: &str,
    change: impl FnOnce(&mut Plan),
) -> Failure {
    let component = sandbox.prepare_bytes("fixture", component, &Limits::default()).await.unwrap();
    match run(sandbox, &component, "t", payload, change).await.outcome {
        Outcome::Crashed(failure) => failure,
        other => panic!("{other:?}"),
    }
}

/// Attacks: the host, by a guest that does nothing but call it.
#[tokio::test]
async fn a_guest_that_only_calls_the_host_is_stopped() {
    let sandbox = sandbox();
    let started = Instant::now();
    let failure = crash(&sandbox, &asks_for_the_time(), "", |plan| {
        plan.limits.host_calls = 10_000;
    })
    .await;
    assert_eq!(failure.kind, "host_call_limit");
    assert_eq!(failure.message, "called the host more than 10000 times (`host_calls` raises it)");
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
}

#[tokio::test]
async fn host_calls_are_counted_and_the_last_one_that_is_allowed_is() {
    let sandbox = sandbox();
    let component = asks_for_the_time();
    let prepared = sandbox.prepare_bytes("fixture", &component, &Limits::default()).await.unwrap();
    let calls = |plan: &mut Plan| plan.limits.host_calls = 3;
    let report = run(&sandbox, &prepared, "t", "123", calls).await;
    assert!(matches!(report.outcome, Outcome::Done(_)), "{:?}", report.outcome);
    assert_eq!(report.usage.host_calls, 3);
    // One more is one too many, even where the guest returns at once.
    let failure = crash(&sandbox, &component, "1234", calls).await;
    assert_eq!(failure.kind, "host_call_limit");
    // What a shipped guest needs is far from the limit.
    let echo = load(&sandbox, "echo").await;
    let report = run(&sandbox, &echo, "echo", "1", |_| {}).await;
    assert!(report.usage.host_calls < 100, "{:?}", report.usage);
}

#[tokio::test]
async fn the_number_of_each_thing_is_limited_for_each_task() {
    let sandbox = sandbox();
    let with = |more: &str| {
        component_from_text(&format!(
            r#"(module (memory (export "memory") 1) {more} TASK REALLOC
                (func (export "lovage:task/handler@1.0.0#run") (param i32) (result i32)
                  (i32.const 0)))"#
        ))
    };
    let cases: [(Vec<u8>, Change, &str, &str); 4] = [
        (
            with("(memory 1) (memory 1)"),
            |limits| limits.memories = 2,
            "memory_count_limit",
            "has more than 2 linear memories (`memories` raises it)",
        ),
        (
            with("(table 1 funcref) (table 1 funcref)"),
            |limits| limits.tables = 1,
            "table_count_limit",
            "has more than 1 tables (`tables` raises it)",
        ),
        (
            with_instances(&with(""), 50),
            |limits| limits.instances = 20,
            "instance_count_limit",
            "has more than 20 core instances (`instances` raises it)",
        ),
        (
            with("(table 1000 funcref)"),
            |limits| limits.table_elements = 999,
            "table_limit",
            "asked for a table of 1000 elements, and 999 are allowed (`table_elements` raises it)",
        ),
    ];
    for (component, change, kind, message) in cases {
        let failure = crash(&sandbox, &component, "", |plan| change(&mut plan.limits)).await;
        assert_eq!((failure.kind.as_str(), failure.message.as_str()), (kind, message));
    }
}

/// Attacks: the host's memory, by a list in a call that is larger than may cross at once.
#[tokio::test]
async fn a_host_call_cannot_carry_more_than_twice_the_output() {
    let component = component_that_imports(
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
           }",
        ],
        "import wasi:cli/stdout@0.2.0;",
        r#"(module
            (import "wasi:cli/stdout@0.2.0" "get-stdout" (func $stdout (result i32)))
            (import "wasi:io/streams@0.2.0" "[method]output-stream.blocking-write-and-flush"
              (func $write (param i32 i32 i32 i32)))
            (memory (export "memory") 200)
            TASK REALLOC
            (func (export "lovage:task/handler@1.0.0#run") (param i32) (result i32)
              (call $write (call $stdout) (i32.const 0) (i32.const 10000000) (i32.const 600))
              (i32.const 256)))"#,
    );
    let failure = crash(&sandbox(), &component, "", |plan| {
        plan.limits.output_bytes = 1 << 20;
    })
    .await;
    assert_eq!(failure.kind, "host_call_too_large");
    assert_eq!(
        failure.message,
        "gave a host call more than 3 MiB, which is twice the output that is allowed, and 1 MiB \
         (`output_bytes` raises it)"
    );
}
