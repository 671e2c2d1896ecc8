//! Events, one struct each: emitting one writes the log line and counts it, so that
//! neither is forgotten.
//!
//! Fields never hold payloads, outputs or secrets. The job's id, task, tenant, attempt and
//! component are fields of the span that surrounds an attempt, and not repeated here. Metrics go
//! to whatever recorder of the `metrics` crate the process has installed.

// Over 500 lines: one struct an event; a test compares the list with its table.

mod health;
mod operator;
mod outages;
mod settling;
mod shipping;

use std::{fmt, time::Duration};

pub use self::{health::*, operator::*, outages::*, settling::*, shipping::*};

use metrics::{counter, histogram};
use tracing::{debug, error, info, warn};

use crate::{
    broker::BrokerError,
    cancellation::Progress,
    outcome::Status,
    text::one_line,
    usage::{Cost, Usage},
};

/// How long a reason may be in a log line, in bytes.
const REASON_BYTES: usize = 1024;

/// An error with all that lies beneath it, on one line.
pub struct Chain<'a>(pub &'a dyn std::error::Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut all = self.0.to_string();
        let mut next = self.0.source();
        while let Some(source) = next {
            let text = source.to_string();
            // Many errors already tell what lies beneath them.
            if !all.contains(&text) {
                all = format!("{all}: {text}");
            }
            next = source.source();
        }
        f.write_str(&one_line(&all, 2 * REASON_BYTES))
    }
}

/// A worker takes jobs from now on.
pub struct WorkerStarted<'a> {
    /// The broker's kind.
    pub broker: &'a str,
    /// The queues by name.
    pub queues: &'a [String],
    /// How many tasks it serves.
    pub tasks: usize,
    /// How many jobs it runs at once.
    pub concurrency: usize,
}

impl WorkerStarted<'_> {
    /// Logs and counts.
    pub fn emit(self) {
        info!(
            broker = self.broker,
            queues = %self.queues.join(","),
            tasks = self.tasks,
            concurrency = self.concurrency,
            "worker started"
        );
        counter!("lovage_workers_started_total").increment(1);
    }
}

/// The configuration has settings for a task that no component serves: misspelt, most likely, and
/// so they hold for nobody.
pub struct TaskNotServed<'a> {
    /// The task's name.
    pub task: &'a str,
    /// The task that may have been meant.
    pub nearest: Option<&'a str>,
}

impl TaskNotServed<'_> {
    /// Logs and counts.
    pub fn emit(self) {
        warn!(
            task = self.task,
            nearest = self.nearest,
            "[tasks.{}] is for a task that no component serves{}",
            self.task,
            self.nearest.map_or_else(String::new, |near| format!("; did you mean `{near}`?"))
        );
        counter!("lovage_tasks_not_served_total").increment(1);
    }
}

/// A worker was told to stop, and takes no more jobs.
pub struct WorkerDraining {
    /// Jobs that still run.
    pub running: usize,
    /// How long they may go on.
    pub timeout: Duration,
}

impl WorkerDraining {
    /// Logs and counts.
    pub fn emit(self) {
        info!(
            running = self.running,
            timeout_ms = ms(self.timeout),
            "stopping: taking no more jobs, letting running ones finish; a second signal stops at once"
        );
        counter!("lovage_workers_draining_total").increment(1);
    }
}

/// A worker has stopped.
pub struct WorkerStopped {
    /// Jobs that were cut short and given back.
    pub given_back: usize,
}

impl WorkerStopped {
    /// Logs and counts.
    pub fn emit(self) {
        info!(given_back = self.given_back, "worker stopped");
        counter!("lovage_workers_stopped_total").increment(1);
    }
}

/// Messages came in.
pub struct MessagesReceived<'a> {
    /// The queue's name.
    pub queue: &'a str,
    /// How many.
    pub count: usize,
}

impl MessagesReceived<'_> {
    /// Logs and counts.
    pub fn emit(self) {
        debug!(queue = self.queue, count = self.count, "messages received");
        counter!("lovage_messages_received_total", "queue" => self.queue.to_owned())
            .increment(self.count as u64);
    }
}

/// A receive failed; it is tried again.
pub struct ReceiveFailed<'a> {
    /// The queue's name.
    pub queue: &'a str,
    /// Why.
    pub error: &'a BrokerError,
    /// How many failed in a row.
    pub failures: u32,
    /// When it is tried again.
    pub retry_in: Duration,
}

