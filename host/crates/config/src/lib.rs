//! `lovage.toml`: queues, tasks, tenants and limits, with the environment over it.
//!
//! A field that is not known is an error that names the file, the line and the nearest right
//! name. Every field has a default that suits a first run, so that an empty file is a
//! configuration, too. `lovage.sample.toml` at the project's root shows them all; a test keeps it
//! complete.

// Over 500 lines: one struct a section of lovage.toml, in the order of the file.

#![forbid(unsafe_code)]

use std::{
    collections::BTreeMap,
    num::{NonZeroU32, NonZeroU64, NonZeroUsize},
    path::PathBuf,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use lovage_core::format::Format;

pub mod ceilings;
mod celery;
mod component_url;
pub mod defaults;
mod dynamodb_url;
mod grants;
mod isolation;
pub(crate) mod limits;
mod load;
pub mod log_filter;
mod password;
mod redis_url;
mod secrets;
mod services;
mod signing_key;
mod tenants;
mod validate;

pub use celery::{CeleryConfig, TaskCeleryConfig, UnknownTasks};
pub use component_url::ComponentUrl;
pub use dynamodb_url::DynamoDbUrl;
pub use isolation::IsolationConfig;
pub use limits::{LimitValues, TenantLimits};
pub use lovage_policy::{DeterminismConfig, GrantsConfig};
pub use redis_url::RedisUrl;
pub use services::{KeyValueConfig, KeyValueKind, SecretConfig};
pub use signing_key::Key;
pub use tenants::{TenantConfig, TenantSource};

pub use load::{ConfigError, ENVIRONMENT_PREFIX, FILE_NAME};

/// The whole configuration.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where messages come from and go to.
    pub broker: BrokerConfig,
    /// How much a worker does at once, and how it stops.
    pub worker: WorkerConfig,
    /// Where task components are.
    pub components: ComponentsConfig,
    /// How sandboxes are allocated.
    pub sandbox: SandboxConfig,
    /// Which attempts run in processes of their own.
    pub isolation: IsolationConfig,
    /// Settings of every task that has no own ones.
    pub defaults: TaskConfig,
    /// Settings by task name, over `defaults` and over what the component says of itself.
    pub tasks: BTreeMap<String, TaskConfig>,
    /// The queues, by the name that commands and other sections use. Without any there is one
    /// queue `default` on the local broker.
    pub queues: BTreeMap<String, QueueConfig>,
    /// The tenants by name. When any is named, jobs of others are rejected.
    pub tenants: BTreeMap<String, TenantConfig>,
    /// The secrets that grants may name.
    pub secrets: BTreeMap<String, SecretConfig>,
    /// Where key-value buckets are kept.
    pub keyvalue: KeyValueConfig,
    /// What holds for queues that Celery's clients send to.
    pub celery: CeleryConfig,
    /// Where `lovage dispatch` and the dispatcher function send jobs.
    pub dispatch: DispatchConfig,
    /// How the worker's Lambda function behaves.
    pub lambda: LambdaConfig,
    /// What is logged, and how.
    pub log: LogConfig,
}

/// Which broker.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BrokerKind {
    /// The embedded one: a SQLite file.
    #[default]
    Local,
    /// Amazon SQS, or what speaks its protocol. Credentials, region and endpoint are found as
    /// every AWS tool finds them.
    Sqs,
}

/// `[broker]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct BrokerConfig {
    /// `local` or `sqs`.
    pub kind: BrokerKind,
    /// The local broker's database file; made when it is absent. Relative to the configuration
    /// file.
    pub path: PathBuf,
    /// How long the local broker keeps results by job id, in milliseconds.
    pub result_retention_ms: u64,
    /// How long the local broker keeps messages in queues that jobs are not taken from (results, dead
    /// letters), in milliseconds; for ever when 0. On SQS it is an attribute of the queue.
    pub message_retention_ms: u64,
}

impl Default for BrokerConfig {
    fn default() -> Self {
        Self {
            kind: BrokerKind::Local,
            path: "lovage.db".into(),
            result_retention_ms: 24 * 60 * 60 * 1000,
            message_retention_ms: 14 * 24 * 60 * 60 * 1000,
        }
    }
}

