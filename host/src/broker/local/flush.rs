//! Commits on their way to the disk.
//!
//! SQLite would flush its log within each commit (`synchronous=FULL`), and until that is done nobody
//! sees what it brought. Here a commit is seen at once and flushed after: a receiver is at a message
//! while the disk is still at its flush. Told of what was done is nobody before, neither who asked
//! for it nor who waits for a result, whichever process did it. A message that is handed out before
//! its flush, and lost with the machine's power, was promised to nobody; what its job did
//! meanwhile, it did once more than was told.
//!
//! A flush that failed is no flush even if the next one works: the system forgets what it could not
//! write. From then on nothing is done until the whole log is in the database, and that on the disk.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::atomic::{
        AtomicBool, AtomicU64,
        Ordering::{Acquire, Release},
    },
};

use rusqlite::Connection;

use super::fault::explain;
use crate::broker::{BrokerError, Fault};

/// A commit, by its number among those that this process has made or seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Commit(u64);

/// What of the log is on the disk.
#[derive(Debug)]
pub struct Flush {
    database: PathBuf,
    log: File,
    committed: AtomicU64,
    flushed: AtomicU64,
    has_failed: AtomicBool,
}

impl Flush {
    /// For the log of a database that some connection of this process has open, and so is kept.
    pub fn of(database: &Path) -> Result<Self, BrokerError> {
        let mut log = database.as_os_str().to_owned();
        log.push("-wal");
        match File::open(&log) {
            Ok(log) => Ok(Self::at(database, log)),
            Err(error) => {
                let message = format!(
                    "cannot open the log of the broker's database {}: {error}; this user needs to \
                     read and write the file and its directory",
                    database.display()
                );
                Err(BrokerError::caused_by(Fault::Denied, message, error))
            }
        }
    }

    /// With this file for the log.
    pub fn at(database: &Path, log: File) -> Self {
        Self {
            database: database.to_owned(),
            log,
            committed: AtomicU64::new(0),
            flushed: AtomicU64::new(0),
            has_failed: AtomicBool::new(false),
        }
    }

    /// The database's file.
    pub fn database(&self) -> &Path {
        &self.database
    }

    /// Notes that something was committed, by us or by others.
    pub fn committed(&self) {
        self.committed.fetch_add(1, Release);
    }

    /// The last commit so far.
    pub fn last(&self) -> Commit {
        Commit(self.committed.load(Acquire))
    }

    /// Returns when a commit is on the disk. Any number of threads may ask at the same time.
    ///
    /// # Errors
    ///
    /// [`Fault::Unavailable`]: the disk failed. What was committed may be there or not.
    pub fn flush(&self, commit: Commit) -> Result<(), BrokerError> {
        if self.flushed.load(Acquire) >= commit.0 {
            return Ok(());
        }
        let Commit(last) = self.last();
        match self.log.sync_data() {
            // Another's flush may have failed meanwhile, and the system tells each failure once.
            Ok(()) if self.has_failed.load(Acquire) => {
                Err(self.failed(io::Error::other("another flush of it failed")))
            }
            Ok(()) => {
                self.flushed.fetch_max(last, Release);
                Ok(())
            }
            Err(error) => {
                self.has_failed.store(true, Release);
                Err(self.failed(error))
            }
        }
    }

    /// To be called before anything new is done. After a failure, has the database hold all that
    /// the log does.
    ///
    /// # Errors
    ///
    /// [`Fault::Unavailable`]: that still cannot be.
    pub fn recover(&self, connection: &Connection) -> Result<(), BrokerError> {
        if !self.has_failed.load(Acquire) {
            return Ok(());
        }
        let Commit(last) = self.last();
        let copied = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0));
        match copied {
            Ok(false) => {
                self.flushed.fetch_max(last, Release);
                self.has_failed.store(false, Release);
                tracing::warn!(
                    path = %self.database.display(),
                    "the disk failed to take what was committed; all of it is in the database now"
                );
                Ok(())
            }
            Ok(true) => Err(self.failed(io::Error::other("others still read the log"))),
            Err(error) => Err(explain(&self.database, "write to", error)),
        }
    }

    fn failed(&self, error: io::Error) -> BrokerError {
        let message = format!(
            "cannot have the disk hold what was written to the broker's database {}: {error}; it \
             may be done all the same, see the system's log",
            self.database.display()
        );
        BrokerError::caused_by(Fault::Unavailable, message, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::local::schema;

    #[test]
    fn after_a_flush_that_failed_nothing_counts_until_the_database_holds_the_log() {
        let directory = tempfile::tempdir().unwrap();
        let database = directory.path().join("broker.db");
        let connection = schema::open_writer(&database).unwrap();
        // A device that cannot be flushed.
        let flush = Flush::at(&database, File::open("/dev/null").unwrap());
        flush.flush(flush.last()).unwrap();
        connection.execute_batch("CREATE TABLE more (id INTEGER)").unwrap();
        flush.committed();
        let error = flush.flush(flush.last()).unwrap_err();
        assert_eq!(error.fault, Fault::Unavailable);
        assert!(error.message.contains("broker.db"), "{error}");
        let reader = schema::open_reader(&database).unwrap();
        let reads = reader.unchecked_transaction().unwrap();
        reads.query_row("SELECT count(*) FROM more", [], |_| Ok(())).unwrap();
        connection.execute_batch("INSERT INTO more VALUES (1)").unwrap();
        connection.busy_timeout(std::time::Duration::ZERO).unwrap();
        flush.recover(&connection).unwrap_err();
        drop(reads);
        flush.recover(&connection).unwrap();
        flush.flush(flush.last()).unwrap();
        assert_eq!(std::fs::metadata(directory.path().join("broker.db-wal")).unwrap().len(), 0);
    }
}
