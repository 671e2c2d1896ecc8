//! What the person on call has to know of the process itself.

use metrics::{counter, gauge};
use tracing::{error, info, warn};

use super::Chain;
use crate::broker::BrokerError;

/// Lines of the log were dropped, and now its reader takes lines again. They are counted where they
/// are dropped.
pub struct LogLinesDropped {
    /// How many since the last time.
    pub lines: u64,
}

impl LogLinesDropped {
    /// Logs.
    pub fn emit(self) {
        warn!(
            lines = self.lines,
            "log lines were dropped: the reader of standard error was gone or too slow"
        );
    }
}

/// The broker is lost for good, and the worker ends.
pub struct BrokerLost<'a> {
    /// Why.
    pub error: &'a BrokerError,
}

impl BrokerLost<'_> {
    /// Logs and counts.
    pub fn emit(self) {
        error!(error = %Chain(self.error), "the broker is lost: the worker ends");
        counter!("lovage_broker_lost_total").increment(1);
    }
}

/// The state of the worker, as SIGUSR1 asks for it.
pub struct WorkerReport<'a> {
    /// The phase that it is in.
    pub state: &'a str,
    /// Jobs that run.
    pub running: usize,
    /// Tasks that are served.
    pub tasks: usize,
    /// Lines of the log that were dropped since the start.
    pub log_lines_dropped: u64,
}

impl WorkerReport<'_> {
    /// Logs and counts.
    pub fn emit(self) {
        info!(
            state = self.state,
            running = self.running,
            tasks = self.tasks,
            log_lines_dropped = self.log_lines_dropped,
            "state of the worker"
        );
        counter!("lovage_worker_reports_total").increment(1);
    }
}

/// Messages of a queue were forgotten, since they were there for longer than they may be.
pub struct MessagesExpired<'a> {
    /// The queue's name.
    pub queue: &'a str,
    /// How many.
    pub count: usize,
}

impl MessagesExpired<'_> {
    /// Logs and counts.
    pub fn emit(self) {
        info!(
            queue = self.queue,
            count = self.count,
            "messages are past their retention, and are deleted"
        );
        counter!("lovage_messages_expired_total", "queue" => self.queue.to_owned())
            .increment(self.count as u64);
    }
}

/// The files of the embedded broker, as they are now and then measured.
pub struct BrokerFiles {
    /// Bytes of the database's file.
    pub database_bytes: u64,
    /// Bytes of its write-ahead log.
    pub log_bytes: u64,
}

impl BrokerFiles {
    /// Sets the gauges.
    pub fn emit(self) {
        #[allow(clippy::cast_precision_loss, reason = "a gauge is a float")]
        let set = |file, bytes: u64| {
            gauge!("lovage_broker_file_bytes", "file" => file).set(bytes as f64);
        };
        set("database", self.database_bytes);
        set("log", self.log_bytes);
    }
}

/// The write-ahead log grows, since somebody reads an old state of the database.
pub struct BrokerLogGrows<'a> {
    /// The database's file.
    pub path: &'a std::path::Path,
    /// Bytes of the log.
    pub bytes: u64,
}

impl BrokerLogGrows<'_> {
    /// Logs and counts.
    pub fn emit(self) {
        warn!(
            path = %self.path.display(),
            log_bytes = self.bytes,
            "the log of the broker's database grows: a process reads an old state of it and does not \
             end; look for one that has it open (a backup, a shell of sqlite3), and end it"
        );
        counter!("lovage_broker_log_grows_total").increment(1);
    }
}

/// A file beside the broker's database was deleted or replaced, and was made anew.
pub struct BrokerFileRestored<'a> {
    /// The file.
    pub path: &'a std::path::Path,
}

impl BrokerFileRestored<'_> {
    /// Logs and counts.
    pub fn emit(self) {
        warn!(
            path = %self.path.display(),
            "a file of the embedded broker was deleted or replaced; it is made anew. Leave it there \
             while any process uses the database"
        );
        counter!("lovage_broker_files_restored_total").increment(1);
    }
}
