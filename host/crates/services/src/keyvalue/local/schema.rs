//! Opens the file, and makes sure that it is ours and of a version that we know.

use std::{
    fs::OpenOptions,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    time::{Duration, Instant},
};

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use super::{StoreError, unavailable};

/// What marks a file as a key-value store of Lovage: `LvKv`.
const APPLICATION_ID: i32 = i32::from_be_bytes(*b"LvKv");
const SCHEMA_VERSION: i32 = 1;

/// Keys are bytes, so that no text function of SQLite ever looks at them. Ids are never given
/// twice, so that a cursor that was handed out points between the same keys for good. The value
/// is the last column: who wants the others need not read over it.
const SCHEMA: &str = "
    CREATE TABLE buckets (
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        keys INTEGER NOT NULL,
        bytes INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE entries (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        bucket INTEGER NOT NULL,
        key BLOB NOT NULL,
        version INTEGER NOT NULL,
        value BLOB NOT NULL,
        UNIQUE (bucket, key)
    ) STRICT;
    CREATE INDEX entries_in_order ON entries (bucket, id);
";

/// Opens the connection that writes; makes file and schema where there are none.
pub(super) fn open_writer(path: &Path, busy: Duration) -> Result<Connection, StoreError> {
    let refused = |why: &str| {
        StoreError::Unavailable(format!(
            "cannot open the key-value store {}: {why}",
            path.display()
        ))
    };
    // What tenants keep is for no other user of the machine to read; the log that SQLite keeps
    // beside the file has the file's own permissions.
    let made = OpenOptions::new().append(true).create(true).mode(0o600).open(path);
    made.map_err(|error| {
        refused(&format!(
            "{error}; keyvalue.path names the file, and its directory has to be there"
        ))
    })?;
    let failed = |error: rusqlite::Error| unavailable(path, &error);
    let mut connection = connect(path, busy).map_err(failed)?;
    let mode = journal_mode(&connection, busy).map_err(failed)?;
    if mode != "wal" {
        return Err(refused(
            "its file system does not allow a write-ahead log (it lacks shared memory); keep the \
             file on a local disk",
        ));
    }
    let transaction =
        connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
    let read = |pragma: &str| transaction.pragma_query_value(None, pragma, |row| row.get(0));
    let id: i32 = read("application_id").map_err(failed)?;
    let version: i32 = read("user_version").map_err(failed)?;
    let tables: i64 = transaction
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(failed)?;
    match (id, version, tables) {
        (APPLICATION_ID, SCHEMA_VERSION, _) => {}
        (0, 0, 0) => {
            transaction.execute_batch(SCHEMA).map_err(failed)?;
            let pragma = |name: &str, value: i32| transaction.pragma_update(None, name, value);
            pragma("application_id", APPLICATION_ID).map_err(failed)?;
            pragma("user_version", SCHEMA_VERSION).map_err(failed)?;
        }
        (APPLICATION_ID, ..) => {
            return Err(refused("a newer Lovage made it; upgrade Lovage, or name another file"));
        }
        _ => {
            return Err(refused("the file is the database of another program; name another file"));
        }
    }
    transaction.commit().map_err(failed)?;
    // FULL: a change is on the disk before anybody is told of it.
    connection
        .execute_batch(
            "PRAGMA synchronous = FULL;
             PRAGMA temp_store = MEMORY;
             PRAGMA journal_size_limit = 67108864;",
        )
        .map_err(failed)?;
    connection.set_prepared_statement_cache_capacity(32);
    Ok(connection)
}

/// Opens a connection that only reads, to a file that [`open_writer`] has seen.
pub(super) fn open_reader(path: &Path, busy: Duration) -> Result<Connection, StoreError> {
    let failed = |error: rusqlite::Error| unavailable(path, &error);
    let connection = connect(path, busy).map_err(failed)?;
    connection.execute_batch("PRAGMA query_only = ON;").map_err(failed)?;
    Ok(connection)
}

fn connect(path: &Path, busy: Duration) -> rusqlite::Result<Connection> {
    // A path that begins with `file:` is a path, no URI: that flag is left out on purpose. So is
    // SQLite's own mutex: each connection is with one thread at a time.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags)?;
    // SQLite's own handler sleeps up to 100 ms at a time: next to a process that commits all the
    // time it would hardly ever meet the lock free.
    let mut since = Instant::now();
    connection.busy_handler(Some(move |calls: i32| {
        if calls == 0 {
            since = Instant::now();
        }
        let longest = 50_u64 << calls.clamp(0, 6);
        std::thread::sleep(Duration::from_micros(fastrand::u64(longest / 2..=longest)));
        since.elapsed() < busy
    }))?;
    Ok(connection)
}

/// Asks for a write-ahead log. SQLite does not call the busy handler for this one, hence the loop:
/// two processes that open a new file at the same time must both succeed.
fn journal_mode(connection: &Connection, busy: Duration) -> rusqlite::Result<String> {
    let end = Instant::now() + busy;
    loop {
        let answer =
            connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0));
        match answer {
            Err(error)
                if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
                    && Instant::now() < end =>
            {
                std::thread::sleep(Duration::from_millis(fastrand::u64(1..=5)));
            }
            other => return other,
        }
    }
}
