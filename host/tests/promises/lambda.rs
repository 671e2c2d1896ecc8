//! What the Lambda functions promise, held against the package as it is deployed.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{
    lambda::{Function, NewFunction, batch, results, send},
    ministack::{self, NewQueue},
    runtime_api::Process,
    stub::{Stub, error, failing},
};

mod dispatcher;
#[cfg(all(feature = "cli", feature = "compiler"))]
mod from_s3;
mod publishing;
mod start_up;

/// A worker whose results come on a queue of their own; the queue's URL.
async fn worker(configure: impl FnOnce(NewFunction) -> NewFunction) -> (Function, String) {
    let results = ministack::queue("results").await;
    let new = NewFunction::worker()
        .with("LOVAGE__QUEUES__JOBS__RESULTS", &results)
        .with("LOVAGE__QUEUES__JOBS__DEAD_LETTERS", "discard");
    (configure(new).create("worker").await, results)
}

fn by_id<'a>(results: &'a [Value], id: &str) -> &'a Value {
    let mut found = results.iter().filter(|result| result["id"] == id);
    let result = found.next().unwrap_or_else(|| panic!("no result of {id}: {results:?}"));
    assert!(found.next().is_none(), "one result of {id}: {results:?}");
    result
}

#[tokio::test]
async fn a_batch_reports_only_its_failures() {
    let (function, results_queue) = worker(|new| new).await;
    let jobs = NewQueue { visibility_seconds: Some(60), ..NewQueue::default() };
    let jobs = jobs.create("batch").await;
    let messages = [
        json!({"id": "double", "data": 21}),
        json!({"id": "flaky", "task": "fail", "data": {"times": 1, "after_ms": 0}}),
        json!({"id": "refused", "data": null}),
        json!({"id": "text", "data": "ab"}),
    ];
    send(&jobs, &messages).await;
    function.map(&jobs).await;
    // Had the batch failed as a whole, or the failure been left out, there would be more or fewer.
    let results = results(&results_queue, 4).await;
    assert_eq!(by_id(&results, "double")["data"], 42);
    assert_eq!(by_id(&results, "text")["data"], "abab");
    assert_eq!(by_id(&results, "refused")["status"], "rejected");
    let flaky = by_id(&results, "flaky");
    assert_eq!((&flaky["data"], &flaky["attempt"]), (&json!(2), &json!(2)));
}

#[tokio::test]
async fn a_fifo_batch_stops_at_its_first_failure() {
    let (function, results_queue) = worker(|new| new).await;
    // So long that the test would see it, were the rest left to the end of it.
    let jobs = NewQueue { fifo: true, visibility_seconds: Some(600), ..NewQueue::default() };
    let jobs = jobs.create("fifo").await;
    let messages = [
        json!({"id": "first", "data": 1}),
        json!({"id": "flaky", "task": "fail", "data": {"times": 1, "after_ms": 1000}}),
        json!({"id": "last", "data": 3}),
    ];
    send(&jobs, &messages).await;
    function.map(&jobs).await;
    let results = results(&results_queue, 3).await;
    assert_eq!(by_id(&results, "first")["attempt"], 1);
    let (flaky, last) = (by_id(&results, "flaky"), by_id(&results, "last"));
    assert_eq!((&flaky["data"], &last["data"]), (&json!(2), &json!(6)));
    let at = |value: &Value| value.as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    assert!(
        at(&last["started_at"]) >= at(&flaky["finished_at"]),
        "overtaken: {flaky} was not done when {last} began"
    );
}

