//! What goes wrong with SQS is told in words that a person can act on, and quickly.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use aws_config::{BehaviorVersion, Region, SdkConfig};
use lovage::broker::{Broker, BrokerError, Fault, Turn, sqs::SqsBroker};
use lovage::sqs_charset::escape_json;

use crate::support::{
    broker::outgoing,
    ministack::{self, config_for},
    stub::{Stub, error},
};

/// Names each of these.
fn says(error: &BrokerError, words: &[&str]) {
    for word in words {
        assert!(error.message.contains(word), "no {word:?} in: {error}");
    }
    assert!(!error.message.contains('\n'), "one line: {error}");
    assert!(!error.message.ends_with('.'), "no full stop: {error}");
}

#[tokio::test]
async fn a_missing_queue_is_named() {
    let broker = SqsBroker::from_config(&ministack::config()).await.unwrap();
    let error = broker.open("not-there").await.unwrap_err();
    assert_eq!(error.fault, Fault::NotFound);
    says(&error, &["find", "\"not-there\"", "NonExistentQueue", "create it"]);
}

#[tokio::test]
async fn what_is_no_queue_is_refused_without_a_request() {
    let stub = Stub::new(|_, _| None);
    let broker = stub.broker().await;
    for wrong in ["", "my queue", "arn:aws:sqs:eu-west-3:1:jobs", "arn:aws:s3:::b"] {
        let error = broker.open(wrong).await.unwrap_err();
        assert_eq!(error.fault, Fault::Invalid, "{wrong}");
    }
    let error = broker.open("arn:aws:sqs:eu-west-3:1:jobs").await.unwrap_err();
    says(&error, &["eu-west-3", "us-east-1", "AWS_REGION"]);
    assert!(stub.requests().is_empty());
}

#[tokio::test]
async fn a_permission_that_lacks_is_named() {
    let stub = Stub::new(|_, _| Some((403, error("AccessDenied", "Access is denied."))));
    let broker = stub.broker().await;
    let error = broker.open("jobs").await.unwrap_err();
    assert_eq!(error.fault, Fault::Denied);
    says(&error, &["AccessDenied", "Access is denied", "stub-request", "sqs:GetQueueUrl"]);
}

#[tokio::test]
async fn throttling_may_pass() {
    let stub = Stub::new(|_, _| Some((400, error("RequestThrottled", "slow down"))));
    let error = stub.broker().await.open("jobs").await.unwrap_err();
    assert_eq!(error.fault, Fault::Unavailable);
    assert!(stub.requests().len() > 1, "it was tried again");
}

#[tokio::test]
async fn an_endpoint_that_is_not_there_is_named_soon() {
    // A port that was free a moment ago.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let broker = SqsBroker::from_config(&config_for(&endpoint)).await.unwrap();
    let before = Instant::now();
    let error = broker.open("jobs").await.unwrap_err();
    assert!(before.elapsed() < Duration::from_secs(10), "{:?}", before.elapsed());
    assert_eq!(error.fault, Fault::Unavailable);
    says(&error, &["\"jobs\"", &endpoint, "AWS_ENDPOINT_URL"]);
}

#[tokio::test]
async fn an_endpoint_that_is_no_sqs_is_told_from_one_that_is_away() {
    let stub = Stub::new(|_, _| Some((200, "<html>hello</html>".into())));
    let broker = stub.broker().await;
    let error = broker.open("jobs").await.unwrap_err();
    assert_eq!(error.fault, Fault::Unavailable, "{error}");
    says(&error, &[&stub.endpoint]);
}

#[tokio::test]
async fn missing_credentials_and_a_missing_region_are_told_before_any_request() {
    let config = || SdkConfig::builder().behavior_version(BehaviorVersion::latest());
    let error = SqsBroker::from_config(&config().build()).await.unwrap_err();
    assert_eq!(error.fault, Fault::Invalid);
    says(&error, &["region", "AWS_REGION"]);

    let config = config().region(Region::new("eu-west-1")).build();
    let error = SqsBroker::from_config(&config).await.unwrap_err();
    assert_eq!(error.fault, Fault::Denied);
    says(&error, &["credentials", "AWS_PROFILE", "AWS_ACCESS_KEY_ID"]);
}

