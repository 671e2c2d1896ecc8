//! The write-ahead log of the database: when it is copied back, and that it has its size already.
//!
//! A commit that makes a file longer takes the disk several times as long as one that writes where
//! the file was before, since the file system notes the new length. So the log is filled with zeroes,
//! which SQLite takes for the end of it, a step ahead of the commits and while there is nothing else
//! to do. And it is copied back into the database after those who waited for a commit have their
//! answers, not before.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use rusqlite::Connection;

/// So many pages are copied back at once.
const CHECKPOINT_PAGES: u64 = 4000;

/// A page and what the log notes of it, in bytes (<https://www.sqlite.org/fileformat2.html#walformat>).
const FRAME: u64 = 4096 + 24;

/// The log's length when it is copied back, with some commits that come in the meantime.
const FULL: u64 = (CHECKPOINT_PAGES + 500) * FRAME;

/// A log with fewer pages belongs to somebody who does not stay.
const LEAST_PAGES: u64 = 24;

/// How far it is filled ahead at first; then it is doubled.
const STEP: u64 = 1 << 20;

/// What is known of the log.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    /// Pages in it, as of the last commit of ours.
    pages: Arc<AtomicU64>,
    /// Its length in bytes when we last looked; without end where it need not or cannot be filled.
    length: u64,
}

impl Log {
    /// The log of a database, whose connection tells what it writes there.
    pub fn of(connection: &mut Connection, database: &Path) -> rusqlite::Result<Self> {
        let mut path = database.as_os_str().to_owned();
        path.push("-wal");
        let pages = Arc::new(AtomicU64::new(0));
        let noted = Arc::clone(&pages);
        // In the place of SQLite's own, which copies back within the commit.
        connection.wal_hook(Some(move |_: &mut _, count: i32| {
            noted.store(u64::try_from(count).unwrap_or(0), Relaxed);
            Ok(())
        }))?;
        Ok(Self { path: path.into(), pages, length: 0 })
    }

    /// Whether it should be copied back.
    pub fn is_long(&self) -> bool {
        self.pages.load(Relaxed) >= CHECKPOINT_PAGES
    }

    /// Whether it is time to make it longer.
    pub fn is_short(&self) -> bool {
        self.pages.load(Relaxed) >= LEAST_PAGES && self.length < self.needed()
    }

    fn needed(&self) -> u64 {
        self.pages.load(Relaxed).saturating_mul(FRAME).saturating_add(STEP / 2)
    }

    /// Fills it ahead. For who holds the database's write lock: another process could write to its
    /// end. What is returned is to be flushed, without the lock.
    pub fn fill(&mut self) -> io::Result<Option<File>> {
        let file = OpenOptions::new().write(true).open(&self.path)?;
        let end = file.metadata()?.len();
        self.length = if end >= FULL { u64::MAX } else { end };
        if end >= self.needed() {
            return Ok(None);
        }
        let until = end.saturating_mul(2).max(end + STEP).min(FULL);
        let zeroes = vec![0; 256 << 10];
        let mut at = end;
        while at < until {
            let some = usize::try_from(until - at).unwrap_or(usize::MAX).min(zeroes.len());
            file.write_all_at(zeroes.get(..some).unwrap_or_default(), at)?;
            at += some as u64;
        }
        self.length = until;
        Ok(Some(file))
    }

    /// It cannot be filled.
    pub fn leave(&mut self) {
        self.length = u64::MAX;
    }
}
