//! Workers, in this process and as the program that users start.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use lovage::{
    broker::{
        Broker, Outgoing,
        local::{LocalBroker, LocalOptions},
    },
    config::Config,
    load,
    pipeline::Pipeline,
    routes::Routes,
    supervise::Panicked,
    worker::{Stop, Worker},
};
use serde_json::Value;
use tokio::{runtime::Runtime, task::JoinHandle};

/// The queue of the jobs.
pub const JOBS: &str = "jobs";

/// A component that `make guests` has built.
pub fn guest(name: &str) -> PathBuf {
    let dist = Path::new(env!("CARGO_MANIFEST_DIR")).join("../guest-tasks/dist");
    let path = dist.join(name);
    assert!(path.exists(), "{} is missing; run `make guests` first", path.display());
    path.canonicalize().unwrap()
}

/// A directory on the disk that the build folder is on; what is in memory would flush at once.
pub fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// As many threads as the worker has: one for each core.
pub fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap()
}

/// A configuration: `process_data` and `echo`, the queue of the jobs, and `more` TOML before that.
pub fn config(more: &str) -> Arc<Config> {
    let text = format!(
        "{more}\n[components]\npaths = ['{}', '{}']\n[queues.{JOBS}]\n{}",
        guest("process_data.wasm").display(),
        guest("echo.wasm").display(),
        "default_task = \"process_data\"\nresults = \"results\"\ndead_letters = \"jobs-dlq\"\n[queues.results]\nconsume = false\n"
    );
    Arc::new(Config::parse(&text, "the bench's configuration").unwrap())
}

/// The seed's job, with an id of its own.
pub fn job(number: usize) -> Outgoing {
    let body = format!(r#"{{"id":"job-{number}","data":21}}"#);
    Outgoing { body: body.into(), ..Outgoing::default() }
}

/// An embedded broker in a directory, with the queues that [`config`] names.
pub async fn broker(directory: &Path) -> Arc<LocalBroker> {
    let path = directory.join("lovage.db");
    let broker = LocalBroker::open(&path, LocalOptions::default()).unwrap();
    for name in [JOBS, "jobs-dlq", "results"] {
        broker.declare(name, false, Duration::from_secs(30)).await.unwrap();
    }
    Arc::new(broker)
}

/// Sends so many jobs.
pub async fn send(broker: &dyn Broker, jobs: usize) {
    let queue = broker.open(JOBS).await.unwrap();
    let all: Vec<Outgoing> = (0..jobs).map(job).collect();
    for some in all.chunks(1000) {
        for sent in broker.send(&queue, some).await {
            sent.unwrap();
        }
    }
}

/// A worker that is loaded, and has yet to be started.
pub struct Ready {
    worker: Arc<Worker>,
    sources: Vec<(lovage::routes::Source, Option<usize>)>,
}

/// A worker in this process.
pub struct Running {
    stop: Stop,
    task: JoinHandle<Result<(), Panicked>>,
}

impl Ready {
    pub async fn new(config: Arc<Config>, broker: Arc<dyn Broker>) -> Self {
        let host = load::host(&config, None).await.unwrap();
        let routes = Arc::new(Routes::new(Arc::clone(&broker), Arc::clone(&config)));
        let source = routes.source(JOBS).await.unwrap();
        let pipeline =
            Pipeline::new(Arc::clone(&config), host.registry, host.sandbox, routes, broker.clone());
        let worker = Worker::new(broker, Arc::new(pipeline), config.worker.clone());
        Self { worker, sources: vec![(source, None)] }
    }

    pub fn start(self) -> Running {
        let stop = Stop::default();
        let task = tokio::spawn(self.worker.run(self.sources, stop.clone()));
        Running { stop, task }
    }
}

impl Running {
    pub async fn stop(self) {
        self.stop.drain.cancel();
        self.task.await.unwrap().unwrap();
    }
}

/// Holds a result to what `process_data` makes of 21.
pub fn check(envelope: &[u8]) {
    let envelope: Value = serde_json::from_slice(envelope).unwrap();
    assert_eq!(envelope["status"], "done", "{envelope}");
    assert_eq!(envelope["data"], 42, "{envelope}");
}

/// The `lovage` command, and a directory for it with precompiled tasks.
pub struct Program {
    pub directory: tempfile::TempDir,
}

impl Program {
    /// Compiles these guests ahead.
    pub fn new(guests: &[&str], config: &str) -> Self {
        let directory = directory();
        let text = format!(
            "{config}\n[components]\nprecompiled = [\"tasks\"]\n[queues.{JOBS}]\n\
             default_task = \"process_data\"\n"
        );
        std::fs::write(directory.path().join("lovage.toml"), text).unwrap();
        let program = Self { directory };
        let mut compile = program.command(&["compile", "--out", "tasks"]);
        compile.args(guests.iter().map(|name| guest(name)));
        assert!(compile.stderr(Stdio::null()).status().unwrap().success());
        program
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        lovage(self.directory.path(), arguments)
    }

    pub fn worker(&self) -> Process {
        Process(self.command(&["worker"]).stderr(Stdio::null()).spawn().unwrap())
    }
}

/// The `lovage` command, and a directory that it serves components from, compiling them itself.
pub struct Served {
    pub directory: tempfile::TempDir,
}

impl Served {
    pub fn new(config: &str) -> Self {
        let directory = directory();
        std::fs::create_dir(directory.path().join("tasks")).unwrap();
        let text = format!(
            "{config}\n[components]\npaths = [\"tasks\"]\n[queues.{JOBS}]\n\
             default_task = \"process_data\"\n"
        );
        std::fs::write(directory.path().join("lovage.toml"), text).unwrap();
        Self { directory }
    }

    pub fn tasks(&self) -> PathBuf {
        self.directory.path().join("tasks")
    }

    pub fn worker(&self) -> Process {
        let mut command = lovage(self.directory.path(), &["worker"]);
        Process(command.stderr(Stdio::null()).spawn().unwrap())
    }
}

/// The `lovage` command in a directory, with nothing of this environment.
fn lovage(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lovage"));
    command
        .args(arguments)
        .current_dir(directory)
        .env_clear()
        .env("HOME", directory)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command
}

/// A process that ends with its owner.
pub struct Process(pub Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The memory of a process that is in use, in megabytes (`VmRSS`).
pub fn resident_mb(process: u32) -> f64 {
    status_mb(process, "VmRSS:")
}

/// What of it is not in any file, and so nobody else's (`RssAnon`).
pub fn own_mb(process: u32) -> f64 {
    status_mb(process, "RssAnon:")
}

fn status_mb(process: u32, name: &str) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    let kibibytes: f64 = line.trim().trim_end_matches(" kB").parse().unwrap();
    kibibytes * 1024.0 / 1e6
}
