//! A message is held for as long as its job takes, and no longer.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{
    stage::{Kind, Setup, Stage, job, on_both, take},
    worker::Signal,
};

on_both! {
    a_job_of_three_visibility_timeouts_runs_once
    a_worker_that_stood_still_publishes_nothing_of_what_it_lost
    a_job_that_outlasts_the_longest_lease_is_let_go
    no_lease_is_longer_than_the_longest_that_is_allowed
}

const LOST: &str = "lease lost: the attempt is given up";

async fn a_job_of_three_visibility_timeouts_runs_once(kind: Kind) {
    let setup = Setup { visibility: 2, ..Setup::default() };
    let stage = Stage::set(kind, setup).await;
    let (first, second) = (stage.worker().await, stage.worker().await);
    let ids: Vec<_> = (0..4).map(|n| format!("long-{n}")).collect();
    stage
        .send(&ids.iter().map(|id| job(id, "sleep", json!({"ms": 6500}))).collect::<Vec<_>>())
        .await;
    let results = stage.results_of(&ids).await;
    // Longer than the timeout: a second delivery would have shown by then.
    for result in results.values() {
        assert_eq!(result.envelope["attempt"], 1);
        assert!(result.envelope["data"].as_u64().unwrap() >= 6500);
    }
    let started = [&first, &second].map(|worker| worker.logged("attempt started").len());
    assert_eq!(started.iter().sum::<usize>(), 4, "each ran once");
    first.stop().await;
    second.stop().await;
    stage.is_done().await;
}

async fn a_worker_that_stood_still_publishes_nothing_of_what_it_lost(kind: Kind) {
    let setup = Setup { visibility: 2, ..Setup::default() };
    let stage = Stage::set(kind, setup).await;
    let first = stage.worker().await;
    stage.send_job("long", "sleep", json!({"ms": 3000})).await;
    first.logs("attempt started", 1).await;
    // Like a virtual machine that is moved: nothing renews the lease meanwhile.
    first.signal(Signal::STOP);
    let second = stage.worker().await;
    second.logs("attempt started", 1).await;
    first.signal(Signal::CONT);
    let lost = first.logs(LOST, 1).await;
    // By its name in the configuration, as everywhere.
    assert_eq!(lost[0]["queue"], "jobs");
    let result = stage.result_of("long").await;
    assert_eq!(result["status"], "done");
    let finished = [&first, &second].map(|worker| worker.logged("job finished").len());
    assert_eq!(finished.iter().sum::<usize>(), 1, "{finished:?}");
    // On SQS a receive of the one that stands still may have caught it once more.
    assert!(result["attempt"].as_u64() >= Some(2), "{result}");
    first.stop().await;
    second.stop().await;
    stage.is_done().await;
}

async fn a_job_that_outlasts_the_longest_lease_is_let_go(kind: Kind) {
    let config = "worker.max_lease_ms = 3000\nworker.concurrency = 1\ndefaults.max_attempts = 9";
    let stage = Stage::set(kind, Setup { visibility: 2, config, ..Setup::default() }).await;
    let first = stage.worker().await;
    stage.send_job("long", "sleep", json!({"ms": 6500})).await;
    first.logs("attempt started", 1).await;
    stage.send_job("next", "process_data", json!(21)).await;
    let lost = first.logs(LOST, 1).await.remove(0);
    assert_eq!(lost["queue"], "jobs");
    let reason = lost["reason"].as_str().unwrap();
    assert!(reason.contains("the longest time that is allowed"), "{lost}");
    let given_up = first.logs("attempt given up before its end", 1).await.remove(0);
    assert_eq!(given_up["span"]["id"], "long", "{given_up}");
    assert_eq!(given_up["span"]["attempt"], 1, "{given_up}");
    // Its place is free again. A result of the other one would fail this.
    stage.result_of("next").await;
    first.stop().await;
    let results = take(&*stage.broker, &stage.results, Duration::ZERO).await;
    assert!(results.is_empty(), "{results:?}");

    stage.configure("worker.max_lease_ms = 60_000");
    let second = stage.worker().await;
    let result = stage.result_of("long").await;
    assert_eq!(result["status"], "done", "{result}");
    assert!(result["attempt"].as_u64() >= Some(2), "{result}");
    second.stop().await;
    stage.is_done().await;
}

async fn no_lease_is_longer_than_the_longest_that_is_allowed(kind: Kind) {
    let config = "worker.max_lease_ms = 2000\ndefaults.max_attempts = 9";
    let stage = Stage::set(kind, Setup { visibility: 40, config, ..Setup::default() }).await;
    let worker = stage.worker().await;
    stage.send_job("long", "sleep", json!({"ms": 60_000})).await;
    let time = |event: &Value| -> jiff::Timestamp {
        event["timestamp"].as_str().unwrap().parse().unwrap()
    };
    let lost = time(&worker.logs(LOST, 1).await[0]);
    let started = worker.logs("attempt started", 2).await;
    let [first, again] = [&started[0], &started[1]].map(time);
    // The queue's own timeout would hold it for twenty seconds, and hide it for forty.
    for (what, end) in [("let go", lost), ("back", again)] {
        let after = end.duration_since(first);
        assert!(after.as_secs() < 15, "{what} after {after:#}");
    }
    // Most of what is allowed is the job's all the same.
    let held = lost.duration_since(time(&worker.logs("messages received", 1).await[0]));
    assert!(held.as_millis() >= 1450, "let go after {held:#}");
}
