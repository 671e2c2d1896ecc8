//! One bucket, while it is written to.

use rusqlite::{Connection, OptionalExtension as _, params};

use crate::keyvalue::{Size, Version};

/// A bucket inside a transaction. What it holds is counted as it changes, and kept by
/// [`store`](Self::store).
pub(super) struct Bucket<'a> {
    connection: &'a Connection,
    name: &'a str,
    /// `None` where it holds nothing yet.
    id: Option<i64>,
    pub(super) size: Size,
}

/// A version as SQLite keeps it.
pub(super) fn version(stored: i64) -> Version {
    Version(stored.cast_unsigned())
}

fn count(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

impl<'a> Bucket<'a> {
    pub(super) fn find(connection: &'a Connection, name: &'a str) -> rusqlite::Result<Self> {
        let row = connection
            .prepare_cached("SELECT id, keys, bytes FROM buckets WHERE name = ?1")?
            .query_row([name], |row| {
                let size = Size { keys: count(row.get(1)?), bytes: count(row.get(2)?) };
                Ok((row.get(0)?, size))
            })
            .optional()?;
        let (id, size) = row.map_or((None, Size::default()), |(id, size)| (Some(id), size));
        Ok(Self { connection, name, id, size })
    }

    /// The value of a key.
    pub(super) fn value(&self, key: &str) -> rusqlite::Result<Option<(Version, Vec<u8>)>> {
        self.connection
            .prepare_cached("SELECT version, value FROM entries WHERE bucket = ?1 AND key = ?2")?
            .query_row(params![self.id, key.as_bytes()], |row| {
                Ok((version(row.get(0)?), row.get(1)?))
            })
            .optional()
    }

    /// Which value a key has.
    pub(super) fn version(&self, key: &str) -> rusqlite::Result<Option<Version>> {
        self.connection
            .prepare_cached("SELECT version FROM entries WHERE bucket = ?1 AND key = ?2")?
            .query_row(params![self.id, key.as_bytes()], |row| Ok(version(row.get(0)?)))
            .optional()
    }

    /// Where a key is, and how many bytes its value has.
    fn place(&self, key: &str) -> rusqlite::Result<Option<(i64, u64)>> {
        self.connection
            .prepare_cached("SELECT id, length(value) FROM entries WHERE bucket = ?1 AND key = ?2")?
            .query_row(params![self.id, key.as_bytes()], |row| {
                Ok((row.get(0)?, count(row.get(1)?)))
            })
            .optional()
    }

    /// Gives a key a value.
    pub(super) fn put(&mut self, key: &str, value: &[u8]) -> rusqlite::Result<()> {
        let version = Version::new().0.cast_signed();
        self.size.bytes += value.len() as u64;
        if let Some((id, bytes)) = self.place(key)? {
            self.size.bytes = self.size.bytes.saturating_sub(bytes);
            self.connection
                .prepare_cached("UPDATE entries SET version = ?2, value = ?3 WHERE id = ?1")?
                .execute(params![id, version, value])?;
            return Ok(());
        }
        let id = match self.id {
            Some(id) => id,
            None => self
                .connection
                .prepare_cached("INSERT INTO buckets (name, keys, bytes) VALUES (?1, 0, 0)")?
                .insert([self.name])?,
        };
        self.id = Some(id);
        self.size.keys += 1;
        self.size.bytes += key.len() as u64;
        self.connection
            .prepare_cached(
                "INSERT INTO entries (bucket, key, version, value) VALUES (?1, ?2, ?3, ?4)",
            )?
            .execute(params![id, key.as_bytes(), version, value])?;
        Ok(())
    }

    /// Takes a key away.
    pub(super) fn take(&mut self, key: &str) -> rusqlite::Result<()> {
        let Some((id, bytes)) = self.place(key)? else { return Ok(()) };
        self.size.keys = self.size.keys.saturating_sub(1);
        self.size.bytes = self.size.bytes.saturating_sub(bytes + key.len() as u64);
        self.connection.prepare_cached("DELETE FROM entries WHERE id = ?1")?.execute([id])?;
        Ok(())
    }

    /// Keeps what the bucket holds now. One that holds nothing goes.
    pub(super) fn store(self) -> rusqlite::Result<()> {
        let Some(id) = self.id else { return Ok(()) };
        if self.size.keys == 0 {
            self.connection.prepare_cached("DELETE FROM buckets WHERE id = ?1")?.execute([id])?;
            return Ok(());
        }
        self.connection
            .prepare_cached("UPDATE buckets SET keys = ?2, bytes = ?3 WHERE id = ?1")?
            .execute(params![id, signed(self.size.keys), signed(self.size.bytes)])?;
        Ok(())
    }
}
