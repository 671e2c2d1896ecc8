//! Long jobs say how far they are, and hear that they should end.

use std::time::Duration;

use serde_json::json;

use crate::support::stage::{Kind, Setup, Stage, on_both};
use rustix::process::Signal;

on_both! {
    progress_is_told_while_a_job_runs
    a_guest_hears_that_its_time_is_over_and_that_its_worker_stops
}

async fn progress_is_told_while_a_job_runs(kind: Kind) {
    let setup = Setup { config: "tasks.steps.timeout_ms = 4000", ..Setup::default() };
    let stage = Stage::set(kind, setup).await;
    let worker = stage.worker().await;
    stage.send_job("long", "steps", json!({"steps": 20, "ms": 100})).await;
    let told = worker.logs("job progress", 1).await;
    assert!(told[0]["percent"].as_u64().is_some_and(|percent| (1..100).contains(&percent)));
    assert!(told[0]["said"].as_str().unwrap().starts_with("step "), "{told:?}");
    assert_eq!(stage.result_of("long").await["data"], json!({"steps": 20, "why": null}));
    // One that does not get to its end says how far it got.
    stage.send_job("stuck", "steps", json!({"steps": 2, "ms": 60_000})).await;
    let back = worker.logs("job goes back", 1).await;
    assert_eq!(back[0]["kind"], "timeout");
    worker.stop().await;
}

async fn a_guest_hears_that_its_time_is_over_and_that_its_worker_stops(kind: Kind) {
    let setup = Setup { config: "tasks.steps.soft_timeout_ms = 1000", ..Setup::default() };
    let stage = Stage::set(kind, setup).await;
    let mut worker = stage.worker().await;
    let endless = json!({"steps": 100_000, "ms": 50});
    stage.send_job("soft", "steps", endless.clone()).await;
    assert_eq!(stage.result_of("soft").await["data"]["why"], "out_of_time");
    worker.signal(Signal::TERM);
    worker.ends().await;
    let stage = Stage::set(kind, Setup::default()).await;
    let mut worker = stage.worker().await;
    stage.send_job("stops", "steps", endless).await;
    worker.logs("job progress", 1).await;
    worker.signal(Signal::TERM);
    assert_eq!(stage.result_of("stops").await["data"]["why"], "stopping");
    assert!(worker.ends_within(Duration::from_mins(1)).await.success());
    stage.is_done().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_job_that_is_revoked_is_not_run_or_hears_of_it() {
    let stage = Stage::set(Kind::Local, Setup::default()).await;
    let endless = json!({"steps": 100_000, "ms": 50});
    stage.send_job("early", "steps", endless.clone()).await;
    let unknown = stage.lovage(&["status", "early"]).await;
    assert_eq!((unknown.code, unknown.stdout.as_str()), (Some(1), "unknown\n"));
    let revoked = stage.lovage(&["revoke", "early", "never-sent"]).await;
    assert_eq!((revoked.code, revoked.stdout.as_str()), (Some(0), "2 job(s) revoked\n"));
    let worker = stage.worker().await;
    let early = stage.result_of("early").await;
    assert_eq!((&early["status"], early.get("started_at")), (&json!("revoked"), None));
    let status = stage.lovage(&["status", "early"]).await;
    assert!(status.stdout.starts_with("revoked: "), "{status:?}");
    stage.send_job("late", "steps", endless).await;
    worker.logs("job progress", 1).await;
    let running = stage.lovage(&["status", "late", "--json"]).await;
    let running: serde_json::Value = serde_json::from_str(&running.stdout).unwrap();
    assert_eq!(running["status"], "running", "{running}");
    stage.lovage(&["revoke", "late"]).await;
    assert_eq!(stage.result_of("late").await["data"]["why"], "revoked");
    worker.stop().await;
    stage.is_done().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn sqs_keeps_nothing_by_a_jobs_id_and_says_so() {
    let stage = Stage::set(Kind::Sqs, Setup::default()).await;
    for command in ["status", "revoke"] {
        let ended = stage.lovage(&[command, "some-job"]).await;
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert!(ended.stderr.contains("keeps no"), "{ended:?}");
    }
}
