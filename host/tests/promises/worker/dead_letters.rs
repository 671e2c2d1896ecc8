//! What was given up is kept whole with its reason, and can be sent back.

use std::time::Duration;

use lovage::broker::{Outgoing, Turn, attribute::DEAD_LETTER};
use serde_json::{Value, json};

use crate::support::{
    broker::{finish, receive, receive_one, release, send, settle},
    ministack::NewQueue,
    stage::{Kind, SOON, Setup, Stage, guest, job, job_with, on_both, with_attribute},
    worker::until,
};

on_both! {
    a_dead_letter_is_shown_with_its_reason_and_sent_back_under_its_id
    discarded_letters_leave_their_reason_in_the_log
    a_message_that_takes_its_workers_down_is_given_up_unrun
    letters_are_told_to_a_person
    one_letter_is_sent_back_from_behind_others
    one_letter_is_sent_back_from_behind_others_of_its_group
    a_job_of_a_group_is_sent_back_to_its_group_and_not_taken_for_its_first_copy
    a_letter_without_a_reason_is_shown_and_sent_back_all_the_same
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

async fn letters_are_told_to_a_person(kind: Kind) {
    let stage = Stage::set(kind, Setup::default()).await;
    let none = stage.lovage(&["dlq", "list"]).await;
    assert_eq!((none.code, none.stdout.as_str()), (Some(0), ""), "{none:?}");
    assert!(none.stderr.contains("no dead letters in"), "{none:?}");

    let worker = stage.worker().await;
    let tired = job_with("tired", "fail", json!({}), json!({"tenant": "acme"}));
    let refused = job("refused", "process_data", Value::Null);
    stage.send(&[with_attribute(tired, "colour", "blue\nred"), refused]).await;
    stage.results_of(["tired", "refused"]).await;
    worker.stop().await;

    let listed = stage.lovage(&["dlq", "list"]).await;
    assert_eq!((listed.code, listed.stderr.as_str()), (Some(0), ""), "{listed:?}");
    let mut lines: Vec<_> = listed.stdout.lines().map(|line| line.split_once("  ")).collect();
    lines.sort_by_key(|line| line.unwrap().1);
    let [Some((_, refused)), Some((at, tired))] = lines[..] else { panic!("{listed:?}") };
    assert!(
        refused.starts_with("refused  process_data  rejected after 1 attempt(s): "),
        "{refused}"
    );
    assert_eq!(tired, "tired  fail  failed after 2 attempt(s): attempt 2 fails, as it was told to");
    assert!(at.parse::<jiff::Timestamp>().is_ok(), "{at}");

    let shown = stage.lovage(&["dlq", "show", "tired"]).await;
    assert_eq!((shown.code, shown.stderr.as_str()), (Some(0), ""), "{shown:?}");
    let (head, body) = shown.stdout.split_once("\n\n").unwrap();
    for line in [
        "job         tired",
        "task        fail",
        "tenant      acme",
        "status      failed (retry)",
        "reason      attempt 2 fails, as it was told to",
        "attempts    2",
        // One line, whatever is in it.
        "attribute   colour: blue\\nred",
    ] {
        assert!(head.lines().any(|it| it == line), "no {line:?} in {head}");
    }
    assert!(head.starts_with("message     ") && head.contains("\ngiven up    20"), "{head}");
    let body: Value = serde_json::from_str(body).unwrap();
    assert_eq!((&body["id"], &body["data"]), (&json!("tired"), &json!({})));

    let nobody = stage.lovage(&["dlq", "show", "nobody"]).await;
    assert_eq!(nobody.code, Some(1), "{nobody:?}");
    assert!(nobody.stderr.contains("no dead letter `nobody`"), "{nobody:?}");
    // The letters are where they were.
    assert_eq!(stage.dead_letters().await.into_keys().collect::<Vec<_>>(), ["refused", "tired"]);
}

/// A dead letter as a worker writes it.
fn letter(id: &str) -> Outgoing {
    let why = json!({
        "queue": "jobs", "status": "failed", "kind": "K", "reason": "so", "attempts": 2,
        "job_id": id, "task": "process_data", "at": "2026-01-01T00:00:00Z",
    });
    with_attribute(job(id, "process_data", json!(21)), DEAD_LETTER, &why.to_string())
}

async fn one_letter_is_sent_back_from_behind_others(kind: Kind) {
    let stage = Stage::set(kind, Setup::default()).await;
    // More than SQS hands out at a time.
    let ids: Vec<_> = (0..25).map(|n| format!("letter-{n:02}")).collect();
    let letters: Vec<_> = ids.iter().map(|id| letter(id)).collect();
    send(&*stage.broker, &stage.letters, &letters).await;
    let redriven = stage.lovage(&["dlq", "redrive", "letter-24"]).await;
    assert_eq!(redriven.code, Some(0), "{redriven:?}");
    assert!(redriven.stdout.ends_with(": 1\n"), "{redriven:?}");
    let worker = stage.worker().await;
    assert_eq!(stage.result_of("letter-24").await["data"], 42);
    worker.stop().await;
    stage.is_done().await;
    // Those in front of it are there, and out of nobody's sight.
    let left: Vec<_> = stage.dead_letters().await.into_keys().collect();
    assert_eq!(left, ids[..24]);
    // Of several, what is not there is told, and the others go back.
    send(&*stage.broker, &stage.letters, &letters[..2]).await;
    let some = stage.lovage(&["dlq", "redrive", "letter-00", "absent", "letter-01"]).await;
    assert_eq!(some.code, Some(1), "{some:?}");
    assert!(some.stdout.ends_with(": 2\n"), "{some:?}");
    assert!(some.stderr.contains("no dead letter `absent`"), "{some:?}");
    assert_eq!(stage.depth().await.ready, 2);
}

async fn one_letter_is_sent_back_from_behind_others_of_its_group(kind: Kind) {
    let stage = Stage::set(kind, Setup { fifo: true, ..Setup::default() }).await;
    let ids: Vec<_> = (0..14).map(|n| format!("letter-{n:02}")).collect();
    let grouped = |id: &String| Outgoing {
        group: Some("g".to_owned()),
        deduplication_id: Some(id.clone()),
        ..letter(id)
    };
    let letters: Vec<_> = ids.iter().map(grouped).collect();
    send(&*stage.broker, &stage.letters, &letters).await;
    let redriven = stage.lovage(&["dlq", "redrive", "letter-12"]).await;
    assert_eq!(redriven.code, Some(0), "{redriven:?}");
    let lease = Duration::from_secs(30);
    let back = receive_one(&*stage.broker, &stage.jobs, SOON, lease).await;
    assert!(back.body.starts_with(b"{") && !back.attributes.contains_key(DEAD_LETTER), "{back:?}");
    // The others are all there, each once, and in order.
    let mut left = Vec::new();
    for _ in 0..13 {
        let message = receive_one(&*stage.broker, &stage.letters, SOON, lease).await;
        let why: Value = serde_json::from_str(&message.attributes[DEAD_LETTER]).unwrap();
        left.push(why["job_id"].as_str().unwrap().to_owned());
        settle(&*stage.broker, &stage.letters, &[finish(&message)]).await;
    }
    let others: Vec<_> = ids.iter().filter(|id| *id != "letter-12").cloned().collect();
    assert_eq!(left, others);
    assert!(stage.dead_letters().await.is_empty());
}

async fn a_job_of_a_group_is_sent_back_to_its_group_and_not_taken_for_its_first_copy(kind: Kind) {
    let stage = Stage::set(kind, Setup { fifo: true, ..Setup::default() }).await;
    let worker = stage.worker().await;
    let sent = |id: &str| Outgoing {
        group: Some("g".to_owned()),
        deduplication_id: Some(id.to_owned()),
        ..job(id, "fail", json!({}))
    };
    stage.send(&["one", "two", "three"].map(sent)).await;
    stage.results_of(["one", "two", "three"]).await;
    worker.stop().await;

    // Were it sent under its first deduplication id, the broker would take it and drop it.
    let redriven = stage.lovage(&["dlq", "redrive", "two"]).await;
    assert_eq!(redriven.code, Some(0), "{redriven:?}");
    let back = receive_one(&*stage.broker, &stage.jobs, SOON, Duration::from_secs(30)).await;
    assert_eq!(back.group.as_deref(), Some("g"));
    assert!(!back.attributes.contains_key(DEAD_LETTER), "{back:?}");
    let body: Value = serde_json::from_slice(&back.body).unwrap();
    assert_eq!(body["id"], "two");
    settle(&*stage.broker, &stage.jobs, &[finish(&back)]).await;

    let all = stage.lovage(&["dlq", "redrive", "--all"]).await;
    assert_eq!(all.code, Some(0), "{all:?}");
    for id in ["one", "three"] {
        let back = receive_one(&*stage.broker, &stage.jobs, SOON, Duration::from_secs(30)).await;
        assert_eq!(back.group.as_deref(), Some("g"));
        let body: Value = serde_json::from_slice(&back.body).unwrap();
        assert_eq!(body["id"], id, "their order is lost");
        settle(&*stage.broker, &stage.jobs, &[finish(&back)]).await;
    }
}

async fn a_letter_without_a_reason_is_shown_and_sent_back_all_the_same(kind: Kind) {
    let stage = Stage::set(kind, Setup::default()).await;
    let sent = job("lost", "process_data", json!(21));
    let id = match kind {
        // It moves nothing by itself, but who sends there may be anybody.
        Kind::Local => send(&*stage.broker, &stage.letters, &[sent]).await.remove(0),
        Kind::Sqs => {
            let redrive = Some((stage.letters.address.to_string(), 1));
            let jobs = NewQueue { redrive, ..NewQueue::default() }.create("moving").await;
            stage.configure(&format!("queues.jobs.address = '{jobs}'"));
            let jobs = stage.broker.open(&jobs).await.unwrap();
            let id = send(&*stage.broker, &jobs, &[sent]).await.remove(0);
            // Once by a worker that is lost, and once more: then it has had its receives.
            let lease = Duration::from_secs(1);
            receive_one(&*stage.broker, &jobs, SOON, lease).await;
            let moved = async || {
                stage
                    .broker
                    .receive(&jobs, 1, Duration::from_secs(1), lease, &Turn::default())
                    .await
                    .unwrap();
                let depth = stage.broker.depth(&stage.letters).await.unwrap();
                (depth.ready == 1).then_some(())
            };
            until("SQS moves the message", moved).await;
            id
        }
    };
    let listed = stage.lovage(&["dlq", "list"]).await;
    let told = format!("-  {id}  -  moved by the broker, which gives no reason\n");
    assert_eq!((listed.code, listed.stdout.as_str()), (Some(0), told.as_str()), "{listed:?}");
    let listed = stage.lovage(&["dlq", "list", "--json"]).await;
    let listed: Value = serde_json::from_str(&listed.stdout).unwrap();
    assert_eq!(listed, json!([{"id": id, "letter": null}]));
    let shown = stage.lovage(&["dlq", "show", &id]).await;
    assert!(shown.stdout.starts_with(&format!("message     {id}\n")), "{shown:?}");
    assert!(!shown.stdout.contains("reason"), "{shown:?}");
    let redriven = stage.lovage(&["dlq", "redrive", &id]).await;
    assert_eq!(redriven.code, Some(0), "{redriven:?}");
    assert!(stage.dead_letters().await.is_empty());
    let worker = stage.worker().await;
    assert_eq!(stage.result_of("lost").await["data"], 42);
    worker.stop().await;
}
