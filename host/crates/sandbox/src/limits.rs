//! What an attempt may use, and how a limit is named where it says no.

use std::fmt;
use std::time::Duration;

use lovage_config::LimitValues;
use lovage_core::byte_size::ByteSize;
use lovage_core::follow_on::Budget;

/// What one attempt may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Limits {
    /// Bytes of all linear memories and tables, and of what the host holds for the guest, together. 128 MiB.
    pub memory_bytes: u64,
    /// Wall time from the first instruction to the last, instantiation included. 60 s.
    pub timeout: Duration,
    /// Wall time after which the guest is told to end. None: not before its timeout.
    pub soft_timeout: Option<Duration>,
    /// CPU time. None: as much as it has wall time.
    pub cpu: Option<Duration>,
    /// Bytes of the output's data. 960 KiB: SQS takes messages of 1 MiB
    /// (<https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html>),
    /// and a result has an envelope around the data.
    pub output_bytes: usize,
    /// Bytes kept of each of standard output and standard error: a quarter of them from its beginning, and
    /// the others from its end. 16 KiB.
    pub stdio_bytes: usize,
    /// Lines of output that go to the log, where guests' output does. 1,000.
    pub log_lines: u64,
    /// Bytes of output that go to the log, where guests' output does. 64 KiB.
    pub log_bytes: u64,
    /// Calls of the host. 10 million.
    pub host_calls: u64,
    /// Elements of one table. 20,000, as Python needs; each counts 8 bytes towards the memory.
    pub table_elements: usize,
    /// Core instances; one component has a handful, Python some dozens. 128.
    pub instances: usize,
    /// Linear memories. 4.
    pub memories: usize,
    /// Tables. 16.
    pub tables: usize,
    /// Live handles of the component model, and live host resources (streams, timers). 4,096.
    pub handles: usize,
    /// HTTP requests. 100.
    pub http_requests: u32,
    /// Bytes of all requests, and of all responses. 16 MiB.
    pub http_bytes: u64,
    /// Time for one connection to stand. 5 s.
    pub http_connect_timeout: Duration,
    /// Time for one request and its whole response. 30 s.
    pub http_timeout: Duration,
    /// Operations on key-value buckets. 1,000.
    pub keyvalue_operations: u32,
    /// Bytes written to the scratch directory. 64 MiB.
    pub scratch_bytes: u64,
    /// Files, directories and links made in the scratch directory. 1,000.
    pub scratch_files: u32,
    /// Files and directories of the scratch directory that are open at once. 64.
    pub scratch_open: u32,
    /// Follow-on jobs. 100.
    pub dispatch_jobs: u32,
    /// Length of a chain of follow-on jobs. 10.
    pub dispatch_depth: u32,
    /// Jobs that follow from a first one, in all. 10,000.
    pub dispatch_tree_jobs: u64,
    /// Bytes of the messages of all those. 256 MiB.
    pub dispatch_tree_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_bytes: 128 << 20,
            timeout: Duration::from_mins(1),
            soft_timeout: None,
            cpu: None,
            output_bytes: 960 << 10,
            stdio_bytes: 16 << 10,
            log_lines: 1_000,
            log_bytes: 64 << 10,
            host_calls: 10_000_000,
            table_elements: 20_000,
            instances: 128,
            memories: 4,
            tables: 16,
            handles: 4096,
            http_requests: 100,
            http_bytes: 16 << 20,
            http_connect_timeout: Duration::from_secs(5),
            http_timeout: Duration::from_secs(30),
            keyvalue_operations: 1_000,
            scratch_bytes: 64 << 20,
            scratch_files: 1_000,
            scratch_open: 64,
            dispatch_jobs: 100,
            dispatch_depth: 10,
            dispatch_tree_jobs: 10_000,
            dispatch_tree_bytes: 256 << 20,
        }
    }
}

impl Limits {
    /// What may follow from a job that is the first of its tree.
    pub const fn tree(&self) -> Budget {
        Budget { jobs: self.dispatch_tree_jobs, bytes: self.dispatch_tree_bytes }
    }

