//! What a sandbox promises, whatever its guest does.

// Over 500 lines: the promises of one attempt share its stage.

use std::time::{Duration, Instant};

use lovage::job::Job;
use lovage::media_type::JSON;
use lovage::outcome::{Failure, Outcome, Output};
use lovage::sandbox::{Allocator, EngineOptions, Limits, Plan, Sandbox, Tail};

use crate::guests::{component_from_text, component_that_imports, load, run, sandbox};

fn crashed(outcome: Outcome) -> Failure {
    match outcome {
        Outcome::Crashed(failure) => failure,
        other => panic!("{other:?}"),
    }
}

fn timed_out(outcome: Outcome) -> Failure {
    match outcome {
        Outcome::TimedOut(failure) => failure,
        other => panic!("{other:?}"),
    }
}

fn failed(outcome: Outcome) -> Failure {
    match outcome {
        Outcome::Failed(failure) => failure,
        other => panic!("{other:?}"),
    }
}

pub fn text(outcome: &Outcome) -> &str {
    match outcome {
        Outcome::Done(output) => std::str::from_utf8(&output.data).unwrap(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_payload_arrives_byte_for_byte_and_the_output_comes_back() {
    let sandbox = sandbox();
    let echo = load(&sandbox, "echo").await;
    let payload: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    let mut job = Job::new("job-1", "echo", payload.clone());
    job.content_type = "application/octet-stream".to_owned();
    let report = sandbox.run(&echo, job.clone(), &Plan::default()).await;
    assert_eq!(
        report.outcome,
        Outcome::Done(Output {
            content_type: "application/octet-stream".to_owned(),
            data: payload.into(),
        })
    );
    assert!(report.usage.cpu > Duration::ZERO);
    assert!(report.usage.wall > Duration::ZERO);
    assert!(report.usage.peak_memory_bytes >= 300_000, "{:?}", report.usage);
}

#[tokio::test]
async fn the_original_task_doubles() {
    let sandbox = sandbox();
    let component = load(&sandbox, "process_data").await;
    for (data, doubled) in [("21", "42"), ("\"ab\"", "\"abab\""), ("[1]", "[1,1]")] {
        let report = run(&sandbox, &component, "process_data", data, |_| {}).await;
        assert_eq!(text(&report.outcome), doubled);
    }
}

#[tokio::test]
async fn a_guest_is_told_about_its_attempt() {
    let sandbox = sandbox();
    let echo = load(&sandbox, "echo").await;
    let mut job = Job::new("id-7", "echo_context", "null");
    job.attempt = 2;
    job.tenant = "acme".to_owned();
    job.root_id = Some("id-1".to_owned());
    job.parent_id = Some("id-3".to_owned());
    job.headers = vec![("traceparent".to_owned(), "00-ü".to_owned())];
    let plan = Plan { max_attempts: 5, ..Plan::default() };
    let report = sandbox.run(&echo, job.clone(), &plan).await;
    let context: serde_json::Value = serde_json::from_str(text(&report.outcome)).unwrap();
    let shown = context.to_string();
    for part in ["id-7", "echo_context", "acme", "id-1", "id-3", "traceparent", "00-ü"] {
        assert!(shown.contains(part), "{part} is not in {shown}");
    }
    assert_eq!((&context["attempt"], &context["max_attempts"]), (&2.into(), &5.into()));
}

#[tokio::test]
async fn no_state_of_one_job_reaches_the_next() {
    // Counts its calls in its memory and in a global, and gives back how many it saw.
    let component = component_from_text(
        r#"(module
            (memory (export "memory") 20)
            TASK REALLOC
            (global $calls (mut i32) (i32.const 0))
            (data (i32.const 8) "text/plain")
            (func (export "lovage:task/handler@1.0.0#run") (param i32) (result i32)
              (global.set $calls (i32.add (global.get $calls) (i32.const 1)))
              (i32.store8 (i32.const 1000000)
                (i32.add (i32.load8_u (i32.const 1000000)) (i32.const 1)))
              ;; '0' + what both say beyond 1
              (i32.store8 (i32.const 512) (i32.add (i32.const 46)
                (i32.add (global.get $calls) (i32.load8_u (i32.const 1000000)))))
              ;; `ok`; the type, 10 bytes at 8; the data, 1 byte at 512
              (i32.store (i32.const 256) (i32.const 0))
              (i32.store (i32.const 264) (i32.const 8))
              (i32.store (i32.const 268) (i32.const 10))
              (i32.store (i32.const 272) (i32.const 512))
              (i32.store (i32.const 276) (i32.const 1))
              (i32.const 256)))"#,
    );
    for allocator in [Allocator::Pooling, Allocator::OnDemand] {
        // One slot, so that every attempt gets the memory of the one before.
        let sandbox =
            Sandbox::new(EngineOptions { slots: 1, allocator, ..EngineOptions::default() })
                .unwrap();
        let limits = Limits::default();
        let component = sandbox.prepare_bytes("counts", &component, &limits).await.unwrap();
        for _ in 0..20 {
            let report = run(&sandbox, &component, "t", "", |_| {}).await;
            assert_eq!(text(&report.outcome), "0", "{allocator:?}");
        }
    }
}

/// On a runtime of one thread, where nobody else runs while a guest holds it.
#[tokio::test]
async fn a_sleeper_ends_at_its_timeout_and_uses_no_cpu() {
    let sandbox = sandbox();
    let sleep = load(&sandbox, "sleep").await;
    let timeout = Duration::from_millis(300);
    let report = run(&sandbox, &sleep, "sleep", r#"{"ms": 60000}"#, |plan| {
        plan.limits.timeout = timeout;
    })
    .await;
    assert_eq!(timed_out(report.outcome).kind, "timeout");
    assert!(report.usage.wall < timeout + Duration::from_secs(1), "{:?}", report.usage);
    assert!(report.usage.cpu < Duration::from_millis(100), "{:?}", report.usage);
    let report = run(&sandbox, &sleep, "sleep", r#"{"ms": 20}"#, |_| {}).await;
    assert!(matches!(report.outcome, Outcome::Done(_)), "{:?}", report.outcome);
}

#[tokio::test]
async fn the_hosts_own_deadline_comes_before_the_timeout() {
    let sandbox = sandbox();
    let sleep = load(&sandbox, "sleep").await;
    let report = run(&sandbox, &sleep, "sleep", r#"{"ms": 60000}"#, |plan| {
        plan.deadline = Some(Instant::now() + Duration::from_millis(200));
    })
    .await;
    let failure = timed_out(report.outcome);
    assert_eq!(failure.kind, "deadline");
    assert!(failure.message.contains("before its timeout of 30s"), "{}", failure.message);
}

#[tokio::test]
async fn a_hoarder_is_stopped_and_the_reason_names_the_limit() {
    let sandbox = sandbox();
    let hoard = load(&sandbox, "hostile/hoard").await;
    let report = run(&sandbox, &hoard, "hoard", "null", |plan| {
        plan.limits.memory_bytes = 32 << 20;
    })
    .await;
    assert!(report.usage.peak_memory_bytes <= 32 << 20, "{:?}", report.usage);
    assert!(report.usage.peak_memory_bytes > 28 << 20, "{:?}", report.usage);
    let failure = crashed(report.outcome);
    assert_eq!(failure.kind, "memory_limit");
    assert!(
        failure.message.contains("32 MiB are allowed (`memory_bytes` raises it)"),
        "{}",
        failure.message
    );
    // And what is below the limit is had.
    let report = run(&sandbox, &hoard, "hoard", r#"{"bytes": 16777216}"#, |plan| {
        plan.limits.memory_bytes = 32 << 20;
    })
    .await;
    assert_eq!(text(&report.outcome), "16777216");
}

