//! The clock of a file: the same for all processes that use it, and no step of a wall clock touches
//! it.
//!
//! Leases, delays and retention are differences. The file notes once in each run of the machine
//! which time it was at which moment since the start, and every process counts on from there. So a
//! sender whose wall clock is an hour ahead hides nothing for an hour.

use rusqlite::{Connection, OptionalExtension as _, TransactionBehavior, params};

use super::sql;
use lovage_core::{
    clock::{boot_id, boottime_ms, wall_ms},
    events::ClockDiffers,
};

/// A time in the file that is further ahead than this is not believed, in milliseconds: ten years.
const BELIEVED_MS: i64 = 10 * 365 * 24 * 60 * 60 * 1000;

/// Greater differences between the wall clock and the file's are told, in milliseconds.
const TOLD_MS: i64 = 5_000;

/// A file's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock {
    /// The file's time less the time since the machine's start, in milliseconds.
    offset_ms: i64,
}

impl Clock {
    /// The clock of a file; set, where this run of the machine has none yet.
    pub fn of(connection: &mut Connection) -> rusqlite::Result<Self> {
        let now = Moment { boot: boot_id(), boottime_ms: boottime_ms(), wall_ms: wall_ms() };
        let clock = Self::at(connection, &now)?;
        let ahead_ms = clock.offset_ms.saturating_add(now.boottime_ms).saturating_sub(now.wall_ms);
        if ahead_ms.saturating_abs() >= TOLD_MS {
            ClockDiffers { ahead_ms }.emit();
        }
        Ok(clock)
    }

    fn at(connection: &mut Connection, now: &Moment) -> rusqlite::Result<Self> {
        let Some(boot) = &now.boot else {
            return Ok(Self { offset_ms: now.wall_ms - now.boottime_ms });
        };
        let read = |connection: &Connection| -> rusqlite::Result<Option<(String, i64)>> {
            let mut statement = connection.prepare(sql::CLOCK)?;
            statement.query_row([], |row| Ok((row.get(0)?, row.get(1)?))).optional()
        };
        let same = |found: &Option<(String, i64)>| {
            let found = found.as_ref().filter(|(its, _)| its == boot);
            found.map(|(_, offset_ms)| Self { offset_ms: *offset_ms })
        };
        if let Some(clock) = same(&read(connection)?) {
            return Ok(clock);
        }
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        // Another process may have been first.
        let found = read(&transaction)?;
        if let Some(clock) = same(&found) {
            return Ok(clock);
        }
        // Time does not go back: what was sent in the run before was sent in the past.
        let last: Option<i64> =
            transaction.prepare(sql::LAST_SENT)?.query_row([], |row| row.get(0)).optional()?;
        let believed = |at: &i64| *at <= now.wall_ms.saturating_add(BELIEVED_MS);
        let time = last.filter(believed).map_or(now.wall_ms, |last| last.max(now.wall_ms));
        let clock = Self { offset_ms: time - now.boottime_ms };
        transaction.execute(sql::SET_CLOCK, params![boot, clock.offset_ms])?;
        transaction.commit()?;
        Ok(clock)
    }

    /// Milliseconds since 1970, by this clock.
    pub fn now_ms(self) -> i64 {
        boottime_ms().saturating_add(self.offset_ms)
    }
}

/// A moment, by all that tells it.
#[derive(Debug)]
struct Moment {
    boot: Option<String>,
    boottime_ms: i64,
    wall_ms: i64,
}

#[cfg(test)]
mod tests {
    use super::{super::schema, *};

    const HOUR_MS: i64 = 60 * 60 * 1000;
    const NOW_MS: i64 = 1_800_000_000_000;

    fn moment(boot: &str, boottime_ms: i64, wall_ms: i64) -> Moment {
        Moment { boot: Some(boot.to_owned()), boottime_ms, wall_ms }
    }

    #[test]
    fn processes_whose_wall_clocks_differ_have_one_time() {
        let directory = tempfile::tempdir().unwrap();
        let mut connection = schema::open_writer(&directory.path().join("broker.db")).unwrap();
        let first = Clock::at(&mut connection, &moment("a", 1_000, NOW_MS)).unwrap();
        // An hour ahead, and an hour behind: both count on from the first.
        for wall in [NOW_MS + HOUR_MS, NOW_MS - HOUR_MS] {
            assert_eq!(Clock::at(&mut connection, &moment("a", 2_000, wall)).unwrap(), first);
        }
        // The machine starts again, and its clock is right.
        let second = Clock::at(&mut connection, &moment("b", 10, NOW_MS + HOUR_MS)).unwrap();
        assert_eq!(second.offset_ms + 10, NOW_MS + HOUR_MS);
    }

    #[test]
    fn time_does_not_go_back_when_a_machine_starts_with_an_older_clock() {
        let directory = tempfile::tempdir().unwrap();
        let mut connection = schema::open_writer(&directory.path().join("broker.db")).unwrap();
        let insert = |connection: &Connection, sent_at: i64| {
            let values = params![
                1,
                sent_at,
                0,
                None::<i64>,
                sent_at,
                [0_u8; 16],
                None::<&str>,
                None::<&str>,
                None::<&str>,
                b"1"
            ];
            connection.execute(sql::INSERT, values).unwrap();
        };
        insert(&connection, NOW_MS + HOUR_MS);
        let clock = Clock::at(&mut connection, &moment("c", 10, NOW_MS)).unwrap();
        assert_eq!(clock.offset_ms + 10, NOW_MS + HOUR_MS);
        // What nobody can have meant is not believed.
        insert(&connection, NOW_MS + 100 * BELIEVED_MS);
        let clock = Clock::at(&mut connection, &moment("d", 10, NOW_MS)).unwrap();
        assert_eq!(clock.offset_ms + 10, NOW_MS);
    }
}