#[test]
fn a_fifo_batch_answers_with_the_failed_and_the_unprocessed() {
    let stub = Stub::new(|_, _| None);
    let process = Process::start(&[
        ("AWS_ENDPOINT_URL", &stub.endpoint),
        ("LOVAGE__QUEUES__JOBS__RESULTS", "https://stub/1/results"),
        ("LOVAGE__QUEUES__JOBS__DEAD_LETTERS", "discard"),
    ]);
    let event = batch(
        "jobs.fifo",
        &[
            json!({"data": 1}),
            json!({"task": "fail", "data": {"after_ms": 7000}}),
            json!({"data": 3}),
            json!({"data": 4}),
        ],
    );
    let answer = process.invoke(event, Duration::from_secs(20)).unwrap();
    let ids = |ids: &[&str]| {
        let failures = ids.iter().map(|id| json!({"itemIdentifier": id}));
        json!({"batchItemFailures": failures.collect::<Vec<_>>()})
    };
    assert_eq!(answer, ids(&["m1", "m2", "m3"]));
    // The failed one waits for its time, the others do not make the group wait any longer.
    let hidden: Vec<_> = stub
        .requests()
        .iter()
        .filter(|(operation, _)| operation == "ChangeMessageVisibilityBatch")
        .flat_map(|(_, input)| input["Entries"].as_array().cloned().unwrap())
        .map(|entry| (entry["ReceiptHandle"].clone(), entry["VisibilityTimeout"].clone()))
        .collect();
    let hiding = |receipt: &str, seconds: u64| (json!(receipt), json!(seconds));
    assert_eq!(hidden, [hiding("r1", 7), hiding("r2", 0), hiding("r3", 0)]);
}

#[tokio::test]
async fn a_direct_invocation_answers_with_the_result_and_publishes_it() {
    let (function, results_queue) = worker(|new| new).await;
    let answer = function.invoke(&json!({"data": 21, "id": "direct"})).await.unwrap();
    assert_eq!((&answer["status"], &answer["data"]), (&json!("done"), &json!(42)));
    // What trying again would not help is an answer, too.
    let refused = function.invoke(&json!({"data": null, "id": "refused"})).await.unwrap();
    assert_eq!(refused["status"], "rejected");
    let malformed = function.invoke(&json!([1])).await.unwrap();
    assert_eq!(malformed["error"]["kind"], "invalid_message");
    let published = results(&results_queue, 3).await;
    assert_eq!(*by_id(&published, "direct"), answer);
    assert_eq!(*by_id(&published, "refused"), refused);
}

#[tokio::test]
async fn what_is_to_be_tried_again_is_an_error_of_the_function() {
    let (function, results_queue) = worker(|new| new).await;
    let flaky = json!({"task": "fail", "data": {}});
    let error = function.invoke(&flaky).await.unwrap_err();
    assert_eq!(error["errorType"], "Retry");
    let message = error["errorMessage"].as_str().unwrap();
    assert!(message.contains("attempt 1 fails, as it was told to"), "{message}");
    // With no attempt left it is final.
    let last = json!({"task": "fail", "data": {}, "max_attempts": 1, "id": "last"});
    assert_eq!(function.invoke(&last).await.unwrap()["status"], "failed");
    // There is nowhere to wait.
    let later = json!({"data": 21, "eta": "2099-01-01T00:00:00Z", "id": "later"});
    assert_eq!(function.invoke(&later).await.unwrap()["error"]["kind"], "not_due");
    let published = results(&results_queue, 2).await;
    assert_eq!(by_id(&published, "later")["status"], "rejected");
}

#[tokio::test]
async fn an_event_invocation_publishes_its_result() {
    let (function, results_queue) = worker(|new| new).await;
    function.invoke_event(&json!({"data": 21})).await;
    assert_eq!(results(&results_queue, 1).await[0]["data"], 42);
}

#[tokio::test]
async fn results_can_be_the_value_alone() {
    let (function, results_queue) =
        worker(|new| new.with("LOVAGE__QUEUES__JOBS__RESULT_FORMAT", "bare")).await;
    function.invoke_event(&json!({"data": 21})).await;
    assert_eq!(results(&results_queue, 1).await, [json!(42)]);
}