    /// These, with what the configuration sets in their place.
    #[must_use]
    pub fn set(self, values: LimitValues) -> Self {
        let size = |value: Option<u64>, or: usize| {
            value.map_or(or, |value| usize::try_from(value).unwrap_or(usize::MAX))
        };
        let count = |value: Option<u64>, or: u32| {
            value.map_or(or, |value| u32::try_from(value).unwrap_or(u32::MAX))
        };
        let millis = |value: Option<u64>| value.map(Duration::from_millis);
        Self {
            memory_bytes: values.memory_bytes.unwrap_or(self.memory_bytes),
            timeout: millis(values.timeout_ms).unwrap_or(self.timeout),
            soft_timeout: millis(values.soft_timeout_ms).or(self.soft_timeout),
            cpu: millis(values.cpu_ms).or(self.cpu),
            output_bytes: size(values.output_bytes, self.output_bytes),
            stdio_bytes: size(values.stdio_bytes, self.stdio_bytes),
            log_lines: values.log_lines.unwrap_or(self.log_lines),
            log_bytes: values.log_bytes.unwrap_or(self.log_bytes),
            host_calls: values.host_calls.unwrap_or(self.host_calls),
            table_elements: size(values.table_elements, self.table_elements),
            instances: size(values.instances, self.instances),
            memories: size(values.memories, self.memories),
            tables: size(values.tables, self.tables),
            handles: size(values.handles, self.handles),
            http_requests: count(values.http_requests, self.http_requests),
            http_bytes: values.http_bytes.unwrap_or(self.http_bytes),
            http_connect_timeout: millis(values.http_connect_timeout_ms)
                .unwrap_or(self.http_connect_timeout),
            http_timeout: millis(values.http_timeout_ms).unwrap_or(self.http_timeout),
            keyvalue_operations: count(values.keyvalue_operations, self.keyvalue_operations),
            scratch_bytes: values.scratch_bytes.unwrap_or(self.scratch_bytes),
            scratch_files: count(values.scratch_files, self.scratch_files),
            scratch_open: count(values.scratch_open, self.scratch_open),
            dispatch_jobs: count(values.dispatch_jobs, self.dispatch_jobs),
            dispatch_depth: count(values.dispatch_depth, self.dispatch_depth),
            dispatch_tree_jobs: values.dispatch_tree_jobs.unwrap_or(self.dispatch_tree_jobs),
            dispatch_tree_bytes: values.dispatch_tree_bytes.unwrap_or(self.dispatch_tree_bytes),
        }
    }
}

impl Limits {
    /// These, with what the configuration sets where that is less.
    #[must_use]
    pub fn tightened_by(self, values: LimitValues) -> Self {
        let other = self.set(values);
        let less = |one: Option<Duration>, other: Option<Duration>| match (one, other) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        Self {
            memory_bytes: self.memory_bytes.min(other.memory_bytes),
            timeout: self.timeout.min(other.timeout),
            soft_timeout: less(self.soft_timeout, other.soft_timeout),
            cpu: less(self.cpu, other.cpu),
            output_bytes: self.output_bytes.min(other.output_bytes),
            stdio_bytes: self.stdio_bytes.min(other.stdio_bytes),
            log_lines: self.log_lines.min(other.log_lines),
            log_bytes: self.log_bytes.min(other.log_bytes),
            host_calls: self.host_calls.min(other.host_calls),
            table_elements: self.table_elements.min(other.table_elements),
            instances: self.instances.min(other.instances),
            memories: self.memories.min(other.memories),
            tables: self.tables.min(other.tables),
            handles: self.handles.min(other.handles),
            http_requests: self.http_requests.min(other.http_requests),
            http_bytes: self.http_bytes.min(other.http_bytes),
            http_connect_timeout: self.http_connect_timeout.min(other.http_connect_timeout),
            http_timeout: self.http_timeout.min(other.http_timeout),
            keyvalue_operations: self.keyvalue_operations.min(other.keyvalue_operations),
            scratch_bytes: self.scratch_bytes.min(other.scratch_bytes),
            scratch_files: self.scratch_files.min(other.scratch_files),
            scratch_open: self.scratch_open.min(other.scratch_open),
            dispatch_jobs: self.dispatch_jobs.min(other.dispatch_jobs),
            dispatch_depth: self.dispatch_depth.min(other.dispatch_depth),
            dispatch_tree_jobs: self.dispatch_tree_jobs.min(other.dispatch_tree_jobs),
            dispatch_tree_bytes: self.dispatch_tree_bytes.min(other.dispatch_tree_bytes),
        }
    }
}

