//! What a client learns of odd messages, beside what it learns of them from a worker of Celery's own.
//! The messages are in `table.py`.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Celery, backend, finish, here};

/// What differs on purpose: of each case what the client of Lovage has, and why.
fn differences() -> BTreeMap<String, [String; 2]> {
    let text = std::fs::read_to_string(here().join("differences.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_odd_messages_a_client_learns_what_it_learns_from_celery() {
    let celery = Celery::set(&backend()).await;
    celery.stage.configure("celery.unknown_tasks = 'dead_letter'");
    let worker = celery.stage.worker().await;
    let python = celery.celery_worker(&celery.other);
    let mut command = celery.python(&["table.py"]);
    command.env("TABLE_WAIT", "150");
    let found = finish(command).await;
    python.kill();
    let found = found.as_object().unwrap();
    assert!(found.len() >= 80, "{}", found.len());
    let mut different = differences();
    let mut wrong = Vec::new();
    for (case, learned) in found {
        let [theirs, ours] = [brief(&learned["celery"]), brief(&learned["lovage"])];
        match different.remove(case) {
            Some([expected, _]) if ours != expected => wrong.push(json!([case, learned])),
            None if ours != theirs => wrong.push(json!([case, learned])),
            _ => {}
        }
        let ended = &learned["lovage"];
        if ended["state"] == "FAILURE" && ended["frames"].as_u64() == Some(0) {
            wrong.push(json!([case, "no frames", ended]));
        }
        if ended["state"] != "PENDING" {
            assert_eq!(ended["date_done"], true, "{case}: {ended}");
        }
    }
    assert!(wrong.is_empty(), "{}", json!(wrong));
    assert!(different.is_empty(), "no such cases: {different:?}");
    worker.stop().await;
    let depth = celery.stage.depth().await;
    assert_eq!(depth.ready + depth.in_flight + depth.delayed, 0, "{depth:?}");
}

/// State, and value or exception.
fn brief(learned: &Value) -> String {
    let what = learned.get("value").or_else(|| learned.get("exception"));
    let what = what.and_then(Value::as_str).unwrap_or_default();
    format!("{} {what}", learned["state"].as_str().unwrap_or_default()).trim().to_owned()
}
