//! A message is held for as long as its job takes, and no longer.

use serde_json::json;

use crate::support::{
    stage::{Kind, Setup, Stage, job, on_both},
    worker::Signal,
};

on_both! {
    a_job_of_three_visibility_timeouts_runs_once
    a_worker_that_stood_still_publishes_nothing_of_what_it_lost
}

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
    let lost = first.logs("lease lost: the attempt is given up", 1).await;
    assert_eq!(lost[0]["queue"], *stage.jobs.name);
    let result = stage.result_of("long").await;
    assert_eq!(result["status"], "done");
    // On SQS a receive of the one that stands still may have caught it once more.
    assert!(result["attempt"].as_u64() >= Some(2), "{result}");
    first.stop().await;
    second.stop().await;
    stage.is_done().await;
}
