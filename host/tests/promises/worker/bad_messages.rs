//! A message that is no job ends as a dead letter that says why. It neither crashes nor holds up
//! the worker, and no guest sees it.

use lovage::broker::Outgoing;
use serde_json::json;

use crate::support::{
    broker::{attributes, outgoing},
    stage::{Kind, Setup, Stage, job, job_with, on_both, raw, with_attribute},
};

on_both! {
    each_is_refused_with_a_reason_and_the_rest_goes_on
    a_body_of_the_largest_size_is_run_or_refused_but_never_lost
    jobs_of_one_id_are_both_run
}

async fn each_is_refused_with_a_reason_and_the_rest_goes_on(kind: Kind) {
    let stage = Stage::set(kind, Setup::default()).await;
    let with = |id: &str, more: serde_json::Value| job_with(id, "process_data", json!(21), more);
    // Bodies that do not tell their id are known by the broker's.
    let mut bad: Vec<(Outgoing, &str)> = vec![
        (outgoing("{\"data\": 21"), "the body is not JSON"),
        (outgoing("21"), "JSON but no object"),
        (outgoing("[]"), "JSON but no object"),
        (outgoing("{\"task\": \"echo\"}"), "`data` is missing"),
        (outgoing("{\"data\": 21}"), "no task is named"),
        (outgoing("{\"data\": 21, \"tsk\": \"echo\"}"), "unknown field `tsk`"),
        (outgoing("{\"data\": 21, \"task\": 7}"), "expected a string"),
        (with("eta", json!({"eta": "tomorrow"})), "`eta` is no time"),
        (with("expires", json!({"expires": "2026-13-01T00:00:00Z"})), "`expires` is no time"),
        (with("types", json!({"max_attempts": -1})), "expected u32"),
        (with("timeout", json!({"timeout_ms": "5s"})), "expected u64"),
        (with("headers", json!({"headers": ["a"]})), "expected a map"),
        (with("none", json!({"max_attempts": 0})), "at least 1"),
        (job("nobody", "no_such_task", json!(1)), "no component serves the task `no_such_task`"),
        (job(&"x".repeat(201), "echo", json!(1)), "`id` has 201 bytes"),
        (
            with_attribute(raw("b64", "echo", "image/png", "?"), "content-encoding", "base64"),
            "the body is not base64",
        ),
        (
            with_attribute(raw("zip", "echo", "image/png", "?"), "content-encoding", "zip"),
            "names no encoding that is known",
        ),
        (raw("json", "echo", "application/json", "{"), "the payload is not JSON"),
        (
            Outgoing {
                attributes: attributes(&[("lovage-format", "yaml")]),
                ..outgoing("data: 21")
            },
            "names no format",
        ),
    ];
    if kind == Kind::Local {
        // SQS itself takes text only, and not every character.
        bad.push((outgoing(&b"\xff\xfe{}"[..]), "the body is not UTF-8 (at byte 0)"));
        bad.push((outgoing(""), "the body is empty"));
        bad.push((with("nul\u{0}", json!({})), "control character"));
    }
    let worker = stage.worker().await;
    let messages: Vec<_> = bad.iter().map(|(message, _)| message.clone()).collect();
    let broker_ids = stage.send(&messages).await;
    stage.send_job("good", "process_data", json!(21)).await;

    let ids: Vec<String> = messages
        .iter()
        .zip(&broker_ids)
        .map(|(message, broker_id)| {
            let body: serde_json::Value = serde_json::from_slice(&message.body).unwrap_or_default();
            let own = body["id"].as_str().filter(|id| id.len() <= 200 && !id.contains('\0'));
            let named = message.attributes.get("lovage-id").map(String::as_str);
            own.or(named).unwrap_or(broker_id).to_owned()
        })
        .collect();
    let results = stage.results_of(ids.iter().cloned().chain(["good".to_owned()])).await;
    assert_eq!(results["good"].envelope["data"], 42);
    assert!(worker.logged("attempt started").len() == 1, "a guest saw a bad message");
    worker.stop().await;
    stage.is_done().await;

    let mut letters = stage.dead_letters().await;
    for ((message, reason), id) in bad.iter().zip(&ids) {
        let result = &results[id].envelope;
        assert_eq!(result["status"], "rejected", "{result}");
        let (original, letter) = letters.remove(id).unwrap();
        let letter = letter.unwrap();
        assert!(letter.reason.contains(reason), "{reason:?}: {letter:?}");
        assert_eq!(result["error"]["message"], letter.reason, "{result}");
        assert_eq!(original.body, message.body, "the original is kept");
        for (name, value) in &message.attributes {
            assert_eq!(original.attributes.get(name), Some(value));
        }
    }
    assert!(letters.is_empty(), "{letters:?}");
}

/// The most that a message may have, body and attributes together.
const LARGEST: usize = 1_048_576;

async fn a_body_of_the_largest_size_is_run_or_refused_but_never_lost(kind: Kind) {
    let stage = Stage::set(kind, Setup::default()).await;
    let filled = |id: &str, task: &str| {
        let frame = job(id, task, json!("")).body.len();
        job(id, task, json!("x".repeat(LARGEST - frame)))
    };
    let messages = [filled("too-much-back", "echo"), filled("unknown", "no_such_task")];
    assert!(messages.iter().all(|message| message.body.len() == LARGEST));
    let over = Outgoing {
        body: [&messages[0].body[..], &b" "[..]].concat().into(),
        ..Outgoing::default()
    };
    // Refused where it is sent: there it can still be told to somebody.
    let refused = stage.broker.send(&stage.jobs, &[over]).await.remove(0).unwrap_err();
    assert!(refused.to_string().contains("1048577"), "{refused}");
    let file = stage.directory().join("data.json");
    std::fs::write(&file, format!("\"{}\"", "x".repeat(LARGEST))).unwrap();
    let sent = stage.lovage(&["send", "echo", "--data", "@data.json"]).await;
    assert_eq!(sent.code, Some(1), "{sent:?}");
    assert!(sent.stderr.contains("1048576"), "{sent:?}");

    stage.send(&messages).await;
    stage.send_job("good", "process_data", json!(21)).await;
    let worker = stage.worker().await;
    let results = stage.results_of(["too-much-back", "unknown", "good"]).await;
    worker.stop().await;
    stage.is_done().await;
    let error = &results["too-much-back"].envelope["error"];
    assert_eq!(error["kind"], "output_too_large", "{error}");
    let letters = stage.dead_letters().await;
    // There is no room for the reason beside it; the message gets through all the same.
    let unknown = letters.values().find(|(message, _)| message.body == messages[1].body);
    assert!(unknown.is_some_and(|(_, letter)| letter.is_none()), "{:?}", letters.len());
    assert_eq!(results["unknown"].envelope["error"]["kind"], "unknown_task");
}

async fn jobs_of_one_id_are_both_run(kind: Kind) {
    // The id is for the receivers to tell twins by: a queue without an order does not.
    let stage = Stage::set(kind, Setup::default()).await;
    let worker = stage.worker().await;
    stage
        .send(&[job("twin", "process_data", json!(1)), job("twin", "process_data", json!(2))])
        .await;
    worker.logs("job finished", 2).await;
    worker.stop().await;
    let mut values = Vec::new();
    while values.len() < 2 {
        for result in
            crate::support::stage::take(&*stage.broker, &stage.results, std::time::Duration::ZERO)
                .await
        {
            assert_eq!(result.envelope["id"], "twin");
            values.push(result.envelope["data"].as_u64().unwrap());
        }
    }
    values.sort_unstable();
    assert_eq!(values, [2, 4]);
    stage.is_done().await;
}
