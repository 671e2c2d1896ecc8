//! What the broker promises of its inside.

mod failures;
mod flat;
mod log;
mod migration;
mod opening;
mod plans;
mod purging;
mod turns;

use std::{sync::Arc, time::Duration};

use rusqlite::Connection;
use tempfile::TempDir;
use uuid::Uuid;

use super::{LocalBroker, LocalOptions, schema, store::Store, wire::NewMessage};
use lovage_core::broker::{Broker, Disposal, KeptResult, Outgoing, Settlement, Turn};

/// A database without a broker around it.
fn database() -> (TempDir, Connection) {
    let directory = tempfile::tempdir().unwrap();
    let connection = schema::open_writer(&directory.path().join("broker.db")).unwrap();
    (directory, connection)
}

/// A broker with one queue, `work`.
async fn broker(options: LocalOptions) -> (TempDir, LocalBroker) {
    let directory = tempfile::tempdir().unwrap();
    let broker = LocalBroker::open(&directory.path().join("broker.db"), options).unwrap();
    let lease = Duration::from_secs(30);
    broker.declare("work", false, lease).await.unwrap();
    (directory, broker)
}

/// One transaction.
fn transact<T>(
    connection: &Connection,
    work: impl FnOnce(&mut Store<'_>) -> rusqlite::Result<T>,
) -> T {
    connection.execute_batch("BEGIN IMMEDIATE").unwrap();
    let output = work(&mut Store::at(connection, lovage_core::clock::wall_ms())).unwrap();
    connection.execute_batch("COMMIT").unwrap();
    output
}

fn message(group: Option<&str>, delay_ms: i64) -> NewMessage {
    NewMessage {
        id: Uuid::now_v7(),
        body: "{\"data\": 21}".into(),
        attributes: None,
        group: group.map(str::to_owned),
        deduplication_id: None,
        delay_ms,
        trace_header: None,
    }
}

fn name(name: &str) -> Arc<str> {
    name.into()
}

#[tokio::test]
async fn who_looks_for_a_result_waits_for_no_writer() {
    let (directory, broker) = broker(LocalOptions::default()).await;
    let queue = broker.open("work").await.unwrap();
    let sent = broker.send(&queue, &[Outgoing { body: "1".into(), ..Outgoing::default() }]).await;
    assert!(sent.iter().all(Result::is_ok));
    let mine = broker
        .receive(&queue, 1, Duration::ZERO, Duration::from_secs(30), &Turn::default())
        .await
        .unwrap()
        .remove(0);
    let result =
        KeptResult { tenant: String::new(), job_id: "a".to_owned(), envelope: "42".into() };
    let settlement = Settlement {
        message: Arc::new(mine),
        disposal: Disposal::Finish { result: Some(result), sends: Vec::new() },
    };
    assert!(broker.settle(&queue, &[settlement]).await.iter().all(Result::is_ok));
    // Another process writes, and takes its time over it.
    let other = schema::open_writer(&directory.path().join("broker.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let look = broker.result("a".into(), Duration::from_secs(5));
    let found = tokio::time::timeout(Duration::from_secs(5), look).await.unwrap().unwrap();
    assert_eq!(found.as_deref(), Some(&b"42"[..]));
    other.execute_batch("ROLLBACK").unwrap();
}
