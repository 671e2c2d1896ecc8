//! The mill that every hostile fixture goes through.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use lovage::job::Job;
use lovage::outcome::Outcome;
use lovage::policy::Policies;
use lovage::registry::{LoadOptions, Origin, Registry, inspect};
use lovage::sandbox::{EngineOptions, LoadedComponent, Plan, Sandbox};

use super::check::{ERROR_BYTES, Ended, check, fits};
use super::world::World;
use super::{Fixture, Group, Made, Seen, followers};
use crate::guests;

/// Tells this test binary, started once more, that it is the process of its own.
const ALONE: &str = "LOVAGE_HOSTILE_ALONE";

/// Only fixtures whose name has this in it.
const ONLY: &str = "LOVAGE_HOSTILE_ONLY";

/// No attack of a fixture takes nearly as long; one that does is one that hangs.
const AT_MOST: Duration = Duration::from_secs(90);

/// How often each attack is made after the first time, by which memory is told that is not given
/// back.
const AGAIN: usize = 2;

/// And how often where there is more memory than before.
const MANY_TIMES: usize = 15;

/// What an attempt may use here.
const MEMORY_BYTES: u64 = 64 << 20;

/// How much more memory the process may have after these: less than one attempt may use, so that
/// even one of them that was kept would show.
const SPARE_BYTES: u64 = 60 << 20;

const SLOTS: u32 = 4;

/// Runs the fixtures of a group in another process.
pub fn in_a_process_of_its_own(test: &str, group: fn() -> Group) {
    alone(test, || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            // So that threads which linger are not taken for leaked ones.
            .thread_keep_alive(Duration::from_millis(50))
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(withstand_all(group()));
    });
}

/// Does something in another process, or here if this is that one.
pub fn alone(test: &str, what: impl FnOnce()) {
    if std::env::var_os(ALONE).is_some() {
        return what();
    }
    // Its own, by which it sees what it leaves there.
    let temporary = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(ALONE, "1")
        .env("TMPDIR", temporary.path())
        // What errors say then is for the host's developers.
        .env("RUST_BACKTRACE", "1")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut errors = child.stderr.take().unwrap();
    let mut output = child.stdout.take().unwrap();
    // Both are read to their ends, so that the other process never waits for a reader.
    let reader = std::thread::spawn(move || {
        let mut all = String::new();
        output.read_to_string(&mut all).unwrap();
        all
    });
    let mut all = String::new();
    errors.read_to_string(&mut all).unwrap();
    let status = child.wait().unwrap();
    let output = reader.join().unwrap();
    assert!(status.success(), "{test}: {status}\n{all}\n{output}");
    // It has run something: a name that is misspelt would run nothing.
    assert!(output.contains("1 passed"), "{output}");
    // For who asks to see it.
    eprint!("{all}");
}

async fn withstand_all(group: Group) {
    let stage = Arc::new(Stage::new().await);
    let only = std::env::var(ONLY).unwrap_or_default();
    let mut failed = Vec::new();
    for fixture in group.fixtures.into_iter().filter(|fixture| fixture.name.contains(&only)) {
        let started = Instant::now();
        let name = fixture.name.clone();
        eprint!("{name}");
        let stage = Arc::clone(&stage);
        // One that fails does not hide the others.
        if tokio::spawn(async move { stage.withstand(&fixture).await }).await.is_err() {
            failed.push(name);
        }
        eprintln!(": {} ms", started.elapsed().as_millis());
    }
    assert!(failed.is_empty(), "these fail: {failed:?}");
}

struct Stage {
    sandbox: Sandbox,
    world: World,
    neighbour: Arc<LoadedComponent>,
    dir: tempfile::TempDir,
    threads: u64,
}

impl Stage {
    async fn new() -> Self {
        let (world, services) = World::new().await;
        let options = EngineOptions { slots: SLOTS, ..EngineOptions::default() };
        let sandbox = Sandbox::with(options, services).unwrap();
        let neighbour = guests::load(&sandbox, "echo").await;
        // All threads that there are to be: the compiler's, too.
        let warm = super::make::guest(super::make::Parts::default());
        sandbox.prepare_bytes("warm", &warm, &Plan::default().limits).await.unwrap();
        let dir = tempfile::TempDir::new().unwrap();
        let mut stage = Self { sandbox, world, neighbour, dir, threads: 0 };
        stage.neighbour_works().await;
        stage.threads = threads();
        stage
    }

