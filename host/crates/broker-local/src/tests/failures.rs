//! What goes wrong stays with whom it concerns, and is told.

use std::{
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use super::{
    super::{LocalBroker, LocalOptions, flush::Flush},
    broker, database,
};
use lovage_core::broker::{Broker, Disposal, Fault, KeptResult, Outgoing, Settlement, Turn};

const NOW: Duration = Duration::ZERO;
const LONG: Duration = Duration::from_mins(1);

fn outgoing(bytes: usize) -> Outgoing {
    Outgoing { body: vec![b'x'; bytes].into(), ..Outgoing::default() }
}

#[tokio::test]
async fn a_panic_fails_its_own_caller_and_no_other() {
    let (_directory, broker) = broker(LocalOptions::default()).await;
    let queue = Broker::open(&broker, "work").await.unwrap();
    for _ in 0..3 {
        // Handed over together, so that they share a transaction.
        let before = broker.call(1, |_| Ok(1));
        let bad = broker.call(1, |_| -> rusqlite::Result<()> { panic!("on purpose") });
        let after = broker.call(1, |_| Ok(2));
        let sent = [outgoing(1)];
        let (before, bad, after, sent) =
            tokio::join!(before, bad, after, broker.send(&queue, &sent));
        assert_eq!(bad.unwrap_err().fault, Fault::Unavailable);
        assert_eq!((before.unwrap(), after.unwrap()), (1, 2));
        assert!(sent[0].is_ok(), "{sent:?}");
    }
    assert_eq!(broker.depth(&queue).await.unwrap().ready, 3);
}

#[tokio::test]
async fn a_failing_statement_undoes_its_own_request_and_no_other() {
    let (_directory, broker) = broker(LocalOptions::default()).await;
    let good = broker.call(1, |store| store.declare(&"good".into(), false, 1));
    let bad = broker.call(1, |store| {
        store.declare(&"half".into(), false, 1)?;
        store.connection().execute_batch("SELECT * FROM nowhere")
    });
    let (good, bad) = tokio::join!(good, bad);
    good.unwrap();
    assert_eq!(bad.unwrap_err().fault, Fault::Invalid);
    let names: Vec<_> =
        broker.queues().await.unwrap().into_iter().map(|queue| queue.name).collect();
    assert_eq!(names, ["good".into(), Arc::<str>::from("work")]);
}

#[tokio::test]
async fn a_full_disk_is_told_and_passes() {
    let (_directory, broker) = broker(LocalOptions::default()).await;
    let queue = Broker::open(&broker, "work").await.unwrap();
    let allow = |pages: i64| {
        broker.call(1, move |store| {
            let sql = format!("PRAGMA max_page_count = {pages}");
            store.connection().query_row(&sql, [], |row| row.get::<_, i64>(0))
        })
    };
    let small = broker.send(&queue, &[outgoing(10)]).await;
    assert!(small[0].is_ok());
    allow(64).await.unwrap();

    let (large, small) = ([outgoing(900_000)], [outgoing(10)]);
    let (large, small) = tokio::join!(broker.send(&queue, &large), broker.send(&queue, &small));

    let error = large[0].as_ref().unwrap_err();
    assert_eq!(error.fault, Fault::Unavailable);
    assert!(error.message.contains("disk is full"), "{error}");
    assert!(error.message.contains("broker.db"), "{error}");
    assert!(small[0].is_ok(), "{small:?}");
    // What is there can be worked off, and then there is room again.
    let held = broker.receive(&queue, 10, NOW, LONG, &Turn::default()).await.unwrap();
    assert_eq!(held.len(), 2);
    let end = |message| Settlement {
        message: Arc::new(message),
        disposal: Disposal::Finish { result: None, sends: Vec::new() },
    };
    let ends: Vec<_> = held.into_iter().map(end).collect();
    for answer in broker.settle(&queue, &ends).await {
        answer.unwrap();
    }
    allow(1_000_000).await.unwrap();
    let large = broker.send(&queue, &[outgoing(900_000)]).await;
    assert!(large[0].is_ok(), "{large:?}");
}

#[tokio::test]
async fn messages_leased_for_nobody_go_back_at_once_and_spend_no_attempt() {
    let (_directory, broker) = broker(LocalOptions::default()).await;
    let queue = Broker::open(&broker, "work").await.unwrap();
    for _ in 0..50 {
        broker.send(&queue, &[outgoing(1)]).await;
        // Polled once, so that the request is made; dropped while the answer is under way.
        let turn = Turn::default();
        let mut receive = broker.receive(&queue, 10, LONG, LONG, &turn);
        let mut context = Context::from_waker(Waker::noop());
        if let Poll::Ready(messages) = receive.as_mut().poll(&mut context) {
            // Quicker than the drop that this is about.
            let message = Arc::new(messages.unwrap().remove(0));
            let disposal = Disposal::Release { after: NOW, spent: false };
            let back = [Settlement { message, disposal }];
            broker.settle(&queue, &back).await.remove(0).unwrap();
        }
        tokio::time::sleep(Duration::from_micros(fastrand::u64(0..2_000))).await;
        drop(receive);
        let messages = broker.receive(&queue, 10, LONG, LONG, &Turn::default()).await.unwrap();
        assert_eq!(messages.len(), 1);
        assert_eq!(messages[0].attempt, 1);
        let end = Settlement {
            message: Arc::new(messages[0].clone()),
            disposal: Disposal::Finish { result: None, sends: Vec::new() },
        };
        broker.settle(&queue, &[end]).await.remove(0).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_message_wakes_one_receiver() {
    let (_directory, broker) = broker(LocalOptions::default()).await;
    let broker = Arc::new(broker);
    let queue = Broker::open(&*broker, "work").await.unwrap();
    let receivers: Vec<_> = (0..20)
        .map(|_| {
            let (broker, queue) = (Arc::clone(&broker), queue.clone());
            let wait = Duration::from_millis(600);
            tokio::spawn(async move {
                broker.receive(&queue, 10, wait, LONG, &Turn::default()).await.unwrap()
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(100)).await;
    broker.send(&queue, &[outgoing(1), outgoing(1)]).await;
    let mut served = 0;
    for receiver in receivers {
        let messages = receiver.await.unwrap();
        served += usize::from(!messages.is_empty());
    }
    assert_eq!(served, 1, "one could take both");
}

#[tokio::test]
async fn messages_of_other_processes_are_found_where_the_file_cannot_be_watched() {
    let (directory, broker) = broker(LocalOptions::default()).await;
    broker.watching.replace(None);
    broker.signals.poll();
    let path = directory.path().join("broker.db");
    let other = LocalBroker::open(&path, LocalOptions::default()).unwrap();
    let queue = Broker::open(&broker, "work").await.unwrap();
    let before = Instant::now();
    let send = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        other.send(&queue, &[outgoing(1)]).await
    };
    let turn = Turn::default();
    let (received, _) = tokio::join!(broker.receive(&queue, 1, LONG, LONG, &turn), send);
    assert_eq!(received.unwrap().len(), 1);
    assert!(before.elapsed() < LONG / 2, "found by chance");
}

#[tokio::test]
async fn nobody_is_told_of_what_the_disk_did_not_take() {
    let (directory, connection) = database();
    let path = directory.path().join("broker.db");
    // A device that cannot be flushed.
    let flush = Flush::at(&path, "/dev/null".into());
    let broker = LocalBroker::with(connection, &path, LocalOptions::default(), flush).unwrap();
    let refused = broker.declare("work", false, LONG).await.unwrap_err();
    assert_eq!(refused.fault, Fault::Unavailable);
    let queue = Broker::open(&broker, "work").await.unwrap();
    // It may be done all the same, and its message is with a receiver before the disk has it.
    let (sent, mut received) =
        tokio::join!(async { broker.send(&queue, &[outgoing(1)]).await.remove(0) }, async {
            broker.receive(&queue, 1, LONG, LONG, &Turn::default()).await.unwrap()
        });
    assert_eq!(sent.unwrap_err().fault, Fault::Unavailable);
    let result =
        KeptResult { tenant: String::new(), job_id: "job".to_owned(), envelope: "{}".into() };
    let finish = Disposal::Finish { result: Some(result), sends: Vec::new() };
    let settlement = [Settlement { message: Arc::new(received.remove(0)), disposal: finish }];
    let (told, settled) =
        tokio::join!(broker.result("job".into(), LONG), broker.settle(&queue, &settlement));
    assert_eq!(told.unwrap_err().fault, Fault::Unavailable);
    assert_eq!(settled[0].as_ref().unwrap_err().error.fault, Fault::Unavailable);
    // By the next request the whole log is in the database, and that on the disk.
    assert_eq!(broker.result("job".into(), NOW).await.unwrap().unwrap(), "{}");
}
