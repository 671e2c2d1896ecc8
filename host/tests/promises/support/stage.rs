//! A stage for the real thing: queues of a test's own on a real broker, a configuration in a
//! directory of its own, and short ways to send jobs and to see what became of them.
//!
//! A promise is written once and kept by both brokers: [`on_both!`] makes two tests of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use lovage::broker::{
    Attributes, Broker, DeadLetter, Depth, Message, Outgoing, Queue, Turn,
    attribute::{self, DEAD_LETTER},
    local::{LocalBroker, LocalOptions},
    sqs::SqsBroker,
};
use serde_json::{Value, json};

use super::{
    broker::{attributes, finish, settle},
    ministack::{self, NewQueue},
    proxy::Proxy,
    worker::{Output, Worker},
};

/// How long anything may take that is to happen soon, on a machine with other things to do.
pub const SOON: Duration = Duration::from_secs(90);

/// Which broker a promise is tested on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The embedded one.
    Local,
    /// Amazon SQS, by ministack.
    Sqs,
}

/// What a test needs that is not as usual.
#[derive(Debug, Clone, Default)]
pub struct Setup {
    /// Whether the queue of the jobs, and with it the others, keeps order.
    pub fifo: bool,
    /// Its visibility timeout in seconds; 30 where 0.
    pub visibility: u64,
    /// Whether workers reach SQS through [`Stage::proxy`].
    pub proxied: bool,
    /// More components, by their names in `dist/hostile`.
    pub hostile: &'static [&'static str],
    /// TOML that stands over the stage's own.
    pub config: &'static str,
}

/// The stage.
#[derive(Debug)]
pub struct Stage {
    pub kind: Kind,
    /// The test's own way to the broker.
    pub broker: Arc<dyn Broker>,
    pub jobs: Queue,
    pub results: Queue,
    pub letters: Queue,
    /// Between the workers and SQS, where the setup asked for it.
    pub proxy: Option<Proxy>,
    // Last, so that the broker's file is closed before it is taken away.
    directory: tempfile::TempDir,
}

/// A result, as it was published.
#[derive(Debug, Clone)]
pub struct Published {
    pub message: Message,
    pub envelope: Value,
}

/// Makes two tests of each promise, one a broker.
macro_rules! on_both {
    ($($promise:ident)*) => {
        mod local {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
                async fn $promise() {
                    super::$promise($crate::support::stage::Kind::Local).await;
                }
            )*
        }
        mod sqs {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
                async fn $promise() {
                    super::$promise($crate::support::stage::Kind::Sqs).await;
                }
            )*
        }
    };
}
pub(crate) use on_both;

/// A component that `make guests` has built.
pub fn guest(name: &str) -> PathBuf {
    let dist = Path::new(env!("CARGO_MANIFEST_DIR")).join("../guest-tasks/dist");
    let path = dist.join(name);
    assert!(path.exists(), "{} is missing; run `make guests` first", path.display());
    path
}

/// Compiled code, for all tests: each component is compiled once and not at each start.
pub fn cache() -> PathBuf {
    use std::os::unix::fs::DirBuilderExt as _;
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("compile-cache");
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&path).unwrap();
    path
}