impl ReceiveFailed<'_> {
    /// Logs and counts.
    pub fn emit(self) {
        error!(
            queue = self.queue,
            error = %Chain(self.error),
            failures = self.failures,
            retry_in_ms = ms(self.retry_in),
            "receiving failed"
        );
        counter!("lovage_receive_failures_total", "queue" => self.queue.to_owned()).increment(1);
    }
}

/// An attempt begins.
pub struct AttemptStarted<'a> {
    /// The queue's name.
    pub queue: &'a str,
}

impl AttemptStarted<'_> {
    /// Logs and counts.
    pub fn emit(self) {
        debug!(queue = self.queue, "attempt started");
        counter!("lovage_attempts_started_total", "queue" => self.queue.to_owned()).increment(1);
    }
}

/// A guest ran, and that is over, whatever comes of it. What attempts cost in all is counted by
/// [`Totals`](crate::usage::Totals).
pub struct AttemptEnded<'a> {
    /// The queue's name.
    pub queue: &'a str,
    /// The task's name.
    pub task: &'a str,
    /// The outcome, as a machine-readable word.
    pub outcome: &'static str,
    /// The resources that it used.
    pub usage: Usage,
}

impl AttemptEnded<'_> {
    /// Logs and counts.
    pub fn emit(self) {
        let cost = Cost::from(self.usage);
        debug!(
            queue = self.queue,
            outcome = self.outcome,
            cpu_us = cost.cpu_us,
            wall_us = cost.wall_us,
            peak_memory_bytes = cost.peak_memory_bytes,
            memory_byte_ms = cost.memory_byte_ms,
            host_calls = cost.host_calls,
            bytes_in = cost.bytes_in,
            bytes_out = cost.bytes_out,
            "attempt ended"
        );
        counter!(
            "lovage_attempts_ended_total",
            "queue" => self.queue.to_owned(),
            "outcome" => self.outcome,
        )
        .increment(1);
        histogram!("lovage_attempt_cpu_seconds", "task" => self.task.to_owned())
            .record(self.usage.cpu.as_secs_f64());
        histogram!("lovage_attempt_wall_seconds", "task" => self.task.to_owned())
            .record(self.usage.wall.as_secs_f64());
    }
}

/// An attempt was given up before its end; its job is named by the span, and why by the event of
/// what gave it up: a lease that was lost, a worker that stops, a bug in the host.
pub struct AttemptAbandoned<'a> {
    /// The queue's name.
    pub queue: &'a str,
}

impl AttemptAbandoned<'_> {
    /// Logs and counts.
    pub fn emit(self) {
        warn!(queue = self.queue, "attempt given up before its end");
        counter!("lovage_attempts_abandoned_total", "queue" => self.queue.to_owned()).increment(1);
    }
}

/// A running job said how far it is.
pub struct JobProgress<'a> {
    /// The queue's name.
    pub queue: &'a str,
    /// How far; the message is one line, made fit to be shown.
    pub progress: &'a Progress,
}

impl JobProgress<'_> {
    /// Logs and counts.
    pub fn emit(self) {
        let Progress { percent, message } = self.progress;
        info!(queue = self.queue, percent, said = %message, "job progress");
        counter!("lovage_progress_reports_total", "queue" => self.queue.to_owned()).increment(1);
    }
}

/// A job came to its end: its result is about to be published.
pub struct JobFinished<'a> {
    /// The queue's name.
    pub queue: &'a str,
    /// The task's name; empty where it is not one of ours.
    pub task: &'a str,
    /// The final word.
    pub status: Status,
    /// Why there is no value: kind and message.
    pub failure: Option<(&'a str, &'a str)>,
    /// What the last attempt cost, if a guest ran.
    pub usage: Option<Usage>,
}

impl JobFinished<'_> {
    /// Logs and counts.
    pub fn emit(self) {
        let cost = Cost::from(self.usage.unwrap_or_default());
        match self.failure {
            None => info!(
                queue = self.queue,
                status = self.status.as_str(),
                cpu_us = cost.cpu_us,
                wall_us = cost.wall_us,
                peak_memory_bytes = cost.peak_memory_bytes,
                memory_byte_ms = cost.memory_byte_ms,
                host_calls = cost.host_calls,
                bytes_in = cost.bytes_in,
                bytes_out = cost.bytes_out,
                "job finished"
            ),
            Some((kind, message)) => warn!(
                queue = self.queue,
                status = self.status.as_str(),
                kind = %one_line(kind, REASON_BYTES),
                reason = %one_line(message, REASON_BYTES),
                cpu_us = cost.cpu_us,
                wall_us = cost.wall_us,
                peak_memory_bytes = cost.peak_memory_bytes,
                memory_byte_ms = cost.memory_byte_ms,
                host_calls = cost.host_calls,
                bytes_in = cost.bytes_in,
                bytes_out = cost.bytes_out,
                "job finished without a value"
            ),
        }
        counter!(
            "lovage_jobs_finished_total",
            "queue" => self.queue.to_owned(),
            "task" => self.task.to_owned(),
            "status" => self.status.as_str(),
        )
        .increment(1);
    }
}

