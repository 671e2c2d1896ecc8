//! A job costs the same, however much is queued, delayed, in flight, done or in its group.

use std::{collections::BTreeMap, time::Duration};

use rusqlite::{Connection, StatementStatus};

use super::{
    super::{
        fair::LOOKS,
        sql,
        store::Wish,
        wire::{Delivery, End, Ending},
    },
    database, message, name, transact,
};
use lovage_core::broker::{KeptResult, Turn};

const DAY_MS: i64 = 24 * 3600 * 1000;

/// Steps of SQLite's virtual machine, by statement, for one life of ten jobs on each queue.
fn steps_of_a_life(connection: &Connection) -> BTreeMap<&'static str, i32> {
    for statement in sql::HOT {
        let statement = connection.prepare_cached(statement).unwrap();
        statement.reset_status(StatementStatus::VmStep);
    }
    for queue in ["standard", "fifo"].map(name) {
        transact(connection, |store| {
            let mut ten: Vec<_> = (0..10).map(|n| message(Some(&format!("new-{n}")), 0)).collect();
            ten.extend((0..10).map(|_| message(Some("long"), 0)));
            for message in ten.iter_mut().step_by(2) {
                message.body = vec![b'x'; 5_000].into();
            }
            store.send(&queue, &ten)
        })
        .unwrap();
        let rows = transact(connection, |store| {
            let row = store.queue(&queue)?.unwrap();
            store.next_visible(row)?;
            let turn = Turn::default();
            let wish = Wish { max: 10, lease_ms: 30_000, turn: &turn };
            Ok(store.receive(row, &wish, &mut None, &mut None)?.rows)
        });
        assert_eq!(rows.len(), 10);
        let held: Vec<Delivery> = rows.iter().map(|row| row.delivery).collect();
        for answer in transact(connection, |store| store.extend(&queue, &held, 30_000)) {
            answer.unwrap();
        }
        let end = |(n, delivery): (usize, &Delivery)| End {
            delivery: *delivery,
            ending: if n < 3 {
                Ending::Release { after_ms: 60_000, spent: true }
            } else {
                let result = KeptResult {
                    tenant: String::new(),
                    job_id: uuid::Uuid::new_v4().to_string(),
                    envelope: "{}".into(),
                };
                Ending::Finish {
                    result: Some(result),
                    sends: vec![(name("results"), message(None, 0))],
                }
            },
        };
        let ends: Vec<_> = held.iter().enumerate().map(end).collect();
        for answer in transact(connection, |store| store.settle(&queue, &ends)) {
            answer.unwrap();
        }
        transact(connection, |store| {
            store.result("no such job".into())?;
            store.purge(Duration::from_hours(1), 10)
        });
    }
    let steps = |statement: &&'static str| {
        let cached = connection.prepare_cached(statement).unwrap();
        (*statement, cached.get_status(StatementStatus::VmStep))
    };
    sql::HOT.iter().map(steps).collect()
}

/// A database in which everything is there `count` times.
fn filled(count: usize) -> (tempfile::TempDir, Connection) {
    let (directory, connection) = database();
    transact(&connection, |store| {
        for (queue, fifo) in [("standard", false), ("fifo", true), ("results", false)] {
            store.declare(&name(queue), fifo, 30_000)?;
        }
        let ready: Vec<_> = (0..count).map(|_| message(None, 0)).collect();
        let delayed: Vec<_> = (0..count).map(|_| message(None, DAY_MS)).collect();
        let groups: Vec<_> = (0..count).map(|n| message(Some(&n.to_string()), 0)).collect();
        let long: Vec<_> = (0..count).map(|_| message(Some("long"), 0)).collect();
        for messages in [&ready, &delayed] {
            store.send(&name("standard"), messages)?.unwrap();
        }
        for messages in [&groups, &long] {
            store.send(&name("fifo"), messages)?.unwrap();
        }
        // In flight, and done.
        for queue in ["standard", "fifo"].map(name) {
            let row = store.queue(&queue)?.unwrap();
            let turn = Turn::default();
            let wish = Wish { max: count / 2, lease_ms: DAY_MS, turn: &turn };
            store.receive(row, &wish, &mut None, &mut None)?;
        }
        let mut keep = store.connection().prepare(sql::KEEP_RESULT)?;
        for n in 0..count {
            keep.execute(rusqlite::params![format!("job-{n}"), "", store.now, b"{}"])?;
        }
        // Last, so that nothing of them is in flight: groups whose messages wait, before and behind
        // one that has many and many that have one.
        let turns = |prefix: &str, delay_ms| {
            let message = |n| message(Some(&format!("{prefix}-{n}")), delay_ms);
            (0..count).map(message).collect::<Vec<_>>()
        };
        let flood: Vec<_> = (0..count).map(|_| message(Some("flood"), 0)).collect();
        for messages in [turns("a", DAY_MS), flood, turns("m", 0), turns("z", DAY_MS)] {
            store.send(&name("standard"), &messages)?.unwrap();
        }
        Ok(())
    });
    (directory, connection)
}

#[test]
fn a_job_costs_the_same_at_any_depth() {
    // More groups than a receive looks at.
    let (_small, few) = filled(2 * LOOKS);
    let (_large, many) = filled(20_000);
    let (few, many) = (steps_of_a_life(&few), steps_of_a_life(&many));
    for (statement, steps) in &few {
        assert_eq!(steps, &many[statement], "{statement}");
    }
    assert!(few[sql::PICK_UP] > 0, "{few:?}");
}

/// Steps of each of some receives, one after the other: for everybody, and for all but the flood.
fn steps_of_receives(connection: &Connection) -> Vec<BTreeMap<&'static str, i32>> {
    let mut skipping = Turn::default();
    skipping.at_most("flood".into(), 0);
    let mut avoiding = Turn::default();
    avoiding.avoid("flood".into());
    let mut all = Vec::new();
    for turn in [Turn::default(), skipping, avoiding] {
        for start in [None, Some("b"), Some("f"), Some("n"), Some("zz")] {
            for statement in sql::HOT {
                let statement = connection.prepare_cached(statement).unwrap();
                statement.reset_status(StatementStatus::VmStep);
            }
            let mut cursor = start.map(str::to_owned);
            let rows = transact(connection, |store| {
                let row = store.queue(&name("standard"))?.unwrap();
                let wish = Wish { max: 10, lease_ms: DAY_MS, turn: &turn };
                Ok(store.receive(row, &wish, &mut cursor, &mut None)?.rows)
            });
            let flood = rows.iter().filter(|row| row.group.as_deref() == Some("flood")).count();
            assert!(turn.room("flood") > 0 || flood == 0);
            let steps = |statement: &&'static str| {
                let cached = connection.prepare_cached(statement).unwrap();
                (*statement, cached.get_status(StatementStatus::VmStep))
            };
            all.push(sql::HOT.iter().map(steps).collect());
        }
    }
    all
}

#[test]
fn a_receive_costs_the_same_however_many_groups_share_and_however_much_they_have() {
    let (_small, few) = filled(2 * LOOKS);
    let (_large, many) = filled(20_000);
    let (few, many) = (steps_of_receives(&few), steps_of_receives(&many));
    for (few, many) in few.iter().zip(&many) {
        assert_eq!(few, many);
        let all: i32 = few.values().sum();
        // Each look is a few dozen steps.
        assert!(all < 60 * i32::try_from(LOOKS).unwrap(), "{all}");
    }
}
