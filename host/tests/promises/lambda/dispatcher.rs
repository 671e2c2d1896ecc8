//! What the dispatcher promises, as a function and as a command.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::{Value, json};

use crate::support::{
    lambda::{NewFunction, directory, results},
    ministack,
    runtime_api::Process,
    stub::{Stub, error},
};

#[tokio::test]
async fn the_dispatcher_hands_on_to_the_worker_function() {
    let (function, results_queue) = super::worker(|new| new).await;
    let dispatcher = NewFunction::dispatcher()
        .with("LOVAGE__DISPATCH__FUNCTION", &function.name)
        .create("dispatcher")
        .await;
    let answer = dispatcher.invoke(&json!({"data": 21, "id": "order-17"})).await.unwrap();
    let text = answer["body"].as_str().expect("the body is a string");
    let said: String = serde_json::from_str(text).expect("which holds a JSON string");
    assert!(said.contains("order-17"), "{said}");
    assert_eq!(answer, json!({"statusCode": 200, "body": text}), "this and nothing else");
    let published = results(&results_queue, 1).await;
    assert_eq!(super::by_id(&published, "order-17")["data"], 42);
}

#[tokio::test]
async fn the_dispatcher_sends_to_a_queue() {
    let jobs = ministack::queue("dispatched").await;
    let dispatcher = NewFunction::dispatcher()
        .with("LOVAGE__BROKER__KIND", "sqs")
        .with("LOVAGE__DISPATCH__KIND", "queue")
        .with("LOVAGE__DISPATCH__QUEUE", &jobs)
        .create("dispatcher")
        .await;
    let event = json!({"task": "process_data", "data": 21, "id": "order-17"});
    assert_eq!(dispatcher.invoke(&event).await.unwrap()["statusCode"], 200);
    // And from there to a result, as any job of that queue.
    let (function, results_queue) = super::worker(|new| new).await;
    function.map(&jobs).await;
    assert_eq!(super::by_id(&results(&results_queue, 1).await, "order-17")["data"], 42);
}

#[tokio::test]
async fn bad_events_get_a_fitting_status() {
    let nowhere = NewFunction::dispatcher()
        .with("LOVAGE__DISPATCH__FUNCTION", &ministack::unique("absent"))
        .create("dispatcher")
        .await;
    for (event, status, words) in [
        (json!({}), 400, "`data` is missing"),
        (json!({"data": 1, "tsak": "x"}), 400, "tsak"),
        (json!([1]), 400, "no object"),
        (json!({"data": 1, "eta": "2099-01-01T00:00:00Z"}), 400, "dispatch.kind"),
        (json!({"data": "x".repeat(1024 * 1024)}), 413, "1048576"),
        (json!({"data": 1}), 404, "dispatch.function"),
    ] {
        let answer = nowhere.invoke(&event).await.unwrap();
        assert_eq!(answer["statusCode"], status, "{words}: {answer}");
        let body: String = serde_json::from_str(answer["body"].as_str().unwrap()).unwrap();
        assert!(body.contains(words), "no {words:?} in: {body}");
    }
    let unset = NewFunction::dispatcher().create("dispatcher").await;
    let answer = unset.invoke(&json!({"data": 1})).await.unwrap();
    assert_eq!(answer["statusCode"], 500);
    assert!(answer["body"].as_str().unwrap().contains("set dispatch.function"), "{answer}");
}

