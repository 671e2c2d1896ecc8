//! Makes the database's file as short as what is in it.

use std::path::Path;

use super::{fault::explain, gate::Gate, schema};
use lovage_core::broker::BrokerError;

/// The sizes of a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Space {
    /// Bytes of the file with its log.
    pub bytes: u64,
    /// Bytes of the file that nothing is in.
    pub free_bytes: u64,
    /// True if free space is given back by itself.
    pub shrinks: bool,
}

/// The space that a database takes.
///
/// # Errors
///
/// As for opening it.
pub fn space(path: &Path) -> Result<Space, BrokerError> {
    let connection = schema::open_writer(path)?;
    measure(path, &connection).map_err(|error| explain(path, "read", error))
}

/// Rewrites the file without its free space; from then on it shrinks by itself. Others who use it
/// wait meanwhile.
///
/// # Errors
///
/// As for opening it; and where others keep it locked, or the disk has no room for a second copy.
pub fn compact(path: &Path) -> Result<Space, BrokerError> {
    let connection = schema::open_writer(path)?;
    let gate = Gate::before(path);
    let _turn = gate.enter();
    let rewritten = connection
        .execute_batch("PRAGMA auto_vacuum = INCREMENTAL; VACUUM;")
        .and_then(|()| {
            // Where others still read, the log stays as long as it is until they are done.
            connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        })
        .and_then(|()| measure(path, &connection));
    rewritten.map_err(|error| explain(path, "compact", error))
}

fn measure(path: &Path, connection: &rusqlite::Connection) -> rusqlite::Result<Space> {
    let read = |pragma: &str| connection.query_row(pragma, [], |row| row.get::<_, i64>(0));
    let page = read("PRAGMA page_size")?.unsigned_abs();
    let length = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        std::fs::metadata(name).map_or(0, |metadata| metadata.len())
    };
    Ok(Space {
        bytes: length("") + length("-wal"),
        free_bytes: read("PRAGMA freelist_count")?.unsigned_abs() * page,
        shrinks: read("PRAGMA auto_vacuum")? == 2,
    })
}
