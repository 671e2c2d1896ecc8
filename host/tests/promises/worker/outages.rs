//! Whatever is away for a while, nothing is lost, and nothing is taken for the jobs' own fault.

use std::time::{Duration, Instant};

use aws_sdk_sqs::types::QueueAttributeName;
use lovage::broker::{
    Depth, Queue,
    local::{LocalBroker, LocalOptions},
};
use serde_json::json;

use crate::support::{
    ministack,
    stage::{Kind, Setup, Stage, job, job_with, on_both},
    worker::{Worker, until},
};

on_both! {
    a_reply_queue_that_is_gone_holds_nobody_up
    a_result_that_nobody_takes_is_a_dead_letter
    a_queue_of_jobs_that_is_gone_for_a_while_is_waited_for
    receives_that_fail_are_further_and_further_apart
}

/// What senders may name is not what these are about.
const ANY_REPLY: &str = "worker.publish_attempts = 2\nqueues.jobs.reply_to = ['*']";

const FAILED: &str = "settling a message failed; it is not lost";

/// Takes a queue away, under the worker's feet.
pub(super) async fn take_away(stage: &Stage, queue: &Queue) {
    match stage.kind {
        Kind::Sqs => {
            let client = ministack::sqs_client();
            client.delete_queue().queue_url(&*queue.address).send().await.unwrap();
        }
        Kind::Local => rename(stage, &queue.name, "away"),
    }
}

/// Brings it back.
pub(super) async fn bring_back(stage: &Stage, queue: &Queue) {
    match stage.kind {
        Kind::Sqs => {
            let client = ministack::sqs_client();
            let mut create = client.create_queue().queue_name(&*queue.name);
            if queue.fifo {
                create = create.attributes(QueueAttributeName::FifoQueue, "true");
            }
            create.send().await.unwrap();
        }
        Kind::Local => rename(stage, "away", &queue.name),
    }
}

fn rename(stage: &Stage, from: &str, to: &str) {
    let database = rusqlite::Connection::open(stage.database()).unwrap();
    database.busy_timeout(Duration::from_secs(10)).unwrap();
    let renamed = database.execute("UPDATE queues SET name = ?2 WHERE name = ?1", [from, to]);
    assert_eq!(renamed.unwrap(), 1, "{from}");
}

/// Such as that of `lovage send --wait`, when whoever waited has gone.
async fn a_reply_queue_that_is_gone_holds_nobody_up(kind: Kind) {
    let setup = Setup { config: ANY_REPLY, ..Setup::default() };
    let stage = Stage::set(kind, setup).await;
    let reply = match kind {
        Kind::Local => {
            let broker = LocalBroker::open(&stage.database(), LocalOptions::default()).unwrap();
            broker.declare("reply", false, Duration::from_secs(30)).await.unwrap()
        }
        Kind::Sqs => stage.broker.open(&ministack::queue("reply").await).await.unwrap(),
    };
    let worker = stage.worker().await;
    let to = json!({"reply_to": &*reply.address});
    stage.send(&[job_with("gone", "sleep", json!({"ms": 1000}), to)]).await;
    worker.logs("attempt started", 1).await;
    take_away(&stage, &reply).await;
    let result = stage.result_of("gone").await;
    assert_eq!(result["status"], "done", "{result}");
    let told = worker.says("the reply queue does not take the result").await;
    assert!(told.contains(&*reply.name), "{told}");
    worker.stop().await;
    stage.is_done().await;
}

async fn a_result_that_nobody_takes_is_a_dead_letter(kind: Kind) {
    let setup = Setup { config: ANY_REPLY, ..Setup::default() };
    let stage = Stage::set(kind, setup).await;
    stage.unset("results");
    let to = json!({"reply_to": &*stage.results.address});
    let worker = stage.worker().await;
    stage.send(&[job_with("gone", "sleep", json!({"ms": 1000}), to)]).await;
    worker.logs("attempt started", 1).await;
    take_away(&stage, &stage.results).await;
    let letters = until("the dead letter", || async {
        Some(stage.dead_letters().await).filter(|letters| !letters.is_empty())
    })
    .await;
    let letter = letters["gone"].1.as_ref().unwrap();
    assert_eq!(letter.kind, "reply_to");
    assert!(letter.reason.contains(&*stage.results.name), "{letter:?}");
    worker.stop().await;
    assert_eq!(stage.depth().await, Depth::default());
}

