//! A file that an older Lovage made is brought up to date, and nothing in it is lost.

use std::time::Duration;

use super::super::{LocalBroker, LocalOptions, sql};
use lovage_core::{
    broker::{Broker, Disposal, Message, Settlement, Turn},
    job::JobKey,
};

/// The schema of version 1, and a file as it left it: a queue with messages that have a group, none
/// and an empty one, one under a lease, one delayed; a FIFO queue with a group of two.
const VERSION_1: &str = include_str!("version_1.sql");

/// The same of version 2, whose results and notes were kept by the job's id alone: results with a
/// tenant, without one, and unreadable ones; a job's progress, and a revocation.
const VERSION_2: &str = include_str!("version_2.sql");

async fn receive(broker: &LocalBroker, queue: &str, max: usize) -> Vec<Message> {
    let queue = broker.open(queue).await.unwrap();
    let (now, long) = (Duration::ZERO, Duration::from_mins(1));
    broker.receive(&queue, max, now, long, &Turn::default()).await.unwrap()
}

fn bodies(messages: &[Message]) -> Vec<&str> {
    messages.iter().map(|message| std::str::from_utf8(&message.body).unwrap()).collect()
}

#[tokio::test]
async fn a_file_of_version_1_goes_on_where_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("broker.db");
    let old = rusqlite::Connection::open(&path).unwrap();
    old.execute_batch(VERSION_1).unwrap();
    drop(old);
    // Of two processes that open it at once, one migrates and the other finds it done.
    let brokers: Vec<_> = std::thread::scope(|scope| {
        let open = || LocalBroker::open(&path, LocalOptions::default()).unwrap();
        let opens = [scope.spawn(open), scope.spawn(open)];
        opens.into_iter().map(|open| open.join().unwrap()).collect()
    });
    let broker = &brokers[0];
    let version: i32 = broker
        .look(|connection| connection.pragma_query_value(None, "user_version", |row| row.get(0)))
        .await
        .unwrap();
    assert_eq!(version, sql::SCHEMA_VERSION);
    let standard = broker.open("standard").await.unwrap();
    let depth = broker.depth(&standard).await.unwrap();
    assert_eq!((depth.ready, depth.delayed, depth.in_flight), (5, 1, 1));
    assert_eq!(broker.browse(&standard, 100).await.unwrap().len(), 7);
    // The flood of `a` came first; `b`, and the two that have no group, do not wait for it.
    let first = receive(broker, "standard", 3).await;
    let mut groups: Vec<_> = first.iter().map(|message| message.group.as_deref()).collect();
    groups.sort_unstable();
    assert_eq!(groups, [None, Some("a"), Some("b")]);
    let rest = receive(broker, "standard", 10).await;
    let mut said = [bodies(&first), bodies(&rest)].concat();
    said.sort_unstable();
    assert_eq!(said, ["a1", "a2", "b1", "empty", "none"]);
    let head = receive(broker, "fifo", 10).await;
    assert_eq!(bodies(&head), ["f1"]);
    let fifo = broker.open("fifo").await.unwrap();
    let message = std::sync::Arc::new(head.into_iter().next().unwrap());
    let disposal = Disposal::Finish { result: None, sends: Vec::new() };
    broker.settle(&fifo, &[Settlement { message, disposal }]).await.remove(0).unwrap();
    assert_eq!(bodies(&receive(broker, "fifo", 10).await), ["f2"]);
    assert_eq!(broker.result("job-1".into(), Duration::ZERO).await.unwrap().unwrap(), "{}");
}

#[test]
fn a_migrated_file_is_as_a_new_one() {
    let directory = tempfile::tempdir().unwrap();
    let schema = |name: &str, text: Option<&str>| {
        let path = directory.path().join(name);
        if let Some(text) = text {
            rusqlite::Connection::open(&path).unwrap().execute_batch(text).unwrap();
        }
        drop(LocalBroker::open(&path, LocalOptions::default()).unwrap());
        let connection = rusqlite::Connection::open(&path).unwrap();
        let mut query = connection
            .prepare("SELECT name, sql FROM sqlite_schema WHERE type = 'index' ORDER BY name")
            .unwrap();
        let rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        rows.collect::<rusqlite::Result<Vec<(String, Option<String>)>>>().unwrap()
    };
    let new = schema("new.db", None);
    assert_eq!(schema("version_1.db", Some(VERSION_1)), new);
    assert_eq!(schema("version_2.db", Some(VERSION_2)), new);
}

#[tokio::test]
async fn results_and_notes_of_version_2_have_their_tenants() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("broker.db");
    rusqlite::Connection::open(&path).unwrap().execute_batch(VERSION_2).unwrap();
    let broker = LocalBroker::open(&path, LocalOptions::default()).unwrap();
    for (tenant, id) in [("acme", "of-acme"), ("", "of-nobody"), ("", "no-json"), ("", "no-text")] {
        let kept = async |tenant| broker.result(JobKey::new(tenant, id), Duration::ZERO).await;
        assert!(kept(tenant).await.unwrap().is_some(), "{id}");
        assert!(kept("mallory").await.unwrap().is_none(), "{id}");
        assert_eq!(broker.tenants_of(id).await.unwrap(), [tenant]);
    }
    let progress = broker.progress("running".into()).await.unwrap().unwrap();
    assert_eq!((progress.percent, progress.message.as_str()), (40, "so far"));
    // Whose it was nobody noted: it holds for all, as before.
    for tenant in ["", "acme", "mallory"] {
        assert!(broker.is_revoked(JobKey::new(tenant, "revoked")).await.unwrap());
        assert!(!broker.is_revoked(JobKey::new(tenant, "running")).await.unwrap());
    }
    assert_eq!(bodies(&receive(&broker, "standard", 10).await), ["a1"]);
}