/// `[worker]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct WorkerConfig {
    /// The queues to take jobs from; all that take jobs when empty.
    pub queues: Vec<String>,
    /// How many jobs are held and run at once, over all queues; at most 65,536.
    pub concurrency: NonZeroUsize,
    /// The most receives that are under way at once for one busy queue. An idle queue has one.
    pub receivers: NonZeroUsize,
    /// How long one receive waits for a message, in milliseconds: 100 to 20,000, which is the most
    /// that SQS takes.
    pub receive_wait_ms: u64,
    /// The longest that a message is held, in milliseconds, renewals included; at least a second.
    /// SQS allows 12 hours.
    pub max_lease_ms: NonZeroU64,
    /// How long running jobs may go on after the first SIGTERM or SIGINT, in milliseconds.
    pub drain_timeout_ms: u64,
    /// The first bound of the back-off after a broker's error, in milliseconds.
    pub error_backoff_base_ms: NonZeroU64,
    /// The last bound of that back-off, in milliseconds.
    pub error_backoff_cap_ms: NonZeroU64,
    /// How often publishing a result is tried while its message is held, before the message is
    /// put back for a later attempt.
    pub publish_attempts: NonZeroU32,
    /// Threads of the async runtime, and as many again for jobs that take more than a moment of CPU
    /// time; as many as there are CPUs when 0.
    pub threads: usize,
    /// How many jobs of one tenant may be held and run at once, where the tenant's own settings do
    /// not say; three quarters of `concurrency` when absent. Jobs without a tenant may take all.
    pub tenant_concurrency: Option<NonZeroUsize>,
    /// The part of its memory, in percent, above which the worker runs one job at a time, so that the
    /// system has no reason to kill it: of its cgroup's limit, of `ulimit -v` and `-d`, and of the
    /// machine's memory, whichever is nearest. 90 when absent; 0 turns it off.
    pub memory_high_percent: u8,
    /// How many bytes of memory all jobs that run may be allowed together: a job waits until its
    /// `memory_bytes` fit in. No such bound when absent.
    pub memory_bytes: Option<NonZeroU64>,
    /// Where what is counted can be asked for over HTTP (`/metrics` for Prometheus, `/usage` for
    /// `lovage usage`): address and port, such as `127.0.0.1:9464`. Nowhere when absent.
    pub metrics_address: Option<std::net::SocketAddr>,
    /// For how long after it was sent a message is left for other workers whose task no component here
    /// serves, in milliseconds: as long as a new component takes to reach the whole fleet. After that
    /// it is rejected. At once when 0. Where `celery.unknown_tasks` is `leave`, messages of Celery's are
    /// left without end.
    pub leave_unknown_ms: u64,
}

impl Default for WorkerConfig {
    fn default() -> Self {
        Self {
            queues: Vec::new(),
            concurrency: nonzero(64),
            receivers: nonzero(4),
            receive_wait_ms: 20_000,
            max_lease_ms: nonzero64(12 * 60 * 60 * 1000),
            drain_timeout_ms: 20_000,
            error_backoff_base_ms: nonzero64(200),
            error_backoff_cap_ms: nonzero64(30_000),
            publish_attempts: NonZeroU32::MIN.saturating_add(4),
            threads: 0,
            tenant_concurrency: None,
            memory_high_percent: 90,
            memory_bytes: None,
            metrics_address: None,
            leave_unknown_ms: 0,
        }
    }
}