async fn a_queue_of_jobs_that_is_gone_for_a_while_is_waited_for(kind: Kind) {
    let stage = Stage::set(kind, Setup::default()).await;
    let worker = stage.worker().await;
    take_away(&stage, &stage.jobs).await;
    let failed = worker.logs("receiving failed", 2).await;
    let error = failed[0]["error"].as_str().unwrap();
    assert!(error.contains(&*stage.jobs.name), "{error}");
    bring_back(&stage, &stage.jobs).await;
    stage.send_job("after", "process_data", json!(21)).await;
    assert_eq!(stage.result_of("after").await["data"], 42);
    worker.stop().await;
    stage.is_done().await;
}

async fn receives_that_fail_are_further_and_further_apart(kind: Kind) {
    let stage = Stage::set(kind, Setup::default()).await;
    let worker = stage.worker().await;
    take_away(&stage, &stage.jobs).await;
    let failed = worker.logs("receiving failed", 7).await;
    let bounds = [50, 100, 200, 400, 800, 1000, 1000];
    for (n, (event, bound)) in failed.iter().zip(bounds).enumerate() {
        assert_eq!(event["failures"], n + 1, "{event}");
        let pause = event["retry_in_ms"].as_u64().unwrap();
        assert!((bound / 2..=bound).contains(&pause), "{event}");
    }
    // They are kept, too.
    let times = failed.iter().map(|event| event["timestamp"].as_str().unwrap().parse().unwrap());
    let times: Vec<jiff::Timestamp> = times.collect();
    for (pair, event) in times.windows(2).zip(&failed) {
        let waited = pair[1].duration_since(pair[0]).as_millis();
        let pause = i128::from(event["retry_in_ms"].as_u64().unwrap());
        // The log's clock is not the one that waits.
        assert!(waited + 10 >= pause, "{waited} ms: {event}");
    }
    bring_back(&stage, &stage.jobs).await;
    // A success is the end of a row of failures.
    stage.send_job("after", "process_data", json!(21)).await;
    stage.result_of("after").await;
    let before = worker.logged("receiving failed").len();
    take_away(&stage, &stage.jobs).await;
    let failed = worker.logs("receiving failed", before + 1).await;
    assert_eq!(failed[before]["failures"], 1, "{failed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn sqs_that_refuses_everything_for_a_while_is_waited_for() {
    for (operation, status, code) in
        [("SendMessage", 403, "AccessDenied"), ("", 503, "ServiceUnavailable")]
    {
        let setup = Setup { proxied: true, visibility: 60, config: ANY_REPLY, ..Setup::default() };
        let stage = Stage::set(Kind::Sqs, setup).await;
        let proxy = stage.proxy.as_ref().unwrap();
        let ids: Vec<_> = (0..20).map(|n| format!("job-{n}")).collect();
        let worker = stage.worker().await;
        proxy.refuse(operation, &stage.results.address, status, code);
        stage
            .send(&ids.iter().map(|id| job(id, "process_data", json!(1))).collect::<Vec<_>>())
            .await;
        worker.logs(FAILED, 3).await;
        assert!(proxy.refusals() > 0);
        proxy.allow();
        let results = stage.results_of(&ids).await;
        worker.stop().await;
        stage.is_done().await;
        for result in results.into_values() {
            assert_eq!(result.envelope["status"], "done", "{operation}: {result:?}");
        }
        assert!(stage.dead_letters().await.is_empty());
    }
}

/// A process that stands still in the middle of a write keeps all others from writing.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_database_that_somebody_holds_locked_is_waited_for() {
    let stage = Stage::set(Kind::Local, Setup::default()).await;
    let ids: Vec<_> = (0..20).map(|n| format!("job-{n}")).collect();
    let worker: Worker = stage.worker().await;
    stage
        .send(&ids.iter().map(|id| job(id, "sleep", json!({"ms": 1000}))).collect::<Vec<_>>())
        .await;
    worker.logs("attempt started", 16).await;
    let database = rusqlite::Connection::open(stage.database()).unwrap();
    database.busy_timeout(Duration::from_secs(10)).unwrap();
    database.execute_batch("BEGIN IMMEDIATE").unwrap();
    let begin = Instant::now();
    let error = worker.logs(FAILED, 1).await[0]["error"].as_str().unwrap().to_owned();
    assert!(error.contains("held it locked"), "{error}");
    database.execute_batch("ROLLBACK").unwrap();
    let results = stage.results_of(&ids).await;
    assert!(begin.elapsed() > Duration::from_secs(9), "the lock was not waited for");
    worker.stop().await;
    stage.is_done().await;
    assert!(results.values().all(|result| result.envelope["status"] == "done"));
}
