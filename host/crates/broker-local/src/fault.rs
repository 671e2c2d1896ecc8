//! What SQLite says, told to a person: what failed, in which file, why, and what to do.

use std::path::Path;

use rusqlite::{Error, ErrorCode};

use lovage_core::broker::{BrokerError, Fault};

/// Explains why `doing` (an infinitive: `write to`) failed for the database at `path`.
pub fn explain(path: &Path, doing: &str, error: Error) -> BrokerError {
    let (fault, why) = match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => {
            (Fault::Unavailable, "its disk is full; free some space, and it goes on by itself")
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => (
            Fault::Unavailable,
            "another process has held it locked for 10 s; look for one that is stuck",
        ),
        Some(ErrorCode::ReadOnly) => (
            Fault::Denied,
            "it is read-only; the file and its directory must both be writable for this user",
        ),
        Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => (
            Fault::Denied,
            "it cannot be opened or made; this user needs to read and write the file and its \
             directory",
        ),
        Some(ErrorCode::NotADatabase) => (
            Fault::Invalid,
            "the file is no SQLite database; name another file, or move this one away",
        ),
        Some(ErrorCode::DatabaseCorrupt) => {
            (Fault::Invalid, "the database is damaged; move it away or bring back a copy of it")
        }
        Some(ErrorCode::SystemIoFailure) => {
            (Fault::Unavailable, "its disk failed to read or write; see the system's log")
        }
        Some(ErrorCode::FileLockingProtocolFailed) => (
            Fault::Unavailable,
            "its file system cannot lock files as it should; keep the file on a local disk",
        ),
        Some(ErrorCode::TooBig) => (Fault::TooLarge, "it is larger than SQLite can hold"),
        Some(ErrorCode::OutOfMemory) => (Fault::Unavailable, "there is no memory left"),
        _ => (Fault::Invalid, "SQLite refused it; this is a bug in Lovage"),
    };
    let message =
        format!("cannot {doing} the broker's database {}: {why} ({error})", path.display());
    BrokerError::caused_by(fault, message, error)
}

/// The error for whoever waits on a writer that is gone or gave up on the call.
pub fn writer_gone(path: &Path) -> BrokerError {
    BrokerError::new(
        Fault::Unavailable,
        format!(
            "the writer of the broker's database {} failed before it could answer; what was asked \
             may or may not be done, try again",
            path.display()
        ),
    )
}
