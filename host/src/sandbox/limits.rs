//! What an attempt may use, and who says no.
//!
//! `wasmtime::StoreLimits` holds each memory to a limit but not their sum, and tells nobody why it
//! refused: a guest whose memory was refused just traps. The [`Limiter`] here counts all memories
//! and tables of a store together, and writes down what it refused, so that the failure can name
//! the limit.

use std::fmt;
use std::time::Duration;

use wasmtime::ResourceLimiter;

use crate::config::LimitValues;

/// What one attempt may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of all linear memories and tables together. 128 MiB.
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
    /// Bytes kept of each of standard output and standard error: the last ones. 16 KiB.
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
    /// Files and directories made in the scratch directory. 1,000.
    pub scratch_files: u32,
    /// Follow-on jobs. 100.
    pub dispatch_jobs: u32,
    /// Length of a chain of follow-on jobs. 10.
    pub dispatch_depth: u32,
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
            dispatch_jobs: 100,
            dispatch_depth: 10,
        }
    }
}

impl Limits {
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
            dispatch_jobs: count(values.dispatch_jobs, self.dispatch_jobs),
            dispatch_depth: count(values.dispatch_depth, self.dispatch_depth),
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
            dispatch_jobs: self.dispatch_jobs.min(other.dispatch_jobs),
            dispatch_depth: self.dispatch_depth.min(other.dispatch_depth),
        }
    }
}

/// The most bytes of random numbers that one host call of WASI 0.2 gives. WASI 0.3 gives fewer
/// than were asked for; 0.2 cannot, and traps.
pub(super) const RANDOM_BYTES: u64 = 1 << 20;

impl Limits {
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
    /// [`Limits::table_elements`].
    TableElements,
    /// [`Limits::dispatch_jobs`].
    DispatchJobs,
    /// [`Limits::dispatch_depth`].
    DispatchDepth,
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
            Self::Output => Some("output_bytes"),
            Self::DispatchJobs => Some("dispatch_jobs"),
            Self::DispatchDepth => Some("dispatch_depth"),
            Self::TableElements | Self::Declared => None,
        }
    }

    /// What to add to a message about it: how it is raised, if it can be.
    pub(super) fn hint(self) -> String {
        self.key().map_or_else(String::new, |key| format!(" (`{key}` raises it)"))
    }
}

/// What was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// By which limit.
    pub limit: Limit,
    /// How much there would have been in all; bytes or elements.
    pub asked: u64,
    /// How much there may be; bytes or elements.
    pub allowed: u64,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { limit, asked, allowed } = *self;
        let hint = limit.hint();
        match limit {
            Limit::TableElements => {
                write!(f, "asked for a table of {asked} elements, and {allowed} are allowed{hint}")
            }
            Limit::Declared => write!(
                f,
                "asked for a memory or table of {asked}, and the maximum that it declares, or that \
                 a sandbox has room for, is {allowed}"
            ),
            _ => write!(
                f,
                "asked for {} of memory in all, and {} are allowed{hint}",
                Bytes(asked),
                Bytes(allowed)
            ),
        }
    }
}

/// A number of bytes for people: exact, with a rounded unit where that helps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, name) = match self.0 {
            ..1024 => return write!(f, "{} bytes", self.0),
            1024..0x10_0000 => (1024, "KiB"),
            0x10_0000..0x4000_0000 => (0x10_0000, "MiB"),
            0x4000_0000.. => (0x4000_0000_u64, "GiB"),
        };
        if self.0.is_multiple_of(unit) {
            write!(f, "{} {name}", self.0 / unit)
        } else {
            write!(f, "{:.1} {name}", self.0 as f64 / unit as f64)
        }
    }
}

/// How much memory one element of a table takes: a pointer
/// (`wasmtime::ResourceLimiter::table_growing`).
const TABLE_ELEMENT_BYTES: u64 = 8;

/// Counts what a store has, and refuses what is too much.
///
/// Memories and tables of WebAssembly never shrink, so what is in use is also the peak.
#[derive(Debug)]
pub(super) struct Limiter {
    limits: Limits,
    used: u64,
    refused: Option<Refusal>,
}

