//! A result goes where the sender or the operator wants it, in the form that they chose.

use std::time::Duration;

use serde_json::json;

use crate::support::{
    broker::{attributes, outgoing},
    stage::{Kind, Setup, Stage, job, job_with, on_both, raw, take},
};

on_both! {
    a_bare_result_is_the_value_and_nothing_but
    a_bare_result_of_any_bytes_arrives
    a_tasks_own_format_stands_over_the_queues
    a_sender_may_name_the_queue_as_far_as_the_operator_allows
    lovage_send_waits_for_the_value
    a_result_that_the_queue_does_not_take_is_a_failure_that_says_so
}

/// As the system had it that this one stands in for: `{"data": 21}` in, `42` out.
async fn a_bare_result_is_the_value_and_nothing_but(kind: Kind) {
    let config = "queues.jobs.result_format = 'bare'\nqueues.jobs.default_task = 'process_data'";
    let stage = Stage::set(kind, Setup { config, ..Setup::default() }).await;
    let worker = stage.worker().await;
    let ids = stage.send(&[outgoing("{\"data\": 21}"), outgoing("{\"data\": null}")]).await;
    let results = stage.results_of(&ids).await;
    worker.stop().await;
    stage.is_done().await;
    let done = &results[&ids[0]].message;
    assert_eq!(&done.body[..], b"42");
    let mut told = done.attributes.clone();
    let component = told.remove("lovage-component").unwrap();
    assert!(component.starts_with("sha256:"), "{component}");
    let expected = [
        ("content-type", "application/json"),
        ("lovage-attempt", "1"),
        ("lovage-id", ids[0].as_str()),
        ("lovage-status", "done"),
        ("lovage-task", "process_data"),
    ];
    assert_eq!(told, attributes(&expected));
    let rejected = &results[&ids[1]];
    assert_eq!(rejected.message.attributes["lovage-status"], "rejected");
    assert_eq!(rejected.envelope["kind"], "rejected");
    assert!(rejected.envelope["message"].as_str().unwrap().contains("null"));
}

async fn a_bare_result_of_any_bytes_arrives(kind: Kind) {
    use base64::{Engine as _, prelude::BASE64_STANDARD};
    let config = "queues.jobs.result_format = 'bare'";
    let stage = Stage::set(kind, Setup { config, ..Setup::default() }).await;
    let worker = stage.worker().await;
    let values: [(&str, &str, &[u8]); 7] = [
        ("text", "text/plain", b"plain"),
        ("bytes", "image/png", b"\x89PNG\xff"),
        ("nul", "text/plain", b"a\0b"),
        ("escape", "text/plain", b"\x1b[31m"),
        ("non-character", "text/plain", "\u{ffff}".as_bytes()),
        ("nothing", "text/plain", b""),
        ("id-\u{ffff}", "application/json", b"\"\xef\xbf\xbf\""),
    ];
    let sent: Vec<_> = values
        .iter()
        .map(|(id, content_type, bytes)| {
            let body = BASE64_STANDARD.encode(bytes);
            // SQS takes no message without a body.
            let body = if body.is_empty() { "\n".to_owned() } else { body };
            let message = raw(id, "echo", content_type, body);
            crate::support::stage::with_attribute(message, "content-encoding", "base64")
        })
        .collect();
    // SQS does not take the last one's id in an attribute: such ids come in bodies.
    let (strange, plain) = sent.split_last().unwrap();
    let strange = match kind {
        Kind::Local => strange.clone(),
        Kind::Sqs => outgoing("{\"data\":\"\\uffff\",\"task\":\"echo\",\"id\":\"id-\\uffff\"}"),
    };
    stage.send(plain).await;
    stage.send(&[strange]).await;
    let mut left = values.len();
    while left > 0 {
        for result in take(&*stage.broker, &stage.results, Duration::from_secs(2)).await {
            left -= 1;
            let message = result.message;
            let id = &message.attributes["lovage-id"];
            let value = values.iter().find(|(known, ..)| *known == id.as_str());
            // An id that cannot be carried as it is, is carried as JSON would.
            let (_, content_type, bytes) =
                value.unwrap_or_else(|| values.last().filter(|_| id == "id-\\uffff").unwrap());
            assert_eq!(message.attributes["lovage-status"], "done", "{message:?}");
            assert_eq!(message.attributes["content-type"], *content_type);
            if *content_type == "application/json" {
                assert_eq!(result.envelope, json!("\u{ffff}"));
                continue;
            }
            let got = match message.attributes.get("content-encoding").map(String::as_str) {
                Some("base64") => BASE64_STANDARD.decode(message.body.trim_ascii()).unwrap(),
                None => message.body.to_vec(),
                other => panic!("{other:?}"),
            };
            assert_eq!(got, *bytes, "{id}");
        }
    }
    worker.stop().await;
    stage.is_done().await;
}

