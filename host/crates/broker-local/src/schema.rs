//! Opens the file, and makes sure that it is ours and of a version that we know.

use std::{
    fs::OpenOptions,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    time::{Duration, Instant},
};

use rusqlite::{Connection, OpenFlags, TransactionBehavior, config::DbConfig};

use super::{fault::explain, sql};
use lovage_core::broker::{BrokerError, Fault};

/// How long another process may hold the write lock before we give up.
const BUSY: Duration = Duration::from_secs(10);

/// Opens the connection that writes; makes the file and the schema where there are none.
pub fn open_writer(path: &Path) -> Result<Connection, BrokerError> {
    check_place(path)?;
    make_private(path);
    let failed = |error| explain(path, "open", error);
    let mut connection = connect(path).map_err(failed)?;
    match identify(&connection).map_err(failed)? {
        Found::Ours => {}
        Found::Nothing => create(&mut connection).map_err(failed)?,
        Found::Older(_) => migrate(&mut connection).map_err(failed)?,
        Found::Newer(version) => {
            return Err(refused(
                path,
                &format!(
                    "a newer Lovage made it (schema {version}, this one knows up to {}); upgrade \
                     Lovage, or name another file",
                    sql::SCHEMA_VERSION
                ),
            ));
        }
        Found::Foreign => {
            return Err(refused(
                path,
                "the file is the SQLite database of another program; name another file",
            ));
        }
    }
    // WAL is a property of the file, but a copy may have lost it; it is free when already set.
    let mode = journal_mode(&connection).map_err(failed)?;
    if mode != "wal" {
        return Err(refused(
            path,
            "its file system does not allow a write-ahead log (it lacks shared memory); keep the \
             file on a local disk",
        ));
    }
    // NORMAL: what is copied back is on the disk before its place in the log is used again. Commits
    // are flushed by whoever tells of them (`flush.rs`).
    connection
        .execute_batch(
            "PRAGMA synchronous = NORMAL;
             PRAGMA temp_store = MEMORY;
             PRAGMA cache_size = -32768;
             PRAGMA journal_size_limit = 67108864;",
        )
        .map_err(failed)?;
    // Or statements with a bound or a limit are compiled anew whenever that has another value.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map_err(failed)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

/// Opens a connection that only reads, to a file that [`open_writer`] has seen.
pub fn open_reader(path: &Path) -> Result<Connection, BrokerError> {
    let failed = |error| explain(path, "open", error);
    let connection = connect(path).map_err(failed)?;
    connection
        .execute_batch("PRAGMA query_only = ON; PRAGMA temp_store = MEMORY;")
        .map_err(failed)?;
    Ok(connection)
}

/// Opens a connection that looks after the log of a file that [`open_writer`] has seen.
pub fn open_keeper(path: &Path) -> rusqlite::Result<Connection> {
    let connection = connect(path)?;
    connection.execute_batch("PRAGMA synchronous = NORMAL; PRAGMA cache_size = -256;")?;
    // From here on it waits for nobody.
    connection.busy_timeout(Duration::ZERO)?;
    Ok(connection)
}

/// Makes a file that is not there yet, for this user alone: payloads are in it. SQLite gives the files
/// beside it the same permissions. Where that fails, SQLite says why.
fn make_private(path: &Path) {
    // A file that is there is not opened: closing it would take the locks of SQLite away.
    let _ = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
}

/// Looks into a database that is in use, by a connection that has nothing of it in memory. The error
/// says why it is not one of ours any more.
pub fn verify(path: &Path) -> Result<(), String> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let looked = Connection::open_with_flags(path, flags).and_then(|connection| {
        connection.busy_timeout(Duration::from_millis(100))?;
        let found = identify(&connection)?;
        // The first page of each table and index.
        connection.query_row("SELECT count(*) FROM queues", [], |_| Ok(()))?;
        Ok(found)
    });
    match looked {
        Ok(Found::Ours) => Ok(()),
        Ok(_) => Err("it is no database of Lovage's any more".to_owned()),
        Err(error) => match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase) => {
                Err(error.to_string())
            }
            // Busy, or a disk that does not answer: the next look may tell.
            _ => Ok(()),
        },
    }
}