impl Stage {
    /// Sets a stage on a broker: queues `jobs`, `results` and `letters`, and all tasks but the
    /// hostile ones.
    pub async fn set(kind: Kind, setup: Setup) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let names = match kind {
            Kind::Local => ["jobs", "results", "letters"].map(str::to_owned),
            Kind::Sqs => sqs_queues(&setup).await,
        };
        let config = write_config(directory.path(), kind, &setup, &names);
        let broker: Arc<dyn Broker> = match kind {
            Kind::Sqs => Arc::new(SqsBroker::from_config(&ministack::config()).await.unwrap()),
            Kind::Local => {
                let path = directory.path().join("lovage.db");
                let broker = LocalBroker::open(&path, LocalOptions::default()).unwrap();
                for (name, settings) in config["queues"].as_table().unwrap() {
                    let fifo = settings.get("fifo").and_then(toml::Value::as_bool) == Some(true);
                    let visibility = Duration::from_secs(visibility(&setup));
                    broker.declare(name, fifo, visibility).await.unwrap();
                }
                Arc::new(broker)
            }
        };
        let proxy = (setup.proxied && kind == Kind::Sqs).then(Proxy::start);
        let [jobs, results, letters] = names;
        Self {
            kind,
            jobs: broker.open(&jobs).await.unwrap(),
            results: broker.open(&results).await.unwrap(),
            letters: broker.open(&letters).await.unwrap(),
            broker,
            proxy,
            directory,
        }
    }

    /// Where the configuration is, and the embedded broker's file.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The embedded broker's file.
    pub fn database(&self) -> PathBuf {
        self.directory().join("lovage.db")
    }

    /// Puts TOML over the configuration as it is. Holds for workers that start from now on.
    pub fn configure(&self, text: &str) {
        let path = self.directory().join("lovage.toml");
        let mut config: toml::Table = std::fs::read_to_string(&path).unwrap().parse().unwrap();
        merge(&mut config, text.parse().unwrap());
        std::fs::write(&path, config.to_string()).unwrap();
    }

    /// Takes a field out of `[queues.jobs]`. Holds for workers that start from now on.
    pub fn unset(&self, field: &str) {
        let path = self.directory().join("lovage.toml");
        let mut config: toml::Table = std::fs::read_to_string(&path).unwrap().parse().unwrap();
        config["queues"]["jobs"].as_table_mut().unwrap().remove(field).unwrap();
        std::fs::write(&path, config.to_string()).unwrap();
    }

    /// The `lovage` command in this stage's surroundings, and in no other's.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lovage"));
        let endpoint = match (&self.proxy, self.kind) {
            (Some(proxy), _) => proxy.endpoint.clone(),
            (None, Kind::Sqs) => ministack::endpoint(),
            // Nobody is to be asked.
            (None, Kind::Local) => "http://127.0.0.1:1".to_owned(),
        };
        command
            .args(arguments)
            .current_dir(self.directory())
            .env_clear()
            .env("HOME", self.directory())
            .env("AWS_ENDPOINT_URL", endpoint)
            .env("AWS_REGION", ministack::REGION)
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", "test")
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .stdin(Stdio::null());
        command
    }

    /// Runs a command of the command line to its end.
    pub async fn lovage(&self, arguments: &[&str]) -> Output {
        let mut command = self.command(arguments);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        Output {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// A worker that has begun to start.
    pub fn spawn(&self) -> Worker {
        Worker::spawn(self.command(&["worker"]))
    }

    /// A worker that takes jobs.
    pub async fn worker(&self) -> Worker {
        let worker = self.spawn();
        worker.logs("worker started", 1).await;
        worker
    }

    /// Sends messages to the queue of the jobs; the broker's ids.
    pub async fn send(&self, messages: &[Outgoing]) -> Vec<String> {
        super::broker::send(&*self.broker, &self.jobs, messages).await
    }

    /// Sends one job.
    pub async fn send_job(&self, id: &str, task: &str, data: Value) {
        self.send(&[job(id, task, data)]).await;
    }

    /// Takes results off their queue until these jobs have theirs, and not twice. Results of other
    /// jobs fail the test.
    pub async fn results_of<I: Into<String>>(
        &self,
        ids: impl IntoIterator<Item = I>,
    ) -> BTreeMap<String, Published> {
        let wanted: BTreeSet<String> = ids.into_iter().map(Into::into).collect();
        let mut results = BTreeMap::new();
        let end = Instant::now() + SOON;
        while results.len() < wanted.len() {
            let left = end.saturating_duration_since(Instant::now());
            let missing: Vec<_> = wanted.iter().filter(|id| !results.contains_key(*id)).collect();
            assert!(
                !left.is_zero(),
                "{} of {} results are missing: {:?}; {:?}",
                missing.len(),
                wanted.len(),
                missing.iter().take(20).collect::<Vec<_>>(),
                self.depth().await,
            );
            let wait = left.min(Duration::from_secs(2));
            for result in take(&*self.broker, &self.results, wait).await {
                let id = result.message.attributes.get(attribute::ID).cloned();
                let id = id.or_else(|| result.envelope["id"].as_str().map(str::to_owned)).unwrap();
                assert!(wanted.contains(&id), "a result of a stranger: {result:?}");
                let twice = results.insert(id, result);
                assert!(twice.is_none(), "a second result of one job: {twice:?}");
            }
        }
        results
    }

    /// The result of one job.
    pub async fn result_of(&self, id: &str) -> Value {
        self.results_of([id]).await.remove(id).unwrap().envelope
    }

    /// Fails if there is another result, or a job that is not done with. To be asked when no
    /// worker runs.
    pub async fn is_done(&self) {
        let extra = take(&*self.broker, &self.results, Duration::ZERO).await;
        assert!(extra.is_empty(), "second results: {extra:?}");
        let depth = self.depth().await;
        assert_eq!(depth, Depth::default(), "jobs are left");
    }

    /// How many jobs there are on the queue.
    pub async fn depth(&self) -> Depth {
        self.broker.depth(&self.jobs).await.unwrap()
    }

    /// Takes what is among the dead letters now, by the jobs' ids; messages without a reason by
    /// their own.
    pub async fn dead_letters(&self) -> BTreeMap<String, (Message, Option<DeadLetter>)> {
        let mut letters = BTreeMap::new();
        loop {
            let more = take(&*self.broker, &self.letters, Duration::ZERO).await;
            if more.is_empty() {
                return letters;
            }
            for Published { message, .. } in more {
                let text = message.attributes.get(DEAD_LETTER);
                let letter: Option<DeadLetter> =
                    text.map(|text| serde_json::from_str(text).unwrap());
                let id = letter.as_ref().map_or(&message.id, |letter| &letter.job_id).clone();
                let twice = letters.insert(id, (message, letter));
                assert!(twice.is_none(), "a second dead letter of one job: {twice:?}");
            }
        }
    }
}

/// A job in the native format.
pub fn job(id: &str, task: &str, data: Value) -> Outgoing {
    job_with(id, task, data, json!({}))
}

/// A job in the native format, with more fields.
#[allow(clippy::needless_pass_by_value, reason = "tests write them out in place")]
pub fn job_with(id: &str, task: &str, data: Value, more: Value) -> Outgoing {
    let mut body = json!({"id": id, "task": task, "data": data});
    let more = more.as_object().unwrap().clone();
    body.as_object_mut().unwrap().extend(more);
    Outgoing { body: body.to_string().into(), ..Outgoing::default() }
}

/// A payload in the raw format.
pub fn raw(id: &str, task: &str, content_type: &str, body: impl Into<bytes::Bytes>) -> Outgoing {
    Outgoing {
        body: body.into(),
        attributes: attributes(&[
            (attribute::FORMAT, "raw"),
            (attribute::ID, id),
            (attribute::TASK, task),
            (attribute::CONTENT_TYPE, content_type),
        ]),
        ..Outgoing::default()
    }
}

/// The same with one more attribute.
pub fn with_attribute(mut message: Outgoing, name: &str, value: &str) -> Outgoing {
    message.attributes.extend(Attributes::from([(name.to_owned(), value.to_owned())]));
    message
}

/// So many milliseconds from now, since the Unix epoch.
pub fn millis_from_now(millis: i64) -> i64 {
    jiff::Timestamp::now().as_millisecond() + millis
}

/// Takes what a queue has, as results.
pub async fn take(broker: &dyn Broker, queue: &Queue, wait: Duration) -> Vec<Published> {
    let messages =
        broker.receive(queue, 256, wait, Duration::from_mins(1), &Turn::default()).await.unwrap();
    let gone: Vec<_> = messages.iter().map(finish).collect();
    settle(broker, queue, &gone).await;
    messages
        .into_iter()
        .map(|message| Published {
            envelope: serde_json::from_slice(&message.body).unwrap_or_default(),
            message,
        })
        .collect()
}

const fn visibility(setup: &Setup) -> u64 {
    if setup.visibility == 0 { 30 } else { setup.visibility }
}

async fn sqs_queues(setup: &Setup) -> [String; 3] {
    let new = |visibility_seconds| NewQueue {
        fifo: setup.fifo,
        visibility_seconds,
        ..NewQueue::default()
    };
    let visibility = u32::try_from(visibility(setup)).unwrap();
    [
        new(Some(visibility)).create("jobs").await,
        new(None).create("results").await,
        new(None).create("letters").await,
    ]
}

fn write_config(dir: &Path, kind: Kind, setup: &Setup, names: &[String; 3]) -> toml::Table {
    let dist = guest("").display().to_string();
    let hostile = setup.hostile.iter().map(|name| guest(&format!("hostile/{name}.wasm")));
    let paths: Vec<_> =
        std::iter::once(dist).chain(hostile.map(|path| path.display().to_string())).collect();
    let [jobs, results, letters] = names;
    let queues = match kind {
        Kind::Sqs => format!(
            "[queues.jobs]\naddress = '{jobs}'\n[queues.results]\naddress = '{results}'\n\
             [queues.letters]\naddress = '{letters}'\n"
        ),
        Kind::Local => {
            let fifo = setup.fifo;
            let visibility_ms = visibility(setup) * 1000;
            format!(
                "[queues.jobs]\nfifo = {fifo}\nvisibility_timeout_ms = {visibility_ms}\n\
                 [queues.results]\nfifo = {fifo}\n[queues.letters]\nfifo = {fifo}\n"
            )
        }
    };
    let usual = format!(
        "broker.kind = '{}'\n\
         worker.concurrency = 16\n\
         worker.receive_wait_ms = 2000\n\
         worker.error_backoff_base_ms = 50\n\
         worker.error_backoff_cap_ms = 1000\n\
         components.paths = {paths:?}\n\
         components.cache_dir = '{}'\n\
         components.state_dir = '{}'\n\
         defaults.max_attempts = 2\n\
         defaults.retry_base_ms = 20\n\
         defaults.retry_cap_ms = 100\n\
         queues.jobs.results = 'results'\n\
         queues.jobs.dead_letters = 'letters'\n\
         queues.results.consume = false\n\
         queues.letters.consume = false\n\
         log.format = 'json'\n\
         log.level = 'info,lovage=debug'\n",
        match kind {
            Kind::Local => "local",
            Kind::Sqs => "sqs",
        },
        cache().display(),
        dir.join("state").display(),
    );
    let mut config: toml::Table = usual.parse().unwrap();
    merge(&mut config, queues.parse().unwrap());
    merge(&mut config, setup.config.parse().unwrap());
    std::fs::write(dir.join("lovage.toml"), config.to_string()).unwrap();
    config
}

/// Puts one table over another, field by field.
fn merge(table: &mut toml::Table, over: toml::Table) {
    for (name, value) in over {
        match (table.get_mut(&name), value) {
            (Some(toml::Value::Table(inner)), toml::Value::Table(over)) => merge(inner, over),
            (_, value) => drop(table.insert(name, value)),
        }
    }
}
