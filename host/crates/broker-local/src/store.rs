//! What the broker does to the database, inside a transaction that somebody else begins and ends.
//!
//! Whatever can be refused is refused before the first write: what comes after can only fail as
//! a whole (a full disk), and then the whole transaction is undone.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, params};
use uuid::Uuid;

use super::{
    fair::{self, Cursor, Pick, Picked, Walk},
    sql,
    wire::{Delivery, End, Ending, NewMessage, Row, due},
};
use lovage_core::{
    broker::{KeptResult, Turn},
    job::{JobKey, OwnedJobKey},
};

/// For how long a deduplication id names the message that came with it first, as on SQS.
const DEDUPLICATION_MS: i64 = 5 * 60 * 1000;

/// A time that is ahead of the clock by more than this comes from a clock that was wrong.
const FUTURE_MS: i64 = 60 * 1000;

/// Larger bodies are kept apart from their messages. About what leaves a page of the file room for
/// several messages.
const INLINE_BYTES: usize = 1024;

/// What `messages.ordered` says of a message: that it keeps its place in its group, or that its
/// group takes turns with others.
const FIFO: i64 = 1;
const SHARED: i64 = 2;

/// Why something was not done; the rest of its transaction goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// No queue of that name.
    NoQueue(Arc<str>),
    /// The receipt names no delivery any more.
    Stale,
}

/// A queue's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueRow {
    pub id: i64,
    pub fifo: bool,
    pub visibility_ms: i64,
}

/// What a receive asks for.
#[derive(Debug)]
pub struct Wish<'a> {
    pub max: usize,
    pub lease_ms: i64,
    pub turn: &'a Turn,
}

/// One transaction's view. It also gathers what others may be waiting for.
#[derive(Debug)]
pub struct Store<'c> {
    connection: &'c Connection,
    pub now: i64,
    /// What was found in this transaction, in which nobody else can change it.
    queues: HashMap<Arc<str>, Option<QueueRow>>,
    /// The earliest time at which something became visible, by queue.
    pub due: HashMap<i64, i64>,
    /// The jobs that left a result.
    pub kept: Vec<OwnedJobKey>,
    /// Deduplication ids taken.
    remembered: usize,
}

impl<'c> Store<'c> {
    /// One that it is `now` in, by the file's clock.
    pub fn at(connection: &'c Connection, now: i64) -> Self {
        Self {
            connection,
            now,
            queues: HashMap::new(),
            due: HashMap::new(),
            kept: Vec::new(),
            remembered: 0,
        }
    }