async fn a_tasks_own_format_stands_over_the_queues(kind: Kind) {
    for (queues, defaults, tasks, bare) in [
        // Echo's own format, and that of the others.
        ("envelope", None, "bare", [true, false]),
        ("bare", None, "envelope", [false, true]),
        ("bare", Some("envelope"), "bare", [true, false]),
    ] {
        let stage = Stage::set(kind, Setup::default()).await;
        stage.configure(&format!(
            "queues.jobs.result_format = '{queues}'\ntasks.echo.result_format = '{tasks}'"
        ));
        if let Some(format) = defaults {
            stage.configure(&format!("defaults.result_format = '{format}'"));
        }
        let worker = stage.worker().await;
        let ids = ["echo", "process_data"];
        stage.send(&ids.map(|task| job(task, task, json!(21)))).await;
        let results = stage.results_of(ids).await;
        worker.stop().await;
        stage.is_done().await;
        for ((task, value), bare) in ids.into_iter().zip([21, 42]).zip(bare) {
            let result = &results[task];
            let said = result.message.attributes.contains_key("lovage-status");
            assert_eq!(said, bare, "{queues}, {defaults:?}, {tasks}: {result:?}");
            let data = if bare { &result.envelope } else { &result.envelope["data"] };
            assert_eq!(*data, json!(value), "{result:?}");
        }
    }
}

async fn a_sender_may_name_the_queue_as_far_as_the_operator_allows(kind: Kind) {
    let stage = Stage::set(kind, Setup::default()).await;
    let allowed = match kind {
        Kind::Local => "letters".to_owned(),
        Kind::Sqs => stage.letters.address.to_string(),
    };
    let start = allowed.get(..allowed.len() - 3).unwrap();
    let missing = format!("{start}gone");
    stage.configure(&format!("queues.jobs.reply_to = ['{start}*']"));
    let worker = stage.worker().await;
    let reply =
        |id: &str, to: &str| job_with(id, "process_data", json!(21), json!({"reply_to": to}));
    stage
        .send(&[
            reply("allowed", &allowed),
            reply("forbidden", &stage.jobs.address),
            reply("missing", &missing),
        ])
        .await;
    // Those without a queue of their own go where all results go.
    let results = stage.results_of(["forbidden", "missing"]).await;
    worker.logs("job finished", 1).await;
    worker.stop().await;
    stage.is_done().await;
    for (id, words) in [("forbidden", "queues.jobs.reply_to does not allow"), ("missing", "gone")] {
        let result = &results[id].envelope;
        assert_eq!(result["status"], "rejected");
        assert_eq!(result["error"]["kind"], "reply_to");
        assert!(result["error"]["message"].as_str().unwrap().contains(words), "{result}");
        assert!(result.get("started_at").is_none(), "it ran: {result}");
    }
    let mut letters = stage.dead_letters().await;
    letters.retain(|_, (_, letter)| letter.is_none());
    assert_eq!(letters.len(), 1, "{letters:?}");
    let (message, _) = letters.pop_first().unwrap().1;
    let envelope: serde_json::Value = serde_json::from_slice(&message.body).unwrap();
    assert_eq!((&envelope["id"], &envelope["data"]), (&json!("allowed"), &json!(42)));
}

async fn lovage_send_waits_for_the_value(kind: Kind) {
    let stage = Stage::set(kind, Setup::default()).await;
    let worker = stage.worker().await;
    let output = stage.lovage(&["send", "process_data", "--data", "21", "--wait"]).await;
    assert_eq!((output.code, output.stdout.as_str()), (Some(0), "42\n"), "{output:?}");
    let output = stage.lovage(&["send", "process_data", "--data", "null", "--wait"]).await;
    assert_eq!((output.code, output.stdout.as_str()), (Some(1), ""), "{output:?}");
    assert!(output.stderr.starts_with("rejected: "), "{output:?}");
    worker.stop().await;
    // On SQS the answers come to a queue of the sender's own.
    if kind == Kind::Local {
        assert_eq!(take(&*stage.broker, &stage.results, Duration::ZERO).await.len(), 2);
    }
    stage.is_done().await;
}

async fn a_result_that_the_queue_does_not_take_is_a_failure_that_says_so(kind: Kind) {
    let config = "defaults.output_bytes = 5_000_000\ndefaults.max_attempts = 1";
    let setup = Setup { hostile: &["flood"], config, ..Setup::default() };
    let stage = Stage::set(kind, setup).await;
    let mut sent = vec![job("over-the-brokers", "flood", json!({"output_bytes": 1_100_000}))];
    if kind == Kind::Sqs {
        // A queue of its own, which takes less than SQS does.
        let small =
            crate::support::ministack::NewQueue { max_bytes: Some(2048), ..Default::default() };
        let url = small.create("small-results").await;
        stage.configure(&format!(
            "queues.small.address = '{url}'\nqueues.small.consume = false\n\
             tasks.flood.results = 'small'"
        ));
        sent.push(job("over-the-queues", "flood", json!({"output_bytes": 4096})));
        let small = stage.broker.open(&url).await.unwrap();
        let worker = stage.worker().await;
        stage.send(&sent).await;
        let mut kinds = Vec::new();
        while kinds.len() < 2 {
            for result in take(&*stage.broker, &small, Duration::from_secs(2)).await {
                kinds.push(result.envelope["error"]["kind"].clone());
            }
        }
        assert_eq!(kinds, ["result_too_large", "result_too_large"]);
        worker.stop().await;
        stage.is_done().await;
        return;
    }
    stage.send(&sent).await;
    let worker = stage.worker().await;
    let error = stage.result_of("over-the-brokers").await["error"].clone();
    assert_eq!(error["kind"], "result_too_large");
    assert!(error["message"].as_str().unwrap().contains("takes 1048576"), "{error}");
    worker.stop().await;
    stage.is_done().await;
}
