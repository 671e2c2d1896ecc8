//! What was given up is kept whole with its reason, and can be sent back.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{
    broker::{receive, release, settle},
    stage::{Kind, SOON, Setup, Stage, guest, job, job_with, on_both},
};

on_both! {
    a_dead_letter_is_shown_with_its_reason_and_sent_back_under_its_id
    discarded_letters_leave_their_reason_in_the_log
    a_message_that_takes_its_workers_down_is_given_up_unrun
}

async fn a_dead_letter_is_shown_with_its_reason_and_sent_back_under_its_id(kind: Kind) {
    let stage = Stage::set(kind, Setup::default()).await;
    stage.configure(&format!("components.paths = ['{}']", guest("echo.wasm").display()));
    let worker = stage.worker().await;
    let early = |id: &str| job(id, "process_data", json!(21));
    stage.send(&[early("one"), early("two"), early("three")]).await;
    stage.results_of(["one", "two", "three"]).await;
    worker.stop().await;

    let listed = stage.lovage(&["dlq", "list", "--json"]).await;
    assert_eq!(listed.code, Some(0), "{listed:?}");
    let listed: Vec<Value> = serde_json::from_str(&listed.stdout).unwrap();
    assert_eq!(listed.len(), 3, "{listed:?}");
    for letter in &listed {
        assert_eq!(letter["letter"]["status"], "rejected", "{letter}");
        let reason = letter["letter"]["reason"].as_str().unwrap();
        assert!(reason.contains("no component serves the task `process_data`"), "{reason}");
    }
    let shown = stage.lovage(&["dlq", "show", "one", "--json"]).await;
    let shown: Value = serde_json::from_str(&shown.stdout).unwrap();
    let body: Value = serde_json::from_str(shown["body"].as_str().unwrap()).unwrap();
    assert_eq!(body["data"], 21, "{shown}");

    let dist = guest("");
    stage.configure(&format!("components.paths = ['{}']", dist.display()));
    let worker = stage.worker().await;
    for (redrive, ids) in [(&["one"][..], &["one"][..]), (&["--all"], &["two", "three"])] {
        let command = [&["dlq", "redrive", "--json"], redrive].concat();
        let redriven = stage.lovage(&command).await;
        let counts: Value = serde_json::from_str(&redriven.stdout).unwrap();
        assert_eq!((redriven.code, &counts["sent_back"]), (Some(0), &json!(ids.len())), "{counts}");
        for result in stage.results_of(ids.iter().copied()).await.into_values() {
            assert_eq!(
                (&result.envelope["data"], &result.envelope["attempt"]),
                (&json!(42), &json!(1))
            );
        }
    }
    worker.stop().await;
    stage.is_done().await;
    assert!(stage.dead_letters().await.is_empty());
    let nobody = stage.lovage(&["dlq", "redrive", "one"]).await;
    assert_eq!(nobody.code, Some(1), "{nobody:?}");
    assert!(nobody.stderr.contains("no dead letter `one`"), "{nobody:?}");
}

async fn discarded_letters_leave_their_reason_in_the_log(kind: Kind) {
    let config = "queues.jobs.dead_letters = 'discard'";
    let stage = Stage::set(kind, Setup { config, ..Setup::default() }).await;
    let worker = stage.worker().await;
    stage.send(&[job_with("bad", "echo", json!(1), json!({"eta": "soon"}))]).await;
    assert_eq!(stage.result_of("bad").await["status"], "rejected");
    let event = worker.logs("dead letter discarded, as configured", 1).await.remove(0);
    assert!(event["reason"].as_str().unwrap().contains("`eta` is no time"), "{event}");
    assert_eq!(event["span"]["id"], "bad", "{event}");
    worker.stop().await;
    stage.is_done().await;
    assert!(stage.dead_letters().await.is_empty());
}

async fn a_message_that_takes_its_workers_down_is_given_up_unrun(kind: Kind) {
    let stage = Stage::set(kind, Setup::default()).await;
    // Two attempts, and ten deliveries beyond them that may not have been attempts.
    for (deliveries, id) in [(1, "over"), (11, "within")] {
        stage.send_job(id, "process_data", json!(21)).await;
        let count = if id == "over" { 1 } else { 2 };
        for _ in 0..deliveries {
            let lease = Duration::from_mins(1);
            for message in receive(&*stage.broker, &stage.jobs, count, SOON, lease).await {
                let back = release(&message, Duration::ZERO, true);
                settle(&*stage.broker, &stage.jobs, &[back]).await;
            }
        }
    }
    let worker = stage.worker().await;
    let results = stage.results_of(["over", "within"]).await;
    let started = worker.logged("attempt started");
    worker.stop().await;
    stage.is_done().await;

    let within = &results["within"].envelope;
    assert_eq!((&within["data"], &within["attempt"]), (&json!(42), &json!(12)), "{within}");
    let over = &results["over"].envelope;
    assert_eq!((&over["status"], &over["attempt"]), (&json!("crashed"), &json!(13)), "{over}");
    assert_eq!(over["error"]["kind"], "attempts_exhausted", "{over}");
    assert!(over.get("started_at").is_none(), "it ran: {over}");
    assert_eq!(started.len(), 1, "{started:?}");
    let mut letters = stage.dead_letters().await;
    let (message, letter) = letters.remove("over").unwrap();
    let letter = letter.unwrap();
    assert_eq!((letter.kind.as_str(), letter.attempts), ("attempts_exhausted", 13));
    assert!(letter.reason.starts_with("delivered 13 times"), "{letter:?}");
    let body: Value = serde_json::from_slice(&message.body).unwrap();
    assert_eq!(body["data"], 21, "{body}");
    assert!(letters.is_empty(), "{letters:?}");
}