#[tokio::test]
async fn credentials_that_go_missing_later_are_told_for_what_they_are() {
    let stub = Stub::new(|_, _| None);
    let config = aws_sdk_sqs::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-west-1"))
        .endpoint_url(&stub.endpoint)
        .build();
    let broker = SqsBroker::with_client(&aws_sdk_sqs::Client::from_conf(config));
    let error = broker.open("jobs").await.unwrap_err();
    assert_eq!(error.fault, Fault::Denied, "{error}");
    says(&error, &["\"jobs\"", "credentials", "AWS_PROFILE"]);
    assert!(stub.requests().is_empty());
}

/// Runs [`connects_by_the_environment`] in a process of its own with this environment alone.
fn connect_with(environment: &[(&str, &str)]) -> String {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "sqs_errors::connects_by_the_environment", "--nocapture"])
        .env_clear()
        .env("LOVAGE_TEST_CONNECT", "1")
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn connects_by_the_environment() {
    if std::env::var_os("LOVAGE_TEST_CONNECT").is_some() {
        match SqsBroker::connect().await {
            Ok(broker) => eprintln!("{:?}", broker.open("jobs").await),
            Err(error) => eprintln!("{:?}: {error}", error.fault),
        }
        return;
    }
    let stub = Stub::new(|_, _| None);
    let region = ("AWS_REGION", "eu-west-1");
    let keys = [("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "b")];

    for endpoint in ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_SQS"] {
        let said = connect_with(&[region, keys[0], keys[1], (endpoint, &stub.endpoint)]);
        assert!(said.contains("https://stub/1/jobs"), "{said}");
    }
    assert_eq!(stub.operations().len(), 4);

    let said = connect_with(&[region]);
    assert!(said.contains("Denied: could not connect to SQS: no AWS credentials"), "{said}");
    let said = connect_with(&keys);
    assert!(said.contains("Invalid: could not connect to SQS: no AWS region"), "{said}");
}

#[tokio::test]
async fn a_body_that_sqs_refuses_is_told_with_the_character_and_its_place() {
    let url = ministack::queue("charset").await;
    let broker = SqsBroker::from_config(&ministack::config()).await.unwrap();
    let queue = broker.open(&url).await.unwrap();
    let json = serde_json::json!({ "a": "\u{ffff}" }).to_string();
    let bodies = ["ok", "a\u{0}b", "", &json, &escape_json(&json)];
    let answers = broker.send(&queue, &bodies.map(|it| outgoing(it.to_owned()))).await;
    let taken: Vec<_> = answers.iter().map(Result::is_ok).collect();
    assert_eq!(taken, [true, false, false, false, true]);
    says(answers[1].as_ref().unwrap_err(), &["U+0000", "byte 1"]);
    says(answers[2].as_ref().unwrap_err(), &["empty"]);
    says(answers[3].as_ref().unwrap_err(), &["U+FFFF", "byte 6"]);
}

#[tokio::test]
async fn an_error_never_shows_what_a_message_holds() {
    let stub = Stub::new(|_, _| Some((200, serde_json::json!({ "Messages": "top-secret-body" }))));
    let broker = stub.broker().await;
    let queue = broker.open("https://stub/1/jobs").await;
    let queue = queue.unwrap();
    let error =
        broker.receive(&queue, 1, Duration::ZERO, Duration::from_secs(1), &Turn::default()).await;
    if let Err(error) = error {
        assert!(!format!("{error:?}").contains("top-secret"), "{error:?}");
    }
    let refused = broker.send(&queue, &[outgoing("top-secret\u{0}")]).await;
    let error = refused[0].as_ref().unwrap_err();
    assert!(!format!("{error:?}").contains("top-secret"), "{error:?}");
}
