//! The write-ahead log of the database: when it is copied back, and that it has its size already.
//!
//! A commit that makes a file longer takes the disk several times as long as one that writes where
//! the file was before, since the file system notes the new length. So the log is filled with zeroes,
//! which SQLite takes for the end of it, a step ahead of the commits. And it is copied back into the
//! database beside them: SQLite's own way would have the commit that makes it long enough wait for
//! that. Both are done by a thread of their own, which is there once the log has some length.

use std::{
    fs::OpenOptions,
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{
            AtomicU8, AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
        },
        mpsc::{Receiver, Sender, channel},
    },
    thread::JoinHandle,
};

use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior};

use super::{gate::Gate, schema};
use lovage_platform::flushes::FLUSHES;

/// With so many pages it is copied back.
pub const LONG_PAGES: u64 = 4000;

/// With so many, nobody is spared the wait for it any more.
const TOO_LONG_PAGES: u64 = 4 * LONG_PAGES;

/// A page and what the log notes of it, in bytes (<https://www.sqlite.org/fileformat2.html#walformat>).
const FRAME: u64 = 4096 + 24;

/// The log's length when it is copied back, with some commits that come in the meantime.
const FULL: u64 = (LONG_PAGES + 500) * FRAME;

/// A log with fewer pages belongs to somebody who does not stay.
const LEAST_PAGES: u64 = 24;

/// How far it is filled ahead: the disk has it in a few milliseconds.
const STEP: u64 = 1 << 20;

/// What the thread is at.
const IDLE: u8 = 0;
const WORKS: u8 = 1;
/// All was copied back that was there when it began.
const COPIED: u8 = 2;

/// What is known of the log.
#[derive(Debug)]
pub struct Log {
    database: PathBuf,
    /// Pages in it, as of the last commit of ours.
    pages: Arc<AtomicU64>,
    /// Its length in bytes; without end where it need not or cannot be filled.
    length: Arc<AtomicU64>,
    state: Arc<AtomicU8>,
    keeper: Option<Keeper>,
}

/// The thread.
#[derive(Debug)]
struct Keeper {
    ask: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.ask = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Log {
    /// The log of a database, whose connection tells what it writes there.
    pub fn of(connection: &mut Connection, database: &Path) -> rusqlite::Result<Self> {
        let pages = Arc::new(AtomicU64::new(0));
        let noted = Arc::clone(&pages);
        // In the place of SQLite's own, which copies back within the commit.
        connection.wal_hook(Some(move |_: &mut _, count: i32| {
            noted.store(u64::try_from(count).unwrap_or(0), Relaxed);
            Ok(())
        }))?;
        Ok(Self {
            database: database.to_owned(),
            pages,
            length: Arc::default(),
            state: Arc::new(AtomicU8::new(IDLE)),
            keeper: None,
        })
    }

    /// Pages in it, as of the last commit of ours.
    pub fn pages(&self) -> u64 {
        self.pages.load(Relaxed)
    }

    /// Begins anew with the files that are there now.
    pub fn reopen(&mut self) {
        self.keeper = None;
        self.state.store(IDLE, Relaxed);
    }

    /// Has done what is to be done to the log after a commit.
    pub fn tend(&mut self, connection: &Connection) {
        let pages = self.pages.load(Relaxed);
        let is_long = pages >= LONG_PAGES;
        if !is_long && (pages < LEAST_PAGES || self.length.load(Relaxed) >= needed(pages)) {
            return;
        }
        match self.state.load(Acquire) {
            // What came since is little. The log begins anew only where nothing is left.
            COPIED if is_long => {
                self.state.store(IDLE, Relaxed);
                copy_back(connection, &self.database);
            }
            WORKS if pages < TOO_LONG_PAGES => {}
            WORKS => copy_back(connection, &self.database),
            _ => self.ask(connection),
        }
    }

    fn ask(&mut self, connection: &Connection) {
        let keeper = self.keeper.take().map_or_else(|| self.start(), Ok);
        match keeper {
            Ok(keeper) => {
                self.state.store(WORKS, Relaxed);
                if let Some(ask) = &keeper.ask {
                    let _ = ask.send(());
                }
                self.keeper = Some(keeper);
            }
            Err(error) => {
                tracing::debug!(%error, "the broker's log has no thread of its own");
                if self.pages.load(Relaxed) >= LONG_PAGES {
                    copy_back(connection, &self.database);
                }
                self.length.store(u64::MAX, Relaxed);
            }
        }
    }

    fn start(&self) -> io::Result<Keeper> {
        let care = self.care().map_err(io::Error::other)?;
        let (ask, asked) = channel();
        let thread = std::thread::Builder::new().name("lovage-log".to_owned());
        let thread = thread.spawn(move || care.run(&asked))?;
        Ok(Keeper { ask: Some(ask), thread: Some(thread) })
    }

    fn care(&self) -> rusqlite::Result<Care> {
        Ok(Care {
            connection: schema::open_keeper(&self.database)?,
            database: self.database.clone(),
            // Of its own, since ours is the writer's: what one opens is locked for all who share it.
            gate: Gate::before(&self.database),
            pages: Arc::clone(&self.pages),
            length: Arc::clone(&self.length),
            state: Arc::clone(&self.state),
        })
    }
}

/// Up to where the log should reach, with so many pages.
fn needed(pages: u64) -> u64 {
    pages.saturating_mul(FRAME).saturating_add(STEP / 2)
}

/// Copies the log back into the database, as far as nobody still reads what was there before.
pub fn copy_back(connection: &Connection, database: &Path) {
    let copied = connection
        .prepare_cached("PRAGMA wal_checkpoint(PASSIVE)")
        .and_then(|mut pragma| pragma.query_row([], |_| Ok(())));
    if let Err(error) = copied {
        // It only grows until another time.
        tracing::debug!(path = %database.display(), %error, "the log is not copied back");
    }
}

/// What the thread works with.
struct Care {
    connection: Connection,
    database: PathBuf,
    gate: Gate,
    pages: Arc<AtomicU64>,
    length: Arc<AtomicU64>,
    state: Arc<AtomicU8>,
}

impl Care {
    fn run(self, asked: &Receiver<()>) {
        while asked.recv().is_ok() {
            if self.pages.load(Relaxed) >= LONG_PAGES {
                copy_back(&self.connection, &self.database);
                self.state.store(COPIED, Release);
                continue;
            }
            if let Err(error) = self.lengthen() {
                tracing::debug!(path = %self.database.display(), error, "commits may take longer");
                self.length.store(u64::MAX, Relaxed);
            }
            self.state.store(IDLE, Release);
        }
    }