#[tokio::test]
async fn a_guest_that_starts_larger_than_its_limit_is_told_so() {
    let sandbox = sandbox();
    let echo = load(&sandbox, "echo").await;
    let report = run(&sandbox, &echo, "echo", "1", |plan| plan.limits.memory_bytes = 65536).await;
    let failure = crashed(report.outcome);
    assert_eq!(failure.kind, "memory_limit", "{failure:?}");
    assert!(failure.message.contains("64 KiB are allowed"), "{}", failure.message);
}

/// Whatever else ends a guest is told as what it is, even if it was refused memory before, and
/// went on without.
#[tokio::test]
async fn a_refusal_that_a_guest_coped_with_hides_no_other_reason() {
    let sandbox = sandbox();
    let cases = [
        ("(drop (i32.div_u (i32.const 1) (i32.const 0)))", "trap:integer_division_by_zero"),
        ("(loop $forever (drop (call $network)) (br $forever))", "handle_limit"),
        ("(unreachable)", "memory_limit"),
        ("(drop (i32.load (i32.const -4)))", "memory_limit"),
        // An output beyond what may cross at once.
        (
            "(i32.store (i32.const 264) (i32.const 32)) (i32.store (i32.const 268) (i32.const 1))
             (i32.store (i32.const 272) (i32.const 0)) (i32.store (i32.const 276) (i32.const 4000000))",
            "output_too_large",
        ),
    ];
    for (body, kind) in cases {
        let component = component_that_imports(
            &WASI,
            "import wasi:sockets/instance-network@0.2.0;",
            &format!(
                r#"(module
                    (import "wasi:sockets/instance-network@0.2.0" "instance-network"
                      (func $network (result i32)))
                    (memory (export "memory") 80)
                    TASK REALLOC
                    (func (export "lovage:task/handler@1.0.0#run") (param i32) (result i32)
                      (drop (memory.grow (i32.const 60000)))
                      {body}
                      (i32.const 256)))"#
            ),
        );
        let component =
            sandbox.prepare_bytes("copes", &component, &Limits::default()).await.unwrap();
        let outcome = run(&sandbox, &component, "t", "", |_| {}).await.outcome;
        let failure = match outcome {
            Outcome::Crashed(failure) | Outcome::Failed(failure) => failure,
            other => panic!("{body}: {other:?}"),
        };
        assert_eq!(failure.kind, kind, "{body}: {failure:?}");
        let all = format!("{} {}", failure.message, failure.detail.unwrap_or_default());
        assert!(all.contains("128 MiB are allowed"), "the refusal is not told: {all}");
    }
}

