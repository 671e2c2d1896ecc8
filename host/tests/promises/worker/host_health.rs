//! A host that lacks something spends no attempts of the jobs that it meets.

use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::json;

use crate::support::{
    stage::{Kind, Setup, Stage},
    worker::{Worker, until},
};

fn address_space(worker: &Worker) -> u64 {
    let statm = std::fs::read_to_string(format!("/proc/{}/statm", worker.id())).unwrap();
    statm.split(' ').next().unwrap().parse::<u64>().unwrap() * 4096
}

fn limit_address_space(worker: &Worker, bytes: Option<u64>) {
    let pid = Pid::from_raw(i32::try_from(worker.id()).unwrap());
    prlimit(pid, Resource::As, Rlimit { current: bytes, maximum: None }).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_host_without_address_space_spends_no_attempts_and_recovers_by_itself() {
    let config = "sandbox.allocator = 'on_demand'\nsandbox.ready_instances = 0\n\
                  worker.memory_high_percent = 0\nworker.concurrency = 4";
    let stage = Stage::set(Kind::Local, Setup { config, ..Setup::default() }).await;
    let worker = stage.worker().await;
    // Loads the code, so that only instances are left to be made.
    stage.send_job("first", "process_data", json!(1)).await;
    stage.results_of(["first"]).await;
    limit_address_space(&worker, Some(address_space(&worker) + (1 << 30)));
    let ids: Vec<String> = (0..20).map(|n| format!("job-{n}")).collect();
    for id in &ids {
        stage.send_job(id, "process_data", json!(21)).await;
    }
    let told = worker
        .logs("this host cannot run jobs now: taking none until it can; no attempts are spent", 1)
        .await;
    assert!(told[0]["fault"].as_str().unwrap().contains("no instance can be made"), "{told:?}");
    // Longer than any back-off of the jobs.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let begun = worker.logged("attempt started").len();
    assert!(begun <= 1 + 2 * 4, "a faulty host began {begun} attempts");
    limit_address_space(&worker, None);
    worker.logs("this host can run jobs again", 1).await;
    for (id, result) in stage.results_of(ids).await {
        assert_eq!(result.envelope["status"], "done", "{id}: {}", result.envelope);
        assert_eq!(result.envelope["attempt"], 1, "{id}: {}", result.envelope);
    }
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_worker_does_not_start_on_a_host_that_fails_its_self_test() {
    let config = "tasks.echo.grants.scratch = true";
    let stage = Stage::set(Kind::Local, Setup { config, ..Setup::default() }).await;
    let mut command = stage.command(&["worker"]);
    command.env("TMPDIR", stage.directory().join("nowhere"));
    let mut worker = Worker::spawn(command);
    let status = worker.ends().await;
    assert_eq!(status.code(), Some(1));
    let log = worker.lines().join("\n");
    assert!(log.contains("nowhere"), "{log}");
}

/// The time from sending four jobs of 300 ms to the last result.
async fn four_jobs(config: &'static str) -> Duration {
    let stage = Stage::set(Kind::Local, Setup { config, ..Setup::default() }).await;
    let worker = stage.worker().await;
    stage.send_job("first", "sleep", json!({"ms": 1})).await;
    stage.results_of(["first"]).await;
    let start = Instant::now();
    let ids = ["a", "b", "c", "d"];
    for id in ids {
        stage.send_job(id, "sleep", json!({"ms": 300})).await;
    }
    stage.results_of(ids).await;
    let took = start.elapsed();
    worker.stop().await;
    took
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn where_memory_is_short_jobs_run_one_at_a_time() {
    // Any machine uses more than a hundredth of its memory.
    let took = four_jobs("worker.memory_high_percent = 1").await;
    assert!(took >= Duration::from_millis(1200), "four jobs of 300 ms took {took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn jobs_together_are_allowed_no_more_than_the_workers_memory() {
    let took = four_jobs("worker.memory_bytes = 134217728").await;
    assert!(took >= Duration::from_millis(1200), "four jobs of 300 ms took {took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn metrics_tell_a_host_that_is_short_of_memory() {
    let config = "worker.memory_high_percent = 1";
    let stage = Stage::set(Kind::Local, Setup { config, ..Setup::default() }).await;
    let worker = stage.worker().await;
    until("memory pressure is told", || async {
        let line = "memory is short: running one job at a time (`worker.memory_high_percent` is the threshold)";
        (!worker.logged(line).is_empty()).then_some(())
    })
    .await;
    worker.stop().await;
}