/// `[components]`
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ComponentsConfig {
    /// `.wasm` files, and directories of them (not searched any deeper). Relative to the
    /// configuration file.
    pub paths: Vec<PathBuf>,
    /// Directories of what `lovage compile` made. Their code is trusted as it is: only name
    /// directories that nobody else can write. The one source in builds without a compiler.
    pub precompiled: Vec<PathBuf>,
    /// Where compiled code is kept; `lovage` in the user's cache directory when absent. In builds
    /// without a compiler, what was fetched of it; `/tmp/lovage` when absent.
    pub cache_dir: Option<PathBuf>,
    /// How many bytes the cache may hold; the least recently used code goes first. 2 GiB when
    /// absent.
    pub cache_bytes: Option<u64>,
    /// How many bytes of compiled code are in memory at once; what was used least recently is
    /// loaded again when a job needs it. 256 MiB when absent.
    pub loaded_bytes: Option<u64>,
    /// The most bytes of one `.wasm` file; larger ones are not loaded. It bounds the time and the
    /// memory that compiling one takes. 64 MiB when absent.
    pub max_bytes: Option<NonZeroU64>,
    /// The most CPU time that compiling one component may take, in milliseconds, rounded up to
    /// seconds; what takes more is not loaded. 5 minutes when absent.
    pub compile_cpu_ms: Option<NonZeroU64>,
    /// The most memory that compiling one component may take. 4 GiB when absent.
    pub compile_memory_bytes: Option<NonZeroU64>,
    /// The most wall time that compiling one component may take, in milliseconds. What takes longer
    /// is tried again a few times, later. 10 minutes when absent.
    pub compile_timeout_ms: Option<NonZeroU64>,
    /// The most bytes of native code of one component. 256 MiB when absent.
    pub max_code_bytes: Option<NonZeroU64>,
    /// The most bytes of native code for each byte of a component, where it has more than 16 MiB of
    /// native code. 16 when absent.
    pub max_code_ratio: Option<NonZeroU64>,
    /// What a start does with a component that is not served: it does not load, or a task of it is
    /// another's. `serve_rest` when absent.
    pub on_error: OnError,
    /// True if a worker notices other versions while it runs, and serves them. Yes when absent.
    pub watch: Option<bool>,
    /// After how many milliseconds it looks for them where it is not told: 30 seconds when absent.
    pub refresh_ms: Option<NonZeroU64>,
    /// Where a worker keeps the versions that it served; `lovage` in the user's directory for state
    /// when absent.
    pub state_dir: Option<PathBuf>,
    /// How many versions of a component are kept, 2 or more; 5 when absent.
    pub keep_versions: Option<NonZeroUsize>,
    /// True if a job may ask for a version by the header `lovage-version`: one that is kept, and
    /// not denied. Whoever sends jobs can then have old versions run.
    pub pins: bool,
    /// How a new version is tried; when absent it takes all jobs at once.
    pub canary: Option<CanaryConfig>,
    /// Where else components are: `s3://BUCKET/PREFIX`, `oci://REGISTRY/REPOSITORY:TAG`,
    /// `https://HOST/PATH#sha256:DIGEST`. Builds without a compiler take from `s3://` what `lovage
    /// compile` made, signed by a key with `precompiled`, and nothing from the others.
    pub urls: Vec<String>,
    /// Who may sign components, and whether one has to.
    pub signatures: SignaturesConfig,
}

/// `components.on_error`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OnError {
    /// The start fails.
    Refuse,
    /// All other components are served, and it is looked at again. The start fails if nothing is
    /// served.
    #[default]
    ServeRest,
}

/// After how long a worker looks for other versions where it is not told of them.
const REFRESH: Duration = Duration::from_secs(30);

impl ComponentsConfig {
    /// After how long one looks for other versions where one is not told.
    pub fn refresh_every(&self) -> Duration {
        self.refresh_ms.map_or(REFRESH, |ms| Duration::from_millis(ms.get()))
    }
}

/// `[components.signatures]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct SignaturesConfig {
    /// True if a component that none of the keys signed is refused.
    pub required: bool,
    /// How long before a key expires a worker and `lovage config check` warn of it, in milliseconds.
    /// 30 days when absent.
    pub warn_before_ms: Option<u64>,
    /// The keys.
    pub keys: Vec<KeyConfig>,
}

/// `[[components.signatures.keys]]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct KeyConfig {
    /// What signatures call it.
    pub id: String,
    /// Its 32 bytes in base64.
    pub public: String,
    /// From when on what it signed is not taken, such as `2027-01-01T00:00:00Z`; for ever when
    /// absent.
    pub not_after: Option<jiff::Timestamp>,
    /// True if what it signed may be native code, which is run as a part of this program: a host
    /// without a compiler takes such code from S3. No when absent.
    #[serde(default)]
    pub precompiled: bool,
}

/// `[components.canary]`
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct CanaryConfig {
    /// How many of 100 jobs a new version gets, above 0 and up to 100. 5 when absent.
    pub percent: f64,
    /// How many jobs it has to have had before it takes all jobs, or is taken back. 100 when absent.
    pub min_calls: NonZeroU64,
    /// By how much the part of jobs whose first attempt fails may be greater than that of the
    /// version before it, 0 to 1. 0.02 when absent.
    pub failure_margin: f64,
    /// A first attempt that takes longer than this many times the median of the version before it is
    /// slow; the new version is taken back if clearly more of its attempts are. 1 or more. 2 when
    /// absent.
    pub latency_ratio: f64,
    /// The probability that a version that is as good as the one before it is taken back, above 0
    /// and up to 0.5. 0.05 when absent.
    pub alpha: f64,
}

impl Default for CanaryConfig {
    fn default() -> Self {
        Self {
            percent: 5.0,
            min_calls: NonZeroU64::MIN.saturating_add(99),
            failure_margin: 0.02,
            latency_ratio: 2.0,
            alpha: 0.05,
        }
    }
}

/// How instances are allocated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AllocatorKind {
    /// Pooling, and on demand where the address space does not suffice.
    #[default]
    Auto,
    /// Pooling or nothing: fast, reserves about 16 GiB of address space for each job at once (four
    /// memories of 4 GiB).
    Pooling,
    /// On demand: slower, reserves little.
    OnDemand,
}