#[tokio::test]
async fn a_guest_is_stopped_before_lambdas_deadline() {
    // Plenty of margin, since a busy machine may be slow to start the function and to tell its time.
    let limits = |new: NewFunction| new.timeout(12).with("LOVAGE__LAMBDA__MARGIN_MS", "6000");
    let (function, results_queue) = worker(limits).await;
    let stopped = async |task: &str, data: Value| {
        let begin = Instant::now();
        // The task's own timeout is a minute.
        let event = json!({"id": task, "task": task, "data": data, "max_attempts": 1});
        let answer = function.invoke(&event).await.unwrap();
        assert_eq!(answer["status"], "timed_out", "{answer}");
        assert_eq!(answer["error"]["kind"], "deadline", "{answer}");
        let took = begin.elapsed();
        assert!(took >= Duration::from_secs(5), "it was given the time that there is: {took:?}");
    };
    tokio::join!(stopped("spin", json!({})), stopped("sleep", json!({"ms": 60_000})));
    assert_eq!(results(&results_queue, 2).await.len(), 2);
}

#[test]
fn a_batch_runs_at_once_as_far_as_there_are_slots() {
    let stub = Stub::new(|_, _| None);
    let start = |concurrency| {
        Process::start(&[
            ("AWS_ENDPOINT_URL", &stub.endpoint),
            ("LOVAGE__QUEUES__JOBS__RESULTS", "https://stub/1/results"),
            ("LOVAGE__QUEUES__JOBS__DEAD_LETTERS", "discard"),
            ("LOVAGE__WORKER__CONCURRENCY", concurrency),
        ])
    };
    let sleeps =
        |count| batch("jobs", &vec![json!({"task": "sleep", "data": {"ms": 1000}}); count]);
    let timed = |process: &Process, event| {
        let begin = Instant::now();
        let answer = process.invoke(event, Duration::from_secs(30)).unwrap();
        assert_eq!(answer, json!({"batchItemFailures": []}));
        begin.elapsed()
    };
    let took = timed(&start("10"), sleeps(10));
    assert!(took < Duration::from_secs(6), "ten of a second each took {took:?}");
    // More than there are slots wait, and none fails.
    let took = timed(&start("2"), sleeps(6));
    assert!(took >= Duration::from_secs(3), "six of a second each, two at once, took {took:?}");
}

#[test]
fn what_there_is_no_time_for_stays_and_what_is_done_is_published() {
    let stub = Stub::new(|_, _| None);
    let process = Process::start(&[
        ("AWS_ENDPOINT_URL", &stub.endpoint),
        ("LOVAGE__QUEUES__JOBS__RESULTS", "https://stub/1/results"),
        ("LOVAGE__QUEUES__JOBS__DEAD_LETTERS", "discard"),
        ("LOVAGE__WORKER__CONCURRENCY", "1"),
        ("LOVAGE__LAMBDA__MARGIN_MS", "9000"),
    ]);
    let sleep = |ms: u64| json!({"task": "sleep", "data": {"ms": ms}});
    let event = batch("jobs", &[json!({"data": 1}), sleep(60_000), sleep(1)]);
    let answer = process.invoke(event, Duration::from_secs(12)).unwrap();
    let stays = [json!({"itemIdentifier": "m1"}), json!({"itemIdentifier": "m2"})];
    assert_eq!(answer, json!({"batchItemFailures": stays}));
    assert_eq!(published(&stub), 1);
}

/// How many messages were sent.
fn published(stub: &Stub) -> usize {
    let requests = stub.requests();
    let sends = requests.iter().filter(|(operation, _)| operation == "SendMessageBatch");
    sends.map(|(_, input)| input["Entries"].as_array().unwrap().len()).sum()
}

#[test]
fn a_result_that_is_not_taken_keeps_its_message_and_no_other() {
    let stub = Stub::new(|operation, input| {
        (operation == "SendMessageBatch").then(|| {
            let entries = input["Entries"].as_array().unwrap();
            let of_m1 = entries
                .iter()
                .filter(|entry| entry["MessageBody"].as_str().unwrap().contains("\"m1\""))
                .map(|entry| entry["Id"].as_str().unwrap())
                .collect::<Vec<_>>();
            (200, failing(input, &of_m1, "InvalidMessageContents", "no"))
        })
    });
    let process = Process::start(&[
        ("AWS_ENDPOINT_URL", &stub.endpoint),
        ("LOVAGE__QUEUES__JOBS__RESULTS", "https://stub/1/results"),
        ("LOVAGE__QUEUES__JOBS__DEAD_LETTERS", "discard"),
    ]);
    let event = batch("jobs", &[json!({"data": 1}), json!({"data": 2}), json!({"data": 3})]);
    let answer = process.invoke(event, Duration::from_secs(20)).unwrap();
    assert_eq!(answer, json!({"batchItemFailures": [{"itemIdentifier": "m1"}]}));
}