#[tokio::test]
async fn many_memories_count_together() {
    let component = component_from_text(
        r#"(module
            (memory (export "memory") 1)
            (memory $second 1)
            (memory $third 1)
            TASK REALLOC
            (func (export "lovage:task/handler@1.0.0#run") (param i32) (result i32)
              ;; 40 pages each: no memory alone is above 64, but two of them are.
              (drop (memory.grow $second (i32.const 39)))
              (if (i32.eq (memory.grow $third (i32.const 39)) (i32.const -1))
                (then (unreachable)))
              (i32.const 0)))"#,
    );
    let sandbox = sandbox();
    let limits = Limits { memory_bytes: 64 * 65536, ..Limits::default() };
    let component = sandbox.prepare_bytes("many", &component, &limits).await.unwrap();
    let report = run(&sandbox, &component, "t", "", |plan| plan.limits = limits).await;
    let failure = crashed(report.outcome);
    assert_eq!(failure.kind, "memory_limit", "{failure:?}");
    assert!(failure.message.contains("4 MiB are allowed"), "{}", failure.message);
    assert_eq!(report.usage.peak_memory_bytes, 42 * 65536);
}

#[tokio::test]
async fn floods_of_output_cost_no_memory() {
    let sandbox = sandbox();
    let flood = load(&sandbox, "hostile/flood").await;
    let request = r#"{"stdout_bytes": 3000000, "stderr_bytes": 100000}"#;
    let report = run(&sandbox, &flood, "flood", request, |plan| {
        plan.limits.stdio_bytes = 1000;
    })
    .await;
    assert_eq!(text(&report.outcome), "0");
    let kept = |tail: &Tail| (tail.first.len(), tail.bytes.len(), tail.total);
    assert_eq!(kept(&report.stdout), (250, 750, 3_000_000));
    assert_eq!(kept(&report.stderr), (250, 750, 100_000));
    // It is the end that is kept: lines carry their number.
    let last = format!("{}", (3_000_000 - 1) / 64);
    assert!(report.stdout.text().contains(&last), "{}", report.stdout.text());
}