/// A message goes back, to be delivered again.
pub struct JobReleased<'a> {
    /// The queue's name.
    pub queue: &'a str,
    /// Not before this has passed.
    pub after: Duration,
    /// True if the attempt counts.
    pub spent: bool,
    /// Why: kind and message. `None` where nothing went wrong.
    pub failure: Option<(&'a str, &'a str)>,
}

impl JobReleased<'_> {
    /// Logs and counts.
    pub fn emit(self) {
        let (kind, reason) = self.failure.unwrap_or(("", ""));
        info!(
            queue = self.queue,
            after_ms = ms(self.after),
            spent = self.spent,
            kind = %one_line(kind, REASON_BYTES),
            reason = %one_line(reason, REASON_BYTES),
            "job goes back"
        );
        counter!(
            "lovage_jobs_released_total",
            "queue" => self.queue.to_owned(),
            "spent" => if self.spent { "true" } else { "false" },
        )
        .increment(1);
    }
}

/// A message is left for other workers of its queue, since nobody here can do anything with it.
pub struct MessageLeft<'a> {
    /// The queue's name.
    pub queue: &'a str,
    /// The task's name; empty where the message names none.
    pub task: &'a str,
    /// True if this task was not met before.
    pub first: bool,
}

impl MessageLeft<'_> {
    /// Logs and counts.
    pub fn emit(self) {
        let task = one_line(self.task, 200);
        if self.first {
            warn!(
                queue = self.queue,
                %task,
                "no component here serves the task: its messages are left for other workers of the \
                 queue; this is logged once per task"
            );
        } else {
            debug!(queue = self.queue, %task, "message left for other workers");
        }
        counter!("lovage_messages_left_total", "queue" => self.queue.to_owned()).increment(1);
    }
}

/// A message goes back because its tenant has as much of the worker as it may. Told once in a while,
/// and for those who look closely each time.
pub struct TenantHeldBack<'a> {
    /// The queue's name.
    pub queue: &'a str,
    /// The tenant.
    pub tenant: &'a str,
    /// True if the configuration names it. Senders choose the names of others, and those are not
    /// counted one by one.
    pub known: bool,
    /// What it has no more of: `concurrency` or `rate`.
    pub want: &'a str,
    /// Not before this has passed.
    pub after: Duration,
    /// True if a log line is due.
    pub tell: bool,
}

impl TenantHeldBack<'_> {
    /// Logs and counts.
    pub fn emit(self) {
        let tenant = one_line(self.tenant, 200);
        let after_ms = ms(self.after);
        if self.tell {
            info!(
                queue = self.queue,
                %tenant,
                want = self.want,
                after_ms,
                "tenant is held back: its messages wait until it has room again"
            );
        } else {
            debug!(queue = self.queue, %tenant, want = self.want, after_ms, "message held back");
        }
        let tenant = if self.known { tenant } else { String::new() };
        counter!(
            "lovage_tenant_holds_total",
            "queue" => self.queue.to_owned(),
            "tenant" => tenant,
            "want" => self.want.to_owned(),
        )
        .increment(1);
    }
}

/// A message goes to the dead letters, or would, were they not discarded.
pub struct DeadLettered<'a> {
    /// The queue's name.
    pub queue: &'a str,
    /// Where it goes; `None` where the configuration discards them.
    pub to: Option<&'a str>,
    /// Why.
    pub reason: &'a str,
}

impl DeadLettered<'_> {
    /// Logs and counts.
    pub fn emit(self) {
        let reason = one_line(self.reason, REASON_BYTES);
        if let Some(to) = self.to {
            warn!(queue = self.queue, to, %reason, "message becomes a dead letter");
        } else {
            error!(queue = self.queue, %reason, "dead letter discarded, as configured");
        }
        counter!("lovage_dead_letters_total", "queue" => self.queue.to_owned()).increment(1);
    }
}

