//! What commands promise that talk to a broker and its workers.

use lovage::broker::{DeadLetter, Outgoing, attribute};
use lovage::outcome::Status;
use serde_json::{Value, json};

use crate::support::broker::send;
use crate::support::stage::{Kind, Setup, Stage, job, on_both, with_attribute};

async fn send_prints_the_value_whichever_format_results_have(kind: Kind) {
    let setup = Setup { config: "queues.jobs.result_format = 'bare'", ..Setup::default() };
    let stage = Stage::set(kind, setup).await;
    let worker = stage.worker().await;
    let send = async |more: &[&str]| {
        stage.lovage(&[&["send", "process_data", "--wait", "--data"], more].concat()).await
    };
    let digits = "123456789012345678901234567890";
    let done = send(&[digits]).await;
    assert_eq!(done.code, Some(0), "{done:?}");
    assert_eq!(done.stdout, "246913578024691357802469135780\n");
    let rejected = send(&["null"]).await;
    assert_eq!(rejected.code, Some(1), "{rejected:?}");
    assert!(
        rejected.stderr.contains("rejected: ") && rejected.stderr.contains("null"),
        "{rejected:?}"
    );
    let json = send(&["21", "--json", "--id", "i"]).await;
    let json: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(
        (&json["id"], &json["status"], &json["data"]),
        (&"i".into(), &"done".into(), &42.into())
    );
    worker.stop().await;
}

/// A dead letter as a worker makes it.
fn letter(id: &str) -> Outgoing {
    let letter = DeadLetter {
        queue: "jobs".to_owned(),
        status: Status::Rejected,
        kind: "k".to_owned(),
        reason: "r".to_owned(),
        attempts: 1,
        job_id: id.to_owned(),
        task: "echo".to_owned(),
        tenant: String::new(),
        at: jiff::Timestamp::UNIX_EPOCH,
    };
    let text = serde_json::to_string(&letter).unwrap();
    with_attribute(job(id, "echo", json!(1)), attribute::DEAD_LETTER, &text)
}

async fn dead_letters_are_sent_back_once_each_and_others_are_left(kind: Kind) {
    let stage = Stage::set(kind, Setup::default()).await;
    let letters: Vec<_> = (0..25).map(|n| letter(&format!("job-{n}"))).collect();
    send(&*stage.broker, &stage.letters, &letters).await;
    let redrive = async |more: &[&str]| {
        stage.lovage(&[&["dlq", "redrive", "--json", "--queue", "jobs"], more].concat()).await
    };
    let two = redrive(&["job-3", "job-24", "nobody"]).await;
    assert_eq!(two.code, Some(1), "{two:?}");
    let told: Value = serde_json::from_str(&two.stdout).unwrap();
    assert_eq!(told, json!({"sent_back": 2, "left": 0, "missing": ["nobody"], "failures": []}));
    assert_eq!(stage.depth().await.ready, 2);
    // The others are there at once. A second letter of one job waits for the next time.
    send(&*stage.broker, &stage.letters, &[letter("job-0")]).await;
    let all = redrive(&["--all"]).await;
    assert_eq!(all.code, Some(0), "{all:?}");
    let told: Value = serde_json::from_str(&all.stdout).unwrap();
    assert_eq!(told, json!({"sent_back": 23, "left": 1, "missing": [], "failures": []}));
    assert_eq!(stage.depth().await.ready, 25);
    assert_eq!(stage.dead_letters().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn settings_for_a_task_that_nobody_serves_are_warned_about() {
    let setup = Setup { config: "tasks.proces_data.max_attempts = 1", ..Setup::default() };
    let stage = Stage::set(Kind::Local, setup).await;
    let worker = stage.worker().await;
    worker.says("did you mean `process_data`?").await;
    worker.says("[tasks.proces_data] is for a task that no component serves").await;
    worker.stop().await;
}

on_both! {
    send_prints_the_value_whichever_format_results_have
    dead_letters_are_sent_back_once_each_and_others_are_left
}