#[test]
fn what_an_event_asks_of_aws_is_asked_once_and_nothing_before_it() {
    let stub = Stub::new(|_, _| None);
    let process = Process::start(&[
        ("AWS_ENDPOINT_URL", &stub.endpoint),
        ("LOVAGE__QUEUES__JOBS__RESULTS", "https://stub/1/results"),
        ("LOVAGE__QUEUES__JOBS__DEAD_LETTERS", "https://stub/1/dead"),
    ]);
    assert!(stub.requests().is_empty(), "{:?}", stub.operations());
    for _ in 0..3 {
        let answer =
            process.invoke(batch("any-name", &[json!({"data": 1})]), Duration::from_secs(20));
        assert_eq!(answer, Ok(json!({"batchItemFailures": []})));
        process.invoke(json!({"data": 21}), Duration::from_secs(20)).unwrap();
    }
    let mut operations = stub.operations();
    operations.retain(|operation| operation != "SendMessageBatch");
    assert_eq!(operations, ["GetQueueUrl", "GetQueueAttributes"]);
    assert_eq!(published(&stub), 6);
}

#[test]
fn a_worker_needs_no_permission_to_read_attributes_where_it_is_told_all() {
    let stub = Stub::new(|operation, _| {
        (operation == "GetQueueAttributes").then(|| (403, error("AccessDenied", "Denied.")))
    });
    let process = Process::start(&[
        ("AWS_ENDPOINT_URL", &stub.endpoint),
        ("LOVAGE__QUEUES__JOBS__RESULTS", "https://stub/1/results"),
        ("LOVAGE__QUEUES__JOBS__DEAD_LETTERS", "https://stub/1/dead"),
    ]);
    let event = batch("jobs", &[json!({"data": 21}), json!({"data": null})]);
    let answer = process.invoke(event, Duration::from_secs(20)).unwrap();
    assert_eq!(answer, json!({"batchItemFailures": []}));
    // Two results, and the dead letter.
    assert_eq!(published(&stub), 3);
}

#[test]
fn a_batch_without_a_place_for_dead_letters_fails_as_a_whole_and_says_why() {
    let stub = Stub::new(|_, _| None);
    let process = Process::start(&[("AWS_ENDPOINT_URL", &stub.endpoint)]);
    let event = batch("jobs", &[json!({"data": 21})]);
    let error = process.invoke(event, Duration::from_secs(20)).unwrap_err();
    assert_eq!(error["errorType"], "QueueError");
    let message = error["errorMessage"].as_str().unwrap();
    assert!(message.contains("dead_letters"), "{message}");
}

#[test]
fn several_invocations_at_once_run_at_once_and_share_what_is_looked_up() {
    let stub = Stub::new(|_, _| None);
    // As Lambda Managed Instances have it.
    let process = Process::start(&[
        ("AWS_LAMBDA_MAX_CONCURRENCY", "4"),
        ("AWS_ENDPOINT_URL", &stub.endpoint),
        ("LOVAGE__QUEUES__JOBS__RESULTS", "https://stub/1/results"),
        ("LOVAGE__QUEUES__JOBS__DEAD_LETTERS", "discard"),
    ]);
    let sleep = json!({"task": "sleep", "data": {"ms": 4000}});
    let batch = batch("jobs", std::slice::from_ref(&sleep));
    let begin = Instant::now();
    let events = vec![batch.clone(), sleep.clone(), batch, sleep];
    let answers = process.invoke_all(events, Duration::from_secs(30));
    let took = begin.elapsed();
    // One after the other would be 16 seconds.
    assert!(took < Duration::from_secs(12), "four of four seconds each took {took:?}");
    for (at, id) in [(1, "request-2"), (3, "request-4")] {
        let answer = answers[at].as_ref().unwrap();
        assert_eq!((&answer["status"], &answer["id"]), (&json!("done"), &json!(id)));
    }
    for at in [0, 2] {
        assert_eq!(answers[at], Ok(json!({"batchItemFailures": []})));
    }
    let mut operations = stub.operations();
    operations.retain(|operation| operation != "SendMessageBatch");
    assert_eq!(operations, ["GetQueueUrl", "GetQueueAttributes"]);
    assert_eq!(published(&stub), 4);
}