/// `[sandbox]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct SandboxConfig {
    /// `auto`, `pooling` or `on_demand`.
    pub allocator: AllocatorKind,
    /// How many bytes of address space each memory reserves, and a job has room for four; a
    /// smaller number than the default of 4 GiB costs bounds checks, and helps where address
    /// space is limited. Not below any `memory_bytes`.
    pub memory_reservation_bytes: Option<u64>,
    /// For how many components a worker makes an instance ahead while it has nothing to do; 4 when absent, none
    /// with 0. Each holds the memory that the component starts with. Lambda functions make none.
    pub ready_instances: Option<u32>,
}

limits::with_limits! {
    /// `[defaults]` and `[tasks.NAME]`: what is absent in `[tasks.NAME]` is taken from the
    /// component's description where that asks for no more than `[defaults]`, then from
    /// `[defaults]`, then from the values in `lovage.sample.toml`.
    #[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
    #[serde(deny_unknown_fields, default)]
    pub struct TaskConfig {
        /// How many attempts a job gets. A sender may ask for fewer.
        pub max_attempts: Option<NonZeroU32>,
        /// The bound of the delay after the first attempt, in milliseconds; it doubles from there.
        pub retry_base_ms: Option<u64>,
        /// The bound of every such delay, in milliseconds.
        pub retry_cap_ms: Option<u64>,
        /// Whether JSON payloads are held to the schema that the component has for them, before a guest
        /// is made; they are when absent.
        pub check_payload: Option<bool>,
        /// The queue for results, over the queue's own setting.
        pub results: Option<String>,
        /// The results' format, over the queue's own setting.
        pub result_format: Option<ResultFormat>,
        /// The queue that follow-on jobs for this task are sent to; the queue that their sender
        /// came from when absent.
        pub queue: Option<String>,
        /// What the task is granted, beyond its memory and time.
        pub grants: GrantsConfig,
        /// How calls of Celery's become the task's payload.
        pub celery: TaskCeleryConfig,
        /// The one component that may serve the task: its name (its file's, without `.wasm`), its
        /// path, or its URL. Whichever declares the task when absent. Not in `[defaults]`.
        pub component: Option<String>,
    }
}

/// How a result looks on its queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ResultFormat {
    /// A JSON object that tells all.
    #[default]
    Envelope,
    /// The value alone; the rest is in message attributes.
    Bare,
}

/// `[queues.NAME]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
#[allow(clippy::struct_excessive_bools, reason = "each is a switch of the operator's")]
pub struct QueueConfig {
    /// The queue's name or URL at the broker, where it differs from NAME.
    pub address: Option<String>,
    /// SQS only: whether the queue is made where it is not there, with its dead-letter queue, a redrive
    /// policy and the queue for results. The local broker makes all queues.
    pub create: bool,
    /// True if jobs are taken from it. Set to false for queues that are only sent to, such as
    /// results and dead letters.
    pub consume: bool,
    /// Local broker only: whether messages of one group keep their order. On SQS the queue knows.
    pub fifo: bool,
    /// `native`, `raw` or `celery`: the wire format of messages that do not name theirs.
    pub format: Format,
    /// The task of messages that name none.
    pub default_task: Option<String>,
    /// The tenant of messages that name none.
    pub tenant: Option<String>,
    /// Who is believed about a job's tenant, the first that says something: `body`, `attribute`,
    /// `group`, `queue`. A message that names another tenant anywhere else is rejected: whoever
    /// may send could act for any tenant.
    pub tenant_from: Vec<TenantSource>,
    /// True if jobs without a tenant are rejected.
    pub tenant_required: bool,
    /// The media type of raw bodies that name none; JSON when absent.
    pub content_type: Option<String>,
    /// The queue for results: a name from this file, or an address. None are published when
    /// absent; the local broker keeps them by job id all the same.
    pub results: Option<String>,
    /// `envelope` or `bare`.
    pub result_format: ResultFormat,
    /// The queue for dead letters: a name from this file, or an address. When absent, on SQS the
    /// target of the queue's redrive policy, on the local broker `NAME-dlq`. `discard` gives
    /// them up: their reasons are logged, and the messages are lost.
    pub dead_letters: Option<String>,
    /// Which queues a message's `reply_to` may name: names or addresses, `*` at the end matches
    /// any rest. Whoever sends jobs makes the worker send to these queues. `lovage-reply-*` when
    /// absent: those that `lovage send --wait` makes.
    pub reply_to: Vec<String>,
    /// How long a message is hidden while it is worked on, in milliseconds; renewed at half of
    /// it. The queue's own setting when absent.
    pub visibility_timeout_ms: Option<NonZeroU64>,
    /// How many of the worker's jobs may be from this queue; all of them when absent.
    pub concurrency: Option<NonZeroUsize>,
    /// Local broker only: how long a message stays in it, in milliseconds; for ever when 0. When
    /// absent, `broker.message_retention_ms` where no jobs are taken from it, else for ever.
    pub retention_ms: Option<u64>,
}

