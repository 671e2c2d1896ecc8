//! A job that computes is stopped at its budget, and keeps nobody else from the processor.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use lovage::{
    job::Job,
    outcome::{Failure, Outcome},
    sandbox::{EngineOptions, Limits, LoadedComponent, Plan, Report, Sandbox},
};
use tokio::task::JoinSet;

use crate::{
    guests::{component_from_text, component_that_imports, load, run, sandbox},
    sandbox::{WASI_OUTPUT, text},
};

fn stopped(outcome: Outcome) -> Failure {
    match outcome {
        Outcome::TimedOut(failure) => failure,
        other => panic!("{other:?}"),
    }
}

fn many(slots: u32, threads: usize) -> Sandbox {
    Sandbox::new(EngineOptions { slots, threads, ..EngineOptions::default() }).unwrap()
}

const BUDGET: Duration = Duration::from_millis(60);

fn is_the_budgets(report: Report) {
    assert!(report.usage.cpu >= BUDGET, "{:?}", report.usage);
    // One tick more than the budget, and what it takes to make and to drop the guest.
    assert!(report.usage.cpu < BUDGET * 5, "{:?}", report.usage);
    let failure = stopped(report.outcome);
    assert_eq!(failure.kind, "cpu_limit", "{failure:?}");
    assert_eq!(failure.message, "used more than 60ms of CPU time (`cpu_ms` raises it)");
}

#[tokio::test]
async fn a_spinner_is_stopped_at_its_budget_and_the_limit_is_named() {
    // One slot, where nobody else could be kept waiting, and several.
    for sandbox in [many(1, 0), sandbox()] {
        let spin = load(&sandbox, "hostile/spin").await;
        for _ in 0..3 {
            is_the_budgets(
                run(&sandbox, &spin, "spin", "null", |plan| plan.limits.cpu = Some(BUDGET)).await,
            );
        }
    }
}

#[tokio::test]
async fn who_waits_is_not_billed_for_it() {
    let sandbox = sandbox();
    let sleep = load(&sandbox, "sleep").await;
    let report = run(&sandbox, &sleep, "sleep", r#"{"ms": 400}"#, |plan| {
        plan.limits.cpu = Some(BUDGET);
    })
    .await;
    assert!(matches!(report.outcome, Outcome::Done(_)), "{:?}", report.outcome);
    assert!(report.usage.wall >= Duration::from_millis(400));
    assert!(report.usage.cpu < BUDGET, "{:?}", report.usage);
}

/// What a module does that describes a task `t`: with `start` when it starts, with `realloc` when
/// the host asks for memory, with `run` when it is run.
fn component(more: &str, realloc: &str, run: &str) -> Vec<u8> {
    component_that_imports(
        &WASI_OUTPUT,
        "import wasi:cli/stderr@0.2.0;",
        &format!(
            r#"(module
                (import "wasi:cli/stderr@0.2.0" "get-stderr" (func $stderr (result i32)))
                (import "wasi:io/streams@0.2.0" "[method]output-stream.blocking-write-and-flush"
                  (func $write (param i32 i32 i32 i32)))
                (memory (export "memory") 1)
                TASK
                (data (i32.const 528) "so far")
                (func $spin (loop $ever (br $ever)))
                (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
                  {realloc} (i32.const 4096))
                (func (export "lovage:task/handler@1.0.0#run") (param i32) (result i32)
                  (call $write (call $stderr) (i32.const 528) (i32.const 6) (i32.const 600))
                  {run} (i32.const 256))
                {more})"#
        ),
    )
}

/// Grows its memory, and does the rest only if it could: as much as loading it is allowed, it
/// cannot.
const IF_THERE_IS_ROOM: &str = "(i32.ne (memory.grow (i32.const 8)) (i32.const -1))";

