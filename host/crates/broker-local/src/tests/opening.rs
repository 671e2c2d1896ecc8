//! An open that fails says what, which file, why, and what to do.

use std::{path::Path, time::Duration};

use super::super::{LocalBroker, LocalOptions, sql};
use lovage_core::broker::{Broker, BrokerError, Fault};

fn refused(path: &Path) -> BrokerError {
    let error = LocalBroker::open(path, LocalOptions::default()).unwrap_err();
    let shown = path.display().to_string();
    assert!(error.message.contains(&shown), "names the file: {error}");
    assert!(!error.message.contains('\n'), "one line: {error}");
    error
}

#[test]
fn a_missing_directory_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let error = refused(&directory.path().join("absent/broker.db"));
    assert_eq!(error.fault, Fault::NotFound);
    assert!(error.message.contains("make it"), "{error}");
}

#[test]
fn a_directory_is_no_database() {
    let directory = tempfile::tempdir().unwrap();
    let error = refused(directory.path());
    assert_eq!(error.fault, Fault::Invalid);
    assert!(error.message.contains("directory"), "{error}");
}

#[test]
fn a_file_that_is_no_database_is_left_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notes.txt");
    let text = "certainly no database ".repeat(100);
    std::fs::write(&path, &text).unwrap();
    let error = refused(&path);
    assert_eq!(error.fault, Fault::Invalid);
    assert!(error.message.contains("no SQLite database"), "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
}

#[test]
fn the_database_of_another_program_is_left_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bookmarks.db");
    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute_batch("CREATE TABLE bookmarks (url TEXT)").unwrap();
    drop(other);
    let before = std::fs::read(&path).unwrap();
    let error = refused(&path);
    assert_eq!(error.fault, Fault::Invalid);
    assert!(error.message.contains("another program"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[test]
fn a_newer_schema_asks_for_an_upgrade() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("broker.db");
    drop(LocalBroker::open(&path, LocalOptions::default()).unwrap());
    let newer = rusqlite::Connection::open(&path).unwrap();
    newer.pragma_update(None, "user_version", sql::SCHEMA_VERSION + 1).unwrap();
    drop(newer);
    let error = refused(&path);
    assert_eq!(error.fault, Fault::Invalid);
    assert!(error.message.contains("upgrade"), "{error}");
}

#[tokio::test]
async fn a_missing_queue_is_told_with_the_nearest_and_all_there_are() {
    let (directory, broker) = super::broker(LocalOptions::default()).await;
    broker.declare("orders", false, Duration::ZERO).await.unwrap();
    let path = directory.path().join("broker.db").display().to_string();
    for (name, advice) in [
        ("ordrs", "it holds orders, work; did you mean \"orders\"?"),
        ("something-else", "it holds orders, work; declare it, or name another"),
    ] {
        let error = Broker::open(&broker, name).await.unwrap_err();
        assert_eq!(error.fault, Fault::NotFound);
        for part in [name, &path, advice] {
            assert!(error.message.contains(part), "{error}");
        }
    }
}

#[test]
fn many_may_open_a_new_file_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("broker.db");
    std::thread::scope(|scope| {
        let opens: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| LocalBroker::open(&path, LocalOptions::default())))
            .collect();
        for open in opens {
            open.join().unwrap().unwrap();
        }
    });
}
