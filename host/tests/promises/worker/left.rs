//! Messages for tasks that a worker does not serve, and that another one may.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::stage::{Kind, Setup, Stage, guest, job, on_both};

on_both! {
    a_new_task_that_meets_an_older_worker_loses_no_job
    a_task_that_nobody_serves_is_rejected_when_its_time_is_over
}

async fn a_new_task_that_meets_an_older_worker_loses_no_job(kind: Kind) {
    let setup = Setup { config: "worker.leave_unknown_ms = 600_000", ..Setup::default() };
    let stage = Stage::set(kind, setup).await;
    stage.configure(&format!(
        "components.paths = ['{}']\ncomponents.state_dir = '{}'",
        guest("echo.wasm").display(),
        stage.directory().join("older").display()
    ));
    let older = stage.worker().await;
    let ids: Vec<String> = (0..20).map(|number| format!("job-{number}")).collect();
    let jobs: Vec<_> = ids.iter().map(|id| job(id, "process_data", json!(21))).collect();
    stage.send(&jobs).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    stage.configure(&format!(
        "components.paths = ['{}']\ncomponents.state_dir = '{}'",
        guest("process_data.wasm").display(),
        stage.directory().join("newer").display()
    ));
    let newer = stage.worker().await;
    let results = stage.results_of(ids.clone()).await;
    for id in &ids {
        let envelope = &results[id].envelope;
        assert_eq!((&envelope["status"], &envelope["data"]), (&json!("done"), &json!(42)));
        assert_eq!(envelope["attempt"], 1, "what was left spent no attempt: {envelope}");
    }
    older.stop().await;
    newer.stop().await;
    stage.is_done().await;
}

async fn a_task_that_nobody_serves_is_rejected_when_its_time_is_over(kind: Kind) {
    let setup = Setup { config: "worker.leave_unknown_ms = 3000", ..Setup::default() };
    let stage = Stage::set(kind, setup).await;
    let worker = stage.worker().await;
    let sent = Instant::now();
    stage.send_job("nobody", "no_such_task", json!(1)).await;
    let result = stage.result_of("nobody").await;
    assert_eq!(result["error"]["kind"], "unknown_task", "{result}");
    assert!(sent.elapsed() >= Duration::from_millis(2500), "{:?}", sent.elapsed());
    worker.stop().await;
}
