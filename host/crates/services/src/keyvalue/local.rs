//! Buckets in an SQLite file of this machine, which any number of processes may use at once.
//!
//! One thread writes. It takes all that came while it was busy, each in a savepoint of its own,
//! and commits once: an answer comes when the change is on the disk, and the busier the store, the
//! more share one flush. Reads have connections of their own, and wait for nobody.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension as _, params};
use tokio::sync::{OnceCell, Semaphore};

use self::writer::Writer;
use super::{Namespace, PAGE_KEYS, Page, Quota, Quotas, Store, StoreError, Swap, Version, number};

mod entries;
mod schema;
mod writer;

use entries::Bucket;

/// How many read at once.
const READERS: usize = 4;

/// Buckets in a file. The file is opened when it is first needed.
#[derive(Debug)]
pub struct LocalStore {
    path: PathBuf,
    quotas: Quotas,
    timeout: Duration,
    opened: OnceCell<Opened>,
}

#[derive(Debug)]
struct Opened {
    writer: Writer,
    readers: Arc<Readers>,
}

/// Connections that only read.
#[derive(Debug)]
struct Readers {
    path: PathBuf,
    timeout: Duration,
    idle: Mutex<Vec<Connection>>,
    turns: Arc<Semaphore>,
}

impl LocalStore {
    /// Buckets in the file at `path`, which is made when it is not there; its directory has to be.
    /// `timeout` is how long another process may hold the file locked.
    pub fn new(path: &Path, quotas: Quotas, timeout: Duration) -> Self {
        Self { path: path.to_owned(), quotas, timeout, opened: OnceCell::new() }
    }

    async fn opened(&self) -> Result<&Opened, StoreError> {
        self.opened
            .get_or_try_init(async || {
                let (path, timeout) = (self.path.clone(), self.timeout);
                let opened = tokio::task::spawn_blocking(move || {
                    let writer = Writer::start(&path, timeout)?;
                    let idle = Mutex::new(vec![schema::open_reader(&path, timeout)?]);
                    let turns = Arc::new(Semaphore::new(READERS));
                    let readers = Arc::new(Readers { path, timeout, idle, turns });
                    Ok(Opened { writer, readers })
                });
                opened.await.unwrap_or_else(|error| Err(broken_off(&self.path, &error)))
            })
            .await
    }

    /// Reads on a thread for such things.
    async fn look<T: Send + 'static>(
        &self,
        bucket: &Namespace,
        read: impl FnOnce(&Connection, &str) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let readers = Arc::clone(&self.opened().await?.readers);
        let bucket = bucket.clone();
        let turn = Arc::clone(&readers.turns).acquire_owned().await;
        let looked = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let idle = || readers.idle.lock().unwrap_or_else(PoisonError::into_inner);
            let kept = idle().pop();
            let connection = match kept {
                Some(connection) => connection,
                None => schema::open_reader(&readers.path, readers.timeout)?,
            };
            let answer = read(&connection, bucket.as_str());
            idle().push(connection);
            answer.map_err(|error| unavailable(&readers.path, &error))
        });
        looked.await.unwrap_or_else(|error| Err(broken_off(&self.path, &error)))
    }

    /// Writes. The answer comes when it is on the disk; an error leaves nothing behind.
    async fn write<T: Send + 'static>(
        &self,
        bucket: &Namespace,
        write: impl FnOnce(&mut Bucket<'_>) -> Result<T, Failed> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (name, quotas) = (bucket.clone(), self.quotas);
        self.opened()
            .await?
            .writer
            .call(move |connection| {
                let mut bucket = Bucket::find(connection, name.as_str())?;
                let before = bucket.size;
                let answer = write(&mut bucket)?;
                quotas.allow(before, bucket.size)?;
                bucket.store()?;
                Ok(answer)
            })
            .await
    }
}

/// Why a write broke off: by our own rules, or in SQLite.
#[derive(Debug)]
enum Failed {
    Refused(StoreError),
    Sqlite(rusqlite::Error),
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Self::Refused(error)
    }
}

impl From<rusqlite::Error> for Failed {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

fn unavailable(path: &Path, error: &rusqlite::Error) -> StoreError {
    StoreError::Unavailable(format!("the key-value store {}: {error}", path.display()))
}

fn broken_off(path: &Path, error: &tokio::task::JoinError) -> StoreError {
    StoreError::Unavailable(format!("the key-value store {}: {error}", path.display()))
}

#[async_trait]
impl Store for LocalStore {
    async fn prepare(&self) -> Result<(), StoreError> {
        self.opened().await.map(drop)
    }