    /// A statement of this transaction.
    pub fn prepare(&self, sql: &str) -> rusqlite::Result<rusqlite::CachedStatement<'c>> {
        self.connection.prepare_cached(sql)
    }

    /// For tests that do what no request does.
    #[cfg(test)]
    pub fn connection(&self) -> &'c Connection {
        self.connection
    }

    pub fn queue(&mut self, name: &Arc<str>) -> rusqlite::Result<Option<QueueRow>> {
        if let Some(found) = self.queues.get(name) {
            return Ok(*found);
        }
        let found = find_queue(self.connection, name)?;
        self.queues.insert(Arc::clone(name), found);
        Ok(found)
    }

    pub fn declare(&mut self, name: &Arc<str>, fifo: bool, ms: i64) -> rusqlite::Result<()> {
        self.queues.remove(name);
        self.execute(sql::DECLARE, params![name, fifo, ms])?;
        Ok(())
    }

    /// Stores messages; their ids.
    pub fn send(
        &mut self,
        queue: &Arc<str>,
        messages: &[NewMessage],
    ) -> rusqlite::Result<Result<Vec<Uuid>, Refusal>> {
        let Some(row) = self.queue(queue)? else {
            return Ok(Err(Refusal::NoQueue(Arc::clone(queue))));
        };
        messages
            .iter()
            .map(|message| self.insert(row, message))
            .collect::<rusqlite::Result<_>>()
            .map(Ok)
    }

    fn insert(&mut self, queue: QueueRow, message: &NewMessage) -> rusqlite::Result<Uuid> {
        if let (true, Some(name)) = (queue.fifo, &message.deduplication_id) {
            if let Some(first) = self.first_of(queue, name)? {
                return Ok(first);
            }
            let values = params![queue.id, name, self.now, message.id.as_bytes()];
            self.execute(sql::REMEMBER, values)?;
            self.remembered += 1;
        }
        let due_at = due(self.now, message.delay_ms);
        let (group, behind) = if queue.fifo {
            let group = message.group.as_deref().unwrap_or_default();
            (Some(group), self.head(queue.id, group)?.is_some())
        } else {
            (message.group.as_deref().filter(|group| !group.is_empty()), false)
        };
        let ordered = match group {
            Some(_) if queue.fifo => FIFO,
            Some(_) => SHARED,
            None => 0,
        };
        let inline = message.body.len() <= INLINE_BYTES;
        self.execute(
            sql::INSERT,
            params![
                queue.id,
                (!behind).then_some(due_at),
                ordered,
                behind.then_some(due_at),
                self.now,
                message.id.as_bytes(),
                group,
                message.trace_header,
                message.attributes,
                inline.then_some(&message.body[..]),
            ],
        )?;
        if !inline {
            let values = params![self.connection.last_insert_rowid(), &message.body[..]];
            self.execute(sql::INSERT_BODY, values)?;
        }
        if !behind {
            self.becomes_visible(queue.id, due_at);
        }
        Ok(message.id)
    }

    /// The message that a deduplication id already stands for.
    fn first_of(&self, queue: QueueRow, name: &str) -> rusqlite::Result<Option<Uuid>> {
        let found: Option<(i64, [u8; 16])> = self
            .connection
            .prepare_cached(sql::DUPLICATE)?
            .query_row(params![queue.id, name], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        Ok(found
            .filter(|(taken_at, _)| taken_at + DEDUPLICATION_MS > self.now)
            .map(|(_, id)| Uuid::from_bytes(id)))
    }

    /// A group's oldest message: its row, when it is visible, and when it may be at the earliest.
    fn head(&self, queue: i64, group: &str) -> rusqlite::Result<Option<Head>> {
        self.connection
            .prepare_cached(sql::GROUP_HEAD)?
            .query_row(params![queue, group], |row| {
                Ok(Head { seq: row.get(0)?, visible_at: row.get(1)?, due_at: row.get(2)? })
            })
            .optional()
    }

    /// Leases up to `max` messages for `lease_ms`.
    pub fn receive(
        &mut self,
        queue: QueueRow,
        wish: &Wish<'_>,
        cursor: &mut Cursor,
        walk: &mut Option<Walk>,
    ) -> rusqlite::Result<Picked> {
        let pick = Pick { queue, max: wish.max, turn: wish.turn, now: self.now };
        let mut picked = fair::pick(self.connection, &pick, cursor, walk)?;
        let until = due(self.now, wish.lease_ms);
        let mut lease = self.connection.prepare_cached(sql::LEASE)?;
        for row in &mut picked.rows {
            row.delivery.nonce = fastrand::i64(1..);
            row.attempts = row.attempts.saturating_add(1);
            lease.execute(params![row.delivery.seq, until, row.delivery.nonce])?;
        }
        Ok(picked)
    }

    /// When the next message that is hidden now becomes visible.
    pub fn next_visible(&self, queue: QueueRow) -> rusqlite::Result<Option<i64>> {
        let next = |sql| {
            self.connection
                .prepare_cached(sql)?
                .query_row(params![queue.id, self.now], |row| row.get::<_, i64>(0))
                .optional()
        };
        let both = [next(sql::NEXT_VISIBLE)?, next(sql::NEXT_VISIBLE_SHARED)?];
        Ok(both.into_iter().flatten().min())
    }

    /// Renews leases; whether each was still held.
    pub fn extend(
        &mut self,
        queue: &Arc<str>,
        deliveries: &[Delivery],
        lease_ms: i64,
    ) -> rusqlite::Result<Vec<Result<(), Refusal>>> {
        let Some(row) = self.queue(queue)? else {
            let refusal = Refusal::NoQueue(Arc::clone(queue));
            return Ok(vec![Err(refusal); deliveries.len()]);
        };
        let until = due(self.now, lease_ms);
        let mut answers = Vec::with_capacity(deliveries.len());
        for Delivery { seq, nonce } in deliveries {
            let changed = self.execute(sql::EXTEND, params![seq, nonce, row.id, until])?;
            answers.push(held(changed));
        }
        self.becomes_visible(row.id, until);
        Ok(answers)
    }

    /// Carries out what becomes of messages, each wholly or not at all.
    pub fn settle(
        &mut self,
        queue: &Arc<str>,
        ends: &[End],
    ) -> rusqlite::Result<Vec<Result<(), Refusal>>> {
        let Some(row) = self.queue(queue)? else {
            let refusal = Refusal::NoQueue(Arc::clone(queue));
            return Ok(vec![Err(refusal); ends.len()]);
        };
        ends.iter().map(|end| self.end(row, end)).collect()
    }

    fn end(&mut self, queue: QueueRow, end: &End) -> rusqlite::Result<Result<(), Refusal>> {
        let Delivery { seq, nonce } = end.delivery;
        match &end.ending {
            Ending::Release { after_ms, spent } => {
                let until = due(self.now, *after_ms);
                let values = params![seq, nonce, queue.id, until, i64::from(!spent)];
                let changed = self.execute(sql::RELEASE, values)?;
                self.becomes_visible(queue.id, until);
                Ok(held(changed))
            }
            Ending::Finish { result, sends } => {
                let mut targets = Vec::with_capacity(sends.len());
                for (name, message) in sends {
                    let Some(target) = self.queue(name)? else {
                        return Ok(Err(Refusal::NoQueue(Arc::clone(name))));
                    };
                    targets.push((target, message));
                }
                if !self.delete(queue, end.delivery)? {
                    return Ok(Err(Refusal::Stale));
                }
                for (target, message) in targets {
                    self.insert(target, message)?;
                }
                if let Some(result) = result {
                    let KeptResult { tenant, job_id, envelope } = result;
                    let values = params![job_id, tenant, self.now, &envelope[..]];
                    self.execute(sql::KEEP_RESULT, values)?;
                    self.kept.push(JobKey::new(tenant, job_id).to_owned());
                }
                Ok(Ok(()))
            }
        }
    }

    /// Deletes a message whose delivery is still good; on a FIFO queue the next of its group
    /// takes its place.
    pub fn delete(&mut self, queue: QueueRow, delivery: Delivery) -> rusqlite::Result<bool> {
        let gone: Option<(i64, Option<String>, bool)> = self
            .connection
            .prepare_cached(sql::DELETE)?
            .query_row(params![delivery.seq, delivery.nonce, queue.id], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            })
            .optional()?;
        let Some((ordered, group, body_apart)) = gone else {
            return Ok(false);
        };
        if body_apart {
            self.execute(sql::DELETE_BODY, [delivery.seq])?;
        }
        if let (FIFO, Some(group)) = (ordered, group)
            && let Some(next) = self.head(queue.id, &group)?
            && next.visible_at.is_none()
        {
            // Not before now: groups then take turns, and one with a long past does not go first.
            let at = next.due_at.unwrap_or_default().max(self.now);
            self.execute(sql::PROMOTE, params![next.seq, at])?;
            self.becomes_visible(queue.id, at);
        }
        Ok(true)
    }

    pub fn result(&self, job: JobKey<'_>) -> rusqlite::Result<Option<Bytes>> {
        self.connection
            .prepare_cached(sql::RESULT)?
            .query_row([job.id, job.tenant], |row| {
                Ok(Bytes::copy_from_slice(row.get_ref(0)?.as_blob()?))
            })
            .optional()
    }

    /// Notes something of a job, for as long as results are kept.
    pub fn note(&self, sql: &str, values: impl rusqlite::Params) -> rusqlite::Result<()> {
        self.execute(sql, values).map(drop)
    }

    /// Forgets results older than `retention` and deduplication ids past their time: at least
    /// twice as many as this transaction added, so that it keeps up, and `least` in any case.
    /// Returns whether there may be more.
    pub fn purge(&self, retention: Duration, least: usize) -> rusqlite::Result<bool> {
        let retention = i64::try_from(retention.as_millis()).unwrap_or(i64::MAX);
        let results = self.forget(
            [sql::OLD_RESULTS, sql::FORGET_RESULTS, sql::MEND_RESULT],
            self.now.saturating_sub(retention),
            least.max(2 * self.kept.len()),
        )?;
        let duplicates = self.forget(
            [sql::OLD_DUPLICATES, sql::FORGET_DUPLICATES, sql::MEND_DUPLICATE],
            self.now - DEDUPLICATION_MS,
            least.max(2 * self.remembered),
        )?;
        let notes = self.forget(
            [sql::OLD_NOTES, sql::FORGET_NOTES, sql::MEND_NOTE],
            self.now.saturating_sub(retention),
            least,
        )?;
        Ok(results || duplicates || notes)
    }

    /// The tables are in the order of their age: the walk ends at the first row that stays. A row
    /// from the future, which a clock that was wrong has left, does not end it: it is as old as the
    /// next one that can be believed.
    fn forget(
        &self,
        [old, forget, mend]: [&str; 3],
        before: i64,
        most: usize,
    ) -> rusqlite::Result<bool> {
        if most == 0 {
            return Ok(false);
        }
        let (mut last, mut count, mut future) = (None, 0, Vec::new());
        let mut neighbour = self.now;
        {
            let mut statement = self.connection.prepare_cached(old)?;
            let mut rows = statement.query([i64::try_from(most).unwrap_or(i64::MAX)])?;
            while let Some(row) = rows.next()? {
                let (seq, at): (i64, i64) = (row.get(0)?, row.get(1)?);
                count += 1;
                if at > self.now.saturating_add(FUTURE_MS) {
                    future.push(seq);
                } else if at <= before {
                    // Whatever is before it is older still.
                    future.clear();
                    last = Some(seq);
                } else {
                    neighbour = at;
                    count -= 1;
                    break;
                }
            }
        }
        for seq in future {
            self.execute(mend, params![seq, neighbour])?;
        }
        if let Some(last) = last {
            self.execute(forget, [last])?;
        }
        Ok(count == most)
    }

    fn becomes_visible(&mut self, queue: i64, at: i64) {
        let due = self.due.entry(queue).or_insert(at);
        *due = at.min(*due);
    }

    fn execute(&self, sql: &str, values: impl rusqlite::Params) -> rusqlite::Result<usize> {
        self.connection.prepare_cached(sql)?.execute(values)
    }
}

struct Head {
    seq: i64,
    visible_at: Option<i64>,
    due_at: Option<i64>,
}

fn held(changed: usize) -> Result<(), Refusal> {
    if changed == 1 { Ok(()) } else { Err(Refusal::Stale) }
}

/// Brings a message's body where that is kept apart.
pub fn fetch_body(connection: &Connection, row: &mut Row) -> rusqlite::Result<()> {
    if row.body.is_none() {
        let body = connection.prepare_cached(sql::BODY)?.query_row([row.delivery.seq], |row| {
            Ok(Bytes::copy_from_slice(row.get_ref(0)?.as_blob()?))
        })?;
        row.body = Some(body);
    }
    Ok(())
}

/// Looks a queue up by name.
pub fn find_queue(connection: &Connection, name: &str) -> rusqlite::Result<Option<QueueRow>> {
    connection
        .prepare_cached(sql::QUEUE)?
        .query_row([name], |row| {
            Ok(QueueRow { id: row.get(0)?, fifo: row.get(1)?, visibility_ms: row.get(2)? })
        })
        .optional()
}
