//! A job has run when its end cannot be told: its result is held, and its guest is not run again.

use std::time::Duration;

use lovage::{broker::Queue, follow_on::id};
use serde_json::{Value, json};

use super::outages::{bring_back, take_away};
use crate::support::{
    ministack::{self, NewQueue},
    stage::{Kind, Setup, Stage, job, on_both},
    worker::{Worker, until},
};

on_both! {
    nothing_runs_twice_and_nothing_is_received_while_results_cannot_be_published
    a_result_whose_lease_ends_is_kept_for_the_next_delivery
    a_job_whose_follow_on_job_cannot_be_sent_has_failed
    results_of_one_task_that_cannot_be_published_hold_up_no_other_task
}

const BLOCKED: &str = "results cannot be published: they are held, and no more jobs are taken for \
                       this queue";
const RESUMED: &str = "no results are held any more: jobs are taken again";

async fn nothing_runs_twice_and_nothing_is_received_while_results_cannot_be_published(kind: Kind) {
    let stage = Stage::set(kind, Setup::default()).await;
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    stage.configure(&format!("worker.metrics_address = '{free}'"));
    let ready = async || lovage::http::get(&format!("http://{free}"), "/readyz").await;
    let ids: Vec<_> = (0..300).map(|n| format!("job-{n}")).collect();
    let worker = stage.worker().await;
    ready().await.unwrap();
    take_away(&stage, &stage.results).await;
    stage.send(&ids.iter().map(|id| job(id, "process_data", json!(1))).collect::<Vec<_>>()).await;
    let blocked = worker.logs(BLOCKED, 1).await;
    assert_eq!(blocked[0]["to"], *stage.results.name, "{blocked:?}");
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = worker.logged("attempt started").len();
    // Longer than any back-off.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let during = worker.logged("attempt started").len();
    // What runs at once, and what was on its way when the first result was refused.
    assert!(during < 150, "{during} of 300 ran without anywhere to publish to");
    assert_eq!(before, during, "it went on receiving");
    assert!(worker.logged("job finished").is_empty(), "counted before it was so");
    assert_eq!(worker.logged(BLOCKED).len(), 1, "told once");
    assert!(ready().await.unwrap_err().to_string().contains("503"));
    bring_back(&stage, &stage.results).await;

    let results = stage.results_of(&ids).await;
    worker.logs(RESUMED, 1).await;
    ready().await.unwrap();
    assert_eq!(worker.logs("job finished", ids.len()).await.len(), ids.len());
    assert_eq!(worker.logged("attempt started").len(), ids.len(), "each job runs once");
    worker.stop().await;
    stage.is_done().await;
    for result in results.into_values() {
        let result = result.envelope;
        assert_eq!((&result["status"], &result["attempt"]), (&json!("done"), &json!(1)));
    }
    assert!(stage.dead_letters().await.is_empty());
}

async fn a_result_whose_lease_ends_is_kept_for_the_next_delivery(kind: Kind) {
    let config = "worker.max_lease_ms = 4000";
    let stage = Stage::set(kind, Setup { config, visibility: 2, ..Setup::default() }).await;
    let worker = stage.worker().await;
    take_away(&stage, &stage.results).await;
    let ids: Vec<_> = (0..5).map(|n| format!("job-{n}")).collect();
    stage.send(&ids.iter().map(|id| job(id, "process_data", json!(1))).collect::<Vec<_>>()).await;
    let kept = "the job has run, and its result was kept: it is settled without another run";
    worker.logs(kept, ids.len()).await;
    bring_back(&stage, &stage.results).await;
    let results = stage.results_of(&ids).await;
    worker.logs("job finished", ids.len()).await;
    assert_eq!(worker.logged("attempt started").len(), ids.len(), "each job runs once");
    assert_eq!(worker.logged("job finished").len(), ids.len());
    worker.stop().await;
    stage.is_done().await;
    assert!(results.values().all(|result| result.envelope["data"] == 2), "{results:?}");
}

/// A queue for the follow-on jobs of a stage.
async fn other_queue(stage: &Stage, new: NewQueue) -> Queue {
    match stage.kind {
        Kind::Local => {
            use lovage::broker::local::{LocalBroker, LocalOptions};
            let broker = LocalBroker::open(&stage.database(), LocalOptions::default()).unwrap();
            broker.declare("other", false, Duration::from_secs(30)).await.unwrap()
        }
        Kind::Sqs => stage.broker.open(&new.create("other").await).await.unwrap(),
    }
}

const FAN_OUT: Setup = Setup {
    fifo: false,
    visibility: 0,
    proxied: false,
    hostile: &["../granted/fan_out"],
    config: "tasks.fan_out.grants.dispatch = ['echo', 'process_data']\n\
             worker.publish_attempts = 3\n",
};

