//! How long messages stay in queues that jobs are not taken from.
//!
//! A message is forgotten when it has been visible for its queue's time. That needs no index of its
//! own: the one by which messages are picked up has them in that order. A message under a lease is
//! not visible, and stays.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rusqlite::params;

use super::{sql, store::Store, wire::Delivery};

/// The times of queues, by name.
#[derive(Debug, Default)]
pub struct Retentions(Mutex<BTreeMap<Arc<str>, Duration>>);

impl Retentions {
    /// Sets the time of a queue.
    pub fn set(&self, queue: &str, retention: Duration) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(queue.into(), retention);
    }

    /// All of them.
    pub fn all(&self) -> Vec<(Arc<str>, Duration)> {
        let times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        times.iter().map(|(queue, retention)| (Arc::clone(queue), *retention)).collect()
    }
}

impl Store<'_> {
    /// Forgets up to `most` messages of a queue that are older than `retention`; how many.
    pub fn expire(
        &mut self,
        queue: &Arc<str>,
        retention: Duration,
        most: usize,
    ) -> rusqlite::Result<usize> {
        let Some(row) = self.queue(queue)? else { return Ok(0) };
        let retention = i64::try_from(retention.as_millis()).unwrap_or(i64::MAX);
        let before = self.now.saturating_sub(retention);
        let limit = i64::try_from(most).unwrap_or(i64::MAX);
        let mut old = Vec::new();
        for sql in [sql::OLD_MESSAGES, sql::OLD_MESSAGES_SHARED] {
            let mut statement = self.prepare(sql)?;
            let rows = statement.query_map(params![row.id, before, limit], |row| {
                Ok(Delivery { seq: row.get(0)?, nonce: row.get(1)? })
            })?;
            old.extend(rows.collect::<rusqlite::Result<Vec<_>>>()?);
        }
        let mut gone = 0;
        for delivery in old {
            gone += usize::from(self.delete(row, delivery)?);
        }
        Ok(gone)
    }
}