#[tokio::test]
async fn it_is_stopped_wherever_it_spins() {
    let start = format!("(func $start (if {IF_THERE_IS_ROOM} (then (call $spin)))) (start $start)");
    let afterwards = r#"(func (export "cabi_post_lovage:task/handler@1.0.0#run") (param i32)
        (call $spin))"#;
    let sandbox = sandbox();
    for (place, component, tells) in [
        ("run", component("", "", "(call $spin)"), true),
        ("start", component(&start, "", ""), false),
        ("realloc", component("", "(call $spin)", ""), false),
        ("after the return", component(afterwards, "", ""), true),
    ] {
        let small = Limits { memory_bytes: 4 * 65536, ..Limits::default() };
        let component = sandbox.prepare_bytes(place, &component, &small).await.unwrap();
        let report =
            run(&sandbox, &component, "t", "\"some data\"", |plan| plan.limits.cpu = Some(BUDGET))
                .await;
        if let (Outcome::TimedOut(failure), true) = (&report.outcome, tells) {
            assert_eq!(failure.detail.as_deref(), Some("standard error:\nso far\n"), "{place}");
        }
        assert!(matches!(report.outcome, Outcome::TimedOut(_)), "{place}: {:?}", report.outcome);
        is_the_budgets(report);
    }
}

#[tokio::test]
async fn a_component_that_spins_when_it_is_loaded_is_refused() {
    let describes = component_from_text(
        r#"(module
            (memory (export "memory") 1)
            REALLOC
            (func (export "lovage:task/handler@1.0.0#describe") (result i32)
              (loop $ever (br $ever)) unreachable)
            (func (export "lovage:task/handler@1.0.0#run") (param i32) (result i32) unreachable))"#,
    );
    let starts = component("(start $spin)", "", "");
    let sandbox = sandbox();
    for (name, component) in [("describes", describes), ("starts", starts)] {
        let limits = Limits { cpu: Some(BUDGET), ..Limits::default() };
        let error = sandbox.prepare_bytes(name, &component, &limits).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "{name}: does not say which tasks it serves: `describe` used more than 60ms of \
                 CPU time (`cpu_ms` raises it)"
            )
        );
    }
}

