//! What is kept for a while goes when its time is over, a little at a time.

use std::time::Duration;

use super::{
    super::{LocalOptions, sql, wire::NewMessage},
    broker, database, message, name, transact,
};
use lovage_core::broker::Broker;

const MINUTE_MS: i64 = 60 * 1000;

fn results(connection: &rusqlite::Connection) -> i64 {
    let count = "SELECT count(*) FROM results";
    connection.query_row(count, [], |row| row.get(0)).unwrap()
}

#[test]
fn results_go_after_their_time_and_not_before() {
    let (_directory, connection) = database();
    transact(&connection, |store| {
        for (n, age) in [50, 40, 30, 20, 10].into_iter().enumerate() {
            let values = rusqlite::params![n.to_string(), "", store.now - age * MINUTE_MS, b"{}"];
            store.connection().execute(sql::KEEP_RESULT, values)?;
        }
        Ok(())
    });
    let retention = Duration::from_mins(25);
    // Two at a time, and it says that there may be more.
    assert!(transact(&connection, |store| store.purge(retention, 2)));
    assert_eq!(results(&connection), 3);
    assert!(!transact(&connection, |store| store.purge(retention, 2)));
    assert_eq!(results(&connection), 2);
    assert!(!transact(&connection, |store| store.purge(retention, 2)));
    assert_eq!(results(&connection), 2);
}

#[test]
fn a_deduplication_id_is_free_again_after_five_minutes() {
    let (_directory, connection) = database();
    let named =
        || NewMessage { deduplication_id: Some("once".to_owned()), ..message(Some("g"), 0) };
    let queue = name("fifo");
    transact(&connection, |store| store.declare(&queue, true, 30_000));
    let send_at = |offset: i64| {
        transact(&connection, |store| {
            store.now += offset;
            store.send(&queue, &[named()])
        })
        .unwrap()
    };
    let first = send_at(0);
    assert_eq!(send_at(5 * MINUTE_MS - 1_000), first);
    let second = send_at(5 * MINUTE_MS + 1_000);
    assert_ne!(second, first);
    assert_eq!(send_at(10 * MINUTE_MS), second, "counted from the one that was taken");
}

#[tokio::test]
async fn an_idle_broker_purges_by_itself() {
    let options = LocalOptions { retention: Duration::ZERO };
    let (directory, broker) = broker(options).await;
    drop(broker);
    let path = directory.path().join("broker.db");
    let connection = rusqlite::Connection::open(&path).unwrap();
    // More than one step's worth.
    for n in 0..1_000 {
        let values = rusqlite::params![n.to_string(), "", 0, b"{}"];
        connection.execute(sql::KEEP_RESULT, values).unwrap();
    }
    let options = LocalOptions::default();
    let broker = super::LocalBroker::open(&path, options).unwrap();
    let end = std::time::Instant::now() + Duration::from_secs(20);
    while results(&connection) > 0 {
        assert!(std::time::Instant::now() < end, "{} are left", results(&connection));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(broker.result("0".into(), Duration::ZERO).await.unwrap(), None);
}

#[test]
fn results_from_the_future_hold_up_no_others() {
    let (_directory, connection) = database();
    let day = 24 * 60 * MINUTE_MS;
    transact(&connection, |store| {
        // A clock was an hour, and a year, ahead now and then.
        let ages = [50 * MINUTE_MS, -60 * MINUTE_MS, 40 * MINUTE_MS, -365 * day, 10 * MINUTE_MS];
        for (n, age) in ages.into_iter().enumerate() {
            let values = rusqlite::params![n.to_string(), "", store.now - age, b"{}"];
            store.connection().execute(sql::KEEP_RESULT, values)?;
        }
        Ok(())
    });
    let retention = Duration::from_mins(25);
    transact(&connection, |store| store.purge(retention, 10));
    let left = || {
        let mut query = connection.prepare("SELECT job_id FROM results ORDER BY seq").unwrap();
        let ids = query.query_map([], |row| row.get(0)).unwrap();
        ids.collect::<rusqlite::Result<Vec<String>>>().unwrap()
    };
    // The two before the fourth are older than the one that is old enough; it is as young as the last.
    assert_eq!(left(), ["3", "4"]);
    transact(&connection, |store| {
        store.now += 20 * MINUTE_MS;
        store.purge(retention, 10)
    });
    assert!(left().is_empty());
}
