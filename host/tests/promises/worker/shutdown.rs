//! A worker that is told to stop strands nothing.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{
    stage::{Kind, Setup, Stage, job, on_both},
    worker::Signal,
};

on_both! {
    running_jobs_finish_and_the_rest_is_somebody_elses_at_once
    what_outlasts_the_drain_timeout_is_given_back
    a_second_signal_gives_all_back_at_once
    an_idle_worker_stops_soon
    deploys_in_the_middle_of_the_work_strand_nothing
}

/// Far longer than any of these tests may take: what is done within it was given back.
const VISIBILITY: u64 = 600;

async fn running_jobs_finish_and_the_rest_is_somebody_elses_at_once(kind: Kind) {
    let setup = Setup {
        visibility: VISIBILITY,
        config: "worker.concurrency = 2\ntasks.sleep.timeout_ms = 30_000",
        ..Setup::default()
    };
    let stage = Stage::set(kind, setup).await;
    let ids: Vec<_> = (0..6).map(|n| format!("job-{n}")).collect();
    let mut first = stage.worker().await;
    stage
        .send(&ids.iter().map(|id| job(id, "sleep", json!({"ms": 1500}))).collect::<Vec<_>>())
        .await;
    first.logs("attempt started", 2).await;
    first.signal(Signal::TERM);
    first.says("taking no more jobs").await;
    let second = stage.worker().await;
    let status = first.ends().await;
    assert!(status.success(), "{status}");
    assert_eq!(first.logged("worker stopped").len(), 1);
    assert_eq!(first.logged("job finished").len(), 2, "what ran was let to its end");

    let results = stage.results_of(&ids).await;
    second.stop().await;
    stage.is_done().await;
    for result in results.into_values() {
        // What was not begun is given back as if nobody had had it, where the broker can do that.
        let most = if kind == Kind::Local { 1 } else { 2 };
        assert!(result.envelope["attempt"].as_u64().unwrap() <= most, "{result:?}");
        assert_eq!(result.envelope["status"], "done");
    }
}

async fn what_outlasts_the_drain_timeout_is_given_back(kind: Kind) {
    let setup = Setup {
        visibility: VISIBILITY,
        config: "worker.drain_timeout_ms = 500",
        ..Setup::default()
    };
    let stage = Stage::set(kind, setup).await;
    let mut first = stage.worker().await;
    stage.send_job("long", "sleep", json!({"ms": 45_000})).await;
    stage.send_job("long-2", "sleep", json!({"ms": 45_000})).await;
    first.logs("attempt started", 2).await;
    first.signal(Signal::TERM);
    let status = first.ends_within(Duration::from_secs(15)).await;
    assert!(status.success(), "{status}");
    assert_eq!(first.logged("worker stopped")[0]["given_back"], 2);

    stage.configure("tasks.sleep.timeout_ms = 50\ntasks.sleep.max_attempts = 1");
    let second = stage.worker().await;
    let results = stage.results_of(["long", "long-2"]).await;
    second.stop().await;
    stage.is_done().await;
    assert_eq!(results["long"].envelope["status"], "timed_out");
}

async fn a_second_signal_gives_all_back_at_once(kind: Kind) {
    let stage = Stage::set(kind, Setup { visibility: VISIBILITY, ..Setup::default() }).await;
    let mut first = stage.worker().await;
    stage.send_job("long", "sleep", json!({"ms": 45_000})).await;
    first.logs("attempt started", 1).await;
    first.signal(Signal::TERM);
    first.says("taking no more jobs").await;
    first.signal(Signal::INT);
    let status = first.ends_within(Duration::from_secs(10)).await;
    assert!(status.success(), "{status}");
    assert_eq!(first.logged("worker stopped")[0]["given_back"], 1);
    let given_up = first.logged("attempt given up before its end");
    assert_eq!(given_up[0]["span"]["id"], "long", "{given_up:?}");

    stage.configure("tasks.sleep.timeout_ms = 50\ntasks.sleep.max_attempts = 1");
    let second = stage.worker().await;
    stage.result_of("long").await;
    second.stop().await;
    stage.is_done().await;
}

async fn an_idle_worker_stops_soon(kind: Kind) {
    // On SQS a receive under way is waited for: what it brings would be stranded.
    let config = match kind {
        Kind::Local => "worker.receive_wait_ms = 20_000",
        Kind::Sqs => "worker.receive_wait_ms = 1_000",
    };
    let stage = Stage::set(kind, Setup { config, ..Setup::default() }).await;
    for signal in [Signal::TERM, Signal::INT] {
        let mut worker = stage.worker().await;
        let begin = Instant::now();
        worker.signal(signal);
        let status = worker.ends().await;
        assert!(status.success(), "{status}");
        assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    }
}

/// No receive of the embedded broker has to be waited for, however long it would wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_idle_worker_on_the_embedded_broker_stops_at_once() {
    let config = "worker.receive_wait_ms = 20_000\nqueues.more.consume = true";
    let stage = Stage::set(Kind::Local, Setup { config, ..Setup::default() }).await;
    let mut times = Vec::new();
    for id in ["first", "second", "third"] {
        let mut worker = stage.worker().await;
        stage.send_job(id, "process_data", json!(21)).await;
        stage.result_of(id).await;
        let begin = Instant::now();
        worker.signal(Signal::TERM);
        let status = worker.ends().await;
        times.push(begin.elapsed());
        assert!(status.success(), "{status}");
    }
    // The fastest: the machine may have other things to do.
    assert!(times.iter().min() < Some(&Duration::from_secs(2)), "{times:?}");
    stage.is_done().await;
}

async fn deploys_in_the_middle_of_the_work_strand_nothing(kind: Kind) {
    let setup = Setup { visibility: VISIBILITY, ..Setup::default() };
    let stage = Stage::set(kind, setup).await;
    let ids: Vec<_> = (0..300).map(|n| format!("job-{n}")).collect();
    let mut old = stage.worker().await;
    stage.send(&ids.iter().map(|id| job(id, "sleep", json!({"ms": 50}))).collect::<Vec<_>>()).await;
    for deploy in 1..=3 {
        old.logs("job finished", 20 * deploy).await;
        old.signal(Signal::TERM);
        let new = stage.worker().await;
        assert!(old.ends().await.success());
        old = new;
    }
    let results = stage.results_of(&ids).await;
    old.stop().await;
    stage.is_done().await;
    assert!(results.values().all(|result| result.envelope["status"] == "done"));
}
