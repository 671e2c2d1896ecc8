//! How the broker on SQS talks to it, held against a stub that fails as ministack does not.

use std::{
    sync::{Arc, atomic::AtomicU32, atomic::Ordering},
    time::Duration,
};

use lovage::broker::{
    Broker, Disposal, Fault, Message, Outgoing, Queue, Receipt, Send, SendKind, Settlement, Turn,
    attribute, sqs::SqsBroker,
};
use serde_json::{Value, json};

use crate::support::{
    broker::{attributes, grouped, outgoing},
    stub::{Stub, error, failing, ids},
};

const TOO_LONG: &str = "Value 43200 for parameter VisibilityTimeout is invalid. Reason: Total \
                        VisibilityTimeout for the message is beyond the limit [43200 seconds]";

fn queue(name: &str) -> Queue {
    Queue {
        name: name.into(),
        address: format!("https://stub/1/{name}").into(),
        fifo: name.strip_suffix(".fifo").is_some(),
        visibility_timeout: Duration::from_secs(30),
        redrive_target: None,
    }
}

fn message(name: &str) -> Message {
    Message {
        id: format!("id-{name}"),
        receipt: Receipt(format!("receipt-{name}").into()),
        body: name.to_owned().into(),
        attributes: attributes(&[("k", "v")]),
        group: Some("tenant".to_owned()),
        attempt: 3,
        sent_at: None,
        not_before: None,
        trace_header: Some("Root=1-2-3".to_owned()),
    }
}

fn finish_to(name: &str, to: &str) -> Settlement {
    let sends = vec![Send {
        kind: SendKind::Result,
        to: queue(to).address,
        message: outgoing(format!("result of {name}")),
    }];
    Settlement {
        message: Arc::new(message(name)),
        disposal: Disposal::Finish { result: None, sends },
    }
}

fn release(name: &str, after: u64, spent: bool) -> Settlement {
    Settlement {
        message: Arc::new(message(name)),
        disposal: Disposal::Release { after: Duration::from_secs(after), spent },
    }
}

async fn settle(broker: &SqsBroker, to: &Queue, all: &[Settlement]) -> Vec<Option<Fault>> {
    let answers = broker.settle(to, all).await;
    let faults = answers.into_iter().map(|it| it.err().map(|it| it.error.fault));
    faults.collect()
}

