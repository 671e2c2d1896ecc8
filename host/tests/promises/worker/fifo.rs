//! Jobs of one group run in order, and groups do not wait for each other.

use lovage::broker::Outgoing;
use serde_json::{Value, json};

use super::outages::{bring_back, take_away};
use crate::support::stage::{Kind, Setup, Stage, job, job_with, on_both, take};

on_both! {
    a_group_keeps_its_order_behind_a_failing_head_and_others_go_on
    a_result_is_published_once_however_often_its_job_is_sent
    who_stands_behind_a_failing_head_is_not_blamed_for_it
    nobody_overtakes_a_head_whose_result_is_not_published
}

fn grouped(group: &str, message: Outgoing) -> Outgoing {
    Outgoing { group: Some(group.to_owned()), ..message }
}

async fn a_group_keeps_its_order_behind_a_failing_head_and_others_go_on(kind: Kind) {
    let setup = Setup { fifo: true, config: "defaults.max_attempts = 9", ..Setup::default() };
    let stage = Stage::set(kind, setup).await;
    let worker = stage.worker().await;
    let fail = json!({"times": 2, "after_ms": 1500});
    let mut messages = vec![grouped("a", job("a-0", "fail", fail))];
    for n in 1..6 {
        messages.push(grouped("a", job(&format!("a-{n}"), "sleep", json!({"ms": 20}))));
        messages.push(grouped("b", job(&format!("b-{n}"), "sleep", json!({"ms": 20}))));
    }
    stage.send(&messages).await;
    let mut results = Vec::new();
    while results.len() < messages.len() {
        results
            .extend(take(&*stage.broker, &stage.results, std::time::Duration::from_secs(2)).await);
    }
    worker.stop().await;
    stage.is_done().await;
    let of = |group: &str, field: &str| -> Vec<Value> {
        let results = results.iter().map(|result| &result.envelope);
        let group = results.filter(|it| it["id"].as_str().unwrap().starts_with(group));
        group.map(|result| result[field].clone()).collect()
    };
    assert_eq!(of("a", "id"), ["a-0", "a-1", "a-2", "a-3", "a-4", "a-5"]);
    assert_eq!(of("b", "id"), ["b-1", "b-2", "b-3", "b-4", "b-5"]);
    let time = |text: &Value| text.as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    let (started, finished) = (of("a", "started_at"), of("a", "finished_at"));
    for (before, after) in finished.iter().zip(&started[1..]) {
        assert!(time(before) <= time(after), "{finished:?} {started:?}");
    }
    assert_eq!(of("a", "data")[0], 3);
    let last_of_b = of("b", "finished_at").iter().map(time).max().unwrap();
    assert!(last_of_b < time(&finished[0]), "group b waited for group a");
}

/// The head itself went well; that is not enough for the next to go.
async fn nobody_overtakes_a_head_whose_result_is_not_published(kind: Kind) {
    let config = "worker = {publish_attempts = 1, error_backoff_cap_ms = 2000}
        queues.jobs.reply_to = ['*']";
    let stage = Stage::set(kind, Setup { fifo: true, config, ..Setup::default() }).await;
    let elsewhere = json!({"reply_to": &*stage.letters.address});
    let worker = stage.worker().await;
    take_away(&stage, &stage.results).await;
    stage
        .send(&[
            grouped("g", job("head", "process_data", json!(1))),
            grouped("g", job_with("next", "process_data", json!(2), elsewhere)),
        ])
        .await;
    worker.logs("settling a message failed; it is not lost", 2).await;
    bring_back(&stage, &stage.results).await;
    let head = stage.result_of("head").await;
    let next = take(&*stage.broker, &stage.letters, std::time::Duration::from_secs(30)).await;
    worker.stop().await;
    stage.is_done().await;
    let time = |text: &Value| text.as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    assert_eq!(next.len(), 1);
    assert_eq!(next[0].envelope["id"], "next");
    let (head, next) = (&head["finished_at"], &next[0].envelope["started_at"]);
    assert!(time(head) <= time(next), "{head} {next}");
}

async fn a_result_is_published_once_however_often_its_job_is_sent(kind: Kind) {
    let stage = Stage::set(kind, Setup { fifo: true, ..Setup::default() }).await;
    let worker = stage.worker().await;
    let twin = |deduplication: &str| Outgoing {
        deduplication_id: Some(deduplication.to_owned()),
        ..grouped("g", job("twin", "process_data", json!(21)))
    };
    // The first two are one message. The third is a second one, as of a sender that lost the
    // answer and tries again later.
    stage.send(&[twin("once"), twin("once"), twin("again")]).await;
    worker.logs("job finished", 2).await;
    assert_eq!(stage.result_of("twin").await["data"], 42);
    worker.stop().await;
    stage.is_done().await;
}

/// SQS delivers a message, and counts it, together with those before it in its group.
async fn who_stands_behind_a_failing_head_is_not_blamed_for_it(kind: Kind) {
    let setup = Setup { fifo: true, config: "defaults.max_attempts = 13", ..Setup::default() };
    let stage = Stage::set(kind, setup).await;
    let worker = stage.worker().await;
    let fail = json!({"times": 12, "after_ms": 1});
    let head = grouped("g", job("head", "fail", fail));
    let once = json!({"max_attempts": 1});
    let behind = grouped("g", job_with("behind", "process_data", json!(21), once));
    stage.send(&[head, behind]).await;
    let results = stage.results_of(["head", "behind"]).await;
    assert_eq!(results["head"].envelope["data"], 13);
    assert_eq!(results["behind"].envelope["data"], 42, "{:?}", results["behind"]);
    worker.stop().await;
    stage.is_done().await;
}
