//! Each event is a line in the log and a count at once, so that an alarm and the line that
//! explains it are never apart.

use std::{collections::BTreeSet, time::Duration};

use lovage::{
    broker::{BrokerError, Fault},
    cancellation::Progress,
    events::{
        AttemptAbandoned, AttemptEnded, AttemptStarted, DeadLettered, HostPanicked, JobFinished,
        JobProgress, JobReleased, KeyvalueFailed, LeaseLost, MessageLeft, MessagesReceived,
        ReceiveFailed, RenewalFailed, ReplyRefused, SecretLookupFailed, SettleFailed,
        TaskNotServed, TenantHeldBack, WorkerDraining, WorkerStarted, WorkerStopped,
    },
    keyvalue::StoreError,
    outcome::Status,
    secrets::{SecretError, Trouble},
    usage::{Totals, Usage},
};
use serde_json::{Value, json};
use tracing::Level;

use crate::support::telemetry::{Counts, Log};

/// An event, and what is to be seen of it.
struct Event<'a> {
    name: &'static str,
    emit: Box<dyn Fn() + 'a>,
    level: &'static str,
    line: &'static str,
    /// Fields of the line.
    fields: Value,
    counter: &'static str,
    by: u64,
}

macro_rules! event {
    ($name:ident $fields:tt, $level:ident $line:literal $told:tt, $counter:literal += $by:literal) => {
        Event {
            name: stringify!($name),
            emit: Box::new(|| ($name $fields).emit()),
            level: stringify!($level),
            line: $line,
            fields: json!($told),
            counter: $counter,
            by: $by,
        }
    };
}

