//! What `lovage send` promises: each of its flags is in the message, and the answer is what it
//! prints.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{
    broker::{attributes, finish, receive_one, settle},
    stage::{Kind, SOON, Setup, Stage, on_both},
    worker::Output,
};

on_both! {
    every_flag_is_in_the_message
    a_delay_is_kept
    raw_payloads_travel_as_they_are
    what_a_raw_message_cannot_carry_is_told
    the_group_is_the_order_on_fifo_queues
    the_group_is_the_tenant_on_others
    json_output_is_for_scripts
    raw_payloads_are_waited_for_where_the_broker_keeps_results
    a_failure_is_told_as_run_tells_it
    who_waits_does_not_send_the_result_elsewhere_unasked
    data_that_is_no_json_is_told_which_flag_says_so
}

/// What was sent, taken off the queue.
async fn sent(stage: &Stage) -> lovage::broker::Message {
    let message = receive_one(&*stage.broker, &stage.jobs, SOON, Duration::from_secs(30)).await;
    settle(&*stage.broker, &stage.jobs, &[finish(&message)]).await;
    message
}

fn json_of(output: &Output) -> Value {
    serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

async fn every_flag_is_in_the_message(kind: Kind) {
    let stage = Stage::set(kind, Setup::default()).await;
    let flags = "send echo --data [1.10] --id mine --tenant acme --eta 2020-01-01T00:00:00Z \
                 --expires 2100-01-01T00:00:00Z --max-attempts 7 --timeout 1500ms \
                 --reply-to results --header a=1 --header b=x=y --group acme";
    let output = stage.lovage(&flags.split_whitespace().collect::<Vec<_>>()).await;
    assert_eq!((output.code, output.stdout.as_str()), (Some(0), "mine\n"), "{output:?}");
    let message = sent(&stage).await;
    assert_eq!(message.group.as_deref(), Some("acme"));
    let body: Value = serde_json::from_slice(&message.body).unwrap();
    let expected = json!({
        "data": [1.10], "id": "mine", "task": "echo", "tenant": "acme",
        "eta": "2020-01-01T00:00:00Z", "expires": "2100-01-01T00:00:00Z", "max_attempts": 7,
        "timeout_ms": 1500, "reply_to": "results", "headers": {"a": "1", "b": "x=y"},
    });
    assert_eq!(body, expected);
    let text = std::str::from_utf8(&message.body).unwrap();
    assert!(text.contains("[1.10]"), "the number was printed anew: {text}");
    // And all of it is understood.
    stage.configure("queues.jobs.reply_to = ['*']");
    let flags = format!(
        "send echo_context --data 1 --id mine --tenant acme --max-attempts 1 --timeout 15s \
         --reply-to {} --header A=1",
        stage.letters.address
    );
    stage.lovage(&flags.split_whitespace().collect::<Vec<_>>()).await;
    let worker = stage.worker().await;
    let answer = receive_one(&*stage.broker, &stage.letters, SOON, Duration::from_secs(30)).await;
    worker.stop().await;
    let answer: Value = serde_json::from_slice(&answer.body).unwrap();
    let seen = &answer["data"];
    assert_eq!(seen["tenant"], "acme", "{answer}");
    assert_eq!((&seen["max_attempts"], &seen["headers"]), (&json!(1), &json!([["a", "1"]])));
}

async fn a_delay_is_kept(kind: Kind) {
    let stage = Stage::set(kind, Setup::default()).await;
    let output = stage.lovage(&["send", "echo", "--data", "1", "--delay", "1h"]).await;
    assert_eq!(output.code, Some(0), "{output:?}");
    let depth = stage.depth().await;
    assert_eq!((depth.ready, depth.delayed), (0, 1));
    let both = ["send", "echo", "--data", "1", "--delay", "1h", "--eta", "2100-01-01T00:00:00Z"];
    assert_eq!(stage.lovage(&both).await.code, Some(2));
}

async fn raw_payloads_travel_as_they_are(kind: Kind) {
    let stage = Stage::set(kind, Setup::default()).await;
    let flags = "send echo --data <a>1.0</a> --raw text/xml --id mine --tenant acme --header a=1";
    let output = stage.lovage(&flags.split(' ').collect::<Vec<_>>()).await;
    assert_eq!((output.code, output.stdout.as_str()), (Some(0), "mine\n"), "{output:?}");
    let message = sent(&stage).await;
    assert_eq!(&message.body[..], b"<a>1.0</a>");
    let expected = [
        ("a", "1"),
        ("content-type", "text/xml"),
        ("lovage-format", "raw"),
        ("lovage-id", "mine"),
        ("lovage-task", "echo"),
        ("lovage-tenant", "acme"),
    ];
    assert_eq!(message.attributes, attributes(&expected));
    // What says that it is JSON has to be.
    let wrong = ["send", "echo", "--data", "<a>", "--raw", "application/json; charset=utf-8"];
    assert_eq!(stage.lovage(&wrong).await.code, Some(2));
    // Bytes that SQS does not carry, too.
    std::fs::write(stage.directory().join("bytes"), b"\0\xff").unwrap();
    let bytes = ["send", "echo", "--data", "@bytes", "--raw", "a/b", "--id", "bytes"];
    let output = stage.lovage(&bytes).await;
    assert_eq!(output.code, Some(0), "{output:?}");
    let worker = stage.worker().await;
    let result = stage.result_of("bytes").await;
    worker.stop().await;
    assert_eq!((&result["data_base64"], &result["content_type"]), (&json!("AP8="), &json!("a/b")));
}

async fn what_a_raw_message_cannot_carry_is_told(kind: Kind) {
    let stage = Stage::set(kind, Setup::default()).await;
    for flag in [
        "--eta 2100-01-01T00:00:00Z",
        "--expires 2100-01-01T00:00:00Z",
        "--max-attempts 1",
        "--timeout 1s",
        "--reply-to results",
    ] {
        let send = format!("send echo --data 1 --raw text/plain {flag}");
        let output = stage.lovage(&send.split(' ').collect::<Vec<_>>()).await;
        assert_eq!((output.code, output.stdout.as_str()), (Some(2), ""), "{flag}: {output:?}");
        assert!(output.stderr.contains("a raw message cannot carry --eta"), "{flag}: {output:?}");
    }
    stage.is_done().await;
}

async fn the_group_is_the_tenant_on_others(kind: Kind) {
    let stage = Stage::set(kind, Setup::default()).await;
    let output = stage.lovage(&["send", "echo", "--data", "1", "--tenant", "acme"]).await;
    assert_eq!(output.code, Some(0), "{output:?}");
    assert_eq!(sent(&stage).await.group.as_deref(), Some("acme"));
    let send = ["send", "echo", "--data", "1", "--tenant", "acme", "--group", "other"];
    let output = stage.lovage(&send).await;
    assert_eq!(output.code, Some(2), "{output:?}");
    assert!(output.stderr.contains("leave --group away"), "{output:?}");
    stage.is_done().await;
}

async fn the_group_is_the_order_on_fifo_queues(kind: Kind) {
    let stage = Stage::set(kind, Setup { fifo: true, ..Setup::default() }).await;
    // The id is the deduplication id, so that a script may send again what it is not sure of.
    for _ in 0..2 {
        let send = ["send", "echo", "--data", "1", "--group", "g", "--id", "once"];
        let output = stage.lovage(&send).await;
        assert_eq!(output.code, Some(0), "{output:?}");
    }
    assert_eq!(sent(&stage).await.group.as_deref(), Some("g"));
    stage.is_done().await;
}

async fn json_output_is_for_scripts(kind: Kind) {
    let stage = Stage::set(kind, Setup::default()).await;
    let output = stage.lovage(&["send", "echo", "--data", "1", "--id", "mine", "--json"]).await;
    let told = json_of(&output);
    assert_eq!((&told["id"], &told["queue"]), (&json!("mine"), &json!(&*stage.jobs.name)));
    assert_eq!(told["message_id"], sent(&stage).await.id);
    let worker = stage.worker().await;
    for (data, status, code) in [("21", "done", 0), ("null", "rejected", 1)] {
        let send = ["send", "process_data", "--data", data, "--wait", "--json", "--id", data];
        let output = stage.lovage(&send).await;
        assert_eq!((output.code, output.stderr.as_str()), (Some(code), ""), "{output:?}");
        let envelope = json_of(&output);
        assert_eq!((&envelope["status"], &envelope["id"]), (&json!(status), &json!(data)));
    }
    worker.stop().await;
}

async fn raw_payloads_are_waited_for_where_the_broker_keeps_results(kind: Kind) {
    let stage = Stage::set(kind, Setup::default()).await;
    let worker = stage.worker().await;
    let send = ["send", "echo", "--data", "hello", "--raw", "text/plain", "--wait"];
    let output = stage.lovage(&send).await;
    match kind {
        // The text alone, without a line break of ours.
        Kind::Local => {
            assert_eq!((output.code, output.stdout.as_str()), (Some(0), "hello"), "{output:?}");
        }
        Kind::Sqs => {
            assert_eq!((output.code, output.stdout.as_str()), (Some(2), ""), "{output:?}");
            assert!(output.stderr.contains("(on SQS) --wait"), "{output:?}");
        }
    }
    worker.stop().await;
}

async fn a_failure_is_told_as_run_tells_it(kind: Kind) {
    let stage = Stage::set(kind, Setup::default()).await;
    let worker = stage.worker().await;
    let send = ["send", "fail", "--data", r#"{"error":"fail"}"#, "--wait"];
    let output = stage.lovage(&send).await;
    worker.stop().await;
    assert_eq!((output.code, output.stdout.as_str()), (Some(1), ""), "{output:?}");
    let told = "failed: ToldToFail: attempt 1 fails, as it was told to\n";
    assert_eq!(output.stderr, told);
}

async fn who_waits_does_not_send_the_result_elsewhere_unasked(kind: Kind) {
    let config = "queues.jobs.reply_to = ['*']";
    let stage = Stage::set(kind, Setup { config, ..Setup::default() }).await;
    let worker = stage.worker().await;
    let letters = &*stage.letters.address;
    let send = ["send", "echo", "--data", "1", "--wait", "--reply-to", letters];
    let output = stage.lovage(&send).await;
    match kind {
        // The embedded broker keeps the result, wherever it is sent as well.
        Kind::Local => {
            assert_eq!((output.code, output.stdout.as_str()), (Some(0), "1\n"), "{output:?}");
            receive_one(&*stage.broker, &stage.letters, SOON, Duration::from_secs(30)).await;
        }
        Kind::Sqs => {
            assert_eq!((output.code, output.stdout.as_str()), (Some(2), ""), "{output:?}");
            assert!(output.stderr.contains("--reply-to to another one"), "{output:?}");
        }
    }
    worker.stop().await;
    assert_eq!(stage.depth().await.ready, 0);
}

async fn data_that_is_no_json_is_told_which_flag_says_so(kind: Kind) {
    let stage = Stage::set(kind, Setup::default()).await;
    std::fs::write(stage.directory().join("text"), "hello").unwrap();
    for (command, words) in [
        (&["send", "echo", "--data", "@text"][..], ["--data is not JSON", "--raw says"]),
        (&["send", "echo", "--data", "-x"], ["--data is not JSON", "text needs quotes"]),
        (&["dispatch", "--event", "@text"], ["--event is not JSON", "a JSON object"]),
    ] {
        let output = stage.lovage(command).await;
        assert_eq!((output.code, output.stdout.as_str()), (Some(2), ""), "{output:?}");
        for part in words {
            assert!(output.stderr.contains(part), "no {part:?} in {output:?}");
        }
    }
}
