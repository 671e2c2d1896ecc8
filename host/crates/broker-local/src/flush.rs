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
    fmt,
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Acquire, Release},
        },
    },
};

use rusqlite::Connection;

use super::fault::explain;
use lovage_core::broker::{BrokerError, Fault};
use lovage_platform::flushes::FLUSHES;

/// A commit, by its number among those that this process has made or seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Commit(u64);

/// Whether something is on the disk, or why that is not known.
pub type Flushed = Result<(), BrokerError>;

/// Tells somebody of it.
type Tell = Box<dyn FnOnce(&Flushed) + Send>;

/// What of the log is on the disk.
#[derive(Debug)]
pub struct Flush {
    database: PathBuf,
    log: PathBuf,
    committed: AtomicU64,
    flushed: AtomicU64,
    has_failed: AtomicBool,
    under_way: Mutex<Vec<UnderWay>>,
}

/// A flush that is not over.
struct UnderWay {
    /// The last commit that it is sure to bring to the disk.
    last: u64,
    /// Those who wait for it, beyond who began it.
    waiting: Vec<Tell>,
}

impl fmt::Debug for UnderWay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnderWay").field("last", &self.last).finish_non_exhaustive()
    }
}

impl Flush {
    /// For the log of a database.
    pub fn of(database: &Path) -> Self {
        let mut log = database.as_os_str().to_owned();
        log.push("-wal");
        Self::at(database, log.into())
    }

    /// With this file for the log.
    pub fn at(database: &Path, log: PathBuf) -> Self {
        Self {
            database: database.to_owned(),
            log,
            committed: AtomicU64::new(0),
            flushed: AtomicU64::new(0),
            has_failed: AtomicBool::new(false),
            under_way: Mutex::default(),
        }
    }

    /// Opens the log, for one thread to flush it: the system tells of a failure once for each time
    /// that a file is open. It is the log for as long as some connection of this process has the
    /// database open.
    pub fn open_log(&self) -> Result<File, BrokerError> {
        File::open(&self.log).map_err(|error| {
            let message = format!(
                "cannot open the log of the broker's database {}: {error}; this user needs to read \
                 and write the file and its directory",
                self.database.display()
            );
            BrokerError::caused_by(Fault::Denied, message, error)
        })
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

    /// Has `tell` called as soon as a commit is on the disk: by this thread, which flushes `log`, or by
    /// the one whose flush under way has it, without waiting for that. [`Fault::Unavailable`]: the
    /// disk failed, and what was committed may be there or not.
    pub fn then(
        &self,
        Commit(commit): Commit,
        log: &File,
        tell: impl FnOnce(&Flushed) + Send + 'static,
    ) {
        let mut under_way = self.under_way();
        if self.flushed.load(Acquire) >= commit {
            drop(under_way);
            return tell(&Ok(()));
        }
        if let Some(flush) = under_way.iter_mut().find(|flush| flush.last >= commit) {
            return flush.waiting.push(Box::new(tell));
        }
        let Commit(last) = self.last();
        under_way.push(UnderWay { last, waiting: Vec::new() });
        drop(under_way);
        let flushed = self.sync(log, last);
        tell(&flushed);
        for tell in self.end(last) {
            tell(&flushed);
        }
    }

    fn under_way(&self) -> MutexGuard<'_, Vec<UnderWay>> {
        // Nobody panics with it.
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A flush is over; those who waited for it.
    fn end(&self, last: u64) -> Vec<Tell> {
        let mut under_way = self.under_way();
        let ended = under_way.iter().position(|flush| flush.last == last);
        ended.map_or_else(Vec::new, |index| under_way.swap_remove(index).waiting)
    }

    fn sync(&self, log: &File, last: u64) -> Flushed {
        match FLUSHES.flush(|| log.sync_data()) {
            // Another's that had a part of it.
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
    use std::sync::mpsc::{Receiver, channel};

    use super::*;
    use crate::schema;

    /// What will be told of all that is committed.
    fn told(flush: &Flush) -> Receiver<Result<(), Fault>> {
        let log = flush.open_log().unwrap();
        let (tell, told) = channel();
        let say = move |flushed: &Flushed| {
            tell.send(flushed.as_ref().map(drop).map_err(|error| error.fault)).unwrap();
        };
        flush.then(flush.last(), &log, say);
        told
    }

    #[test]
    fn after_a_flush_that_failed_nothing_counts_until_the_database_holds_the_log() {
        let directory = tempfile::tempdir().unwrap();
        let database = directory.path().join("broker.db");
        let connection = schema::open_writer(&database).unwrap();
        // A device that cannot be flushed.
        let flush = Flush::at(&database, "/dev/null".into());
        told(&flush).recv().unwrap().unwrap();
        connection.execute_batch("CREATE TABLE more (id INTEGER)").unwrap();
        flush.committed();
        assert_eq!(told(&flush).recv().unwrap(), Err(Fault::Unavailable));
        let reader = schema::open_reader(&database).unwrap();
        let reads = reader.unchecked_transaction().unwrap();
        reads.query_row("SELECT count(*) FROM more", [], |_| Ok(())).unwrap();
        connection.execute_batch("INSERT INTO more VALUES (1)").unwrap();
        connection.busy_timeout(std::time::Duration::ZERO).unwrap();
        let error = flush.recover(&connection).unwrap_err();
        assert!(error.message.contains("broker.db"), "{error}");
        drop(reads);
        flush.recover(&connection).unwrap();
        told(&flush).recv().unwrap().unwrap();
        assert_eq!(std::fs::metadata(directory.path().join("broker.db-wal")).unwrap().len(), 0);
    }

    #[test]
    fn who_comes_while_its_commit_is_on_its_way_to_the_disk_waits_for_that_flush() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        File::create(&log).unwrap();
        let flush = Flush::at(&log, log.clone());
        flush.committed();
        flush.under_way().push(UnderWay { last: 1, waiting: Vec::new() });
        let (first, second) = (told(&flush), told(&flush));
        first.try_recv().unwrap_err();
        // A later commit is not in it, and has a flush of its own.
        flush.committed();
        told(&flush).try_recv().unwrap().unwrap();
        for tell in flush.end(1) {
            tell(&Ok(()));
        }
        first.try_recv().unwrap().unwrap();
        second.try_recv().unwrap().unwrap();
        assert!(flush.under_way().is_empty());
    }
}