/// The bodies of a `SendMessageBatch`.
fn bodies(input: &Value) -> Vec<String> {
    let entries = input["Entries"].as_array().unwrap();
    entries.iter().map(|entry| entry["MessageBody"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn twenty_messages_are_finished_in_four_requests_and_sent_before_they_are_deleted() {
    let stub = Stub::new(|_, _| None);
    let all: Vec<_> = (0..20).map(|n| finish_to(&n.to_string(), "results")).collect();
    let faults = settle(&stub.broker().await, &queue("jobs"), &all).await;
    assert_eq!(faults, [None; 20]);
    assert_eq!(
        stub.operations(),
        ["SendMessageBatch", "SendMessageBatch", "DeleteMessageBatch", "DeleteMessageBatch"]
    );
}

#[tokio::test]
async fn a_message_whose_result_is_refused_is_not_deleted_and_its_mates_are() {
    let stub = Stub::new(|operation, input| {
        (operation == "SendMessageBatch")
            .then(|| (200, failing(input, &["1"], "InvalidMessageContents", "bad")))
    });
    let all = ["a", "b", "c"].map(|name| finish_to(name, "results"));
    let faults = settle(&stub.broker().await, &queue("jobs"), &all).await;
    assert_eq!(faults, [None, Some(Fault::Invalid), None]);
    let (_, delete) = stub.requests().pop().unwrap();
    let entries = delete["Entries"].as_array().unwrap();
    let receipts: Vec<_> = entries.iter().map(|entry| &entry["ReceiptHandle"]).collect();
    assert_eq!(receipts, ["receipt-a", "receipt-c"]);
}

#[tokio::test]
async fn an_entry_that_sqs_failed_is_sent_again_alone() {
    let calls = AtomicU32::new(0);
    let stub = Stub::new(move |operation, input| {
        assert_eq!(operation, "SendMessageBatch");
        (calls.fetch_add(1, Ordering::Relaxed) == 0)
            .then(|| (200, failing(input, &["1"], "InternalError", "try again")))
    });
    let answers = stub.broker().await.send(&queue("jobs"), &["a", "b", "c"].map(outgoing)).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    let sent: Vec<_> = stub.requests().iter().map(|it| bodies(&it.1)).collect();
    assert_eq!(sent, [vec!["a", "b", "c"], vec!["b"]]);
}

#[tokio::test]
async fn a_delete_is_tried_again_rather_than_the_result_sent_twice() {
    let calls = AtomicU32::new(0);
    let stub = Stub::new(move |operation, input| {
        (operation == "DeleteMessageBatch" && calls.fetch_add(1, Ordering::Relaxed) < 2)
            .then(|| (200, failing(input, &["0"], "InternalError", "try again")))
    });
    let faults = settle(&stub.broker().await, &queue("jobs"), &[finish_to("a", "results")]).await;
    assert_eq!(faults, [None]);
    assert_eq!(
        stub.operations(),
        ["SendMessageBatch", "DeleteMessageBatch", "DeleteMessageBatch", "DeleteMessageBatch"]
    );
}

#[tokio::test]
async fn a_delete_that_never_succeeds_is_answered_with_the_reason() {
    let stub = Stub::new(|operation, input| {
        let entries = input["Entries"].as_array().unwrap();
        let bad = entries.iter().find(|it| it["ReceiptHandle"] == "receipt-b");
        let bad = bad.map_or("", |entry| entry["Id"].as_str().unwrap());
        (operation == "DeleteMessageBatch").then(|| {
            let answer = failing(input, &[bad], "InternalError", "still in trouble");
            (200, answer)
        })
    });
    let all = ["a", "b"].map(|name| finish_to(name, "results"));
    let answers = stub.broker().await.settle(&queue("jobs"), &all).await;
    assert!(answers[0].is_ok());
    let unsettled = answers[1].as_ref().unwrap_err();
    let error = &unsettled.error;
    assert_eq!(error.fault, Fault::Unavailable);
    assert!(error.message.contains("still in trouble"), "{error}");
    assert!(error.message.contains("\"jobs\""), "{error}");
}

/// What is left of settlements, as the stub's next requests.
async fn settle_twice(stub: &Stub, all: &[Settlement]) -> Vec<String> {
    let broker = stub.broker().await;
    let answers = broker.settle(&queue("jobs"), all).await;
    let before = stub.operations().len();
    let left: Vec<_> = all
        .iter()
        .zip(answers)
        .filter_map(|(of, answer)| {
            let disposal = *answer.err()?.left;
            Some(Settlement { message: of.message.clone(), disposal })
        })
        .collect();
    assert!(!left.is_empty());
    broker.settle(&queue("jobs"), &left).await;
    stub.operations().split_off(before)
}

#[tokio::test]
async fn a_message_that_cannot_be_deleted_is_neither_published_nor_copied_again() {
    let denied = |operation: &str, _: &Value| {
        (operation == "DeleteMessageBatch").then(|| (403, error("AccessDeniedException", "no")))
    };
    for settlement in [finish_to("a", "results"), release("a", 100, false)] {
        let stub = Stub::new(denied);
        let again = settle_twice(&stub, &[settlement]).await;
        assert!(again.iter().all(|it| it == "DeleteMessageBatch"), "{again:?}");
    }
}

#[tokio::test]
async fn of_several_sends_only_those_are_sent_again_that_were_refused() {
    let stub = Stub::new(|operation, input| {
        let letters = input["QueueUrl"].as_str().is_some_and(|url| url.ends_with("letters"));
        (operation == "SendMessageBatch" && letters)
            .then(|| (400, error("QueueDoesNotExist", "gone")))
    });
    let mut settlement = finish_to("a", "results");
    if let Disposal::Finish { sends, .. } = &mut settlement.disposal {
        sends.push(Send {
            kind: SendKind::DeadLetter,
            to: queue("letters").address,
            message: outgoing("letter"),
        });
    }
    let again = settle_twice(&stub, &[settlement]).await;
    assert_eq!(again, ["SendMessageBatch"]);
    let (_, input) = stub.requests().pop().unwrap();
    assert_eq!(bodies(&input), ["letter"]);
}

#[tokio::test]
async fn a_batch_that_is_refused_whole_is_halved_until_the_culprit_stands_alone() {
    let stub = Stub::new(|_, input| {
        let refused = bodies(input).iter().any(|body| body == "5");
        refused.then(|| (400, error("InvalidMessageContents", "no")))
    });
    let sent: Vec<_> = (0..8).map(|n| outgoing(n.to_string())).collect();
    let answers = stub.broker().await.send(&queue("jobs"), &sent).await;
    for (n, answer) in answers.iter().enumerate() {
        assert_eq!(answer.is_ok(), n != 5, "{n}: {answer:?}");
    }
}

#[tokio::test]
async fn a_region_with_a_lower_limit_of_a_batch_gets_smaller_batches() {
    let stub = Stub::new(|_, input| {
        let bytes: usize = bodies(input).iter().map(String::len).sum();
        (bytes > 262_144).then(|| (400, error("BatchRequestTooLong", "too long")))
    });
    let sent: Vec<_> = (0..4).map(|_| outgoing("x".repeat(200_000))).collect();
    let answers = stub.broker().await.send(&queue("jobs"), &sent).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
}

#[tokio::test]
async fn after_a_failure_the_rest_of_a_fifo_group_is_held_back_and_other_groups_are_not() {
    let stub = Stub::new(|_, input| {
        let failed = bodies(input).iter().any(|body| body == "a0");
        failed.then(|| (200, failing(input, &["0"], "InternalError", "trouble")))
    });
    let mut sent = vec![grouped("a", "a0")];
    sent.extend((1..10).map(|n| grouped("b", &format!("b{n}"))));
    sent.extend([grouped("a", "a10"), grouped("b", "b11")]);
    let answers = stub.broker().await.send(&queue("jobs.fifo"), &sent).await;
    for (n, answer) in answers.iter().enumerate() {
        assert_eq!(answer.is_ok(), n != 0 && n != 10, "{n}: {answer:?}");
    }
    let error = answers[10].as_ref().unwrap_err();
    assert_eq!(error.fault, Fault::Unavailable);
    assert!(error.message.contains("order"), "{error}");
    let sent: Vec<_> = stub.requests().iter().flat_map(|it| bodies(&it.1)).collect();
    assert!(!sent.contains(&"a10".to_owned()), "{sent:?}");
}

#[tokio::test]
async fn the_trace_header_and_the_tenant_travel_with_a_message() {
    let stub = Stub::new(|_, _| None);
    let message =
        Outgoing { trace_header: Some("Root=1-2-3".to_owned()), ..grouped("tenant-7", "x") };
    let answers = stub.broker().await.send(&queue("jobs"), &[message]).await;
    assert!(answers[0].is_ok());
    let (_, input) = stub.requests().pop().unwrap();
    let entry = &input["Entries"][0];
    assert_eq!(entry["MessageGroupId"], "tenant-7");
    assert_eq!(entry["MessageSystemAttributes"]["AWSTraceHeader"]["StringValue"], "Root=1-2-3");
    assert!(entry["MessageDeduplicationId"].is_null());
}

#[tokio::test]
async fn a_retry_within_twelve_hours_is_a_change_of_visibility_alone() {
    let stub = Stub::new(|_, _| None);
    let all = [release("a", 43_200, true), release("b", 0, false)];
    let faults = settle(&stub.broker().await, &queue("jobs"), &all).await;
    assert_eq!(faults, [None, None]);
    let requests = stub.requests();
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].1["Entries"][0]["VisibilityTimeout"], 43_200);
    assert_eq!(requests[0].1["Entries"][1]["VisibilityTimeout"], 0);
}

/// Checks that a copy of message `a` was sent to its own queue, then the original deleted.
fn is_copied(requests: &[(String, Value)], attempts: u32) {
    let [(send, copy), (delete, _)] = requests else {
        panic!("{requests:?}");
    };
    assert_eq!((send.as_str(), delete.as_str()), ("SendMessageBatch", "DeleteMessageBatch"));
    assert_eq!(copy["QueueUrl"], "https://stub/1/jobs");
    let entry = &copy["Entries"][0];
    assert_eq!(entry["MessageBody"], "a");
    assert_eq!(entry["MessageGroupId"], "tenant");
    assert_eq!(entry["MessageAttributes"]["k"]["StringValue"], "v");
    let raw = &entry["MessageAttributes"][attribute::DEFERRED]["StringValue"];
    let deferral: Value = serde_json::from_str(raw.as_str().unwrap()).unwrap();
    assert_eq!(deferral["message_id"], "id-a");
    assert_eq!(deferral["attempts"], attempts);
    assert_eq!(entry["DelaySeconds"], 900);
    let wait =
        deferral["not_before_ms"].as_i64().unwrap() - jiff::Timestamp::now().as_millisecond();
    assert!((49_000_000..=50_000_000).contains(&wait), "{wait}");
}

#[tokio::test]
async fn a_retry_beyond_twelve_hours_is_a_copy_that_remembers_its_attempts() {
    let stub = Stub::new(|_, _| None);
    let all = [release("a", 50_000, true)];
    assert_eq!(settle(&stub.broker().await, &queue("jobs"), &all).await, [None]);
    is_copied(&stub.requests(), 3);
}

#[tokio::test]
async fn a_snooze_is_a_copy_that_has_spent_one_attempt_less() {
    let stub = Stub::new(|_, _| None);
    let all = [release("a", 50_000, false)];
    assert_eq!(settle(&stub.broker().await, &queue("jobs"), &all).await, [None]);
    is_copied(&stub.requests(), 2);
}

#[tokio::test]
async fn a_retry_that_a_long_job_has_no_hours_left_for_is_a_copy_after_all() {
    let stub = Stub::new(|operation, input| {
        (operation == "ChangeMessageVisibilityBatch")
            .then(|| (200, failing(input, &["0"], "InvalidParameterValue", TOO_LONG)))
    });
    let all = [release("a", 40_000, true)];
    assert_eq!(settle(&stub.broker().await, &queue("jobs"), &all).await, [None]);
    assert_eq!(
        stub.operations(),
        ["ChangeMessageVisibilityBatch", "SendMessageBatch", "DeleteMessageBatch"]
    );
}

#[tokio::test]
async fn what_cannot_be_copied_is_hidden_for_as_long_as_sqs_allows() {
    // Held for two hours already, on a FIFO queue; or on a queue that we may not send to.
    for name in ["jobs.fifo", "jobs"] {
        let stub = Stub::new(|operation, input| {
            if operation == "SendMessageBatch" {
                return Some((400, error("AccessDenied", "no sqs:SendMessage")));
            }
            let seconds = input["Entries"][0]["VisibilityTimeout"].as_u64();
            seconds
                .is_some_and(|seconds| seconds > 36_000)
                .then(|| (200, failing(input, &["0"], "InvalidParameterValue", TOO_LONG)))
        });
        let all = [release("a", 100_000, true)];
        assert_eq!(settle(&stub.broker().await, &queue(name), &all).await, [None]);
        let (_, last) = stub.requests().pop().unwrap();
        let seconds = last["Entries"][0]["VisibilityTimeout"].as_u64().unwrap();
        assert!((30_000..=36_000).contains(&seconds), "{name}: {seconds}");
        assert!(!stub.operations().contains(&"DeleteMessageBatch".to_owned()));
    }
}

#[tokio::test]
async fn an_expired_receipt_is_stale_whatever_sqs_calls_it() {
    for (code, text) in [
        ("ReceiptHandleIsInvalid", "The input receipt handle is invalid."),
        (
            "InvalidParameterValue",
            "Value r for parameter ReceiptHandle is invalid. Reason: The receipt handle has expired.",
        ),
        ("AWS.SimpleQueueService.MessageNotInflight", "not in flight"),
    ] {
        let stub = Stub::new(move |_, input| Some((200, failing(input, &["1"], code, text))));
        let receipts: Vec<_> = (0..3).map(|n| Receipt(format!("r{n}").into())).collect();
        let broker = stub.broker().await;
        let answers = broker.extend(&queue("jobs"), &receipts, Duration::from_millis(30_500)).await;
        assert!(answers[0].is_ok() && answers[2].is_ok());
        assert_eq!(answers[1].as_ref().unwrap_err().fault, Fault::Stale, "{code}");
        let (_, input) = stub.requests().pop().unwrap();
        assert_eq!(input["Entries"][0]["VisibilityTimeout"], 31, "rounded up");
        assert_eq!(ids(&input).len(), 3);
    }
}

#[tokio::test]
async fn a_receive_asks_for_no_more_than_sqs_gives() {
    let stub = Stub::new(|_, _| None);
    let broker = stub.broker().await;
    let day = Duration::from_hours(24);
    let messages = broker.receive(&queue("jobs"), 99, day, day, &Turn::default()).await.unwrap();
    assert!(messages.is_empty());
    let (_, input) = stub.requests().pop().unwrap();
    assert_eq!(input["MaxNumberOfMessages"], 10);
    assert_eq!(input["WaitTimeSeconds"], 20);
    assert_eq!(input["VisibilityTimeout"], 43_200);
    let mut asked = input["MessageSystemAttributeNames"].as_array().unwrap().clone();
    asked.sort_by_key(Value::to_string);
    assert_eq!(
        asked,
        [
            "AWSTraceHeader",
            "ApproximateReceiveCount",
            "DeadLetterQueueSourceArn",
            "MessageGroupId",
            "SentTimestamp"
        ]
    );
    assert_eq!(input["MessageAttributeNames"], json!(["All"]));
}

#[tokio::test]
async fn a_worker_that_may_not_read_attributes_goes_on_without() {
    let stub = Stub::new(|operation, _| {
        (operation == "GetQueueAttributes").then(|| (403, error("AccessDenied", "not allowed")))
    });
    let opened = stub.broker().await.open("jobs").await.unwrap();
    assert_eq!(opened, queue("jobs"));
    assert_eq!(stub.operations(), ["GetQueueUrl", "GetQueueAttributes"]);
}
