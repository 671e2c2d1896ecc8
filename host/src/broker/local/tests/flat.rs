//! A job costs the same, however much is queued, delayed, in flight, done or in its group.

use std::{collections::BTreeMap, time::Duration};

use rusqlite::{Connection, StatementStatus};

use super::{
    super::{
        sql,
        wire::{Delivery, End, Ending},
    },
    database, message, name, transact,
};
use crate::broker::KeptResult;

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
            store.receive(row, 10, 30_000)
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
                let result =
                    KeptResult { job_id: uuid::Uuid::new_v4().to_string(), envelope: "{}".into() };
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
            store.result("no such job")?;
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
            store.receive(row, count / 2, DAY_MS)?;
        }
        let mut keep = store.connection().prepare(sql::KEEP_RESULT)?;
        for n in 0..count {
            keep.execute(rusqlite::params![format!("job-{n}"), store.now, b"{}"])?;
        }
        Ok(())
    });
    (directory, connection)
}

#[test]
fn a_job_costs_the_same_at_any_depth() {
    let (_small, few) = filled(100);
    let (_large, many) = filled(50_000);
    let (few, many) = (steps_of_a_life(&few), steps_of_a_life(&many));
    for (statement, steps) in &few {
        assert_eq!(steps, &many[statement], "{statement}");
    }
    assert!(few[sql::PICK_UP] > 0, "{few:?}");
}
