//! Notices that the broker's files were deleted, replaced or damaged while they are in use.
//!
//! A process that goes on with a deleted file works on what nobody else sees: jobs that are sent
//! never come, and what is accepted is lost at its end. So the writer compares the files that it has
//! open with those that are there, once a second. A database or a log that is not the same any more
//! is lost for good: every call fails from then on, and the worker ends.

use std::{
    fs::Metadata,
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use rusqlite::ErrorCode;
use tokio_util::sync::CancellationToken;

use super::schema;
use lovage_core::broker::{BrokerError, Fault};

/// How often the files are compared.
pub const CHECK_EVERY: Duration = Duration::from_secs(1);

/// Why a broker is lost for good, once it is.
#[derive(Debug, Default)]
pub struct Lost {
    why: Mutex<Option<String>>,
    told: CancellationToken,
}

impl Lost {
    /// Notes why. The first reason stays.
    pub fn set(&self, why: String) {
        self.why.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(why);
        self.told.cancel();
    }

    /// The error for every call from now on.
    pub fn error(&self) -> Option<BrokerError> {
        if !self.told.is_cancelled() {
            return None;
        }
        let why = self.why.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Some(BrokerError::new(Fault::Invalid, why.unwrap_or_default()))
    }

    /// Waits until it is lost.
    pub async fn wait(&self) -> BrokerError {
        self.told.cancelled().await;
        // There is a reason before anybody is told.
        self.error().unwrap_or_else(|| BrokerError::new(Fault::Invalid, "the broker is lost"))
    }

    /// Notes an error of SQLite that says that the file is damaged.
    pub fn note(&self, path: &Path, error: &rusqlite::Error) {
        let damaged = [ErrorCode::DatabaseCorrupt, ErrorCode::NotADatabase];
        if error.sqlite_error_code().is_some_and(|code| damaged.contains(&code)) {
            self.set(damage(path, &error.to_string()));
        }
    }
}

fn damage(path: &Path, why: &str) -> String {
    format!(
        "the broker's database {} is damaged ({why}): move it and the files beside it away, bring \
         back a copy of it, and start the worker again",
        path.display()
    )
}

/// A file, whatever its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
}

impl From<&Metadata> for Identity {
    fn from(metadata: &Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }
}

/// Returns true if an open file is the one at a path; so it is where that cannot be told.
pub fn is_at(file: &std::fs::File, path: &Path) -> bool {
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(open), Ok(there)) => Identity::from(&open) == Identity::from(&there),
        (_, Err(error)) => error.kind() != io::ErrorKind::NotFound,
        (Err(_), Ok(_)) => true,
    }
}

/// The files of a database, as they were when it was opened.
#[derive(Debug)]
pub struct Files {
    database: PathBuf,
    /// The database, its log and the index of that.
    parts: Vec<(PathBuf, Identity)>,
    /// Length and time of change of the database, as of the last look into it.
    seen: Option<(u64, i64, i64)>,
}

/// How large they are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sizes {
    pub database: u64,
    pub log: u64,
}

impl Files {
    /// The files of a database that is open. Only their names are looked at: to open and close the
    /// database's file beside SQLite would take SQLite's locks away.
    pub fn of(database: &Path) -> Self {
        let beside = |suffix: &str| {
            let mut path = database.as_os_str().to_owned();
            path.push(suffix);
            PathBuf::from(path)
        };
        let identify = |path: PathBuf| {
            let metadata = std::fs::metadata(&path).ok()?;
            Some((path, Identity::from(&metadata)))
        };
        let names = ["", "-wal", "-shm"];
        Self {
            database: database.to_owned(),
            parts: names.into_iter().filter_map(|name| identify(beside(name))).collect(),
            seen: None,
        }
    }

    /// Compares. The error says what happened to which file.
    pub fn check(&mut self) -> Result<Sizes, String> {
        let mut sizes = Sizes::default();
        for (index, (path, identity)) in self.parts.iter().enumerate() {
            let what = match std::fs::metadata(path) {
                Ok(metadata) if Identity::from(&metadata) == *identity => {
                    match index {
                        0 => sizes.database = metadata.len(),
                        1 => sizes.log = metadata.len(),
                        _ => {}
                    }
                    continue;
                }
                Ok(_) => "replaced",
                Err(error) if error.kind() == io::ErrorKind::NotFound => "deleted",
                // A disk that does not answer may do so again.
                Err(_) => continue,
            };
            return Err(format!(
                "the file {} of the broker's database {} was {what} while it is in use: what this \
                 process does is seen by nobody else. Stop all processes that use it, bring back a \
                 copy or remove all of its files, and start again",
                path.display(),
                self.database.display()
            ));
        }
        self.look_inside()?;
        Ok(sizes)
    }

    /// After a change that was not seen yet: whether it is still a database of ours.
    fn look_inside(&mut self) -> Result<(), String> {
        let Ok(metadata) = std::fs::metadata(&self.database) else { return Ok(()) };
        let seen = (metadata.len(), metadata.mtime(), metadata.mtime_nsec());
        if self.seen.replace(seen) == Some(seen) {
            return Ok(());
        }
        // Its first page is there from the beginning. SQLite would take this for a new database.
        if metadata.len() < 512 {
            return Err(damage(&self.database, "it was cut short"));
        }
        schema::verify(&self.database).map_err(|why| damage(&self.database, &why))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_deleted_replaced_or_damaged_is_noticed() {
        /// What is done to the file.
        type Harm = fn(&Path);
        let harms: [(&str, Harm); 5] = [
            ("broker.db of", |path| std::fs::remove_file(path).unwrap()),
            ("was replaced", |path| {
                let copy = path.with_extension("copy");
                std::fs::copy(path, &copy).unwrap();
                std::fs::rename(copy, path).unwrap();
            }),
            ("broker.db-wal of", |path| {
                std::fs::remove_file(path.with_extension("db-wal")).unwrap();
            }),
            ("broker.db-shm of", |path| {
                std::fs::remove_file(path.with_extension("db-shm")).unwrap();
            }),
            ("is damaged", |path| {
                use std::os::unix::fs::FileExt as _;
                let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
                file.write_all_at(&[b'x'; 4096], 0).unwrap();
                // Closing it takes no lock of this process away.
                std::mem::forget(file);
            }),
        ];
        for (words, harm) in harms {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("broker.db");
            let writer = schema::open_writer(&path).unwrap();
            let checkpoint = "PRAGMA wal_checkpoint(TRUNCATE)";
            writer.query_row(checkpoint, [], |_| Ok(())).unwrap();
            let mut files = Files::of(&path);
            assert_eq!(files.parts.len(), 3);
            files.check().unwrap();
            files.check().unwrap();
            harm(&path);
            let why = files.check().unwrap_err();
            assert!(why.contains(words), "{words}: {why}");
        }
    }
}
