//! Nobody's attempt takes from a pool what another's needs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lovage::job::Job;
use lovage::outcome::Outcome;
use lovage::sandbox::{EngineOptions, LoadedComponent, Plan, Sandbox};

/// A composed component whose task `hold` has `inner` component instances wait at the same time, each
/// on a stack of its own, and waits itself.
fn composed(inner: usize, ms: u64) -> Vec<u8> {
    let nanos = ms * 1_000_000;
    let each = |text: &str| -> String {
        (0..inner).map(|n| text.replace('#', &n.to_string())).collect::<Vec<_>>().join("\n")
    };
    let text = format!(
        r#"(component
          (import "wasi:clocks/monotonic-clock@0.3.0" (instance $clock
            (export "wait-for" (func async (param "how-long" u64)))))
          (alias export $clock "wait-for" (func $wait))
          (import "wasi:io/poll@0.2.0" (instance $poll
            (export "pollable" (type $pollable (sub resource)))
            (export "[method]pollable.block" (func (param "self" (borrow $pollable))))))
          (alias export $poll "pollable" (type $pollable))
          (import "wasi:clocks/monotonic-clock@0.2.0" (instance $timer
            (alias outer 1 $pollable (type $outer))
            (export "pollable" (type $pollable (eq $outer)))
            (export "subscribe-duration" (func (param "when" u64) (result (own $pollable))))))
          (component $sub
            (import "wait" (func $wait async (param "how-long" u64)))
            (core module $m
              (import "" "wait" (func $wait (param i64)))
              (func (export "go") (call $wait (i64.const {nanos}))))
            (core func $lowered (canon lower (func $wait)))
            (core instance $i (instantiate $m
              (with "" (instance (export "wait" (func $lowered))))))
            (func (export "go") async (canon lift (core func $i "go"))))
          {instances}
          (component $main
            (import "poll" (instance $poll
              (export "pollable" (type $pollable (sub resource)))
              (export "[method]pollable.block" (func (param "self" (borrow $pollable))))))
            (alias export $poll "pollable" (type $pollable))
            (import "timer" (instance $timer
              (alias outer 1 $pollable (type $outer))
              (export "pollable" (type $pollable (eq $outer)))
              (export "subscribe-duration" (func (param "when" u64) (result (own $pollable))))))
            {given}
            (core func $block (canon lower (func $poll "[method]pollable.block")))
            (core func $timer (canon lower (func $timer "subscribe-duration")))
            {lowered}
            (core module $m
              (import "" "block" (func $block (param i32)))
              (import "" "timer" (func $timer (param i64) (result i32)))
              {imports}
              (func (export "hold") {calls} (call $block (call $timer (i64.const {nanos})))))
            (core instance $i (instantiate $m (with "" (instance
              (export "block" (func $block)) (export "timer" (func $timer))
              {exports}))))
            (func (export "hold") (canon lift (core func $i "hold"))))
          (instance $main (instantiate $main
            (with "poll" (instance $poll)) (with "timer" (instance $timer)) {gives}))
          (export "hold" (func $main "hold")))"#,
        instances = each("(instance $s# (instantiate $sub (with \"wait\" (func $wait))))"),
        given = each("(import \"g#\" (func $g# async))"),
        gives = each("(with \"g#\" (func $s# \"go\"))"),
        lowered = each("(core func $g# (canon lower (func $g#) async))"),
        imports = each("(import \"\" \"g#\" (func $g# (result i32)))"),
        calls = each("(drop (call $g#))"),
        exports = each("(export \"g#\" (func $g#))"),
    );
    wat::parse_str(text).unwrap()
}

async fn load(sandbox: &Sandbox, wasm: &[u8]) -> Arc<LoadedComponent> {
    sandbox.prepare_bytes("composed", wasm, &Plan::default().limits).await.unwrap()
}

fn hold(tenant: &str) -> Job {
    let mut job = Job::new("job-1", "hold", "[]");
    tenant.clone_into(&mut job.tenant);
    job
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_composed_component_that_waits_in_many_places_takes_no_stack_of_others() {
    let options = EngineOptions { slots: 16, ..EngineOptions::default() };
    let sandbox = Sandbox::new(options).unwrap();
    let hostile = load(&sandbox, &composed(62, 6_000)).await;
    let victim = load(&sandbox, &composed(1, 1)).await;
    let hostile: Vec<_> = (0..12)
        .map(|_| {
            let (sandbox, hostile) = (sandbox.clone(), Arc::clone(&hostile));
            tokio::spawn(async move {
                sandbox.run(&hostile, hold("hostile"), &Plan::default()).await.outcome
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(1)).await;
    if sandbox.free_slots() != 4 {
        for hostile in hostile {
            eprintln!("{:?}", hostile.await.unwrap());
        }
        panic!("they do not run");
    }
    for _ in 0..20 {
        let started = Instant::now();
        let outcome = sandbox.run(&victim, hold("victim"), &Plan::default()).await.outcome;
        assert!(matches!(outcome, Outcome::Done(_)), "{outcome:?}");
        assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    }
    for hostile in hostile {
        let outcome = hostile.await.unwrap();
        assert!(matches!(outcome, Outcome::Done(_)), "{outcome:?}");
    }
}

#[tokio::test]
async fn a_component_that_could_hold_more_stacks_than_its_share_is_not_loaded() {
    let sandbox = Sandbox::new(EngineOptions { slots: 4, ..EngineOptions::default() }).unwrap();
    let limits = Plan::default().limits;
    let refused = sandbox.prepare_bytes("composed", &composed(63, 1), &limits).await.unwrap_err();
    let refused = refused.to_string();
    assert!(
        refused.contains("composed of 65 component instances, and 64 are allowed"),
        "{refused}"
    );
}
