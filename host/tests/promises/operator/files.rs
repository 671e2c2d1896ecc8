//! A worker never works on files that nobody else sees.

use std::{os::unix::fs::PermissionsExt as _, time::Duration};

use lovage::broker::local::{LocalBroker, LocalOptions};
use serde_json::json;

use crate::support::{
    stage::{Kind, Setup, Stage},
    worker::until,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_worker_whose_database_is_deleted_replaced_or_damaged_ends_with_an_error() {
    let harms: [fn(&std::path::Path); 4] = [
        |path| std::fs::remove_file(path).unwrap(),
        |path| {
            for name in ["lovage.db", "lovage.db-wal", "lovage.db-shm"] {
                std::fs::remove_file(path.with_file_name(name)).unwrap();
            }
        },
        |path| {
            let copy = path.with_file_name("copy");
            std::fs::copy(path, &copy).unwrap();
            std::fs::rename(copy, path).unwrap();
        },
        |path| std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(0).unwrap(),
    ];
    for harm in harms {
        let stage = Stage::set(Kind::Local, Setup::default()).await;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lovage.db");
        stage.configure(&format!("broker.path = '{}'", path.display()));
        let mut worker = stage.worker().await;
        harm(&path);
        let status = worker.ends_within(Duration::from_mins(1)).await;
        assert_eq!(status.code(), Some(1));
        let lost = worker.says("the broker is lost").await;
        assert!(lost.contains("lovage.db"), "{lost}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_worker_whose_lock_files_are_deleted_says_so_and_works_on() {
    let stage = Stage::set(Kind::Local, Setup::default()).await;
    let worker = stage.worker().await;
    for (count, name) in [(1, "lovage.db-turn"), (2, "lovage.db-queue")] {
        std::fs::remove_file(stage.directory().join(name)).unwrap();
        let sent = stage
            .lovage(&["send", "process_data", "--queue", "jobs", "--data", "21", "--wait"])
            .await;
        assert_eq!(sent.code, Some(0), "{sent:?}");
        worker
            .logs(
                "a file of the embedded broker was deleted or replaced; it is made anew. Leave it \
                     there while any process uses the database",
                count,
            )
            .await;
        assert!(stage.directory().join(name).exists());
    }
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_files_of_a_new_database_are_for_their_user_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("lovage.db");
    let broker = LocalBroker::open(&path, LocalOptions::default()).unwrap();
    broker.declare("jobs", false, Duration::from_secs(30)).await.unwrap();
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory.path()).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{:?} has {mode:o}", entry.file_name());
        names.push(entry.file_name());
    }
    assert_eq!(names.len(), 5, "{names:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn results_and_dead_letters_are_deleted_after_their_time_and_the_file_shrinks() {
    let config = "queues.results.retention_ms = 500\nbroker.message_retention_ms = 500";
    let stage = Stage::set(Kind::Local, Setup { config, ..Setup::default() }).await;
    let data = "x".repeat(200_000);
    let ids: Vec<_> = (0..150).map(|n| format!("job-{n}")).collect();
    for id in &ids {
        stage.send_job(id, "no_such_task", json!(data)).await;
    }
    let worker = stage.worker().await;
    worker.logs("message becomes a dead letter", ids.len()).await;
    until("both queues are empty", async || {
        let [results, letters] = [
            stage.broker.depth(&stage.results).await.unwrap(),
            stage.broker.depth(&stage.letters).await.unwrap(),
        ];
        (results.ready + letters.ready == 0).then_some(())
    })
    .await;
    assert!(!worker.logged("messages are past their retention, and are deleted").is_empty());
    // 30 MB of letters were in it.
    until("the file is short", async || {
        let bytes = std::fs::metadata(stage.database()).unwrap().len();
        (bytes < 15_000_000).then_some(())
    })
    .await;
    worker.stop().await;
    let compact = stage.lovage(&["db", "compact", "--json"]).await;
    assert_eq!(compact.code, Some(0), "{compact:?}");
    let status = stage.lovage(&["db", "status", "--json"]).await;
    let status: serde_json::Value = serde_json::from_str(&status.stdout).unwrap();
    assert_eq!(status["space"]["free_bytes"], 0, "{status}");
    assert_eq!(status["space"]["shrinks"], true, "{status}");
    assert_eq!(status["queues"]["letters"]["ready"], 0, "{status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_reader_that_keeps_the_log_long_is_told() {
    let stage = Stage::set(Kind::Local, Setup::default()).await;
    let worker = stage.worker().await;
    let reader = rusqlite_reader(&stage.database());
    let data = "x".repeat(250_000);
    let sent = std::sync::atomic::AtomicUsize::new(0);
    until("the worker says that the log grows", async || {
        for _ in 0..20 {
            let n = sent.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            stage.send_job(&format!("job-{n}"), "no_such_task", json!(data)).await;
        }
        let says = "the log of the broker's database grows";
        worker
            .lines()
            .iter()
            .any(|line| line.contains(says) && line.contains("log_bytes"))
            .then_some(())
    })
    .await;
    drop(reader);
    worker.stop().await;
}

/// A process that reads, and does not end: Python has SQLite in it.
fn rusqlite_reader(path: &std::path::Path) -> Reader {
    use std::io::BufRead as _;

    let program = "import sqlite3, sys, time\n\
                   c = sqlite3.connect(sys.argv[1], isolation_level=None)\n\
                   c.execute('BEGIN'); c.execute('SELECT count(*) FROM queues').fetchall()\n\
                   print('reads', flush=True); time.sleep(600)";
    let mut child = std::process::Command::new("python3")
        .args(["-c", program])
        .arg(path)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "reads\n");
    Reader(child)
}

struct Reader(std::process::Child);

impl Drop for Reader {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
