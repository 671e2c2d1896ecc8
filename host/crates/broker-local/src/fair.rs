//! Groups that share a queue without order take turns.
//!
//! Where they have messages that are ready, each gets as much as the others of what a receive
//! takes, and the next receive goes on where this one ended: a flood of one group delays no other.
//! A receive looks at the next groups in the order of their names, by one look into an index each,
//! however many messages a group has. It looks at so many at most ([`LOOKS`]); one that has found
//! nothing by then goes on in the next transaction. Where no message of any group is ready, which
//! one look tells, the groups cost nothing more; and messages that have no group are together one
//! that takes turns like any other.

use rusqlite::{Connection, OptionalExtension, params};

use super::{
    sql,
    store::{QueueRow, fetch_body},
    wire::Row,
};
use lovage_core::broker::Turn;

/// How many groups one receive looks at.
pub const LOOKS: usize = 128;

/// A receive stops after this much, so that a batch of the largest messages stays in memory.
const RECEIVE_BYTES: usize = 16 << 20;

/// Which group was looked at last; `None`: the messages without one, which come before all others.
pub type Cursor = Option<String>;

/// What a receive asks for.
#[derive(Debug)]
pub struct Pick<'a> {
    pub queue: QueueRow,
    /// How many messages.
    pub max: usize,
    pub turn: &'a Turn,
    /// The time.
    pub now: i64,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Picked {
    pub rows: Vec<Row>,
    /// True if all groups have been looked at since the walk's start, as far as that was needed.
    pub complete: bool,
}

/// A walk round all groups of a queue.
#[derive(Debug, Clone)]
pub struct Walk {
    /// Where it ends: the group before the first one.
    origin: Cursor,
    /// Which group was looked at last.
    at: Cursor,
    /// True if it has passed the last group, and goes on from the first.
    wrapped: bool,
}

/// The groups that a walk found ready.
#[derive(Debug, Default)]
struct Ready {
    groups: Vec<Cursor>,
    avoided: Vec<Cursor>,
}

/// Picks messages for one receive. `cursor` is where the last one of this queue ended, `walk` a
/// walk of this receive that has found nothing yet and is not over, if there is one.
pub fn pick(
    connection: &Connection,
    pick: &Pick<'_>,
    cursor: &mut Cursor,
    walk: &mut Option<Walk>,
) -> rusqlite::Result<Picked> {
    let mut taken = Taken { connection, pick, rows: Vec::new(), bytes: 0 };
    let begun = walk.take();
    if !pick.anything(connection, sql::ANY_SHARED)? {
        taken.take(&None, pick.max, 0)?;
        return Ok(Picked { rows: taken.rows, complete: true });
    }
    let new = || Walk { origin: cursor.clone(), at: cursor.clone(), wrapped: false };
    let mut under_way = begun.unwrap_or_else(new);
    let mut ready = Ready::default();
    let complete = under_way.go_on(connection, pick, &mut ready)?;
    taken.share(&ready.groups, cursor)?;
    if taken.rows.is_empty() && !complete {
        // By age, should that find something at once: most likely it does.
        taken.oldest()?;
        if !taken.rows.is_empty() {
            cursor.clone_from(&under_way.at);
        }
    }
    taken.share(if taken.rows.is_empty() { &ready.avoided } else { &[] }, cursor)?;
    let found = !taken.rows.is_empty();
    if !found && !complete {
        *walk = Some(under_way);
    }
    Ok(Picked { rows: taken.rows, complete: found || complete })
}

impl Pick<'_> {
    /// Returns true if there is any message of a kind that is ready.
    fn anything(&self, connection: &Connection, kind: &str) -> rusqlite::Result<bool> {
        connection
            .prepare_cached(kind)?
            .query_row(params![self.queue.id, self.now], |_| Ok(()))
            .optional()
            .map(|found| found.is_some())
    }
}

