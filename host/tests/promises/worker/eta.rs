//! A job waits for its time, and is not run after it.

use serde_json::json;

use crate::support::stage::{Kind, Setup, Stage, job_with, millis_from_now, on_both};

on_both! {
    an_eta_is_kept_holds_no_place_and_outlives_workers
    a_job_whose_time_is_over_is_not_run
    lovage_send_delays
}

async fn an_eta_is_kept_holds_no_place_and_outlives_workers(kind: Kind) {
    let setup = Setup { config: "worker.concurrency = 1", ..Setup::default() };
    let stage = Stage::set(kind, setup).await;
    let first = stage.worker().await;
    let eta = millis_from_now(6000);
    stage.send(&[job_with("later", "echo_context", json!(null), json!({"eta": eta}))]).await;
    let back = first.logs("job goes back", 1).await;
    assert_eq!(back[0]["spent"], false);
    // The only place is free meanwhile.
    stage.send_job("now", "process_data", json!(21)).await;
    stage.result_of("now").await;
    assert!(millis_from_now(0) < eta, "too slow to tell anything");
    first.kill();
    let second = stage.worker().await;
    let result = stage.result_of("later").await;
    assert_eq!((&result["status"], &result["attempt"]), (&json!("done"), &json!(1)));
    let started: jiff::Timestamp = result["started_at"].as_str().unwrap().parse().unwrap();
    assert!(started.as_millisecond() >= eta, "{} ms early", eta - started.as_millisecond());
    second.stop().await;
    stage.is_done().await;
}

async fn a_job_whose_time_is_over_is_not_run(kind: Kind) {
    let stage = Stage::set(kind, Setup::default()).await;
    let early = json!({"expires": millis_from_now(-1), "eta": millis_from_now(60_000)});
    let soon = json!({"expires": millis_from_now(60_000)});
    stage
        .send(&[
            job_with("late", "process_data", json!(21), early),
            job_with("in-time", "process_data", json!(21), soon),
        ])
        .await;
    let worker = stage.worker().await;
    let results = stage.results_of(["late", "in-time"]).await;
    let late = &results["late"].envelope;
    assert_eq!((&late["status"], &late["error"]["kind"]), (&json!("expired"), &json!("expired")));
    assert!(late.get("started_at").is_none(), "{late}");
    assert_eq!(results["in-time"].envelope["data"], 42);
    worker.stop().await;
    stage.is_done().await;
    assert!(stage.dead_letters().await.is_empty());
}

async fn lovage_send_delays(kind: Kind) {
    let stage = Stage::set(kind, Setup::default()).await;
    let worker = stage.worker().await;
    let sent = jiff::Timestamp::now();
    let send = ["send", "process_data", "--data", "21", "--id", "later", "--delay", "2s"];
    let output = stage.lovage(&send).await;
    assert_eq!((output.code, output.stdout.as_str()), (Some(0), "later\n"), "{output:?}");
    let result = stage.result_of("later").await;
    let started: jiff::Timestamp = result["started_at"].as_str().unwrap().parse().unwrap();
    assert!(started.duration_since(sent).as_millis() >= 2000, "{result}");
    worker.stop().await;
    stage.is_done().await;
}
