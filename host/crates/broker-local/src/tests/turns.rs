//! Groups that share a queue take turns.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use proptest::prelude::*;

use super::{
    super::{
        LocalOptions,
        fair::{LOOKS, Walk},
        store::Wish,
        wire::Row,
    },
    broker, database, message, name, transact,
};
use lovage_core::broker::{Broker, Message, Outgoing, Queue, Turn};

const NOW: Duration = Duration::ZERO;
const LONG: Duration = Duration::from_mins(1);
const DAY_MS: i64 = 24 * 3600 * 1000;

/// One receive as the writer makes it: with as many looks as it takes.
fn receive(
    connection: &rusqlite::Connection,
    max: usize,
    turn: &Turn,
    cursor: &mut Option<String>,
) -> Vec<Row> {
    let mut walk: Option<Walk> = None;
    loop {
        let picked = transact(connection, |store| {
            let queue = store.queue(&name("q"))?.unwrap();
            store.receive(queue, &Wish { max, lease_ms: DAY_MS, turn }, cursor, &mut walk)
        });
        if picked.complete {
            return picked.rows;
        }
        assert!(picked.rows.is_empty() && walk.is_some());
    }
}

fn counts(rows: &[Row]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for row in rows {
        *counts.entry(row.group.as_deref().unwrap_or_default()).or_default() += 1;
    }
    counts
}

fn filled(groups: &[(&str, usize)]) -> (tempfile::TempDir, rusqlite::Connection) {
    let (directory, connection) = database();
    transact(&connection, |store| {
        store.declare(&name("q"), false, 30_000)?;
        for (group, count) in groups {
            let group = (!group.is_empty()).then_some(*group);
            let messages: Vec<_> = (0..*count).map(|_| message(group, 0)).collect();
            store.send(&name("q"), &messages)?.unwrap();
        }
        Ok(())
    });
    (directory, connection)
}

#[test]
fn each_group_gets_as_much_of_a_receive_and_over_many_receives_the_same() {
    let (_directory, connection) = filled(&[("a", 900), ("b", 900), ("c", 900), ("", 900)]);
    let (mut cursor, turn) = (None, Turn::default());
    for max in [1, 2, 3, 10, 7] {
        let mut sums = BTreeMap::new();
        for _ in 0..12 {
            let rows = receive(&connection, max, &turn, &mut cursor);
            assert_eq!(rows.len(), max);
            for (group, count) in counts(&rows) {
                assert!(count <= max.div_ceil(4), "{group}: {count} of {max}");
                *sums.entry(group.to_owned()).or_insert(0) += count;
            }
        }
        assert!(sums.values().all(|sum| *sum == 3 * max), "{max} at a time: {sums:?}");
    }
}

#[test]
fn what_a_group_leaves_others_get() {
    let (_directory, connection) = filled(&[("a", 100), ("b", 2), ("c", 1)]);
    let rows = receive(&connection, 50, &Turn::default(), &mut None);
    assert_eq!(counts(&rows), [("a", 47), ("b", 2), ("c", 1)].into());
}

#[test]
fn a_turn_is_kept_to() {
    let (_directory, connection) = filled(&[("a", 100), ("b", 100), ("c", 100)]);
    let mut turn = Turn::new(10, Arc::new([("b".into(), 3)].into()));
    turn.at_most("c".into(), 0);
    let rows = receive(&connection, 50, &turn, &mut None);
    assert_eq!(counts(&rows), [("a", 10), ("b", 3)].into());
    turn.avoid("a".into());
    let rows = receive(&connection, 50, &turn, &mut None);
    assert_eq!(counts(&rows), [("b", 3)].into());
    turn.at_most("b".into(), 0);
    let rows = receive(&connection, 50, &turn, &mut None);
    assert_eq!(counts(&rows), [("a", 10)].into(), "nothing else is ready");
    turn.at_most("a".into(), 0);
    assert!(receive(&connection, 50, &turn, &mut None).is_empty());
}