/// The most bytes of random numbers that one host call of WASI 0.2 gives. WASI 0.3 gives fewer
/// than were asked for; 0.2 cannot, and traps.
pub(super) const RANDOM_BYTES: u64 = 1 << 20;

impl Limits {
    /// Whether an instance that started under these could have started under others, and could not where
    /// it could not.
    pub(super) fn start_alike(&self, other: &Self) -> bool {
        let of = |limits: &Self| {
            let Self { memory_bytes, table_elements, instances, memories, tables, .. } = *limits;
            (memory_bytes, table_elements, instances, memories, tables)
        };
        of(self) == of(other)
    }

    /// Bytes that may cross from the guest to the host in one call, the lifting of the result
    /// included: twice the output, so that an output somewhat too large is refused with its size,
    /// and room for the texts beside it. It bounds what the host allocates for a guest.
    pub(super) fn hostcall_bytes(&self) -> usize {
        self.output_bytes.saturating_mul(2).saturating_add(1024 * 1024)
    }
}

/// A limit that a guest can run into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Limit {
    /// [`Limits::memory_bytes`].
    Memory,
    /// [`Limits::timeout`].
    Timeout,
    /// [`Limits::cpu`].
    Cpu,
    /// [`Limits::output_bytes`].
    Output,
    /// Twice [`Limits::output_bytes`], and a MiB: what may cross to the host in one call.
    HostCallBytes,
    /// [`Limits::host_calls`].
    HostCalls,
    /// [`Limits::table_elements`].
    TableElements,
    /// [`Limits::dispatch_jobs`].
    DispatchJobs,
    /// [`Limits::dispatch_depth`].
    DispatchDepth,
    /// [`Limits::dispatch_tree_jobs`].
    DispatchTreeJobs,
    /// [`Limits::dispatch_tree_bytes`].
    DispatchTreeBytes,
    /// [`Limits::instances`].
    Instances,
    /// [`Limits::memories`].
    Memories,
    /// [`Limits::tables`].
    Tables,
    /// [`Limits::handles`].
    Handles,
    /// [`Limits::scratch_bytes`].
    ScratchBytes,
    /// [`Limits::scratch_files`].
    ScratchFiles,
    /// [`Limits::scratch_open`].
    ScratchOpen,
    /// The maximum that the component itself declares for a memory or table, or that the engine
    /// has room for (`EngineOptions::max_memory_bytes`).
    Declared,
}

