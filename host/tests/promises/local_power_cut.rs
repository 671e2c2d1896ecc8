//! Accepted means durable: whatever the embedded broker said yes to is there after a power cut.
//!
//! A power cut is a copy of the database's files, taken while the broker is at work, and opened
//! elsewhere. What the disk had not been told to keep may be missing: so the log's tail, as far as
//! it was written after the last answer, is cut off or turned to noise.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use lovage::broker::{
    Broker, Disposal, KeptResult, Outgoing, Send, SendKind, Settlement, Turn,
    local::{LocalBroker, LocalOptions},
};

use crate::support::{
    broker::{outgoing, text},
    local::Local,
};

const NOW: Duration = Duration::ZERO;
const HOUR: Duration = Duration::from_hours(1);

/// What was asked and what was answered, by the number that a job carries.
#[derive(Debug, Clone, Default)]
struct Journal {
    sent: BTreeSet<u64>,
    finish_asked: BTreeSet<u64>,
    finished: BTreeSet<u64>,
}

/// Sends and finishes jobs until told to stop. A finished job leaves a result and a message.
async fn work(
    broker: Arc<LocalBroker>,
    journal: Arc<Mutex<Journal>>,
    lane: u64,
    stop: &AtomicBool,
) {
    let queue = Broker::open(&*broker, "work").await.unwrap();
    let mut next = lane << 32;
    while !stop.load(Ordering::Relaxed) {
        let numbers: Vec<u64> = (next..next + fastrand::u64(1..8)).collect();
        next += 8;
        let body = |number: &u64| outgoing(format!("{number:0$}", fastrand::usize(1..3_000)));
        let messages: Vec<Outgoing> = numbers.iter().map(body).collect();
        for (answer, number) in broker.send(&queue, &messages).await.into_iter().zip(&numbers) {
            answer.unwrap();
            journal.lock().unwrap().sent.insert(*number);
        }
        let held = broker.receive(&queue, 8, NOW, HOUR, &Turn::default()).await.unwrap();
        let mut ends = Vec::new();
        let mut ending = Vec::new();
        for message in held {
            let number: u64 = text(&message).trim().parse().unwrap();
            journal.lock().unwrap().finish_asked.insert(number);
            ending.push(number);
            let disposal = Disposal::Finish {
                result: Some(KeptResult {
                    tenant: String::new(),
                    job_id: number.to_string(),
                    envelope: number.to_string().into(),
                }),
                sends: vec![Send {
                    kind: SendKind::Result,
                    to: "results".into(),
                    message: outgoing(number.to_string()),
                }],
            };
            ends.push(Settlement { message: Arc::new(message), disposal });
        }
        for (answer, number) in broker.settle(&queue, &ends).await.into_iter().zip(ending) {
            answer.unwrap();
            journal.lock().unwrap().finished.insert(number);
        }
    }
}

fn log_of(path: &Path) -> PathBuf {
    path.with_extension("db-wal")
}

async fn numbers(broker: &LocalBroker, queue: &str) -> BTreeSet<u64> {
    let queue = Broker::open(broker, queue).await.unwrap();
    let messages = broker.browse(&queue, usize::MAX).await.unwrap();
    messages.iter().map(|message| text(message).trim().parse().unwrap()).collect()
}

/// Opens what the power cut left, and holds it to what was answered before.
async fn check(path: &Path, before: &Journal, after: &Journal) {
    let whole: String = rusqlite::Connection::open(path)
        .unwrap()
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .unwrap();
    assert_eq!(whole, "ok");
    let broker = LocalBroker::open(path, LocalOptions::default()).unwrap();
    let waiting = numbers(&broker, "work").await;
    let results = numbers(&broker, "results").await;
    for number in &before.sent {
        assert!(waiting.contains(number) || results.contains(number), "{number} is lost");
    }
    for number in &before.finished {
        assert!(results.contains(number), "the end of {number} is lost");
    }
    assert!(results.is_subset(&after.finish_asked), "nobody asked for that");
    // All of a finish or nothing: message gone, follow-on message sent, result kept.
    assert!(waiting.is_disjoint(&results), "half a finish");
    for number in waiting.union(&results) {
        let kept = broker.result((&*number.to_string()).into(), NOW).await.unwrap();
        assert_eq!(kept.is_some(), results.contains(number), "half a finish: {number}");
    }
}

