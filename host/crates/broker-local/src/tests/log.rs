//! The log of the database is ahead of the commits, and does not grow for ever.

use std::{path::Path, time::Duration};

use super::{super::LocalOptions, broker};
use lovage_core::broker::{Broker, Outgoing};

/// Bytes of the log.
fn length(directory: &Path) -> u64 {
    std::fs::metadata(directory.join("broker.db-wal")).map_or(0, |log| log.len())
}

#[tokio::test]
async fn the_log_has_its_length_before_commits_need_it() {
    let (directory, broker) = broker(LocalOptions::default()).await;
    let queue = broker.open("work").await.unwrap();
    let message = Outgoing { body: "{}".into(), ..Outgoing::default() };
    for _ in 0..20 {
        broker.send(&queue, std::slice::from_ref(&message)).await.remove(0).unwrap();
    }
    // Twenty commits of a few pages each.
    let waited = std::time::Instant::now();
    while length(directory.path()) < 1 << 20 {
        assert!(waited.elapsed() < Duration::from_secs(20), "{}", length(directory.path()));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // What is behind the last commit is its end, for those who come later, too.
    drop(broker);
    let again =
        super::LocalBroker::open(&directory.path().join("broker.db"), LocalOptions::default());
    assert_eq!(again.unwrap().depth(&queue).await.unwrap().ready, 20);
}

#[tokio::test]
async fn the_log_is_copied_back_while_there_is_no_end_of_commits() {
    let (directory, broker) = broker(LocalOptions::default()).await;
    let queue = broker.open("work").await.unwrap();
    // Some 250 pages in each commit: three times what the log may hold at the most.
    let body = "x".repeat(4000);
    let messages = vec![Outgoing { body: body.into(), ..Outgoing::default() }; 250];
    let mut longest = 0;
    for _ in 0..200 {
        for sent in broker.send(&queue, &messages).await {
            sent.unwrap();
        }
        longest = longest.max(length(directory.path()));
    }
    assert!(longest < 100 << 20, "{longest}");
    assert_eq!(broker.depth(&queue).await.unwrap().ready, 50_000);
}
