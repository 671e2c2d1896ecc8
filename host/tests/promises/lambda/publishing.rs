//! What a function does where results cannot be published, and in which order it does things.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{batch, published};
use crate::support::{
    runtime_api::Process,
    stub::{Stub, error},
};

const TIME: Duration = Duration::from_secs(30);

fn failures(ids: &[&str]) -> Value {
    let failures = ids.iter().map(|id| json!({"itemIdentifier": id}));
    json!({"batchItemFailures": failures.collect::<Vec<_>>()})
}

/// An event as it comes again, of a FIFO queue with these groups.
fn received(mut event: Value, count: u32, groups: &[&str]) -> Value {
    for (record, group) in event["Records"].as_array_mut().unwrap().iter_mut().zip(groups) {
        record["attributes"]["ApproximateReceiveCount"] = json!(count.to_string());
        record["attributes"]["MessageGroupId"] = json!(group);
    }
    event
}

/// The results that were published, by job.
fn results(stub: &Stub) -> Vec<Value> {
    let requests = stub.requests();
    let sends = requests.iter().filter(|(operation, _)| operation == "SendMessageBatch");
    let entries = sends.flat_map(|(_, input)| input["Entries"].as_array().cloned().unwrap());
    entries.map(|it| serde_json::from_str(it["MessageBody"].as_str().unwrap()).unwrap()).collect()
}

fn start(stub: &Stub, more: &[(&str, &str)]) -> Process {
    let mut environment = vec![
        ("AWS_ENDPOINT_URL", stub.endpoint.as_str()),
        ("LOVAGE__QUEUES__JOBS__RESULTS", "https://stub/1/results"),
        ("LOVAGE__QUEUES__JOBS__DEAD_LETTERS", "discard"),
        ("LOVAGE__WORKER__ERROR_BACKOFF_BASE_MS", "20"),
    ];
    environment.extend_from_slice(more);
    Process::start(&environment)
}

#[test]
fn a_failed_message_of_a_fifo_queue_holds_up_its_own_group_and_no_other() {
    let stub = Stub::new(|_, _| None);
    let process = start(&stub, &[]);
    let fail = json!({"task": "fail", "data": {"after_ms": 1000}});
    let event = batch(
        "jobs.fifo",
        &[fail, json!({"data": 2}), json!({"data": 3}), json!({"data": 4}), json!({"data": 5})],
    );
    let event = received(event, 1, &["a", "b", "a", "b", "c"]);
    let answer = process.invoke(event, TIME).unwrap();
    assert_eq!(answer, failures(&["m0", "m2"]));
    assert_eq!(published(&stub), 3);
}

#[test]
fn those_behind_a_failed_message_spend_no_attempts() {
    let stub = Stub::new(|_, _| None);
    let process = start(&stub, &[("LOVAGE__DEFAULTS__MAX_ATTEMPTS", "3")]);
    let fail = |times: u32| json!({"task": "fail", "data": {"times": times, "after_ms": 0}});
    // The second fails twice, and would be given up at its first run, were the deliveries counted
    // that it waited for the first.
    let event = batch("jobs.fifo", &[fail(2), fail(2)]);
    for count in 1..=2 {
        let event = received(event.clone(), count, &["a", "a"]);
        assert_eq!(process.invoke(event, TIME).unwrap(), failures(&["m0", "m1"]));
    }
    let third = received(event.clone(), 3, &["a", "a"]);
    assert_eq!(process.invoke(third, TIME).unwrap(), failures(&["m1"]));
    let alone = json!({"Records": [event["Records"][1]]});
    let fourth = received(alone.clone(), 4, &["a"]);
    assert_eq!(process.invoke(fourth, TIME).unwrap(), failures(&["m1"]));
    let fifth = received(alone, 5, &["a"]);
    assert_eq!(process.invoke(fifth, TIME).unwrap(), failures(&[]));
    let results = results(&stub);
    let told: Vec<_> =
        results.iter().map(|it| (it["status"].clone(), it["attempt"].clone())).collect();
    assert_eq!(told, vec![(json!("done"), json!(3)); 2], "{results:?}");
}