#[tokio::test]
async fn an_output_that_is_too_large_is_refused_with_both_sizes() {
    let sandbox = sandbox();
    let flood = load(&sandbox, "hostile/flood").await;
    let cases = [
        (
            1_000_001,
            "the output has 976.6 KiB, and 976.6 KiB are allowed (`output_bytes` raises it)",
        ),
        (2_000_000, "the output has 1.9 MiB, and 976.6 KiB are allowed (`output_bytes` raises it)"),
        // Far beyond it, the host does not even take it.
        (
            40_000_000,
            "the output has more than twice the 976.6 KiB that are allowed (`output_bytes` raises it)",
        ),
    ];
    for (bytes, message) in cases {
        let request = format!("{{\"output_bytes\": {bytes}}}");
        let report = run(&sandbox, &flood, "flood", &request, |plan| {
            plan.limits.output_bytes = 1_000_000;
            plan.limits.memory_bytes = 256 << 20;
        })
        .await;
        let failure = failed(report.outcome);
        assert_eq!(
            (failure.kind.as_str(), failure.message.as_str()),
            ("output_too_large", message)
        );
    }
    let report = run(&sandbox, &flood, "flood", r#"{"output_bytes": 900000}"#, |_| {}).await;
    assert_eq!(text(&report.outcome).len(), 900_000);
}

#[tokio::test]
async fn a_panic_gives_its_message_and_where_it_was() {
    let sandbox = sandbox();
    let panics = load(&sandbox, "hostile/panic").await;
    let report = run(&sandbox, &panics, "panic", r#""no\nway \u001b[31m""#, |_| {}).await;
    let failure = crashed(report.outcome);
    assert_eq!(failure.kind, "panic");
    assert!(failure.message.starts_with(r"no\nway \u{1b}[31m (at "), "{}", failure.message);
    let detail = failure.detail.unwrap();
    assert!(detail.starts_with("standard error:\nlovage: panic: "), "{detail}");
    assert!(detail.contains("\nbacktrace:\n"), "{detail}");
    assert!(!detail.contains('\u{1b}'), "{detail}");
}

#[tokio::test]
async fn a_failure_shows_the_ends_of_what_the_guest_wrote() {
    // Writes to both streams; then what its payload's length says: fails without detail, asks to
    // be tried again, is too slow, or crashes.
    let component = component_that_imports(
        &WASI_OUTPUT,
        "import wasi:cli/stdout@0.2.0; import wasi:cli/stderr@0.2.0;",
        r#"(module
            (import "wasi:cli/stdout@0.2.0" "get-stdout" (func $stdout (result i32)))
            (import "wasi:cli/stderr@0.2.0" "get-stderr" (func $stderr (result i32)))
            (import "wasi:io/streams@0.2.0" "[method]output-stream.blocking-write-and-flush"
              (func $write (param i32 i32 i32 i32)))
            (memory (export "memory") 1)
            TASK REALLOC
            (data (i32.const 512) "to stdout")
            (data (i32.const 528) "to stderr")
            (func (export "lovage:task/handler@1.0.0#run") (param $invocation i32) (result i32)
              (local $id i32)
              (call $write (call $stdout) (i32.const 512) (i32.const 9) (i32.const 600))
              (call $write (call $stderr) (i32.const 528) (i32.const 9) (i32.const 600))
              ;; The length of the id.
              (local.set $id (i32.load (i32.add (local.get $invocation) (i32.const 4))))
              (if (i32.eq (local.get $id) (i32.const 1)) (then (unreachable)))
              (if (i32.eq (local.get $id) (i32.const 2)) (then (loop $ever (br $ever))))
              ;; An error, at 264 which one: 0 is `retry`, 2 is `fail`. The rest is zeros: empty
              ;; texts, and options that are none.
              (i32.store8 (i32.const 256) (i32.const 1))
              (if (i32.eq (local.get $id) (i32.const 3))
                (then (i32.store8 (i32.const 264) (i32.const 2))))
              (i32.const 256)))"#,
    );
    let sandbox = sandbox();
    let component = sandbox.prepare_bytes("writes", &component, &Limits::default()).await.unwrap();
    let mut plan = Plan::default();
    // After the one that is too slow the others have a lower priority: they are not to be so, too.
    plan.limits.timeout = Duration::from_secs(3);
    let attempt = async |id: &str| sandbox.run(&component, Job::new(id, "t", ""), &plan).await;
    let both = "standard error:\nto stderr\nstandard output:\nto stdout\n";
    let crash = crashed(attempt("1").await.outcome).detail.unwrap();
    assert!(crash.starts_with(both), "{crash}");
    assert_eq!(timed_out(attempt("22").await.outcome).detail.as_deref(), Some(both));
    let own = Some("standard error:\nto stderr\n");
    assert_eq!(failed(attempt("333").await.outcome).detail.as_deref(), own);
    match attempt("4444").await.outcome {
        Outcome::Retry { failure, .. } => assert_eq!(failure.detail.as_deref(), own),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_recursion_without_end_is_a_crash_of_the_guest_alone() {
    let sandbox = sandbox();
    let recurse = load(&sandbox, "hostile/recurse").await;
    for _ in 0..3 {
        let report = run(&sandbox, &recurse, "recurse", "null", |_| {}).await;
        let failure = crashed(report.outcome);
        assert!(failure.kind.starts_with("trap:"), "{failure:?}");
        assert!(failure.detail.is_some());
    }
}

#[tokio::test]
async fn what_a_guest_asks_for_is_what_follows() {
    let sandbox = sandbox();
    let fail = load(&sandbox, "fail").await;
    let outcome = async |payload: &str| run(&sandbox, &fail, "fail", payload, |_| {}).await.outcome;
    let reason = "attempt 1 fails, as it was told to";
    assert_eq!(
        outcome(r#"{"after_ms": 20}"#).await,
        Outcome::Retry {
            failure: Failure::new("retry", reason),
            after: Some(Duration::from_millis(20)),
        }
    );
    assert!(matches!(
        outcome(r#"{"error": "snooze", "snooze_until": 33000000000000}"#).await,
        Outcome::Snooze { after } if after > Duration::from_hours(1)
    ));
    let told = failed(outcome(r#"{"error": "fail"}"#).await);
    assert_eq!((told.kind.as_str(), told.message.as_str()), ("ToldToFail", reason));
    assert!(matches!(
        outcome(r#"{"error": "reject"}"#).await,
        Outcome::Rejected(failure) if failure.message == reason
    ));
    assert_eq!(crashed(outcome(r#"{"error": "panic"}"#).await).kind, "panic");
    assert_eq!(text(&outcome(r#"{"times": 0}"#).await), "1");
}

#[tokio::test]
async fn json_that_is_none_is_refused() {
    let sandbox = sandbox();
    let echo = load(&sandbox, "echo").await;
    let mut job = Job::new("job-1", "echo", "{\"a\":");
    job.content_type = "application/json; charset=utf-8".to_owned();
    let report = sandbox.run(&echo, job.clone(), &Plan::default()).await;
    assert_eq!(failed(report.outcome).kind, "invalid_output");
    job.payload = "{}".into();
    let report = sandbox.run(&echo, job.clone(), &Plan::default()).await;
    assert!(
        matches!(&report.outcome, Outcome::Done(output) if output.content_type == JSON),
        "{:?}",
        report.outcome
    );
}

#[tokio::test]
async fn an_attempt_that_is_dropped_frees_its_slot() {
    let sandbox = Sandbox::new(EngineOptions { slots: 1, ..EngineOptions::default() }).unwrap();
    let sleep = load(&sandbox, "sleep").await;
    let spin = load(&sandbox, "hostile/spin").await;
    for _ in 0..5 {
        for (component, task, payload) in
            [(&sleep, "sleep", r#"{"ms": 60000}"#), (&spin, "spin", "null")]
        {
            let attempt = run(&sandbox, component, task, payload, |_| {});
            let dropped = tokio::time::timeout(Duration::from_millis(50), attempt).await;
            assert!(dropped.is_err());
            assert_eq!(sandbox.free_slots(), 1);
        }
    }
    let report = run(&sandbox, &sleep, "sleep", r#"{"ms": 1}"#, |_| {}).await;
    assert!(matches!(report.outcome, Outcome::Done(_)), "{:?}", report.outcome);
}

#[tokio::test]
async fn more_jobs_than_slots_wait_and_none_of_them_sees_it() {
    let sandbox = Sandbox::new(EngineOptions { slots: 2, ..EngineOptions::default() }).unwrap();
    let sleep = load(&sandbox, "sleep").await;
    let jobs = (0..20).map(|_| run(&sandbox, &sleep, "sleep", r#"{"ms": 5}"#, |_| {}));
    for report in futures_util::future::join_all(jobs).await {
        assert!(matches!(report.outcome, Outcome::Done(_)), "{:?}", report.outcome);
    }
}

/// What of WASI a guest here imports, as far as it does; types have to be whole.
const WASI: [&str; 3] = [
    "package wasi:cli@0.2.0;
     interface environment {
       get-environment: func() -> list<tuple<string, string>>;
       get-arguments: func() -> list<string>;
     }
     interface exit { exit: func(status: result); }",
    "package wasi:filesystem@0.2.0;
     interface types { resource descriptor; }
     interface preopens {
       use types.{descriptor};
       get-directories: func() -> list<tuple<descriptor, string>>;
     }",
    "package wasi:sockets@0.2.0;
     interface network {
       enum error-code {
         unknown, access-denied, not-supported, invalid-argument, out-of-memory, timeout,
         concurrency-conflict, not-in-progress, would-block, invalid-state, new-socket-limit,
         address-not-bindable, address-in-use, remote-unreachable, connection-refused,
         connection-reset, connection-aborted, datagram-too-large, name-unresolvable,
         temporary-resolver-failure, permanent-resolver-failure,
       }
       enum ip-address-family { ipv4, ipv6 }
       resource network;
     }
     interface instance-network {
       use network.{network};
       instance-network: func() -> network;
     }
     interface ip-name-lookup {
       use network.{network, error-code};
       resource resolve-address-stream;
       resolve-addresses: func(network: borrow<network>, name: string)
         -> result<resolve-address-stream, error-code>;
     }
     interface udp { resource udp-socket; }
     interface udp-create-socket {
       use network.{error-code, ip-address-family};
       use udp.{udp-socket};
       create-udp-socket: func(address-family: ip-address-family)
         -> result<udp-socket, error-code>;
     }
     interface tcp { resource tcp-socket; }
     interface tcp-create-socket {
       use network.{error-code, ip-address-family};
       use tcp.{tcp-socket};
       create-tcp-socket: func(address-family: ip-address-family)
         -> result<tcp-socket, error-code>;
     }",
];

/// As much of it as a guest needs that writes.
pub const WASI_OUTPUT: [&str; 2] = [
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
];

#[tokio::test]
async fn nothing_is_inherited() {
    // Asks for all there could be, and gives back what it got, eight bytes each: the lengths of
    // three lists, and three results.
    let component = component_that_imports(
        &WASI,
        "import wasi:cli/environment@0.2.0;
         import wasi:filesystem/preopens@0.2.0;
         import wasi:sockets/tcp-create-socket@0.2.0;
         import wasi:sockets/udp-create-socket@0.2.0;
         import wasi:sockets/instance-network@0.2.0;
         import wasi:sockets/ip-name-lookup@0.2.0;",
        r#"(module
            (import "wasi:cli/environment@0.2.0" "get-environment" (func $env (param i32)))
            (import "wasi:cli/environment@0.2.0" "get-arguments" (func $args (param i32)))
            (import "wasi:filesystem/preopens@0.2.0" "get-directories" (func $dirs (param i32)))
            (import "wasi:sockets/tcp-create-socket@0.2.0" "create-tcp-socket"
              (func $tcp (param i32 i32)))
            (import "wasi:sockets/udp-create-socket@0.2.0" "create-udp-socket"
              (func $udp (param i32 i32)))
            (import "wasi:sockets/instance-network@0.2.0" "instance-network"
              (func $network (result i32)))
            (import "wasi:sockets/ip-name-lookup@0.2.0" "resolve-addresses"
              (func $resolve (param i32 i32 i32 i32)))
            (memory (export "memory") 1)
            TASK REALLOC
            (data (i32.const 8) "text/plain")
            (data (i32.const 24) "localhost")
            (func (export "lovage:task/handler@1.0.0#run") (param i32) (result i32)
              (call $env (i32.const 512))
              (call $args (i32.const 520))
              (call $dirs (i32.const 528))
              (call $tcp (i32.const 0) (i32.const 536))
              (call $udp (i32.const 0) (i32.const 544))
              (call $resolve (call $network) (i32.const 24) (i32.const 9) (i32.const 552))
              (i32.store (i32.const 264) (i32.const 8))
              (i32.store (i32.const 268) (i32.const 10))
              (i32.store (i32.const 272) (i32.const 512))
              (i32.store (i32.const 276) (i32.const 48))
              (i32.const 256)))"#,
    );
    let sandbox = sandbox();
    let component = sandbox.prepare_bytes("asks", &component, &Limits::default()).await.unwrap();
    let report = run(&sandbox, &component, "t", "", |_| {}).await;
    let got = match report.outcome {
        Outcome::Done(output) => output.data,
        other => panic!("{other:?}"),
    };
    let (lists, results) = got.split_at(24);
    for list in lists.chunks(8) {
        assert_eq!(list[4..], [0; 4], "a list is not empty: {got:?}");
    }
    for result in results.chunks(8) {
        // An error; and the second of them, `access-denied`, or the last, which a name gets.
        assert_eq!(result[0], 1, "{got:?}");
        assert!([1, 20].contains(&result[4]), "{got:?}");
    }
}

#[tokio::test]
async fn an_exit_is_a_crash_that_says_its_code() {
    let component = component_that_imports(
        &WASI,
        "import wasi:cli/exit@0.2.0;",
        r#"(module
            (import "wasi:cli/exit@0.2.0" "exit" (func $exit (param i32)))
            (memory (export "memory") 1)
            TASK REALLOC
            (func (export "lovage:task/handler@1.0.0#run") (param i32) (result i32)
              (call $exit (i32.const 1))
              unreachable))"#,
    );
    let sandbox = sandbox();
    let component = sandbox.prepare_bytes("exits", &component, &Limits::default()).await.unwrap();
    let failure = crashed(run(&sandbox, &component, "t", "", |_| {}).await.outcome);
    assert_eq!(failure.kind, "exit");
    assert_eq!(failure.message, "exited with code 1 instead of returning");
}

#[tokio::test]
async fn handles_cannot_be_hoarded() {
    let component = component_that_imports(
        &WASI,
        "import wasi:sockets/instance-network@0.2.0;",
        r#"(module
            (import "wasi:sockets/instance-network@0.2.0" "instance-network"
              (func $network (result i32)))
            (memory (export "memory") 1)
            TASK REALLOC
            (func (export "lovage:task/handler@1.0.0#run") (param i32) (result i32)
              (loop $forever (drop (call $network)) (br $forever))
              unreachable))"#,
    );
    let sandbox = sandbox();
    let component = sandbox.prepare_bytes("hoards", &component, &Limits::default()).await.unwrap();
    let failure = crashed(run(&sandbox, &component, "t", "", |_| {}).await.outcome);
    assert_eq!(failure.kind, "handle_limit", "{failure:?}");
    assert_eq!(failure.message, "held more than 4096 handles at once (`handles` raises it)");
}

#[tokio::test]
async fn wasi_0_3_is_there_too_but_a_task_cannot_wait_for_its_async_functions() {
    let component = component_that_imports(
        &["package wasi:clocks@0.3.0;
           interface types { type duration = u64; }
           interface monotonic-clock {
             use types.{duration};
             type mark = u64;
             now: func() -> mark;
             wait-for: async func(how-long: duration);
           }"],
        "import wasi:clocks/monotonic-clock@0.3.0;",
        r#"(module
            (import "wasi:clocks/monotonic-clock@0.3.0" "now" (func $now (result i64)))
            (import "wasi:clocks/monotonic-clock@0.3.0" "wait-for" (func $wait (param i64)))
            (memory (export "memory") 1)
            TASK REALLOC
            (data (i32.const 8) "text/plain")
            (func (export "lovage:task/handler@1.0.0#run") (param $invocation i32) (result i32)
              (i64.store (i32.const 512) (call $now))
              ;; The length of the id: one that is not short waits.
              (if (i32.gt_u (i32.load (i32.add (local.get $invocation) (i32.const 4)))
                            (i32.const 5))
                (then (call $wait (i64.const 20000000))))
              (i32.store (i32.const 264) (i32.const 8))
              (i32.store (i32.const 268) (i32.const 10))
              (i32.store (i32.const 272) (i32.const 512))
              (i32.store (i32.const 276) (i32.const 8))
              (i32.const 256)))"#,
    );
    let sandbox = sandbox();
    let component = sandbox.prepare_bytes("waits", &component, &Limits::default()).await.unwrap();
    let attempt = async |id: &str| {
        sandbox.run(&component, Job::new(id, "t", ""), &Plan::default()).await.outcome
    };
    match attempt("short").await {
        Outcome::Done(output) => assert_ne!(*output.data, [0; 8]),
        other => panic!("{other:?}"),
    }
    let failure = crashed(attempt("longer").await);
    assert_eq!(failure.kind, "trap:cannot_block");
    assert!(failure.message.contains("use those of WASI 0.2"), "{}", failure.message);
}

#[tokio::test]
async fn output_through_wasi_0_3_is_kept_as_a_tail_too() {
    let component = component_that_imports(
        &["package wasi:cli@0.3.0;
           interface types { enum error-code { io, illegal-byte-sequence, pipe } }
           interface stdout {
             use types.{error-code};
             write-via-stream: func(data: stream<u8>) -> future<result<_, error-code>>;
           }"],
        "import wasi:cli/stdout@0.3.0;",
        r#"(module
            (import "wasi:cli/stdout@0.3.0" "[stream-new-0]write-via-stream"
              (func $new (result i64)))
            (import "wasi:cli/stdout@0.3.0" "[async-lower][stream-write-0]write-via-stream"
              (func $write (param i32 i32 i32) (result i32)))
            (import "wasi:cli/stdout@0.3.0" "write-via-stream" (func $via (param i32) (result i32)))
            (memory (export "memory") 1)
            TASK REALLOC
            (data (i32.const 8) "text/plain")
            (data (i32.const 512) "0123456789")
            (func (export "lovage:task/handler@1.0.0#run") (param i32) (result i32)
              (local $ends i64) (local $left i32)
              (local.set $ends (call $new))
              (drop (call $via (i32.wrap_i64 (local.get $ends))))
              (local.set $left (i32.const 1000))
              (loop $again
                ;; 10 bytes in one go: the host takes all at once, and nobody waits.
                (if (i32.ne (i32.const 160) (call $write
                      (i32.wrap_i64 (i64.shr_u (local.get $ends) (i64.const 32)))
                      (i32.const 512) (i32.const 10)))
                  (then (unreachable)))
                (local.set $left (i32.sub (local.get $left) (i32.const 1)))
                (br_if $again (local.get $left)))
              (i32.store (i32.const 264) (i32.const 8))
              (i32.store (i32.const 268) (i32.const 10))
              (i32.const 256)))"#,
    );
    let sandbox = sandbox();
    let component = sandbox.prepare_bytes("writes", &component, &Limits::default()).await.unwrap();
    let report = run(&sandbox, &component, "t", "", |plan| plan.limits.stdio_bytes = 25).await;
    assert!(matches!(report.outcome, Outcome::Done(_)), "{:?}", report.outcome);
    assert_eq!(report.stdout.total, 10_000);
    assert_eq!(report.stdout.first, b"012345");
    assert_eq!(report.stdout.bytes, b"1234567890123456789");
}