    async fn withstand(&self, fixture: &Fixture) {
        let (file, mut job) = self.make(fixture);
        (fixture.job)(&mut job);
        let mut plan = Plan::default();
        plan.limits.memory_bytes = MEMORY_BYTES;
        plan.limits.timeout = Duration::from_secs(20);
        (fixture.change)(&mut plan);
        let policies = fixture.granted.map(|settings| Arc::new(self.world.policies(settings)));
        if let Some(policies) = &policies {
            plan.grants = policies.of(&job.task, &job.tenant);
        }
        let options = options(&file, &plan, policies);
        let attack = || {
            let (sandbox, options) = (self.sandbox.clone(), options.clone());
            let (file, job, plan) = (file.clone(), job.clone(), plan.clone());
            async move {
                let attack = attack(&sandbox, &file, &options, job, &plan);
                tokio::time::timeout(AT_MOST, attack).await
            }
        };
        self.neighbour_works().await;
        let mut settled = 0;
        for time in 0..=AGAIN {
            // On a thread of its own, so that a guest that holds one up holds up no neighbour.
            let attacked = tokio::spawn(attack());
            loop {
                self.neighbour_works().await;
                if attacked.is_finished() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let ended = attacked
                .await
                .unwrap_or_else(|error| panic!("{}: the host panics: {error}", fixture.name))
                .unwrap_or_else(|_| panic!("{}: does not end", fixture.name));
            check(fixture, &ended);
            followers::check(fixture, &job, &plan, &ended);
            self.neighbour_works().await;
            self.world.is_unharmed(&fixture.name).await;
            assert_eq!(self.sandbox.free_slots(), SLOTS as usize, "{}: a slot", fixture.name);
            if time == 0 {
                settled = status("VmRSS:");
            }
        }
        self.inspect(fixture, &file, &options).await;
        let mut most = settled * 1024 + SPARE_BYTES;
        let mut now = status("VmRSS:") * 1024;
        if now > most {
            // The pool gives memory back for many at a time, so that free slots may keep what was
            // written to them. These are so many, and a leak would be more.
            for _ in 0..MANY_TIMES {
                let ended = attack().await.unwrap_or_else(|_| panic!("{}", fixture.name));
                check(fixture, &ended);
            }
            most += u64::from(SLOTS + 2) * MEMORY_BYTES;
            now = status("VmRSS:") * 1024;
        }
        assert!(now <= most, "{}: {now} bytes of memory, and at most {most}", fixture.name);
        self.threads_end(fixture).await;
        if file.starts_with(self.dir.path()) {
            // Whatever it is; a directory is emptied at the end.
            let _ = std::fs::remove_file(&file);
        }
    }

    /// The neighbour gives its right answer, and does not have to wait for it.
    async fn neighbour_works(&self) {
        let job = Job::new("neighbour", "echo", r#"{"of": "mine"}"#);
        let plan = Plan::default();
        let report = self.sandbox.run(&self.neighbour, job, &plan);
        let report = tokio::time::timeout(Duration::from_secs(20), report)
            .await
            .expect("a neighbour waits in vain");
        match report.outcome {
            Outcome::Done(output) => assert_eq!(output.data, r#"{"of": "mine"}"#),
            other => panic!("a neighbour was harmed: {other:?}"),
        }
    }

    /// `lovage inspect` shows such a file, too.
    async fn inspect(&self, fixture: &Fixture, file: &Path, options: &LoadOptions) {
        match inspect(&self.sandbox, file, options).await {
            Ok(found) => {
                let refused = matches!(fixture.seen, Seen::Refused(_));
                assert_eq!(found.problem.is_some(), refused, "{}: {found:?}", fixture.name);
                fits(&found.problem.unwrap_or_default(), ERROR_BYTES, true);
                // As JSON it can be shown, too.
                serde_json::to_string(&found.tasks).unwrap();
            }
            Err(error) => fits(&error.to_string(), ERROR_BYTES, true),
        }
    }

    async fn threads_end(&self, fixture: &Fixture) {
        let until = Instant::now() + Duration::from_secs(10);
        while threads() > self.threads {
            assert!(Instant::now() < until, "{}: a thread is left", fixture.name);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The fixture's file, and the job for it.
    fn make(&self, fixture: &Fixture) -> (PathBuf, Job) {
        let job = |task: &str, payload: &str| Job::new("job-1", task, payload.to_owned());
        match &fixture.made {
            Made::Guest { file, task, payload } => {
                (guests::file(file), job(task, &self.world.fill(payload)))
            }
            Made::Component(make) => {
                let file = self.dir.path().join(&fixture.name).with_extension("wasm");
                std::fs::write(&file, make()).unwrap();
                (file, job("t", "\"a payload\""))
            }
            Made::File(make) => (make(self.dir.path()), job("t", "")),
        }
    }
}

/// How many threads there are, but for those of the pool for long jobs and the clocks of engines, which begin
/// with the first such job and with the first component that needs the engine, and stay.
fn threads() -> u64 {
    let name = |task: std::io::Result<std::fs::DirEntry>| {
        std::fs::read_to_string(task.ok()?.path().join("comm")).ok()
    };
    let names = std::fs::read_dir("/proc/self/task").unwrap().filter_map(name);
    let stay = |name: &String| name.starts_with("lovage-hogs") || name.starts_with("lovage-ticker");
    names.filter(|name| !stay(name)).count() as u64
}

/// From the file to the outcome, as a worker does it.
async fn attack(
    sandbox: &Sandbox,
    file: &Path,
    options: &LoadOptions,
    job: Job,
    plan: &Plan,
) -> Ended {
    let origin = Origin::Wasm(file.to_owned());
    let registry = match Registry::load(sandbox, &[origin], options).await {
        Ok(registry) => registry,
        Err(error) => return Ended::NotLoaded(error.to_string()),
    };
    let served = registry.get(&job.task).expect("the task is served");
    Ended::Ran(sandbox.run(&served.component, job, plan).await)
}

/// Real guests are compiled once, and not by each of their attacks. Those without settings of
/// their own may import what they like, and are granted none of it.
fn options(file: &Path, plan: &Plan, policies: Option<Arc<Policies>>) -> LoadOptions {
    let options = if file.starts_with(std::env::temp_dir()) {
        LoadOptions::default()
    } else {
        guests::load_options()
    };
    let policies = policies.unwrap_or_else(|| Arc::clone(&options.policies));
    LoadOptions { limits: plan.limits, policies, ..options }
}

/// A number of this process, as the kernel has it.
pub fn status(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}