#[cfg(feature = "cli")]
#[tokio::test]
async fn the_command_line_dispatches_as_the_function_does() {
    let dispatch = |event: &str, variables: &[(&str, &str)]| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_lovage"))
            .args(["dispatch", "--event", event])
            .current_dir(directory())
            .env("AWS_REGION", ministack::REGION)
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", "test")
            .env("AWS_ENDPOINT_URL", ministack::endpoint())
            .envs(variables.iter().copied())
            .output()
            .unwrap();
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        (output.status.code(), answer)
    };
    let (function, results_queue) = super::worker(|new| new).await;
    let to_function = [("LOVAGE__DISPATCH__FUNCTION", function.name.as_str())];
    let (code, answer) = dispatch(r#"{"data": 21, "id": "a"}"#, &to_function);
    assert_eq!((code, &answer["statusCode"]), (Some(0), &json!(200)), "{answer}");
    assert_eq!(super::by_id(&results(&results_queue, 1).await, "a")["data"], 42);
    let (code, answer) = dispatch("{}", &to_function);
    assert_eq!((code, &answer["statusCode"]), (Some(1), &json!(400)), "{answer}");

    let queue = ministack::queue("dispatched").await;
    let to_queue = [
        ("LOVAGE__BROKER__KIND", "sqs"),
        ("LOVAGE__DISPATCH__KIND", "queue"),
        ("LOVAGE__DISPATCH__QUEUE", queue.as_str()),
    ];
    let (code, answer) = dispatch(r#"{"data": 21, "id": "b"}"#, &to_queue);
    assert_eq!((code, &answer["statusCode"]), (Some(0), &json!(200)), "{answer}");
    assert_eq!(results(&queue, 1).await, [json!({"data": 21, "id": "b"})]);
}

/// The dispatcher with this environment, and what it answers to a good event.
struct Dispatcher(Process);

impl Dispatcher {
    fn start(environment: &[(&str, &str)]) -> Self {
        let handler = [("_HANDLER", "dispatcher")];
        Self(Process::start(&[&handler, environment].concat()))
    }

    /// The status, and the text in the body.
    fn answer(&self, time: Duration) -> (u64, String) {
        let answer = self.0.invoke(json!({"data": 21}), time).unwrap();
        let body = serde_json::from_str(answer["body"].as_str().unwrap()).unwrap();
        (answer["statusCode"].as_u64().unwrap(), body)
    }
}

/// A stub whose every answer can be set.
fn answering() -> (Stub, Arc<Mutex<(u16, Value)>>) {
    let answer = Arc::new(Mutex::new((202, json!({}))));
    let set = Arc::clone(&answer);
    (Stub::new(move |_, _| Some(answer.lock().unwrap().clone())), set)
}

#[test]
fn each_refusal_of_lambda_has_its_status_and_its_advice() {
    let (stub, lambda) = answering();
    let dispatcher = Dispatcher::start(&[
        ("AWS_ENDPOINT_URL", &stub.endpoint),
        ("LOVAGE__DISPATCH__FUNCTION", "the-worker"),
    ]);
    // The SDK tries again what may pass, with waits between.
    let time = Duration::from_mins(1);
    for (http, code, status, advice) in [
        (403, "AccessDeniedException", 403, "needs lambda:InvokeFunction"),
        (403, "UnrecognizedClientException", 403, "needs lambda:InvokeFunction"),
        (404, "ResourceNotFoundException", 404, "check dispatch.function"),
        (413, "RequestTooLargeException", 413, "send a reference"),
        (400, "InvalidRequestContentException", 400, "check the event"),
        (429, "TooManyRequestsException", 429, "try again later"),
        (500, "ServiceException", 502, "try again later"),
        (502, "EC2UnexpectedException", 502, "try again later"),
    ] {
        *lambda.lock().unwrap() = (http, error(code, "Said by AWS"));
        let (answered, body) = dispatcher.answer(time);
        assert_eq!(answered, status, "{code}: {body}");
        for part in ["the-worker", code, "Said by AWS", advice] {
            assert!(body.contains(part), "no {part:?} in: {body}");
        }
    }
    *lambda.lock().unwrap() = (202, json!({}));
    assert_eq!(dispatcher.answer(time).0, 200, "and goes on");
}

#[test]
fn each_refusal_of_sqs_has_its_status() {
    let (stub, sqs) = answering();
    let dispatcher = Dispatcher::start(&[
        ("AWS_ENDPOINT_URL", &stub.endpoint),
        ("LOVAGE__DISPATCH__KIND", "queue"),
        ("LOVAGE__DISPATCH__QUEUE", "https://stub/1/jobs"),
    ]);
    let time = Duration::from_mins(1);
    for (http, code, status) in [
        (403, "AccessDenied", 403),
        (400, "QueueDoesNotExist", 404),
        (400, "BatchRequestTooLong", 413),
        (400, "InvalidMessageContents", 400),
        (403, "RequestThrottled", 503),
        (500, "InternalError", 503),
        (503, "ServiceUnavailable", 503),
    ] {
        *sqs.lock().unwrap() = (http, error(code, "Said by AWS"));
        let (answered, body) = dispatcher.answer(time);
        assert_eq!(answered, status, "{code}: {body}");
        assert!(body.contains("jobs") && body.contains(code), "{body}");
    }
}

#[test]
fn an_aws_that_cannot_be_reached_is_503_and_one_that_is_silent_504() {
    let to_function = ("LOVAGE__DISPATCH__FUNCTION", "the-worker");
    let nobody = Dispatcher::start(&[("AWS_ENDPOINT_URL", "http://127.0.0.1:1"), to_function]);
    let (status, body) = nobody.answer(Duration::from_mins(1));
    assert_eq!(status, 503, "{body}");
    assert!(body.contains("check region, endpoint and network"), "{body}");

    let stub = Stub::new(|_, _| {
        std::thread::sleep(Duration::from_mins(5));
        None
    });
    let endpoint = ("AWS_ENDPOINT_URL", stub.endpoint.as_str());
    let to_queue =
        [("LOVAGE__DISPATCH__KIND", "queue"), ("LOVAGE__DISPATCH__QUEUE", "https://stub/1/jobs")];
    for target in [&[to_function][..], &to_queue] {
        let silent = Dispatcher::start(&[&[endpoint], target].concat());
        // In time for the caller to have the answer.
        let (status, body) = silent.answer(Duration::from_secs(6));
        assert_eq!(status, 504, "{body}");
        assert!(body.contains("may have been handed on or not"), "{body}");
    }
}

#[cfg(feature = "cli")]
#[test]
fn a_dispatcher_that_is_not_configured_is_500() {
    for (variables, words) in [
        (&[][..], "set dispatch.function"),
        (&[("LOVAGE__DISPATCH__KIND", "queue")], "set dispatch.queue"),
        (&[("LOVAGE__DISPATCH__FUNCTION", "f")], "no region is set"),
        (
            &[("LOVAGE__DISPATCH__FUNCTION", "f"), ("AWS_REGION", ministack::REGION)],
            "no credentials",
        ),
    ] {
        let home = tempfile::tempdir().unwrap();
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_lovage"))
            .args(["dispatch", "--event", r#"{"data": 21}"#])
            .current_dir(home.path())
            .env_clear()
            .env("HOME", home.path())
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .envs(variables.iter().copied())
            .output()
            .unwrap();
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((output.status.code(), &answer["statusCode"]), (Some(1), &json!(500)));
        assert!(answer["body"].as_str().unwrap().contains(words), "no {words:?} in {answer}");
    }
}