/// What SQLite's own messages would leave a person guessing at.
fn check_place(path: &Path) -> Result<(), BrokerError> {
    if path.is_dir() {
        return Err(refused(path, "it is a directory; name a file in it"));
    }
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    match std::fs::metadata(directory) {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => {
            let why = format!("{} is no directory", directory.display());
            Err(refused(path, &why))
        }
        Err(error) => {
            let why = format!(
                "its directory {} cannot be used ({error}); make it, or name another file",
                directory.display()
            );
            let fault = match error.kind() {
                std::io::ErrorKind::NotFound => Fault::NotFound,
                std::io::ErrorKind::PermissionDenied => Fault::Denied,
                _ => Fault::Unavailable,
            };
            let mut refusal = refused(path, &why);
            refusal.fault = fault;
            refusal.source = Some(Box::new(error));
            Err(refusal)
        }
    }
}

fn refused(path: &Path, why: &str) -> BrokerError {
    let message = format!("cannot open the broker's database {}: {why}", path.display());
    BrokerError::new(Fault::Invalid, message)
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    // A path that begins with `file:` is a path, no URI: that flag is left out on purpose. So is
    // SQLite's own mutex: each connection stays with one thread at a time.
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
        since.elapsed() < BUSY
    }))?;
    Ok(connection)
}

enum Found {
    Nothing,
    Ours,
    Older(i32),
    Newer(i32),
    Foreign,
}

fn identify(connection: &Connection) -> rusqlite::Result<Found> {
    // One look, or a file that another process is just making is taken for a stranger's.
    let alone = connection.is_autocommit();
    let _snapshot = alone.then(|| connection.unchecked_transaction()).transpose()?;
    let read = |pragma: &str| connection.pragma_query_value(None, pragma, |row| row.get(0));
    let (application, version): (i32, i32) = (read("application_id")?, read("user_version")?);
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    Ok(match (application, version, tables) {
        (sql::APPLICATION_ID, sql::SCHEMA_VERSION, _) => Found::Ours,
        (sql::APPLICATION_ID, version @ (1 | 2), _) => Found::Older(version),
        (sql::APPLICATION_ID, version, _) if version > sql::SCHEMA_VERSION => Found::Newer(version),
        (0, 0, 0) => Found::Nothing,
        _ => Found::Foreign,
    })
}

fn create(connection: &mut Connection) -> rusqlite::Result<()> {
    // Before the first page is written, or it does nothing: free pages can be given back then.
    connection.execute_batch("PRAGMA auto_vacuum = INCREMENTAL")?;
    journal_mode(connection)?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Another process may have been first.
    if matches!(identify(&transaction)?, Found::Nothing) {
        transaction.execute_batch(sql::SCHEMA)?;
        transaction.execute_batch(sql::NOTES)?;
        transaction.execute_batch(sql::CLOCKS)?;
        transaction.pragma_update(None, "application_id", sql::APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", sql::SCHEMA_VERSION)?;
    }
    transaction.commit()
}

/// Brings an older file up to date, in one transaction: it is whole at any time.
fn migrate(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Another process may have been first.
    if let Found::Older(version) = identify(&transaction)? {
        if version == 1 {
            transaction.execute_batch(sql::FROM_1)?;
            // Version 1 had no notes: an empty table of version 2 takes their place.
            transaction.execute_batch(sql::NOTES_2)?;
        }
        transaction.execute_batch(sql::FROM_2)?;
        transaction.execute_batch(sql::NOTES)?;
        transaction.execute_batch(sql::NOTES_FROM_2)?;
        transaction.execute_batch(sql::CLOCKS)?;
        transaction.pragma_update(None, "user_version", sql::SCHEMA_VERSION)?;
    }
    transaction.commit()
}

/// Asks for WAL. SQLite does not call the busy handler for this one, hence the loop: two
/// processes that open a new file at the same time must both succeed.
fn journal_mode(connection: &Connection) -> rusqlite::Result<String> {
    let end = Instant::now() + BUSY;
    loop {
        let answer =
            connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0));
        match answer {
            Err(error)
                if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy)
                    && Instant::now() < end =>
            {
                std::thread::sleep(Duration::from_millis(fastrand::u64(1..=5)));
            }
            other => return other,
        }
    }
}