#[test]
fn one_ready_group_is_found_among_any_number_that_wait_or_may_not() {
    let (_directory, connection) = filled(&[("flood", 2000)]);
    transact(&connection, |store| {
        for n in 0..5 * LOOKS {
            let delayed = message(Some(&format!("group-{n}")), DAY_MS);
            store.send(&name("q"), &[delayed])?.unwrap();
        }
        store.send(&name("q"), &[message(Some("group-300-quiet"), 0)]).map(drop)
    });
    let mut turn = Turn::default();
    turn.at_most("flood".into(), 0);
    for start in [None, Some("group-300-quiet"), Some("group-300"), Some("zzz")] {
        let mut cursor = start.map(str::to_owned);
        let rows = receive(&connection, 10, &turn, &mut cursor);
        assert_eq!(counts(&rows), [("group-300-quiet", 1)].into(), "from {start:?}");
        transact(&connection, |store| {
            let sql = "UPDATE messages SET visible_at = ?1 WHERE group_name = 'group-300-quiet'";
            store.connection().execute(sql, [store.now]).map(drop)
        });
    }
}

async fn send(broker: &dyn Broker, queue: &Queue, group: &str) {
    let group = (!group.is_empty()).then(|| group.to_owned());
    let message = Outgoing { body: "1".into(), group, ..Outgoing::default() };
    broker.send(queue, &[message]).await.remove(0).unwrap();
}

#[tokio::test]
async fn a_receiver_that_waits_is_served_for_what_it_may_take() {
    let (_directory, broker) = broker(LocalOptions::default()).await;
    let broker = Arc::new(broker);
    let queue = Broker::open(&*broker, "work").await.unwrap();
    let mut turn = Turn::default();
    turn.at_most("a".into(), 0);
    send(&*broker, &queue, "a").await;
    let waits = |turn: Turn| {
        let (broker, queue) = (Arc::clone(&broker), queue.clone());
        tokio::spawn(async move { broker.receive(&queue, 1, LONG, LONG, &turn).await.unwrap() })
    };
    let choosy = waits(turn.clone());
    tokio::task::yield_now().await;
    assert!(broker.receive(&queue, 1, NOW, LONG, &turn).await.unwrap().is_empty());
    // Whoever takes anything is not held up by one who does not.
    let any = broker.receive(&queue, 1, LONG, LONG, &Turn::default()).await.unwrap();
    assert_eq!(any[0].group.as_deref(), Some("a"));
    send(&*broker, &queue, "a").await;
    send(&*broker, &queue, "b").await;
    let got: Vec<Message> = choosy.await.unwrap();
    assert_eq!(got[0].group.as_deref(), Some("b"));
    let again = waits(turn);
    tokio::time::sleep(Duration::from_millis(50)).await;
    broker.interrupt();
    assert!(again.await.unwrap().is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// Whatever there is and wherever the last receive ended: nothing is delivered twice, nothing
    /// that may be taken is left while there is room for it, no group gets more than its room.
    #[test]
    fn a_receive_takes_what_there_is_and_once(
        groups in proptest::collection::btree_map("[a-d]{0,2}", 1_usize..6, 0..8),
        rooms in proptest::collection::btree_map("[a-d]{1,2}", 0_usize..4, 0..4),
        avoided in proptest::collection::btree_set("[a-d]{1,2}", 0..3),
        max in 1_usize..12, start in proptest::option::of("[a-d]{1,2}"),
    ) {
        let all: Vec<_> = groups.iter().map(|(group, count)| (group.as_str(), *count)).collect();
        let (_directory, connection) = filled(&all);
        let mut turn = Turn::default();
        for (group, room) in &rooms {
            turn.at_most(group.as_str().into(), *room);
        }
        for group in &avoided {
            turn.avoid(group.as_str().into());
        }
        let mut cursor = start;
        let mut left = groups.clone();
        loop {
            let rows = receive(&connection, max, &turn, &mut cursor);
            let may = |group: &str, count: usize| match group {
                "" => count,
                group => count.min(turn.room(group)),
            };
            let (mut first, mut last) = (0, 0);
            for (group, count) in &left {
                let sum = if turn.avoids(group) { &mut last } else { &mut first };
                *sum += may(group, *count);
            }
            let expected = if first > 0 { first } else { last };
            prop_assert_eq!(rows.len(), expected.min(max), "of {:?}", left);
            let seqs: std::collections::BTreeSet<_> =
                rows.iter().map(|row| row.delivery.seq).collect();
            prop_assert_eq!(seqs.len(), rows.len());
            for (group, count) in counts(&rows) {
                prop_assert!(count <= may(group, left[group]));
                prop_assert!(first == 0 || !turn.avoids(group));
                *left.get_mut(group).unwrap() -= count;
            }
            if rows.is_empty() {
                break;
            }
        }
    }
}