/// Starts so many spinners of a tenant, which end at their timeout.
fn spin(
    all: &mut JoinSet<(String, Report)>,
    (sandbox, component): (&Sandbox, &Arc<LoadedComponent>),
    (tenant, weight): (&str, u32),
    count: usize,
    timeout: Duration,
) {
    for _ in 0..count {
        let (sandbox, component) = (sandbox.clone(), Arc::clone(component));
        let mut job = Job::new("job-1", "spin", "null");
        let tenant = tenant.to_owned();
        job.tenant.clone_from(&tenant);
        let mut plan = Plan { tenant_weight: weight, ..Plan::default() };
        plan.limits.timeout = timeout;
        all.spawn(async move { (tenant, sandbox.run(&component, job, &plan).await) });
    }
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let patience = Instant::now() + Duration::from_mins(1);
    while !holds() {
        assert!(Instant::now() < patience, "{what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_of_spinners_keeps_nobody_waiting_and_when_given_up_is_gone() {
    const SPINNERS: u32 = 48;
    let sandbox = many(SPINNERS + 2, 0);
    let (spinner, echo) = (load(&sandbox, "hostile/spin").await, load(&sandbox, "echo").await);
    let mut spinners = JoinSet::new();
    let ever = Duration::from_hours(1);
    spin(&mut spinners, (&sandbox, &spinner), ("noisy", 1), SPINNERS as usize, ever);
    until("all spin", || sandbox.free_slots() == 2).await;
    // All of these end, and none of those does.
    let begun = Instant::now();
    for _ in 0..200 {
        let mut job = Job::new("job-2", "echo", "1");
        job.tenant = "quiet".to_owned();
        let report = sandbox.run(&echo, job, &Plan::default()).await;
        assert!(matches!(report.outcome, Outcome::Done(_)), "{:?}", report.outcome);
    }
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    assert!(spinners.try_join_next().is_none());
    // A slot is free when its store is gone.
    spinners.shutdown().await;
    until("all slots are free", || sandbox.free_slots() == SPINNERS as usize + 2).await;
}

/// Jobs of one tenant that take some milliseconds each are done beside another's that never end.
#[tokio::test]
async fn on_one_thread_jobs_of_any_length_are_done_beside_a_crowd_of_spinners() {
    let sandbox = many(34, 1);
    let spinner = load(&sandbox, "hostile/spin").await;
    let mut spinners = JoinSet::new();
    let ever = Duration::from_hours(1);
    spin(&mut spinners, (&sandbox, &spinner), ("noisy", 1), 32, ever);
    until("all spin", || sandbox.free_slots() == 2).await;
    for ms in [0, 5, 20, 0, 5, 20] {
        let mut job = Job::new("job-2", "spin", format!("{{\"ms\": {ms}}}"));
        job.tenant = "quiet".to_owned();
        let report = sandbox.run(&spinner, job, &Plan::default()).await;
        assert!(matches!(report.outcome, Outcome::Done(_)), "{:?}", report.outcome);
    }
    assert!(spinners.try_join_next().is_none());
}

#[tokio::test]
async fn tenants_have_cpu_by_their_weight_however_many_jobs_they_have() {
    let sandbox = many(32, 1);
    let spinner = load(&sandbox, "hostile/spin").await;
    let timeout = Duration::from_secs(4);
    let mut spinners = JoinSet::new();
    spin(&mut spinners, (&sandbox, &spinner), ("light", 1), 20, timeout);
    spin(&mut spinners, (&sandbox, &spinner), ("heavy", 3), 4, timeout);
    let reports = spinners.join_all().await;
    let of = |tenant: &str| {
        let its = reports.iter().filter(|(whose, _)| whose == tenant);
        its.map(|(_, report)| report.usage.cpu).sum::<Duration>()
    };
    let (light, heavy) = (of("light"), of("heavy"));
    let ratio = heavy.as_secs_f64() / light.as_secs_f64();
    assert!((2.0..4.5).contains(&ratio), "{heavy:?} and {light:?}");
}

/// A flood of jobs that take a moment each is not served before another tenant's long ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_short_jobs_does_not_starve_long_ones() {
    let sandbox = many(32, 0);
    let (spinner, echo) = (load(&sandbox, "hostile/spin").await, load(&sandbox, "echo").await);
    let done = Arc::new(AtomicUsize::new(0));
    let mut floods = JoinSet::new();
    for _ in 0..16 {
        let (sandbox, echo, done) = (sandbox.clone(), Arc::clone(&echo), Arc::clone(&done));
        floods.spawn(async move {
            loop {
                let mut job = Job::new("job-2", "echo", "1");
                job.tenant = "flood".to_owned();
                sandbox.run(&echo, job, &Plan::default()).await;
                done.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    let mut job = Job::new("job-3", "spin", r#"{"ms": 300}"#);
    job.tenant = "long".to_owned();
    let plan = Plan::default();
    let run = sandbox.run(&spinner, job, &plan);
    let report = tokio::time::timeout(Duration::from_secs(30), run).await.unwrap();
    assert!(matches!(report.outcome, Outcome::Done(_)), "{:?}", report.outcome);
    assert!(done.load(Ordering::Relaxed) > 0);
}

#[tokio::test(flavor = "current_thread")]
async fn a_spinner_ends_at_its_timeout_and_stalls_nobody() {
    let sandbox = sandbox();
    let spin = load(&sandbox, "hostile/spin").await;
    let echo = load(&sandbox, "echo").await;
    let timeout = Duration::from_millis(1500);
    let started = Instant::now();
    let spinner = run(&sandbox, &spin, "spin", "null", |plan| plan.limits.timeout = timeout);
    let others = async {
        let mut slowest = Duration::ZERO;
        while started.elapsed() < Duration::from_secs(1) {
            let asked = Instant::now();
            let report = run(&sandbox, &echo, "echo", "1", |_| {}).await;
            assert_eq!(text(&report.outcome), "1");
            slowest = slowest.max(asked.elapsed());
            // Timers go on, too.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        slowest
    };
    let (report, slowest) = tokio::join!(spinner, others);
    let failure = stopped(report.outcome);
    assert_eq!(failure.kind, "timeout");
    assert_eq!(failure.message, "ran for more than 1.5s (`timeout_ms` raises it)");
    let took = started.elapsed();
    assert!(took >= timeout && took < timeout + Duration::from_secs(1), "{took:?}");
    assert!(slowest < Duration::from_millis(500), "{slowest:?}");
    assert!(report.usage.cpu > Duration::from_millis(50), "{:?}", report.usage);
}
