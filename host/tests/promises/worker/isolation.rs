//! Attempts in processes of their own: as good as others, and alone when they die.

use std::{collections::BTreeSet, time::Duration};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::support::{
    stage::{Kind, Setup, Stage, guest, job_with},
    worker::{Worker, until},
};

/// The children of a worker that run attempts.
fn children(worker: &Worker) -> BTreeSet<i32> {
    let tasks = format!("/proc/{}/task", worker.id());
    let mut found = BTreeSet::new();
    for task in std::fs::read_dir(tasks).unwrap().flatten() {
        let list = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        for child in list.split_ascii_whitespace() {
            let command = std::fs::read(format!("/proc/{child}/cmdline")).unwrap_or_default();
            if String::from_utf8_lossy(&command).contains("run-attempts") {
                found.insert(child.parse().unwrap());
            }
        }
    }
    found
}

const ALL: &str = "isolation.processes = 4\nlog.guests = true";

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn isolated_attempts_come_to_the_same_as_others() {
    let stage = Stage::set(Kind::Local, Setup { config: ALL, ..Setup::default() }).await;
    let worker = stage.worker().await;
    stage.send_job("doubled", "process_data", json!(21)).await;
    stage.send_job("failed", "fail", json!({"how": "fail", "message": "no"})).await;
    stage.send_job("typed", "echo", json!({"a": [1, null]})).await;
    let results = stage.results_of(["doubled", "failed", "typed"]).await;
    assert_eq!(results["doubled"].envelope["data"], 42, "{results:?}");
    assert_eq!(results["typed"].envelope["data"], json!({"a": [1, null]}), "{results:?}");
    assert_ne!(results["failed"].envelope["status"], "done", "{results:?}");
    assert!(results["doubled"].envelope["usage"]["cpu_us"].as_u64().unwrap() > 0, "{results:?}");
    assert!(!children(&worker).is_empty(), "no process of their own");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_process_that_is_killed_ends_its_own_attempt_and_no_other() {
    let stage = Stage::set(Kind::Local, Setup { config: ALL, ..Setup::default() }).await;
    let worker = stage.worker().await;
    for id in ["victim", "other"] {
        let tenant = json!({"tenant": id});
        stage.send(&[job_with(id, "sleep", json!({"ms": 4000}), tenant)]).await;
    }
    worker.logs("attempt started", 2).await;
    let both = until("two processes", || async {
        Some(children(&worker)).filter(|children| children.len() == 2)
    })
    .await;
    // Any moment after the attempt has begun in it.
    tokio::time::sleep(Duration::from_secs(1)).await;
    kill_process(Pid::from_raw(*both.first().unwrap()).unwrap(), Signal::KILL).unwrap();
    let results = stage.results_of(["victim", "other"]).await;
    let attempts: BTreeSet<u64> =
        results.values().map(|it| it.envelope["attempt"].as_u64().unwrap()).collect();
    assert_eq!(attempts, [1, 2].into(), "{results:?}");
    assert!(results.values().all(|it| it.envelope["status"] == "done"), "{results:?}");
    let back = worker.logged("job goes back");
    assert!(back[0]["reason"].as_str().unwrap().contains("signal: 9"), "{back:?}");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_process_is_used_for_one_tenant_only_and_there_are_no_more_than_are_allowed() {
    let config = "isolation.processes = 2\nisolation.tenants = ['t*']";
    let stage = Stage::set(Kind::Local, Setup { config, ..Setup::default() }).await;
    let worker = stage.worker().await;
    let mut seen: BTreeSet<i32> = BTreeSet::new();
    for tenant in ["t1", "t2", "t3", "t4"] {
        let jobs: Vec<_> = (0..3).map(|n| format!("{tenant}-{n}")).collect();
        for id in &jobs {
            let job = job_with(id, "process_data", json!(1), json!({"tenant": tenant}));
            stage.send(&[job]).await;
        }
        stage.results_of(jobs).await;
        let now = children(&worker);
        assert!(now.len() <= 2, "{now:?}");
        assert!(now.difference(&seen).count() >= 1, "a process of another tenant: {now:?}");
        seen.extend(now);
    }
    // A tenant that is not named shares the worker's process.
    let before = children(&worker);
    stage.send(&[job_with("u", "process_data", json!(1), json!({"tenant": "u"}))]).await;
    stage.results_of(["u"]).await;
    assert_eq!(children(&worker), before);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_an_isolated_attempt_is_granted_it_has_and_nothing_more() {
    let granted = guest("granted/counter.wasm");
    let stage = Stage::set(Kind::Local, Setup { config: ALL, ..Setup::default() }).await;
    let mut paths = vec![guest("").display().to_string()];
    paths.push(granted.display().to_string());
    stage.configure(&format!(
        "components.paths = {paths:?}\ndefaults.grants.keyvalue = ['counters']"
    ));
    let worker = stage.worker().await;
    let tasks = stage.lovage(&["inspect", "--json", granted.to_str().unwrap()]).await;
    let tasks: Value = serde_json::from_str(&tasks.stdout).unwrap();
    let task = tasks["tasks"][0]["name"].as_str().unwrap().to_owned();
    stage.send_job("one", &task, json!({"key": "k", "by": 5})).await;
    let first = stage.result_of("one").await;
    assert!(!children(&worker).is_empty(), "no process of its own: {first}");
    assert_eq!(first["status"], "done", "{first}");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_isolated_attempt_that_spins_ends_at_its_deadline() {
    let config = "isolation.processes = 1\ndefaults.timeout_ms = 500\ndefaults.max_attempts = 1";
    let hostile: &[&str] = &["spin"];
    let stage = Stage::set(Kind::Local, Setup { hostile, config, ..Setup::default() }).await;
    let worker = stage.worker().await;
    let spin = guest("hostile/spin.wasm");
    let tasks = stage.lovage(&["inspect", "--json", spin.to_str().unwrap()]).await;
    let tasks: Value = serde_json::from_str(&tasks.stdout).unwrap();
    let task = tasks["tasks"][0]["name"].as_str().unwrap().to_owned();
    stage.send_job("spins", &task, json!({})).await;
    let result = stage.result_of("spins").await;
    assert_eq!(result["status"], "timed_out", "{result}");
    stage.send_job("after", "process_data", json!(21)).await;
    assert_eq!(stage.result_of("after").await["data"], 42);
    worker.stop().await;
}