/// Holds a job to have failed once for that its follow-on job could not be sent.
async fn has_failed_once(
    stage: &Stage,
    worker: &Worker,
    id: &str,
    kind: &str,
    attempts: usize,
) -> Value {
    let result = stage.result_of(id).await;
    assert_eq!((&result["status"], &result["error"]["kind"]), (&json!("failed"), &json!(kind)));
    assert!(result.get("data").is_none(), "{result}");
    let letters = until("the dead letter", || async {
        Some(stage.dead_letters().await).filter(|letters| !letters.is_empty())
    })
    .await;
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert_eq!(letters[id].1.as_ref().unwrap().kind, kind);
    // The follow-on job runs nowhere.
    assert_eq!(worker.logged("attempt started").len(), attempts, "{:?}", worker.lines());
    let finished = worker.logs("job finished without a value", 1).await;
    assert_eq!((finished.len(), &finished[0]["kind"]), (1, &json!(kind)));
    assert_eq!(worker.logged("job finished").len(), attempts - 1);
    result
}

async fn a_job_whose_follow_on_job_cannot_be_sent_has_failed(kind: Kind) {
    let stage = Stage::set(kind, FAN_OUT).await;
    let other = other_queue(&stage, NewQueue::default()).await;
    stage.configure(&format!("tasks.echo.queue = '{}'", other.address));
    let worker = stage.worker().await;
    // It is there when the worker looks for it, and gone when it sends.
    stage.send_job("first", "fan_out", json!({"task": "echo", "items": [1]})).await;
    assert_eq!(stage.result_of("first").await["status"], "done");
    take_away(&stage, &other).await;
    stage.send_job("parent", "fan_out", json!({"task": "echo", "items": [1, 2, 3]})).await;
    let result = has_failed_once(&stage, &worker, "parent", "dispatch", 2).await;
    let message = result["error"]["message"].as_str().unwrap();
    assert!(message.contains("echo") && message.contains(&*other.name), "{message}");
    worker.stop().await;
    stage.is_done().await;
    // It is not there when the worker looks for it, or has a name that no queue can have.
    for name in ["nowhere", "a.b c"] {
        let stage = Stage::set(kind, FAN_OUT).await;
        stage.configure(&format!("tasks.echo.queue = '{name}'"));
        let worker = stage.worker().await;
        stage.send_job("parent", "fan_out", json!({"task": "echo", "items": [1]})).await;
        has_failed_once(&stage, &worker, "parent", "dispatch", 1).await;
        worker.stop().await;
        stage.is_done().await;
    }
}

/// Refused when it is sent, of a queue that the worker knows.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_follow_on_job_that_its_queue_refuses_is_no_result_and_runs_nobody_again() {
    for (new, refused, kind) in [
        (NewQueue::default(), true, "dispatch"),
        (NewQueue { max_bytes: Some(1024), ..NewQueue::default() }, false, "dispatch_too_large"),
    ] {
        let stage = Stage::set(Kind::Sqs, Setup { proxied: true, ..FAN_OUT }).await;
        let other = other_queue(&stage, new).await;
        stage.configure(&format!("tasks.echo.queue = '{}'", other.address));
        let worker = stage.worker().await;
        let items = json!(["x".repeat(2000), "y".repeat(2000)]);
        if refused {
            let proxy = stage.proxy.as_ref().unwrap();
            proxy.refuse("SendMessage", &other.address, 403, "AccessDenied");
        }
        stage.send_job("parent", "fan_out", json!({"task": "echo", "items": items})).await;
        has_failed_once(&stage, &worker, "parent", kind, 1).await;
        assert_eq!(stage.broker.depth(&other).await.unwrap(), lovage::broker::Depth::default());
        worker.stop().await;
        stage.is_done().await;
    }
}

/// Passing trouble of the follow-on jobs' queue holds the job, and does not run it again.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_follow_on_job_whose_queue_is_away_is_sent_later() {
    let stage = Stage::set(Kind::Sqs, Setup { proxied: true, ..FAN_OUT }).await;
    let other = other_queue(&stage, NewQueue::default()).await;
    stage.configure(&format!("tasks.echo.queue = '{}'", other.address));
    let worker = stage.worker().await;
    let proxy = stage.proxy.as_ref().unwrap();
    proxy.refuse("SendMessage", &other.address, 503, "ServiceUnavailable");
    stage.send_job("parent", "fan_out", json!({"task": "echo", "items": [1]})).await;
    worker.logs("settling a message failed; it is not lost", 2).await;
    proxy.allow();
    assert_eq!(stage.result_of("parent").await["data"], json!([id("parent", 0)]));
    assert_eq!(worker.logged("attempt started").len(), 1);
    assert_eq!(stage.broker.depth(&other).await.unwrap().ready, 1);
    worker.stop().await;
    stage.is_done().await;
}

