//! A disk that is full or read-only is told, and nothing that was accepted is lost.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::json;

use crate::support::{
    namespace,
    stage::{Kind, Setup, Stage, job},
    worker::until,
};

/// Set in the process that a test runs in a second time, where it may mount.
const INSIDE: &str = "LOVAGE_TEST_MAY_MOUNT";

/// Whether the test is to go on here: where this process may mount disks that nobody else sees.
/// Else it is run in a process that may; or is left out, aloud, where none may.
fn goes_on(promise: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let mut again = match namespace::command() {
        Ok(command) => command,
        Err(why) => {
            namespace::skipped(promise, &why);
            return false;
        }
    };
    let output = again
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &format!("worker::disks::{promise}"), "--nocapture"])
        .env(INSIDE, "yes")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    // Where no test has the name, none fails either.
    assert!(output.status.success() && said.contains("1 passed"), "{said}{errors}");
    false
}

/// A small disk of a test's own.
struct Disk(PathBuf);

impl Disk {
    fn mount(under: &Path, options: &str) -> Self {
        let path = under.join("disk");
        std::fs::create_dir(&path).unwrap();
        mount(&path, &["-t", "tmpfs", "-o", options, "none"]);
        Self(path)
    }

    fn remount(&self, options: &str) {
        mount(&self.0, &["-o", &format!("remount,{options}")]);
    }

    /// Takes all the room that is left.
    fn fill(&self) -> PathBuf {
        use std::io::Write as _;
        let path = self.0.join("ballast");
        let mut file = std::fs::File::create(&path).unwrap();
        while file.write_all(&[0; 512]).is_ok() {}
        path
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

fn mount(path: &Path, arguments: &[&str]) {
    let output = Command::new("mount").args(arguments).arg(path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_full_disk_refuses_new_jobs_and_keeps_those_it_has() {
    if !goes_on("a_full_disk_refuses_new_jobs_and_keeps_those_it_has") {
        return;
    }
    let stage = Stage::set(Kind::Local, Setup::default()).await;
    let disk = Disk::mount(stage.directory(), "size=2m,mode=700");
    stage.configure("broker.path = 'disk/lovage.db'");
    let worker = stage.worker().await;
    let send = |id: &'static str, ms: &'static str| {
        let stage = &stage;
        async move { stage.lovage(&["send", "sleep", "--id", id, "--data", ms]).await }
    };
    for id in ["before-1", "before-2"] {
        // Longer than it takes until the disk is full.
        assert_eq!(send(id, "{\"ms\": 8000}").await.code, Some(0));
    }
    worker.logs("attempt started", 2).await;
    let ballast = disk.fill();
    // What is a page of the log still has room, until that is full as well.
    let refused = until("a send is refused", || async {
        Some(send("during", "{\"ms\": 1}").await).filter(|output| output.code != Some(0))
    })
    .await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("disk is full; free some space"), "{refused:?}");
    let failed = worker.says("its disk is full").await;
    assert!(failed.contains("lovage.db"), "{failed}");

    std::fs::remove_file(ballast).unwrap();
    for id in ["before-1", "before-2"] {
        let broker = lovage::broker::local::LocalBroker::open(
            &stage.directory().join("disk/lovage.db"),
            lovage::broker::local::LocalOptions::default(),
        )
        .unwrap();
        let wait = crate::support::stage::SOON;
        let result = lovage::broker::Broker::result(&broker, id.into(), wait).await.unwrap();
        let result: serde_json::Value = serde_json::from_slice(&result.unwrap()).unwrap();
        assert_eq!(result["status"], "done", "{result}");
    }
    let output = stage.lovage(&["send", "process_data", "--data", "21", "--wait"]).await;
    assert_eq!((output.code, output.stdout.as_str()), (Some(0), "42\n"), "{output:?}");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_read_only_disk_is_told_by_whoever_needs_to_write() {
    if !goes_on("a_read_only_disk_is_told_by_whoever_needs_to_write") {
        return;
    }
    let stage = Stage::set(Kind::Local, Setup::default()).await;
    let disk = Disk::mount(stage.directory(), "size=2m,mode=700");
    stage.configure("broker.path = 'disk/lovage.db'");
    disk.remount("ro");
    for command in [&["worker"][..], &["send", "echo", "--data", "1"]] {
        let output = stage.lovage(command).await;
        assert_eq!(output.code, Some(1), "{output:?}");
        let error = output.stderr.lines().find(|line| line.starts_with("error: ")).unwrap();
        assert!(error.contains("disk/lovage.db") && error.contains("writ"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_cache_without_room_costs_time_and_nothing_else() {
    if !goes_on("a_cache_without_room_costs_time_and_nothing_else") {
        return;
    }
    let stage = Stage::set(Kind::Local, Setup::default()).await;
    let only = crate::support::stage::guest("process_data.wasm");
    stage.configure(&format!(
        "components.paths = ['{}']\ncomponents.cache_dir = 'disk'",
        only.display()
    ));
    let disk = Disk::mount(stage.directory(), "size=64k,mode=700");
    let full = stage.worker().await;
    full.says("compiled code cannot be cached").await;
    full.stop().await;
    assert_eq!(std::fs::read_dir(&disk.0).unwrap().count(), 0, "rubbish is left");
    disk.remount("ro");
    let worker = stage.worker().await;
    worker.says("compiled code cannot be cached").await;
    stage.send(&[job("runs", "process_data", json!(21))]).await;
    assert_eq!(stage.result_of("runs").await["data"], 42);
    worker.stop().await;
    stage.is_done().await;
}