#[test]
fn the_trace_goes_on_to_the_result_and_the_log_is_json() {
    let stub = Stub::new(|_, _| None);
    let process = Process::start(&[
        ("AWS_ENDPOINT_URL", &stub.endpoint),
        ("LOVAGE__QUEUES__JOBS__RESULTS", "https://stub/1/results"),
    ]);
    process.invoke(json!({"data": 21}), Duration::from_secs(20)).unwrap();
    let requests = stub.requests();
    let sent = &requests.last().unwrap().1["Entries"][0];
    let header = &sent["MessageSystemAttributes"]["AWSTraceHeader"]["StringValue"];
    assert!(header.as_str().unwrap().starts_with("Root=1-"), "{sent}");
    let log = process.log();
    let lines: Vec<Value> =
        log.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect();
    let finished = lines.iter().find(|line| line["message"] == "job finished").unwrap();
    assert_eq!(finished["span"]["task"], "process_data");
    assert!(finished["spans"].to_string().contains("request-1"), "{finished}");
}

/// cfn-lint knows the properties, but takes runtimes that do not exist, a `MaximumConcurrency` of
/// 1, and visibility timeouts that are too short.
#[test]
fn the_template_is_sound() {
    let template = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/lambda/template.yaml");
    let run = |program: &str, arguments: &[&str]| {
        let output = std::process::Command::new(ministack::venv().join("bin").join(program))
            .args(arguments)
            .output()
            .expect("the test venv is there; `make test-setup` makes it");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
        said
    };
    run("cfn-lint", &[template]);
    let script = "import json, sys, cfnlint.decode.cfn_yaml as yaml\n\
                  print(json.dumps(yaml.load(sys.argv[1])))";
    let template: Value = serde_json::from_str(&run("python", &["-c", script, template])).unwrap();

    let function = &template["Globals"]["Function"];
    assert_eq!(function["Runtime"], "provided.al2023");
    assert_eq!(function["CodeUri"], "../../dist/lovage-lambda-x86_64.zip");
    let resources = &template["Resources"];
    assert_eq!(resources["Dispatcher"]["Properties"]["Handler"], "dispatcher");
    let worker = &resources["Worker"]["Properties"];
    let mapping = &worker["Events"]["Jobs"]["Properties"];
    assert_eq!(mapping["FunctionResponseTypes"], json!(["ReportBatchItemFailures"]));
    let most = mapping["ScalingConfig"]["MaximumConcurrency"].as_u64().unwrap();
    assert!((2..=1000).contains(&most), "{most}");
    let jobs = &resources["Jobs"]["Properties"];
    let (visibility, timeout) = (&jobs["VisibilityTimeout"], &worker["Timeout"]);
    assert!(visibility.as_u64().unwrap() >= 6 * timeout.as_u64().unwrap());
    assert!(jobs["RedrivePolicy"]["maxReceiveCount"].as_u64().unwrap() >= 15);
    assert!(!template.to_string().contains("ListQueues"), "a permission that nobody needs");
    // Each variable must be one that the configuration has.
    for function in ["Worker", "Dispatcher"] {
        let variables = &resources[function]["Properties"]["Environment"]["Variables"];
        let variables = variables.as_object().unwrap();
        let set = variables.iter().map(|(name, value)| {
            (name.clone(), value.as_str().unwrap_or("from-the-stack").to_owned())
        });
        lovage::config::Config::load(None, set).unwrap();
    }
}