impl Default for QueueConfig {
    fn default() -> Self {
        Self {
            address: None,
            create: false,
            consume: true,
            fifo: false,
            format: Format::Native,
            default_task: None,
            tenant: None,
            tenant_from: TenantSource::ALL.to_vec(),
            tenant_required: false,
            content_type: None,
            results: None,
            result_format: ResultFormat::Envelope,
            dead_letters: None,
            reply_to: vec!["lovage-reply-*".to_owned()],
            visibility_timeout_ms: None,
            concurrency: None,
            retention_ms: None,
        }
    }
}

/// What `dead_letters` says where they are given up.
pub const DISCARD: &str = "discard";

/// How the dispatcher hands jobs on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DispatchKind {
    /// Invokes the worker's Lambda function with `InvocationType=Event`.
    #[default]
    Lambda,
    /// Sends to a queue of the configured broker.
    Queue,
}

/// `[dispatch]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct DispatchConfig {
    /// `lambda` or `queue`.
    pub kind: DispatchKind,
    /// For `lambda`: name or ARN of the worker's function.
    pub function: Option<String>,
    /// For `queue`: a name from `[queues]`, or an address.
    pub queue: Option<String>,
}

/// `[lambda]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct LambdaConfig {
    /// The queue in `[queues]` whose settings hold for jobs that the function is invoked with, and
    /// for those of queues that are not named there. The only one to take jobs from when absent.
    pub queue: Option<String>,
    /// How long before Lambda's deadline guests are stopped, in milliseconds, so that results
    /// can still be published. Never more than half of the time that Lambda leaves.
    pub margin_ms: u64,
}

impl Default for LambdaConfig {
    fn default() -> Self {
        Self { queue: None, margin_ms: 1000 }
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// JSON in AWS Lambda, else for people.
    #[default]
    Auto,
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

/// `[log]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// `auto`, `human` or `json`.
    pub format: LogFormat,
    /// A level (`error`, `warn`, `info`, `debug`, `trace`), or directives such as
    /// `warn,lovage=debug`.
    pub level: String,
    /// True if what guests write to standard output and standard error is logged, line by line,
    /// up to the limits `log_lines` and `log_bytes`. Guests may write what is in payloads.
    pub guests: bool,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { format: LogFormat::Auto, level: "info".to_owned(), guests: false }
    }
}

/// The name of the queue that a configuration without `[queues]` has.
pub const DEFAULT_QUEUE: &str = "default";

/// Where the local broker puts a queue's dead letters when the configuration does not say.
pub fn default_dead_letters(queue: &str) -> String {
    format!("{queue}-dlq")
}

impl Config {
    /// The settings of a queue: `address` filled in, the default queue made up.
    pub fn queue(&self, name: &str) -> Option<QueueConfig> {
        match self.queues.get(name) {
            Some(queue) => Some(queue.clone()),
            None if self.queues.is_empty() && name == DEFAULT_QUEUE => Some(QueueConfig::default()),
            None => None,
        }
    }

    /// The names of the queues that a worker takes jobs from.
    pub fn consumed_queues(&self) -> Vec<String> {
        if !self.worker.queues.is_empty() {
            return self.worker.queues.clone();
        }
        if self.queues.is_empty() {
            return vec![DEFAULT_QUEUE.to_owned()];
        }
        let consumed = self.queues.iter().filter(|(_, queue)| queue.consume);
        consumed.map(|(name, _)| name.clone()).collect()
    }

    /// What the broker knows the queue by: its `address` where the name is one of this file's,
    /// else the name itself.
    pub fn address<'a>(&'a self, name: &'a str) -> &'a str {
        self.queues.get(name).and_then(|queue| queue.address.as_deref()).unwrap_or(name)
    }
}

const fn nonzero(n: usize) -> NonZeroUsize {
    NonZeroUsize::MIN.saturating_add(n - 1)
}

const fn nonzero64(n: u64) -> NonZeroU64 {
    NonZeroU64::MIN.saturating_add(n - 1)
}

#[cfg(test)]
mod tests;
