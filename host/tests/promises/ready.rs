//! What holds of instances that are made before their job comes: a job cannot tell, but for the time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lovage::outcome::Outcome;
use lovage::sandbox::{EngineOptions, Limits, LoadedComponent, Sandbox};

use crate::guests::{load, run, sandbox};
use crate::sandbox::text;

/// Counts its calls, in a memory of `pages`.
fn counter(task: &str, pages: u32) -> String {
    format!(
        r#"(component
            (core module $code
                (memory {pages})
                (func (export "count") (result i64)
                    (i64.store (i32.const 0) (i64.add (i64.load (i32.const 0)) (i64.const 1)))
                    (i64.load (i32.const 0))))
            (core instance $instance (instantiate $code))
            (func (export "{task}") (result s64) (canon lift (core func $instance "count"))))"#
    )
}

/// Tells how often it asked for the time when it started.
const ASKS: &str = r#"(component
    (import "wasi:clocks/monotonic-clock@0.2.0" (instance $clock (export "now" (func (result u64)))))
    (core func $now (canon lower (func $clock "now")))
    (core module $code
        (import "host" "now" (func $now (result i64)))
        (global $asked (mut i64) (i64.const 0))
        (func $start (drop (call $now)) (global.set $asked (i64.const 1)))
        (start $start)
        (func (export "asked") (result i64) (global.get $asked)))
    (core instance $instance (instantiate $code (with "host" (instance (export "now" (func $now))))))
    (func (export "asked") (result s64) (canon lift (core func $instance "asked"))))"#;

async fn component(sandbox: &Sandbox, wat: &str) -> Arc<LoadedComponent> {
    let wasm = wat::parse_str(wat).unwrap();
    sandbox.prepare_bytes("a.wasm", &wasm, &Limits::default()).await.unwrap()
}

async fn call(sandbox: &Sandbox, component: &Arc<LoadedComponent>, task: &str) -> String {
    text(&run(sandbox, component, task, "null", |_| {}).await.outcome).to_owned()
}

/// Waits until so many are made.
async fn made(sandbox: &Sandbox, count: usize) {
    let patience = Instant::now() + Duration::from_secs(30);
    while sandbox.ready_instances() != count {
        assert!(Instant::now() < patience, "{} are made", sandbox.ready_instances());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn an_instance_that_was_made_ahead_is_used_by_one_job() {
    let sandbox = sandbox();
    let counter = component(&sandbox, &counter("count", 1)).await;
    assert_eq!(sandbox.ready_instances(), 0);
    for _ in 0..5 {
        assert_eq!(call(&sandbox, &counter, "count").await, "1");
        assert_eq!(sandbox.ready_instances(), 0);
        made(&sandbox, 1).await;
    }
}

#[tokio::test]
async fn it_is_what_was_started_and_no_job_waits_for_another_start() {
    let sandbox = sandbox();
    // A start that takes a while.
    let slow = component(
        &sandbox,
        r#"(component
            (core module $code
                (global $left (mut i64) (i64.const 40000000))
                (func $start (loop $again
                    (global.set $left (i64.sub (global.get $left) (i64.const 1)))
                    (br_if $again (i64.ne (global.get $left) (i64.const 0)))))
                (start $start)
                (func (export "left") (result i64) (global.get $left)))
            (core instance $instance (instantiate $code))
            (func (export "left") (result s64) (canon lift (core func $instance "left"))))"#,
    )
    .await;
    let fresh = run(&sandbox, &slow, "left", "null", |_| {}).await;
    made(&sandbox, 1).await;
    let ready = run(&sandbox, &slow, "left", "null", |_| {}).await;
    assert_eq!((text(&fresh.outcome), text(&ready.outcome)), ("0", "0"));
    assert!(ready.usage.wall < fresh.usage.wall / 4, "{:?} {:?}", ready.usage, fresh.usage);
    // What it has cost is the job's that has it.
    assert!(ready.usage.cpu > fresh.usage.cpu / 4, "{:?} {:?}", ready.usage, fresh.usage);
}

#[tokio::test]
async fn a_component_that_asks_the_host_for_something_while_it_starts_has_none() {
    let sandbox = sandbox();
    let asks = component(&sandbox, ASKS).await;
    let counter = component(&sandbox, &counter("count", 1)).await;
    for _ in 0..3 {
        assert_eq!(call(&sandbox, &asks, "asked").await, "1");
        call(&sandbox, &counter, "count").await;
        // That of the other one.
        made(&sandbox, 1).await;
    }
}

#[tokio::test]
async fn a_job_that_may_have_less_memory_does_not_get_it() {
    let sandbox = sandbox();
    let counter = component(&sandbox, &counter("count", 16)).await;
    call(&sandbox, &counter, "count").await;
    made(&sandbox, 1).await;
    let small = run(&sandbox, &counter, "count", "null", |plan| {
        plan.limits.memory_bytes = 15 * 65536;
    })
    .await;
    let Outcome::Crashed(failure) = small.outcome else { panic!("{:?}", small.outcome) };
    assert_eq!(failure.kind, "memory_limit");
}

#[tokio::test]
async fn each_job_has_its_own_deadline_and_limits() {
    let sandbox = sandbox();
    let spin = load(&sandbox, "hostile/spin").await;
    let sleep = load(&sandbox, "sleep").await;
    call_sleep(&sandbox, &sleep, 30_000).await;
    made(&sandbox, 1).await;
    let stopped = call_sleep(&sandbox, &sleep, 100).await;
    assert!(matches!(stopped, Outcome::TimedOut(_)), "{stopped:?}");
    made(&sandbox, 1).await;
    for _ in 0..2 {
        let short = run(&sandbox, &spin, "spin", "null", |plan| {
            plan.limits.timeout = Duration::from_millis(100);
        });
        let outcome = short.await.outcome;
        assert!(matches!(outcome, Outcome::TimedOut(_)), "{outcome:?}");
        made(&sandbox, 2).await;
    }
}

/// Sleeps for 200 ms where so many milliseconds are allowed.
async fn call_sleep(sandbox: &Sandbox, sleep: &Arc<LoadedComponent>, timeout_ms: u64) -> Outcome {
    let job = run(sandbox, sleep, "sleep", r#"{"ms":200}"#, |plan| {
        plan.limits.timeout = Duration::from_millis(timeout_ms);
    });
    job.await.outcome
}