#[test]
#[allow(clippy::too_many_lines, reason = "a table")]
fn every_event_is_a_line_and_a_count_at_once() {
    let error = BrokerError::caused_by(Fault::Unavailable, "no answer", io("connection reset"));
    let no_secret = SecretError {
        secret: "api_key".into(),
        trouble: Trouble::Away,
        from: "a file".into(),
        reason: "it is not there".into(),
        advice: "".into(),
    };
    let no_store = StoreError::Unavailable("gone".to_owned());
    let queues = ["jobs".to_owned(), "more".to_owned()];
    let ms = Duration::from_millis;
    let usage = Usage {
        cpu: ms(250),
        wall: ms(500),
        peak_memory_bytes: 65_536,
        host_calls: 7,
        bytes_in: 5,
        ..Usage::default()
    };
    let events = [
        event!(
            WorkerStarted { broker: "local", queues: &queues, tasks: 3, concurrency: 8 },
            INFO "worker started" { "broker": "local", "queues": "jobs,more", "concurrency": 8 },
            "lovage_workers_started_total" += 1
        ),
        event!(
            WorkerDraining { running: 2, timeout: ms(1500) },
            INFO "stopping: taking no more jobs, letting running ones finish; a second signal stops \
                  at once" { "running": 2, "timeout_ms": 1500 },
            "lovage_workers_draining_total" += 1
        ),
        event!(
            WorkerStopped { given_back: 4 },
            INFO "worker stopped" { "given_back": 4 },
            "lovage_workers_stopped_total" += 1
        ),
        event!(
            MessagesReceived { queue: "jobs", count: 7 },
            DEBUG "messages received" { "queue": "jobs", "count": 7 },
            "lovage_messages_received_total{queue=jobs}" += 7
        ),
        event!(
            ReceiveFailed { queue: "jobs", error: &error, failures: 3, retry_in: ms(80) },
            ERROR "receiving failed" {
                "queue": "jobs", "error": "no answer: connection reset", "failures": 3,
                "retry_in_ms": 80
            },
            "lovage_receive_failures_total{queue=jobs}" += 1
        ),
        event!(
            AttemptStarted { queue: "jobs" },
            DEBUG "attempt started" { "queue": "jobs" },
            "lovage_attempts_started_total{queue=jobs}" += 1
        ),
        event!(
            AttemptAbandoned { queue: "jobs" },
            WARN "attempt given up before its end" { "queue": "jobs" },
            "lovage_attempts_abandoned_total{queue=jobs}" += 1
        ),
        event!(
            AttemptEnded {
                queue: "jobs", task: "echo", outcome: "retry", usage
            },
            DEBUG "attempt ended" {
                "queue": "jobs", "outcome": "retry", "cpu_us": 250_000, "wall_us": 500_000,
                "peak_memory_bytes": 65_536, "memory_byte_ms": 0, "host_calls": 7,
                "bytes_in": 5, "bytes_out": 0
            },
            "lovage_attempts_ended_total{queue=jobs,outcome=retry}" += 1
        ),
        event!(
            JobProgress {
                queue: "jobs",
                progress: &Progress { percent: 40, message: "row 4".to_owned() },
            },
            INFO "job progress" { "queue": "jobs", "percent": 40, "said": "row 4" },
            "lovage_progress_reports_total{queue=jobs}" += 1
        ),
        event!(
            JobFinished {
                queue: "jobs", task: "echo", status: Status::Done, failure: None,
                usage: Some(usage)
            },
            INFO "job finished" {
                "queue": "jobs", "status": "done", "cpu_us": 250_000, "wall_us": 500_000,
                "peak_memory_bytes": 65_536, "host_calls": 7, "bytes_in": 5, "bytes_out": 0
            },
            "lovage_jobs_finished_total{queue=jobs,task=echo,status=done}" += 1
        ),
        event!(
            JobFinished {
                queue: "jobs", task: "", status: Status::Rejected,
                failure: Some(("bad\nkind", "two\nlines")), usage: None
            },
            WARN "job finished without a value" {
                "status": "rejected", "kind": "bad\\nkind", "reason": "two\\nlines"
            },
            "lovage_jobs_finished_total{queue=jobs,task=,status=rejected}" += 1
        ),
        event!(
            JobReleased { queue: "jobs", after: ms(20), spent: true, failure: Some(("k", "why")) },
            INFO "job goes back" { "after_ms": 20, "spent": true, "kind": "k", "reason": "why" },
            "lovage_jobs_released_total{queue=jobs,spent=true}" += 1
        ),
        event!(
            JobReleased { queue: "jobs", after: ms(0), spent: false, failure: None },
            INFO "job goes back" { "after_ms": 0, "spent": false, "kind": "", "reason": "" },
            "lovage_jobs_released_total{queue=jobs,spent=false}" += 1
        ),
        event!(
            MessageLeft { queue: "jobs", task: "new", first: false },
            DEBUG "message left for other workers" { "queue": "jobs", "task": "new" },
            "lovage_messages_left_total{queue=jobs}" += 1
        ),
        event!(
            TenantHeldBack {
                queue: "jobs",
                tenant: "acme",
                known: true,
                want: "rate",
                after: ms(30),
                tell: true,
            },
            INFO "tenant is held back: its messages wait until it has room again" {
                "tenant": "acme", "want": "rate", "after_ms": 30,
            },
            "lovage_tenant_holds_total{queue=jobs,tenant=acme,want=rate}" += 1
        ),
        event!(
            TenantHeldBack {
                queue: "jobs",
                tenant: "whatever a sender says",
                known: false,
                want: "concurrency",
                after: ms(0),
                tell: false,
            },
            DEBUG "message held back" { "tenant": "whatever a sender says", "after_ms": 0 },
            "lovage_tenant_holds_total{queue=jobs,tenant=,want=concurrency}" += 1
        ),
        event!(
            DeadLettered { queue: "jobs", to: Some("letters"), reason: "why" },
            WARN "message becomes a dead letter" { "to": "letters", "reason": "why" },
            "lovage_dead_letters_total{queue=jobs}" += 1
        ),
        event!(
            DeadLettered { queue: "jobs", to: None, reason: "why" },
            ERROR "dead letter discarded, as configured" { "queue": "jobs", "reason": "why" },
            "lovage_dead_letters_total{queue=jobs}" += 1
        ),
        event!(
            LeaseLost { queue: "jobs", reason: "why" },
            WARN "lease lost: the attempt is given up" { "queue": "jobs", "reason": "why" },
            "lovage_leases_lost_total{queue=jobs}" += 1
        ),
        event!(
            RenewalFailed { queue: "jobs", error: &error, count: 5 },
            WARN "renewing leases failed" { "error": "no answer: connection reset", "count": 5 },
            "lovage_lease_renewal_failures_total{queue=jobs}" += 5
        ),
        event!(
            SettleFailed { queue: "jobs", error: &error, tries: 2, retry_in: Some(ms(40)) },
            ERROR "settling a message failed; it is not lost" { "tries": 2, "retry_in_ms": 40 },
            "lovage_settle_failures_total{queue=jobs}" += 1
        ),
        event!(
            ReplyRefused { queue: "jobs", error: &error },
            WARN "the reply queue does not take the result; it goes to the queue for results, if any"
                { "queue": "jobs" },
            "lovage_replies_refused_total{queue=jobs}" += 1
        ),
        event!(
            SecretLookupFailed { secret: "api_key", error: &no_secret, stale: false },
            WARN "a secret cannot be had: jobs that need it are tried again later"
                { "secret": "api_key", "stale": false },
            "lovage_secret_lookup_failures_total{secret=api_key}" += 1
        ),
        event!(
            KeyvalueFailed { kind: "redis", error: &no_store, tell: true },
            ERROR "a key-value operation failed" { "kind": "redis", "error": "gone" },
            "lovage_keyvalue_failures_total{kind=redis}" += 1
        ),
        event!(
            HostPanicked { queue: "jobs" },
            ERROR "a bug in the host ended an attempt; the message comes again" { "queue": "jobs" },
            "lovage_host_panics_total{queue=jobs}" += 1
        ),
        event!(
            TaskNotServed { task: "ehco", nearest: Some("echo") },
            WARN "[tasks.ehco] is for a task that no component serves; did you mean `echo`?"
                { "task": "ehco", "nearest": "echo" },
            "lovage_tasks_not_served_total" += 1
        ),
    ];
    for event in &events {
        let (log, counts) = (Log::default(), Counts::default());
        let once = || metrics::with_local_recorder(&counts, &event.emit);
        tracing::subscriber::with_default(log.subscriber(Level::TRACE), once);
        let lines = log.lines();
        let [line] = &lines[..] else { panic!("{}: one line, not {lines:?}", event.name) };
        assert_eq!((&line["message"], &line["level"]), (&json!(event.line), &json!(event.level)));
        for (field, value) in event.fields.as_object().unwrap() {
            assert_eq!(&line[field], value, "{field} of {}: {line}", event.name);
        }
        let counted: Vec<_> = counts.counters().into_iter().collect();
        assert_eq!(counted, [(event.counter.to_owned(), event.by)], "{}", event.name);

        // What is not logged is counted all the same.
        tracing::subscriber::with_default(tracing::subscriber::NoSubscriber::new(), once);
        assert_eq!(counts.counters()[event.counter], 2 * event.by, "{}", event.name);
    }

    // An event that is not in the table above is a promise that nobody keeps.
    let tested: BTreeSet<_> = events.iter().map(|event| event.name).collect();
    let source = include_str!("../../crates/core/src/events.rs");
    let named = source.lines().filter_map(|line| line.strip_prefix("impl ")?.strip_suffix(" {"));
    let emitted: BTreeSet<_> = named
        .filter(|name| !name.contains(' '))
        .map(|name| name.trim_end_matches("<'_>"))
        .collect();
    assert_eq!(tested, emitted);
}