    async fn get(
        &self,
        bucket: &Namespace,
        keys: Vec<String>,
    ) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        let allowed = self.quotas.answer_bytes();
        let found = self
            .look(bucket, move |connection, bucket| {
                // One look, so that the values are of one moment.
                let _snapshot = connection.unchecked_transaction()?;
                let mut statement = connection.prepare_cached(
                    "SELECT value FROM entries JOIN buckets ON buckets.id = bucket
                     WHERE name = ?1 AND key = ?2",
                )?;
                let mut values = Vec::with_capacity(keys.len());
                let mut total = 0;
                for key in keys {
                    let value: Option<Vec<u8>> = statement
                        .query_row(params![bucket, key.as_bytes()], |row| row.get(0))
                        .optional()?;
                    total += value.as_ref().map_or(0, Vec::len) as u64;
                    if total > allowed {
                        return Ok(Err(total));
                    }
                    values.push(value);
                }
                Ok(Ok(values))
            })
            .await?;
        found.map_err(|asked| StoreError::Quota { quota: Quota::AnswerBytes, asked, allowed })
    }

    async fn read(
        &self,
        bucket: &Namespace,
        key: String,
    ) -> Result<Option<(Version, Vec<u8>)>, StoreError> {
        self.look(bucket, move |connection, bucket| {
            connection
                .prepare_cached(
                    "SELECT version, value FROM entries JOIN buckets ON buckets.id = bucket
                     WHERE name = ?1 AND key = ?2",
                )?
                .query_row(params![bucket, key.as_bytes()], |row| {
                    Ok((entries::version(row.get(0)?), row.get(1)?))
                })
                .optional()
        })
        .await
    }

    async fn set(
        &self,
        bucket: &Namespace,
        entries: Vec<(String, Vec<u8>)>,
    ) -> Result<(), StoreError> {
        for (_, value) in &entries {
            self.quotas.allow_value(value)?;
        }
        self.write(bucket, move |bucket| {
            entries.iter().try_for_each(|(key, value)| Ok(bucket.put(key, value)?))
        })
        .await
    }

    async fn delete(&self, bucket: &Namespace, keys: Vec<String>) -> Result<(), StoreError> {
        self.write(bucket, move |bucket| keys.iter().try_for_each(|key| Ok(bucket.take(key)?)))
            .await
    }

    async fn exists(&self, bucket: &Namespace, key: String) -> Result<bool, StoreError> {
        self.look(bucket, move |connection, bucket| {
            connection
                .prepare_cached(
                    "SELECT EXISTS (SELECT 1 FROM entries JOIN buckets ON buckets.id = bucket
                     WHERE name = ?1 AND key = ?2)",
                )?
                .query_row(params![bucket, key.as_bytes()], |row| row.get(0))
        })
        .await
    }

    async fn list(&self, bucket: &Namespace, after: Option<u64>) -> Result<Page, StoreError> {
        // Cursors come from guests: a number that no row has finds no rows.
        let after = i64::try_from(after.unwrap_or(0)).unwrap_or(i64::MAX);
        self.look(bucket, move |connection, bucket| {
            let mut statement = connection.prepare_cached(
                "SELECT entries.id, key FROM entries
                 WHERE bucket = (SELECT id FROM buckets WHERE name = ?1) AND entries.id > ?2
                 ORDER BY entries.id LIMIT ?3",
            )?;
            let limit = i64::try_from(PAGE_KEYS + 1).unwrap_or(i64::MAX);
            let mut rows = statement.query(params![bucket, after, limit])?;
            let (mut page, mut last) = (Page::default(), 0_i64);
            while let Some(row) = rows.next()? {
                if page.keys.len() == PAGE_KEYS {
                    page.next = Some(last.unsigned_abs());
                    break;
                }
                last = row.get(0)?;
                let key: Vec<u8> = row.get(1)?;
                page.keys.push(String::from_utf8_lossy(&key).into_owned());
            }
            Ok(page)
        })
        .await
    }

    async fn increment(
        &self,
        bucket: &Namespace,
        key: String,
        delta: i64,
    ) -> Result<i64, StoreError> {
        self.write(bucket, move |bucket| {
            let before = match bucket.value(&key)? {
                Some((_, value)) => number(&value)?,
                None => 0,
            };
            let after = before.checked_add(delta).ok_or(StoreError::Overflow)?;
            bucket.put(&key, after.to_string().as_bytes())?;
            Ok(after)
        })
        .await
    }

    async fn swap(
        &self,
        bucket: &Namespace,
        key: String,
        expected: Option<Version>,
        value: Vec<u8>,
    ) -> Result<Swap, StoreError> {
        self.quotas.allow_value(&value)?;
        self.write(bucket, move |bucket| {
            let has = bucket.version(&key)?;
            if has != expected {
                return Ok(Swap::Stale(has));
            }
            bucket.put(&key, &value)?;
            Ok(Swap::Done)
        })
        .await
    }
}