#[tokio::test]
async fn a_job_pays_for_memory_from_its_own_start_on() {
    let sandbox = sandbox();
    let counter = component(&sandbox, &counter("count", 64)).await;
    call(&sandbox, &counter, "count").await;
    made(&sandbox, 1).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let usage = run(&sandbox, &counter, "count", "null", |_| {}).await.usage;
    assert!(usage.peak_memory_bytes >= 64 * 65536, "{usage:?}");
    assert!(usage.memory_byte_ms < usage.peak_memory_bytes * 250, "{usage:?}");
}

#[tokio::test]
async fn of_more_components_than_places_those_used_last_have_one() {
    let options = EngineOptions { slots: 4, ready_instances: 1, ..EngineOptions::default() };
    let sandbox = Sandbox::new(options).unwrap();
    let one = component(&sandbox, &counter("one", 1)).await;
    let other = component(&sandbox, &counter("other", 1)).await;
    call(&sandbox, &one, "one").await;
    made(&sandbox, 1).await;
    let patience = Instant::now() + Duration::from_secs(30);
    loop {
        call(&sandbox, &other, "other").await;
        if sandbox.ready_instances() == 0 {
            break;
        }
        // It has yet to take the place of the other's.
        assert!(Instant::now() < patience);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    made(&sandbox, 1).await;
    call(&sandbox, &one, "one").await;
    assert_eq!(sandbox.ready_instances(), 1);
}

#[tokio::test]
async fn it_goes_with_its_component() {
    let sandbox = sandbox();
    let counter = component(&sandbox, &counter("count", 1)).await;
    call(&sandbox, &counter, "count").await;
    made(&sandbox, 1).await;
    drop(counter);
    assert_eq!(sandbox.ready_instances(), 0);
}

#[tokio::test]
async fn none_is_made_where_none_is_wanted() {
    let options = EngineOptions { slots: 4, ready_instances: 0, ..EngineOptions::default() };
    let sandbox = Sandbox::new(options).unwrap();
    let counter = component(&sandbox, &counter("count", 1)).await;
    for _ in 0..3 {
        assert_eq!(call(&sandbox, &counter, "count").await, "1");
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(sandbox.ready_instances(), 0);
    }
}