impl Limiter {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, used: 0, refused: None }
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The most bytes that memories and tables took.
    pub(super) fn peak_bytes(&self) -> u64 {
        self.used
    }

    /// The last refusal; a guest may have coped with it.
    pub(super) fn refused(&self) -> Option<Refusal> {
        self.refused
    }

    fn grow(&mut self, by: u64) -> bool {
        let asked = self.used.saturating_add(by);
        if asked > self.limits.memory_bytes {
            return self.refuse(Limit::Memory, asked, self.limits.memory_bytes);
        }
        self.used = asked;
        true
    }

    fn refuse(&mut self, limit: Limit, asked: u64, allowed: u64) -> bool {
        self.refused = Some(Refusal { limit, asked, allowed });
        false
    }

    /// What cannot be granted anyway is not counted. Were it counted and taken back in
    /// `memory_grow_failed`, a guest could have more taken back than was counted, since wasmtime
    /// calls that one also for growth that it never asked about.
    fn beyond_maximum(&mut self, desired: usize, maximum: Option<usize>) -> bool {
        match maximum {
            Some(maximum) if desired > maximum => {
                !self.refuse(Limit::Declared, desired as u64, maximum as u64)
            }
            _ => false,
        }
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let by = desired.saturating_sub(current) as u64;
        if self.used.saturating_add(by) <= self.limits.memory_bytes
            && self.beyond_maximum(desired, maximum)
        {
            return Ok(false);
        }
        Ok(self.grow(by))
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if desired > self.limits.table_elements {
            let allowed = self.limits.table_elements as u64;
            return Ok(self.refuse(Limit::TableElements, desired as u64, allowed));
        }
        if self.beyond_maximum(desired, maximum) {
            return Ok(false);
        }
        let by = (desired.saturating_sub(current) as u64).saturating_mul(TABLE_ELEMENT_BYTES);
        Ok(self.grow(by))
    }

    fn instances(&self) -> usize {
        self.limits.instances
    }

    fn tables(&self) -> usize {
        self.limits.tables
    }

    fn memories(&self) -> usize {
        self.limits.memories
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limiter(memory_bytes: u64) -> Limiter {
        Limiter::new(Limits { memory_bytes, ..Limits::default() })
    }

    #[test]
    fn memories_and_tables_count_together() {
        let mut limiter = limiter(1000);
        assert!(limiter.memory_growing(0, 400, None).unwrap());
        assert!(limiter.memory_growing(0, 400, None).unwrap());
        assert!(limiter.table_growing(0, 20, None).unwrap());
        assert_eq!(limiter.peak_bytes(), 960);
        assert!(!limiter.table_growing(20, 30, None).unwrap());
        assert_eq!(
            limiter.refused(),
            Some(Refusal { limit: Limit::Memory, asked: 1040, allowed: 1000 })
        );
        assert!(limiter.memory_growing(400, 440, None).unwrap());
        assert!(!limiter.memory_growing(440, 441, None).unwrap());
    }

    #[test]
    fn growth_that_fails_anyway_is_not_counted_and_never_given_back() {
        let mut limiter = limiter(1000);
        assert!(limiter.memory_growing(0, 100, Some(100)).unwrap());
        assert!(!limiter.memory_growing(100, 200, Some(100)).unwrap());
        assert_eq!(limiter.refused().unwrap().limit, Limit::Declared);
        limiter.memory_grow_failed(wasmtime::Error::msg("no")).unwrap();
        assert_eq!(limiter.peak_bytes(), 100);
        assert!(!limiter.memory_growing(0, 901, None).unwrap());
    }

    #[test]
    fn the_limit_that_is_at_fault_is_the_one_that_is_named() {
        let mut limiter = limiter(1000);
        assert!(!limiter.memory_growing(0, 4000, Some(2000)).unwrap());
        assert_eq!(limiter.refused().unwrap().limit, Limit::Memory);
        assert!(!limiter.table_growing(0, 20_001, None).unwrap());
        assert_eq!(limiter.refused().unwrap().limit, Limit::TableElements);
    }

    #[test]
    fn bytes_are_told_in_units_that_people_read() {
        assert_eq!(Bytes(1023).to_string(), "1023 bytes");
        assert_eq!(Bytes(128 << 20).to_string(), "128 MiB");
        assert_eq!(Bytes((128 << 20) + 65536).to_string(), "128.1 MiB");
        assert_eq!(Bytes(1 << 32).to_string(), "4 GiB");
    }
}