/// Expired credentials say nothing about a queue: no job fails for them.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn credentials_that_expire_fail_no_job_for_what_follows_from_it() {
    let stage = Stage::set(Kind::Sqs, Setup { proxied: true, ..FAN_OUT }).await;
    let other = other_queue(&stage, NewQueue::default()).await;
    stage.configure(&format!("tasks.echo.queue = '{}'", other.address));
    let worker = stage.worker().await;
    let proxy = stage.proxy.as_ref().unwrap();
    proxy.refuse("SendMessage", &other.address, 403, "ExpiredToken");
    stage.send_job("parent", "fan_out", json!({"task": "echo", "items": [1]})).await;
    // More often than a refusal is tried.
    worker.logs("settling a message failed; it is not lost", 5).await;
    proxy.allow();
    assert_eq!(stage.result_of("parent").await["status"], "done");
    worker.stop().await;
    stage.is_done().await;
}

async fn results_of_one_task_that_cannot_be_published_hold_up_no_other_task(kind: Kind) {
    let stage = Stage::set(kind, Setup::default()).await;
    let own = other_queue(&stage, NewQueue::default()).await;
    stage.configure(&format!("tasks.echo.results = '{}'", own.address));
    let worker = stage.worker().await;
    take_away(&stage, &own).await;
    stage.send_job("held", "echo", json!(1)).await;
    let blocked = worker.logs(BLOCKED, 1).await;
    assert_eq!(blocked[0]["to"], *own.name, "{blocked:?}");
    // One that has not run yet does not run for nothing; others do run.
    stage.send_job("waits", "echo", json!(2)).await;
    stage.send_job("other", "process_data", json!(21)).await;
    assert_eq!(stage.result_of("other").await["data"], 42);
    until("the second goes back", || async {
        let released = worker.logged("job goes back");
        released.iter().any(|it| it["kind"] == "results").then_some(())
    })
    .await;
    assert_eq!(worker.logged("attempt started").len(), 2);
    bring_back(&stage, &own).await;
    worker.logs("job finished", 3).await;
    assert_eq!(worker.logged("attempt started").len(), 3);
    worker.stop().await;
    assert_eq!(stage.broker.depth(&own).await.unwrap().ready, 2);
    stage.is_done().await;
}

/// Chosen names of senders displace none of the operator's.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_thousand_names_of_senders_make_no_request_for_the_operators_queues() {
    let stage = Stage::set(
        Kind::Sqs,
        Setup {
            config: "queues.jobs.reply_to = ['*']\nqueues.jobs.results = 'results'",
            ..Setup::default()
        },
    )
    .await;
    let own = other_queue(&stage, NewQueue::default()).await;
    stage.configure(&format!("tasks.echo.results = '{}'", own.address));
    let worker = stage.worker().await;
    let replies: Vec<_> = (0..1100)
        .map(|n| {
            let to = json!({"reply_to": ministack::unique(&format!("gone-{n}"))});
            crate::support::stage::job_with(&format!("reply-{n}"), "process_data", json!(1), to)
        })
        .collect();
    stage.send(&replies).await;
    let rejected = (0..1100).map(|n| format!("reply-{n}")).collect::<Vec<_>>();
    let results = stage.results_of(rejected).await;
    assert!(results.values().all(|result| result.envelope["status"] == "rejected"));
    // Were it looked up now, it would not be found.
    take_away(&stage, &own).await;
    stage.send_job("held", "echo", json!(1)).await;
    worker.logs(BLOCKED, 1).await;
    assert!(worker.logged("job goes back").is_empty(), "{:?}", worker.lines());
    bring_back(&stage, &own).await;
    worker.logs("job finished", 1).await;
    worker.stop().await;
}

/// One result that can never be published blocks nobody else's.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_result_of_which_not_even_the_failure_fits_is_a_dead_letter_and_blocks_nobody() {
    let stage = Stage::set(Kind::Sqs, Setup::default()).await;
    let small = NewQueue { max_bytes: Some(1024), ..NewQueue::default() }.create("small").await;
    stage.configure(&format!("queues.results.address = '{small}'"));
    let worker = stage.worker().await;
    let (id, tenant) = ("i".repeat(190), "t".repeat(190));
    let data = json!("x".repeat(2000));
    let more = json!({"tenant": tenant});
    stage.send(&[crate::support::stage::job_with(&id, "echo", data, more)]).await;
    let letters = until("the dead letter", || async {
        Some(stage.dead_letters().await).filter(|letters| !letters.is_empty())
    })
    .await;
    assert_eq!(letters[&id].1.as_ref().unwrap().kind, "result_refused");
    stage.send_job("other", "process_data", json!(21)).await;
    worker.logs("job finished", 1).await;
    assert!(worker.logged(BLOCKED).is_empty());
    assert_eq!(worker.logged("attempt started").len(), 2);
    worker.stop().await;
    stage.is_done().await;
    let small = stage.broker.open(&small).await.unwrap();
    assert_eq!(stage.broker.depth(&small).await.unwrap().ready, 1);
}
