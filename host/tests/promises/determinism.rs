//! What a deterministic task is promised: each attempt at a job sees the same time and the same
//! chance, through both versions of WASI.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lovage::config::DeterminismConfig;
use lovage::job::Job;
use lovage::outcome::Outcome;
use lovage::policy::Grants;
use lovage::sandbox::{Limits, LoadedComponent, Plan, Sandbox};

use crate::guests::{component_that_imports, load, run, sandbox};

/// Gives back what clocks and random numbers said: seconds and nanoseconds twice, two marks, 16
/// random bytes, 16 insecure ones, an insecure seed. The functions' names are those of the version.
fn asks(version: &str, wall: &str, seed: &str) -> Vec<u8> {
    let (seconds, clocks_types, list) = match version {
        "0.2.0" => ("u64", "", "list<u8>"),
        _ => ("s64", "", "list<u8>"),
    };
    let packages = [
        format!(
            "package wasi:clocks@{version};
             interface {wall} {{
               record {record} {{ seconds: {seconds}, nanoseconds: u32 }}
               now: func() -> {record};
             }}
             interface monotonic-clock {{ {clocks_types} type mark = u64; now: func() -> mark; }}",
            record = if version == "0.2.0" { "datetime" } else { "instant" },
        ),
        format!(
            "package wasi:random@{version};
             interface random {{ get-random-bytes: func(len: u64) -> {list}; }}
             interface insecure {{ get-insecure-random-bytes: func(len: u64) -> {list}; }}
             interface insecure-seed {{ {seed}: func() -> tuple<u64, u64>; }}"
        ),
    ];
    let packages: Vec<&str> = packages.iter().map(String::as_str).collect();
    component_that_imports(
        &packages,
        &format!(
            "import wasi:clocks/{wall}@{version}; import wasi:clocks/monotonic-clock@{version};
             import wasi:random/random@{version}; import wasi:random/insecure@{version};
             import wasi:random/insecure-seed@{version};"
        ),
        &format!(
            r#"(module
                (import "wasi:clocks/{wall}@{version}" "now" (func $wall (param i32)))
                (import "wasi:clocks/monotonic-clock@{version}" "now" (func $mark (result i64)))
                (import "wasi:random/random@{version}" "get-random-bytes"
                  (func $random (param i64 i32)))
                (import "wasi:random/insecure@{version}" "get-insecure-random-bytes"
                  (func $insecure (param i64 i32)))
                (import "wasi:random/insecure-seed@{version}" "{seed}" (func $seed (param i32)))
                (memory (export "memory") 1)
                TASK REALLOC
                (data (i32.const 8) "text/plain")
                (func (export "lovage:task/handler@1.0.0#run") (param i32) (result i32)
                  (call $wall (i32.const 512))
                  (call $wall (i32.const 528))
                  (i64.store (i32.const 544) (call $mark))
                  (i64.store (i32.const 552) (call $mark))
                  (call $random (i64.const 16) (i32.const 1024))
                  (memory.copy (i32.const 560) (i32.load (i32.const 1024)) (i32.const 16))
                  (call $insecure (i64.const 16) (i32.const 1024))
                  (memory.copy (i32.const 576) (i32.load (i32.const 1024)) (i32.const 16))
                  (call $seed (i32.const 592))
                  (i32.store (i32.const 264) (i32.const 8))
                  (i32.store (i32.const 268) (i32.const 10))
                  (i32.store (i32.const 272) (i32.const 512))
                  (i32.store (i32.const 276) (i32.const 96))
                  (i32.const 256)))"#
        ),
    )
}

async fn answer(
    sandbox: &Sandbox,
    component: &Arc<LoadedComponent>,
    id: &str,
    attempt: u32,
    deterministic: Option<DeterminismConfig>,
) -> Vec<u8> {
    let mut job = Job::new(id, "t", "");
    job.attempt = attempt;
    let grants = Arc::new(Grants { deterministic, ..Grants::default() });
    let plan = Plan { grants, ..Plan::default() };
    match sandbox.run(component, job, &plan).await.outcome {
        Outcome::Done(output) => output.data.to_vec(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn every_attempt_at_a_job_sees_the_same_time_and_chance() {
    let sandbox = sandbox();
    let config = DeterminismConfig { time_ms: 1_700_000_000_250, seed: 7 };
    let mut versions = Vec::new();
    for component in [
        asks("0.2.0", "wall-clock", "insecure-seed"),
        asks("0.3.0", "system-clock", "get-insecure-seed"),
    ] {
        let component =
            sandbox.prepare_bytes("asks", &component, &Limits::default()).await.unwrap();
        let ask = async |id: &str, attempt, config| {
            answer(&sandbox, &component, id, attempt, config).await
        };
        let first = ask("job-1", 1, Some(config)).await;
        let number = |at: usize| u64::from_le_bytes(first[at..at + 8].try_into().unwrap());
        // A nanosecond apart, twice.
        assert_eq!([number(0), number(16)], [1_700_000_000; 2]);
        assert_eq!([number(8), number(24)].map(|it| it & 0xffff_ffff), [250_000_000, 250_000_001]);
        assert_eq!([number(32), number(40)], [0, 1]);
        assert_eq!(ask("job-1", 2, Some(config)).await, first);
        let chance = |answer: &[u8]| answer[48..96].to_vec();
        for (what, other) in [
            ("job", ask("job-2", 1, Some(config)).await),
            ("seed", ask("job-1", 1, Some(DeterminismConfig { seed: 8, ..config })).await),
        ] {
            for (one, another) in chance(&first).chunks(16).zip(chance(&other).chunks(16)) {
                assert_ne!(one, another, "another {what}");
            }
        }
        // Without it no two attempts are alike.
        let (one, another) = (ask("job-1", 1, None).await, ask("job-1", 1, None).await);
        for (one, another) in chance(&one).chunks(16).zip(chance(&another).chunks(16)) {
            assert_ne!(one, another);
        }
        versions.push(first);
    }
    assert_eq!(versions[0], versions[1], "both versions of WASI tell the same");
}

#[tokio::test]
async fn a_deterministic_task_still_waits_when_it_sleeps() {
    let sandbox = sandbox();
    let sleep = load(&sandbox, "sleep").await;
    let started = Instant::now();
    let report = run(&sandbox, &sleep, "sleep", r#"{"ms": 300}"#, |plan| {
        plan.grants = Arc::new(Grants {
            deterministic: Some(DeterminismConfig::default()),
            ..Grants::default()
        });
    })
    .await;
    assert!(matches!(report.outcome, Outcome::Done(_)), "{:?}", report.outcome);
    assert!(started.elapsed() >= Duration::from_millis(300));
}