impl Limit {
    /// The key of a task's configuration that raises it; `None` where none does.
    pub const fn key(self) -> Option<&'static str> {
        match self {
            Self::Memory => Some("memory_bytes"),
            Self::Timeout => Some("timeout_ms"),
            Self::Cpu => Some("cpu_ms"),
            Self::DispatchJobs => Some("dispatch_jobs"),
            Self::DispatchDepth => Some("dispatch_depth"),
            Self::DispatchTreeJobs => Some("dispatch_tree_jobs"),
            Self::DispatchTreeBytes => Some("dispatch_tree_bytes"),
            Self::Output | Self::HostCallBytes => Some("output_bytes"),
            Self::HostCalls => Some("host_calls"),
            Self::TableElements => Some("table_elements"),
            Self::Instances => Some("instances"),
            Self::Memories => Some("memories"),
            Self::Tables => Some("tables"),
            Self::Handles => Some("handles"),
            Self::ScratchBytes => Some("scratch_bytes"),
            Self::ScratchFiles => Some("scratch_files"),
            Self::ScratchOpen => Some("scratch_open"),
            Self::Declared => None,
        }
    }

    /// The kind of the failure of an attempt that ends by it.
    pub const fn kind(self) -> &'static str {
        match self {
            Self::Memory | Self::Declared => "memory_limit",
            Self::Timeout => "timeout",
            Self::Cpu => "cpu_limit",
            Self::DispatchJobs
            | Self::DispatchDepth
            | Self::DispatchTreeJobs
            | Self::DispatchTreeBytes => "dispatch_limit",
            Self::Output => "output_too_large",
            Self::HostCallBytes => "host_call_too_large",
            Self::HostCalls => "host_call_limit",
            Self::TableElements => "table_limit",
            Self::Instances => "instance_count_limit",
            Self::Memories => "memory_count_limit",
            Self::Tables => "table_count_limit",
            Self::Handles => "handle_limit",
            Self::ScratchBytes | Self::ScratchFiles | Self::ScratchOpen => "scratch_limit",
        }
    }

    /// What to add to a message about it: how it is raised, if it can be.
    pub(super) fn hint(self) -> String {
        self.key().map_or_else(String::new, |key| format!(" (`{key}` raises it)"))
    }
}

/// What was refused. As an error it ends the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// By which limit.
    pub limit: Limit,
    /// How much there would have been in all, in the limit's unit; 0 where that is not known.
    pub asked: u64,
    /// How much there may be, in the limit's unit.
    pub allowed: u64,
}

impl std::error::Error for Refusal {}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { limit, asked, allowed } = *self;
        let hint = limit.hint();
        let bytes = ByteSize(allowed);
        match limit {
            Limit::TableElements => {
                write!(f, "asked for a table of {asked} elements, and {allowed} are allowed{hint}")
            }
            Limit::Declared => write!(
                f,
                "asked for a memory or table of {asked}, and the maximum that it declares, or that \
                 a sandbox has room for, is {allowed}"
            ),
            Limit::HostCallBytes => write!(
                f,
                "gave a host call more than {bytes}, which is twice the output that is allowed, \
                 and 1 MiB{hint}"
            ),
            Limit::HostCalls => write!(f, "called the host more than {allowed} times{hint}"),
            Limit::Instances => write!(f, "has more than {allowed} core instances{hint}"),
            Limit::Memories => write!(f, "has more than {allowed} linear memories{hint}"),
            Limit::Tables => write!(f, "has more than {allowed} tables{hint}"),
            Limit::Handles => write!(f, "held more than {allowed} handles at once{hint}"),
            Limit::ScratchBytes => {
                write!(f, "wrote more than {bytes} to its scratch directory{hint}")
            }
            Limit::ScratchFiles => write!(
                f,
                "made more than {allowed} files and directories in its scratch directory{hint}"
            ),
            Limit::ScratchOpen => write!(
                f,
                "held more than {allowed} files of its scratch directory open at once{hint}"
            ),
            Limit::Cpu => write!(f, "used more than {allowed} ms of CPU{hint}"),
            Limit::DispatchJobs => write!(f, "sent more than {allowed} jobs{hint}"),
            Limit::DispatchDepth => {
                write!(f, "sent a job beyond a chain of {allowed} jobs{hint}")
            }
            Limit::DispatchTreeJobs => {
                write!(f, "sent a job beyond a tree of {allowed} jobs{hint}")
            }
            Limit::DispatchTreeBytes => {
                write!(f, "sent jobs beyond a tree of {bytes}{hint}")
            }
            Limit::Timeout => write!(f, "ran for more than {allowed} ms{hint}"),
            Limit::Output => {
                write!(f, "the output has {}, and {bytes} are allowed{hint}", ByteSize(asked))
            }
            Limit::Memory => write!(
                f,
                "asked for {} of memory in all, and {bytes} are allowed{hint}",
                ByteSize(asked)
            ),
        }
    }
}