#[test]
fn a_result_that_cannot_be_published_returns_its_message_and_runs_nobody_again() {
    let denied = Arc::new(AtomicBool::new(true));
    let denies = Arc::clone(&denied);
    let stub = Stub::new(move |operation, _| {
        (operation == "SendMessageBatch" && denies.load(Ordering::Relaxed))
            .then(|| (403, error("AccessDenied", "Denied.")))
    });
    let process = start(&stub, &[]);
    let event = batch("jobs", &[json!({"data": 1}), json!({"data": 2})]);
    let first = received(event.clone(), 1, &["a", "b"]);
    assert_eq!(process.invoke(first, TIME).unwrap(), failures(&["m0", "m1"]));
    denied.store(false, Ordering::Relaxed);
    let before = stub.requests().len();
    let second = received(event, 2, &["a", "b"]);
    assert_eq!(process.invoke(second, TIME).unwrap(), failures(&[]));
    let taken = stub.requests().len() - before;
    assert_eq!(taken, 1, "nothing but the results is sent");
    let log = process.log();
    assert_eq!(log.matches("settled without another run").count(), 2, "{log}");
    assert_eq!(log.matches("\"job finished\"").count(), 2, "{log}");
    // That of a second run would be of the second attempt.
    let results = results(&stub);
    assert!(results.iter().all(|it| it["attempt"] == 1), "{results:?}");
}

#[test]
fn what_was_not_begun_is_not_begun_where_results_cannot_be_published() {
    let stub = Stub::new(|operation, _| {
        (operation == "SendMessageBatch").then(|| (403, error("AccessDenied", "Denied.")))
    });
    let process = start(&stub, &[("LOVAGE__WORKER__CONCURRENCY", "1")]);
    let sleep = json!({"task": "sleep", "data": {"ms": 1500}});
    let event = batch("jobs", &[json!({"data": 1}), sleep, json!({"data": 3}), json!({"data": 4})]);
    assert_eq!(process.invoke(event, TIME).unwrap(), failures(&["m0", "m1", "m2", "m3"]));
    let log = process.log();
    assert_eq!(log.matches("the queue for results takes none now").count(), 2, "{log}");
}

#[test]
fn a_tasks_own_queue_for_results_that_is_missing_runs_nobody() {
    let stub = Stub::new(|operation, input| {
        (operation == "GetQueueUrl" && input["QueueName"] == "own")
            .then(|| (400, error("QueueDoesNotExist", "No such queue.")))
    });
    let process = start(&stub, &[("LOVAGE__TASKS__PROCESS_DATA__RESULTS", "own")]);
    let event = batch("jobs", &[json!({"data": 1}), json!({"task": "echo", "data": 2})]);
    assert_eq!(process.invoke(event, TIME).unwrap(), failures(&["m0"]));
    let direct = process.invoke(json!({"data": 21}), TIME).unwrap_err();
    assert_eq!(direct["errorType"], "Retry", "{direct}");
    assert!(direct["errorMessage"].as_str().unwrap().contains("own"), "{direct}");
    assert_eq!(published(&stub), 1);
    let log = process.log();
    assert_eq!(log.matches("\"job finished\"").count(), 1, "{log}");
}

#[test]
fn an_invocation_waits_for_a_place_no_longer_than_it_has() {
    let stub = Stub::new(|_, _| None);
    let more = [
        ("AWS_LAMBDA_MAX_CONCURRENCY", "2"),
        ("LOVAGE__WORKER__CONCURRENCY", "1"),
        ("LOVAGE__LAMBDA__MARGIN_MS", "6000"),
    ];
    let process = start(&stub, &more);
    let sleep = json!({"task": "sleep", "data": {"ms": 60_000}, "max_attempts": 1});
    let begin = Instant::now();
    let answers = process.invoke_all(vec![sleep.clone(), sleep], Duration::from_secs(12));
    assert!(begin.elapsed() < Duration::from_secs(12), "{:?}", begin.elapsed());
    let (ran, waited): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert_eq!(ran[0].as_ref().unwrap()["status"], "timed_out");
    let why = waited[0].as_ref().unwrap_err()["errorMessage"].as_str().unwrap();
    assert!(why.contains("before there was room"), "{why}");
}
