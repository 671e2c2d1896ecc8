//! A job that asks to be tried again is, as often and as late as was agreed.

use serde_json::json;

use crate::support::stage::{Kind, Setup, Stage, job, job_with, millis_from_now, on_both};

on_both! {
    attempts_are_as_many_as_sender_and_operator_allow
    a_tasks_own_delay_is_kept
    a_snooze_spends_no_attempt
    a_retry_holds_no_place
}

async fn attempts_are_as_many_as_sender_and_operator_allow(kind: Kind) {
    let setup = Setup { config: "defaults.max_attempts = 3", ..Setup::default() };
    let stage = Stage::set(kind, setup).await;
    let worker = stage.worker().await;
    let asked = |id, most: u32| job_with(id, "fail", json!({}), json!({"max_attempts": most}));
    stage.send(&[job("usual", "fail", json!({})), asked("one", 1), asked("many", 99)]).await;
    stage.send_job("in-time", "fail", json!({"times": 2})).await;
    let results = stage.results_of(["usual", "one", "many", "in-time"]).await;
    worker.stop().await;
    stage.is_done().await;
    let attempts = |id: &str| results[id].envelope["attempt"].as_u64().unwrap();
    assert_eq!([attempts("usual"), attempts("one"), attempts("many")], [3, 1, 3]);
    assert_eq!(results["in-time"].envelope["data"], 3);
    assert_eq!(stage.dead_letters().await.len(), 3);
}

async fn a_tasks_own_delay_is_kept(kind: Kind) {
    // The host's own back-off would be over long before.
    let stage = Stage::set(kind, Setup::default()).await;
    let worker = stage.worker().await;
    stage.send_job("later", "fail", json!({"times": 1, "after_ms": 2500})).await;
    let result = stage.result_of("later").await;
    assert_eq!(result["data"], 2);
    let time = |field: &str| result[field].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    let waited = time("started_at").duration_since(time("queued_at")).as_millis();
    assert!(waited >= 2500, "{waited} ms");
    let back = worker.logs("job goes back", 1).await;
    assert_eq!((&back[0]["after_ms"], &back[0]["spent"]), (&json!(2500), &json!(true)));
    worker.stop().await;
    stage.is_done().await;
}

async fn a_snooze_spends_no_attempt(kind: Kind) {
    let stage =
        Stage::set(kind, Setup { config: "defaults.max_attempts = 1", ..Setup::default() }).await;
    let worker = stage.worker().await;
    let until = millis_from_now(2200);
    let snooze = json!({"error": "snooze", "snooze_until": until});
    stage.send_job("sleepy", "fail", snooze).await;
    let result = stage.result_of("sleepy").await;
    assert_eq!((&result["data"], &result["attempt"]), (&json!(1), &json!(1)));
    let back = worker.logged("job goes back");
    assert!(!back.is_empty() && back.iter().all(|event| event["spent"] == false), "{back:?}");
    worker.stop().await;
    stage.is_done().await;
}

async fn a_retry_holds_no_place(kind: Kind) {
    let stage =
        Stage::set(kind, Setup { config: "worker.concurrency = 1", ..Setup::default() }).await;
    let worker = stage.worker().await;
    stage.send_job("waits", "fail", json!({"times": 1, "after_ms": 4000})).await;
    worker.logs("job goes back", 1).await;
    stage.send_job("overtakes", "process_data", json!(21)).await;
    stage.result_of("overtakes").await;
    let waits = stage.result_of("waits").await;
    assert_eq!(waits["attempt"], 2);
    worker.stop().await;
    stage.is_done().await;
}