/// A lease could not be renewed; its attempt is given up, since another worker may have it now.
pub struct LeaseLost<'a> {
    /// The queue's name.
    pub queue: &'a str,
    /// Why.
    pub reason: &'a str,
}

impl LeaseLost<'_> {
    /// Logs and counts.
    pub fn emit(self) {
        warn!(queue = self.queue, reason = self.reason, "lease lost: the attempt is given up");
        counter!("lovage_leases_lost_total", "queue" => self.queue.to_owned()).increment(1);
    }
}

/// Renewing leases failed; it is tried again while they last.
pub struct RenewalFailed<'a> {
    /// The queue's name.
    pub queue: &'a str,
    /// Why.
    pub error: &'a BrokerError,
    /// How many leases.
    pub count: usize,
}

impl RenewalFailed<'_> {
    /// Logs and counts.
    pub fn emit(self) {
        warn!(
            queue = self.queue,
            error = %Chain(self.error),
            count = self.count,
            "renewing leases failed"
        );
        counter!("lovage_lease_renewal_failures_total", "queue" => self.queue.to_owned())
            .increment(self.count as u64);
    }
}

/// Publishing, deleting or releasing failed; the message is still there.
pub struct SettleFailed<'a> {
    /// The queue's name.
    pub queue: &'a str,
    /// Why.
    pub error: &'a BrokerError,
    /// How often it was tried.
    pub tries: u32,
    /// When it is tried again; `None` when it is left to the lease's end.
    pub retry_in: Option<Duration>,
}

impl SettleFailed<'_> {
    /// Logs and counts.
    pub fn emit(self) {
        error!(
            queue = self.queue,
            error = %Chain(self.error),
            tries = self.tries,
            retry_in_ms = self.retry_in.map(ms),
            "settling a message failed; it is not lost"
        );
        counter!("lovage_settle_failures_total", "queue" => self.queue.to_owned()).increment(1);
    }
}

/// A sender's reply queue does not take the result; it goes where results go that name none.
pub struct ReplyRefused<'a> {
    /// The queue's name.
    pub queue: &'a str,
    /// Why.
    pub error: &'a BrokerError,
}

impl ReplyRefused<'_> {
    /// Logs and counts.
    pub fn emit(self) {
        warn!(
            queue = self.queue,
            error = %Chain(self.error),
            "the reply queue does not take the result; it goes to the queue for results, if any"
        );
        counter!("lovage_replies_refused_total", "queue" => self.queue.to_owned()).increment(1);
    }
}

/// A secret could not be looked up.
pub struct SecretLookupFailed<'a> {
    /// The secret's name.
    pub secret: &'a str,
    /// Why; no value is in it.
    pub error: &'a dyn std::error::Error,
    /// True if the value from before serves on.
    pub stale: bool,
}

impl SecretLookupFailed<'_> {
    /// Logs and counts.
    pub fn emit(self) {
        let what = if self.stale {
            "a secret's source is away: the value from before serves on for a while"
        } else {
            "a secret cannot be had: jobs that need it are tried again later"
        };
        warn!(secret = self.secret, error = %Chain(self.error), stale = self.stale, "{what}");
        counter!("lovage_secret_lookup_failures_total", "secret" => self.secret.to_owned())
            .increment(1);
    }
}

/// The key-value store failed an operation; its guest was told that it did.
pub struct KeyvalueFailed<'a> {
    /// The store's kind.
    pub kind: &'static str,
    /// Why.
    pub error: &'a dyn std::error::Error,
    /// True if it is worth more than a line for who looks closely.
    pub tell: bool,
}

impl KeyvalueFailed<'_> {
    /// Logs and counts.
    pub fn emit(self) {
        if self.tell {
            error!(kind = self.kind, error = %Chain(self.error), "a key-value operation failed");
        } else {
            debug!(kind = self.kind, error = %Chain(self.error), "a key-value operation failed");
        }
        counter!("lovage_keyvalue_failures_total", "kind" => self.kind).increment(1);
    }
}

/// The worker's own code panicked while it worked on a message.
pub struct HostPanicked<'a> {
    /// The queue's name.
    pub queue: &'a str,
}

impl HostPanicked<'_> {
    /// Logs and counts.
    pub fn emit(self) {
        error!(queue = self.queue, "a bug in the host ended an attempt; the message comes again");
        counter!("lovage_host_panics_total", "queue" => self.queue.to_owned()).increment(1);
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
