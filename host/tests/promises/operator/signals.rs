//! No signal ends a worker by chance.

use std::time::Duration;

use serde_json::json;

use crate::support::{
    stage::{Kind, Setup, Stage},
    worker::{Signal, Worker, until},
};

/// Waits until the program has begun: before that the system ends it at a signal.
async fn handles_hangup(worker: &Worker) {
    until("SIGHUP is ignored or handled", || async {
        let status = std::fs::read_to_string(format!("/proc/{}/status", worker.id())).unwrap();
        let has = |name: &str| {
            let mask = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            u64::from_str_radix(mask.trim(), 16).unwrap() & 1 == 1
        };
        (has("SigIgn:") || has("SigCgt:")).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn signals_during_the_start_do_not_end_it() {
    let stage = Stage::set(Kind::Local, Setup::default()).await;
    for pause_ms in [30, 60, 100, 200, 400] {
        let worker = stage.spawn();
        handles_hangup(&worker).await;
        for signal in [Signal::HUP, Signal::USR1, Signal::USR2, Signal::HUP] {
            tokio::time::sleep(Duration::from_millis(pause_ms)).await;
            worker.signal(signal);
        }
        worker.logs("worker started", 1).await;
        worker.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn sigquit_gives_running_jobs_back_at_once_and_in_order() {
    let stage = Stage::set(Kind::Local, Setup::default()).await;
    let mut worker = stage.worker().await;
    stage.send_job("long", "sleep", json!({"ms": 60_000})).await;
    worker.logs("attempt started", 1).await;
    worker.signal(Signal::QUIT);
    assert!(worker.ends().await.success());
    assert_eq!(worker.logged("worker stopped")[0]["given_back"], 1);
    let depth = stage.depth().await;
    assert_eq!((depth.in_flight, depth.ready + depth.delayed), (0, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn sigusr1_logs_the_state_and_sigusr2_does_nothing() {
    let stage = Stage::set(Kind::Local, Setup::default()).await;
    let worker = stage.worker().await;
    stage.send_job("long", "sleep", json!({"ms": 60_000})).await;
    worker.logs("attempt started", 1).await;
    worker.signal(Signal::USR2);
    worker.signal(Signal::USR1);
    let report = worker.logs("state of the worker", 1).await.remove(0);
    assert_eq!((&report["state"], &report["running"]), (&json!("running"), &json!(1)), "{report}");
    stage.send_job("next", "process_data", json!(21)).await;
    assert_eq!(stage.result_of("next").await["data"], 42);
}