#[test]
fn what_an_attempt_used_is_counted_by_task_and_tenant_whatever_it_came_to() {
    let usage = Usage {
        cpu: Duration::from_millis(250),
        wall: Duration::from_millis(500),
        peak_memory_bytes: 1,
        memory_byte_ms: 2,
        host_calls: 3,
        bytes_in: 4,
        bytes_out: 5,
    };
    let counts = Counts::default();
    metrics::with_local_recorder(&counts, || {
        let totals = Totals::default();
        for outcome in ["done", "retry", "crashed"] {
            let (queue, task) = ("jobs", "echo");
            totals.add(task, "acme", usage);
            AttemptEnded { queue, task, outcome, usage }.emit();
        }
    });
    let counted = counts.counters();
    for (name, sum) in [
        ("attempts", 3),
        ("cpu_us", 750_000),
        ("wall_us", 1_500_000),
        ("memory_byte_ms", 6),
        ("host_calls", 9),
        ("bytes_in", 12),
        ("bytes_out", 15),
    ] {
        let name = format!("lovage_usage_{name}_total{{task=echo,tenant=acme}}");
        assert_eq!(counted.get(&name), Some(&sum), "{name} in {counted:?}");
    }
    let recorded: Vec<_> = counts.histograms().into_iter().collect();
    let expected = [
        ("lovage_attempt_cpu_seconds{task=echo}".to_owned(), vec![0.25; 3]),
        ("lovage_attempt_wall_seconds{task=echo}".to_owned(), vec![0.5; 3]),
    ];
    assert_eq!(recorded, expected);
}

#[test]
fn a_strangers_text_takes_one_line_of_bounded_length() {
    let log = Log::default();
    let reason = "\u{1b}[2J\r\nworker stopped ".repeat(1000);
    tracing::subscriber::with_default(log.subscriber(Level::TRACE), || {
        DeadLettered { queue: "jobs", to: None, reason: &reason }.emit();
    });
    let line = log.lines().remove(0);
    let told = line["reason"].as_str().unwrap();
    assert!(told.len() <= 1024 && !told.contains(char::is_control), "{told:?}");
    assert!(told.starts_with("\\u{1b}[2J\\r\\nworker stopped"), "{told:?}");
}

fn io(text: &str) -> std::io::Error {
    std::io::Error::other(text.to_owned())
}
