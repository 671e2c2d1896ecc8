//! Logging costs lines, and never a job, whatever becomes of the reader of standard error.

use std::{
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::support::stage::{Kind, SOON, Setup, Stage};

/// A worker whose standard error is ours to mistreat.
struct Mute(Child);

impl Mute {
    fn start(stage: &Stage, stderr: Stdio) -> Self {
        let mut command = stage.command(&["worker"]);
        Self(command.stdout(Stdio::null()).stderr(stderr).spawn().unwrap())
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    async fn ends(&mut self) -> std::process::ExitStatus {
        let end = Instant::now() + SOON;
        while Instant::now() < end {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the worker does not end");
    }
}

impl Drop for Mute {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Jobs enough for more lines than a pipe and the buffer hold.
async fn works(stage: &Stage, name: &str, count: usize) {
    let ids: Vec<_> = (0..count).map(|n| format!("{name}-{n}")).collect();
    for id in &ids {
        stage.send_job(id, "process_data", json!(21)).await;
    }
    let results = stage.results_of(&ids).await;
    assert!(results.values().all(|result| result.envelope["attempt"] == 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_reader_of_the_log_that_dies_costs_no_job() {
    let stage = Stage::set(Kind::Local, Setup::default()).await;
    let mut worker = Mute::start(&stage, Stdio::piped());
    works(&stage, "before", 1).await;
    drop(worker.0.stderr.take());
    works(&stage, "after", 50).await;
    worker.signal(Signal::TERM);
    assert!(worker.ends().await.success());
    stage.is_done().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_reader_of_the_log_that_stands_still_costs_no_lease_and_no_stop() {
    let config = "log.level = 'trace'";
    let stage = Stage::set(Kind::Local, Setup { visibility: 2, config, ..Setup::default() }).await;
    // Nobody reads it: with `trace` the pipe is full at once.
    let mut worker = Mute::start(&stage, Stdio::piped());
    works(&stage, "first", 30).await;
    stage.send_job("long", "sleep", json!({"ms": 6000})).await;
    let long = stage.result_of("long").await;
    assert_eq!(long["attempt"], 1, "{long}");
    worker.signal(Signal::TERM);
    assert!(worker.ends().await.success());
    stage.is_done().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_full_disk_for_the_log_costs_no_job() {
    let stage = Stage::set(Kind::Local, Setup::default()).await;
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut worker = Mute::start(&stage, full.into());
    works(&stage, "job", 20).await;
    worker.signal(Signal::TERM);
    assert!(worker.ends().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_worker_without_standard_output_and_error_works() {
    let stage = Stage::set(Kind::Local, Setup::default()).await;
    let command = stage.command(&["worker"]);
    let mut shell = std::process::Command::new("/bin/sh");
    shell.args(["-c", "exec \"$0\" \"$@\" >&- 2>&-"]).arg(command.get_program());
    shell.args(command.get_args()).current_dir(stage.directory()).env_clear();
    shell.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let mut worker = Mute(shell.spawn().unwrap());
    works(&stage, "job", 20).await;
    worker.signal(Signal::TERM);
    assert!(worker.ends().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn dropped_lines_are_counted_and_told_when_the_reader_is_back() {
    use std::io::Read as _;

    let address = super::metrics_address::free();
    let stage =
        Stage::set(Kind::Local, Setup { config: "log.level = 'trace'", ..Setup::default() }).await;
    stage.configure(&format!("worker.metrics_address = '{address}'"));
    let mut worker = Mute::start(&stage, Stdio::piped());
    // Some 4 MiB of lines.
    for round in 0.. {
        works(&stage, &format!("round-{round}"), 200).await;
        let metrics = super::metrics_address::get(address, "/metrics").await.1;
        let dropped =
            metrics.lines().find_map(|it| it.strip_prefix("lovage_log_lines_dropped_total "));
        if dropped.is_some_and(|count| count != "0") {
            break;
        }
        assert!(round < 50, "no line is dropped");
    }
    let mut log = worker.0.stderr.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        log.read_to_string(&mut text).map(|_| text)
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    worker.signal(Signal::TERM);
    assert!(worker.ends().await.success());
    let text = reader.join().unwrap().unwrap();
    assert!(text.contains("log lines were dropped"), "{} bytes", text.len());
    // The end is whole.
    assert!(text.trim_end().lines().last().unwrap().starts_with('{'));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_command_whose_reader_goes_away_does_not_panic() {
    let stage = Stage::set(Kind::Local, Setup::default()).await;
    for arguments in [
        &["dlq", "list", "--queue", "jobs"][..],
        &["dlq", "redrive", "nobody", "--queue", "jobs"],
        &["--help"],
        &["no-such-command"],
        &["config", "show"],
        &["db", "status"],
    ] {
        let mut command = stage.command(arguments);
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let stdout = writer.try_clone().unwrap();
        let status = tokio::task::spawn_blocking(move || {
            command.stdout(stdout).stderr(writer).status().unwrap()
        });
        let code = status.await.unwrap().code();
        // 101 is a panic, and none a signal.
        assert!(matches!(code, Some(0..=2)), "{arguments:?}: {code:?}");
    }
}