impl Walk {
    /// Looks at the next groups; whether it has come round.
    fn go_on(
        &mut self,
        connection: &Connection,
        pick: &Pick<'_>,
        ready: &mut Ready,
    ) -> rusqlite::Result<bool> {
        let mut statement = connection.prepare_cached(sql::NEXT_GROUP)?;
        for _ in 0..LOOKS {
            if ready.groups.len() >= pick.max {
                return Ok(false);
            }
            let behind = self.at.as_deref().unwrap_or_default();
            let next: Option<(String, i64)> = statement
                .query_row(params![pick.queue.id, behind], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()?;
            match next {
                None if self.wrapped => return Ok(true),
                None => {
                    self.wrapped = true;
                    self.at = None;
                    if pick.anything(connection, sql::ANY_ALONE)? {
                        ready.groups.push(None);
                    }
                }
                Some((group, _)) if self.wrapped && Some(&group) > self.origin.as_ref() => {
                    return Ok(true);
                }
                Some((group, visible_at)) => {
                    if visible_at <= pick.now && pick.turn.room(&group) > 0 {
                        let avoided = pick.turn.avoids(&group);
                        let groups = if avoided { &mut ready.avoided } else { &mut ready.groups };
                        groups.push(Some(group.clone()));
                    }
                    self.at = Some(group);
                }
            }
            if self.wrapped && self.at == self.origin {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// What a receive has so far.
struct Taken<'a> {
    connection: &'a Connection,
    pick: &'a Pick<'a>,
    rows: Vec<Row>,
    bytes: usize,
}

impl Taken<'_> {
    fn left(&self) -> usize {
        if self.bytes >= RECEIVE_BYTES { 0 } else { self.pick.max - self.rows.len() }
    }

    /// Takes as much of each group, in as many rounds as it takes to have enough. The next receive
    /// goes on behind the last group that had one more than others.
    fn share(&mut self, groups: &[Cursor], cursor: &mut Cursor) -> rusqlite::Result<()> {
        let mut groups: Vec<_> = groups.iter().map(|group| (group, 0)).collect();
        let mut first = true;
        while !groups.is_empty() && self.left() > 0 {
            let (share, more) = (self.left() / groups.len(), self.left() % groups.len());
            let last = more.checked_sub(1).unwrap_or(groups.len() - 1);
            let mut next = Vec::with_capacity(groups.len());
            for (place, (group, before)) in groups.into_iter().enumerate() {
                if first && place == last {
                    cursor.clone_from(group);
                }
                let room = group.as_deref().map_or(usize::MAX, |group| self.pick.turn.room(group));
                let share = share + usize::from(place < more);
                let most = share.min(room - before).min(self.left());
                let taken = if most == 0 { 0 } else { self.take(group, most, before)? };
                if taken == most && before + taken < room && self.left() > 0 {
                    next.push((group, before + taken));
                }
            }
            groups = next;
            first = false;
        }
        Ok(())
    }

    /// Takes up to `most` messages of a group, behind the first `before`.
    fn take(&mut self, group: &Cursor, most: usize, before: usize) -> rusqlite::Result<usize> {
        let queue = self.pick.queue.id;
        let limit = i64::try_from(most).unwrap_or(i64::MAX);
        let offset = i64::try_from(before).unwrap_or(i64::MAX);
        let now = self.pick.now;
        match group {
            None => {
                let mut statement = self.connection.prepare_cached(sql::PICK_UP)?;
                let rows = statement.query(params![queue, now, limit, offset])?;
                self.keep(rows, |_| true)
            }
            Some(group) => {
                let mut statement = self.connection.prepare_cached(sql::PICK_UP_OF_GROUP)?;
                let rows = statement.query(params![queue, now, limit, offset, group])?;
                self.keep(rows, |_| true)
            }
        }
    }

    /// Takes messages of any group that may be taken, the oldest first.
    fn oldest(&mut self) -> rusqlite::Result<()> {
        let pick = self.pick;
        let limit = i64::try_from(pick.max.max(LOOKS)).unwrap_or(i64::MAX);
        let mut statement = self.connection.prepare_cached(sql::PICK_UP_SHARED)?;
        let rows = statement.query(params![pick.queue.id, pick.now, limit])?;
        let mut counts = std::collections::HashMap::<String, usize>::new();
        self.keep(rows, |row| {
            let Some(group) = &row.group else { return true };
            let count = counts.entry(group.clone()).or_default();
            let takes = *count < pick.turn.room(group) && !pick.turn.avoids(group);
            *count += usize::from(takes);
            takes
        })
        .map(drop)
    }

    fn keep(
        &mut self,
        mut found: rusqlite::Rows<'_>,
        mut takes: impl FnMut(&Row) -> bool,
    ) -> rusqlite::Result<usize> {
        let before = self.rows.len();
        while self.left() > 0
            && let Some(row) = found.next()?
        {
            let mut row = Row::read(row)?;
            if takes(&row) {
                fetch_body(self.connection, &mut row)?;
                self.bytes += row.body.as_ref().map_or(0, bytes::Bytes::len);
                self.rows.push(row);
            }
        }
        Ok(self.rows.len() - before)
    }
}