/// A broker at work in two lanes, with somebody who cuts the power now and then.
async fn at_work(cut: impl AsyncFn(&Local, &Mutex<Journal>)) {
    let local = Local::start();
    for queue in ["work", "results"] {
        local.broker.declare(queue, false, HOUR).await.unwrap();
    }
    let journal = Arc::new(Mutex::new(Journal::default()));
    let stop = Arc::new(AtomicBool::new(false));
    let lanes: Vec<_> = (0..2)
        .map(|lane| {
            let (broker, journal) = (Arc::clone(&local.broker), Arc::clone(&journal));
            let stop = Arc::clone(&stop);
            tokio::spawn(async move { work(broker, journal, lane, &stop).await })
        })
        .collect();
    cut(&local, &journal).await;
    stop.store(true, Ordering::Relaxed);
    for lane in lanes {
        lane.await.unwrap();
    }
    assert!(!journal.lock().unwrap().finished.is_empty(), "there was no work");
}

/// The log is cut anywhere after the last answer, or goes on as noise.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_torn_log_loses_nothing_that_was_accepted() {
    at_work(async |local, journal| {
        // A reader that stays keeps the log from being folded into the database: the one only
        // grows, the other stays as it is, and copies of both fit each other.
        let reader = rusqlite::Connection::open(local.path()).unwrap();
        reader.execute_batch("BEGIN; SELECT count(*) FROM messages;").unwrap();
        for round in 0..12 {
            tokio::time::sleep(Duration::from_millis(fastrand::u64(1..40))).await;
            let before = journal.lock().unwrap().clone();
            let answered = fs::metadata(log_of(&local.path())).unwrap().len();
            tokio::time::sleep(Duration::from_millis(fastrand::u64(0..10))).await;

            let elsewhere = tempfile::tempdir().unwrap();
            let copy = elsewhere.path().join("broker.db");
            fs::copy(local.path(), &copy).unwrap();
            let mut log = fs::read(log_of(&local.path())).unwrap();
            let after = journal.lock().unwrap().clone();
            let torn = fastrand::usize(usize::try_from(answered).unwrap()..=log.len());
            if round % 2 == 0 {
                log.truncate(torn);
            } else {
                log[torn..].iter_mut().for_each(|byte| *byte = fastrand::u8(..));
            }
            fs::write(log_of(&copy), log).unwrap();
            check(&copy, &before, &after).await;
        }
    })
    .await;
}

/// The same while the log is folded into the database again and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_between_log_and_database_loses_nothing_that_was_accepted() {
    at_work(async |local, journal| {
        let mut other = rusqlite::Connection::open(local.path()).unwrap();
        other.busy_timeout(Duration::from_secs(10)).unwrap();
        for _ in 0..8 {
            tokio::time::sleep(Duration::from_millis(fastrand::u64(1..60))).await;
            if fastrand::bool() {
                let _ = other.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(()));
            }
            let elsewhere = tempfile::tempdir().unwrap();
            let copy = elsewhere.path().join("broker.db");
            let before = journal.lock().unwrap().clone();
            {
                // Nobody writes while this is open, or the two copies would not fit each other.
                let still = other
                    .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
                    .unwrap();
                fs::copy(local.path(), &copy).unwrap();
                fs::copy(log_of(&local.path()), log_of(&copy)).unwrap();
                still.rollback().unwrap();
            }
            let after = journal.lock().unwrap().clone();
            check(&copy, &before, &after).await;
        }
    })
    .await;
}