    /// Makes the log longer ahead of the commits.
    fn lengthen(&self) -> Result<(), Box<dyn std::error::Error>> {
        let mut log = self.database.as_os_str().to_owned();
        log.push("-wal");
        let file = OpenOptions::new().write(true).open(log)?;
        {
            // Or somebody could write to its end meanwhile. Whoever writes without a turn takes its
            // time: who looks for a result would wait for it here, and the next commit asks again.
            let turn = self.gate.enter();
            let mode = TransactionBehavior::Immediate;
            let lock = match Transaction::new_unchecked(&self.connection, mode) {
                Ok(lock) if turn.is_had() => lock,
                Err(error) if error.sqlite_error_code() != Some(ErrorCode::DatabaseBusy) => {
                    return Err(error.into());
                }
                Ok(_) | Err(_) => return Ok(()),
            };
            let end = file.metadata()?.len();
            self.length.store(if end >= FULL { u64::MAX } else { end }, Relaxed);
            if end >= needed(self.pages.load(Relaxed)) {
                return Ok(lock.rollback()?);
            }
            file.write_all_at(&vec![0; STEP as usize], end)?;
            self.length.store(end + STEP, Relaxed);
            lock.rollback()?;
        }
        Ok(FLUSHES.flush(|| file.sync_data())?)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn the_log_is_not_lengthened_while_somebody_writes_and_nobody_waits_for_it() {
        let directory = tempfile::tempdir().unwrap();
        let database = directory.path().join("broker.db");
        let mut connection = schema::open_writer(&database).unwrap();
        let log = Log::of(&mut connection, &database).unwrap();
        log.pages.store(100, Relaxed);
        let care = log.care().unwrap();
        connection.execute_batch("BEGIN IMMEDIATE").unwrap();
        let before = Instant::now();
        care.lengthen().unwrap();
        assert!(before.elapsed() < Duration::from_secs(5));
        assert_eq!(log.length.load(Relaxed), 0);
        connection.execute_batch("COMMIT").unwrap();
        care.lengthen().unwrap();
        assert!(log.length.load(Relaxed) >= STEP);
    }
}
