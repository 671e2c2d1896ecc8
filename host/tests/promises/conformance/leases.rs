//! A message is received under a lease, and comes again when the lease ends.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use lovage::broker::{Fault, Turn};

use super::{LONG, SOON};
use crate::support::broker::{
    Fixture, Spec, finish, nothing_comes, outgoing, receive, receive_one, send, settle,
    settle_each, text,
};

pub async fn redelivers_when_a_lease_ends(fixture: &impl Fixture) {
    let (broker, lease) = (fixture.broker(), fixture.tick() * 2);
    let queue = fixture.queue(Spec::standard()).await;
    send(&*broker, &queue, &[outgoing("again")]).await;

    let before = Instant::now();
    let first = receive_one(&*broker, &queue, SOON, lease).await;
    let second = receive_one(&*broker, &queue, SOON, LONG).await;

    assert!(before.elapsed() >= lease, "came before its lease had ended");
    assert_eq!((first.attempt, second.attempt), (1, 2));
    assert_eq!(second.id, first.id);
    assert_eq!(second.body, first.body);
    assert_ne!(second.receipt, first.receipt, "a receipt names one delivery");
}

pub async fn a_receive_names_the_lease_whatever_the_queue_says(fixture: &impl Fixture) {
    let (broker, tick) = (fixture.broker(), fixture.tick());
    let spec = Spec { visibility: Some(tick), ..Spec::standard() };
    let queue = fixture.queue(spec).await;
    send(&*broker, &queue, &[outgoing("held")]).await;
    receive_one(&*broker, &queue, SOON, LONG).await;
    nothing_comes(&*broker, &queue, tick * 3).await;
}

pub async fn extend_keeps_a_lease_beyond_its_first_timeout(fixture: &impl Fixture) {
    let (broker, tick) = (fixture.broker(), fixture.tick());
    let queue = fixture.queue(Spec::standard()).await;
    send(&*broker, &queue, &[outgoing("a"), outgoing("b")]).await;
    let held = receive(&*broker, &queue, 2, SOON, tick * 2).await;
    let receipts: Vec<_> = held.iter().map(|message| message.receipt.clone()).collect();

    let answers = broker.extend(&queue, &receipts, LONG).await;

    assert_eq!(answers.len(), 2);
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    nothing_comes(&*broker, &queue, tick * 4).await;
    let ends: Vec<_> = held.iter().map(finish).collect();
    settle(&*broker, &queue, &ends).await;
}

pub async fn a_lease_can_be_cut_short(fixture: &impl Fixture) {
    let broker = fixture.broker();
    let queue = fixture.queue(Spec::standard()).await;
    send(&*broker, &queue, &[outgoing("short")]).await;
    let first = receive_one(&*broker, &queue, SOON, LONG).await;

    let answers = broker.extend(&queue, &[first.receipt], Duration::ZERO).await;

    assert!(matches!(answers.as_slice(), [Ok(())]), "{answers:?}");
    let second = receive_one(&*broker, &queue, SOON, LONG).await;
    assert_eq!(second.attempt, 2, "a lease cut short is still an attempt");
}

pub async fn a_lease_that_ended_may_be_settled_until_somebody_takes_over(fixture: &impl Fixture) {
    let (broker, tick) = (fixture.broker(), fixture.tick());
    let queue = fixture.queue(Spec::standard()).await;
    send(&*broker, &queue, &[outgoing("late")]).await;
    let message = receive_one(&*broker, &queue, SOON, tick).await;
    tokio::time::sleep(tick * 2).await;

    settle(&*broker, &queue, &[finish(&message)]).await;

    nothing_comes(&*broker, &queue, tick).await;
}

pub async fn stale_receipts_are_refused(fixture: &impl Fixture) {
    if !fixture.features().refuses_stale_receipts {
        return;
    }
    let broker = fixture.broker();
    let queue = fixture.queue(Spec::standard()).await;
    send(&*broker, &queue, &[outgoing("stale")]).await;
    let lost = receive_one(&*broker, &queue, SOON, fixture.tick()).await;
    let held = receive_one(&*broker, &queue, SOON, LONG).await;

    for answer in [
        settle_each(&*broker, &queue, &[finish(&lost)]).await,
        broker.extend(&queue, std::slice::from_ref(&lost.receipt), LONG).await,
    ] {
        let fault = answer[0].as_ref().expect_err("the lease was lost").fault;
        assert_eq!(fault, Fault::Stale);
    }
    settle(&*broker, &queue, &[finish(&held)]).await;
    let again = settle_each(&*broker, &queue, &[finish(&held)]).await;
    let fault = again[0].as_ref().expect_err("it is settled").fault;
    assert_eq!(fault, Fault::Stale);
}

pub async fn concurrent_receivers_never_get_the_same_message(fixture: &impl Fixture) {
    const COUNT: usize = 60;
    let broker = fixture.broker();
    let queue = fixture.queue(Spec::standard()).await;
    let bodies: Vec<_> = (0..COUNT).map(|n| outgoing(n.to_string())).collect();
    send(&*broker, &queue, &bodies).await;

    let got = std::sync::Mutex::new(Vec::new());
    join_all((0..8).map(|_| async {
        while got.lock().unwrap().len() < COUNT {
            let wait = fixture.tick();
            let messages = broker.receive(&queue, 3, wait, LONG, &Turn::default()).await.unwrap();
            got.lock().unwrap().extend(messages);
        }
    }))
    .await;

    let got = got.into_inner().unwrap();
    let distinct: BTreeSet<_> = got.iter().map(text).collect();
    assert_eq!((got.len(), distinct.len()), (COUNT, COUNT));
}

pub async fn receive_waits_and_returns_early_when_a_message_comes(fixture: &impl Fixture) {
    let broker = fixture.broker();
    let queue = fixture.queue(Spec::standard()).await;
    let before = Instant::now();
    let (message, ()) = tokio::join!(receive_one(&*broker, &queue, SOON, LONG), async {
        tokio::time::sleep(fixture.tick()).await;
        send(&*broker, &queue, &[outgoing("now")]).await;
    });
    assert_eq!(text(&message), "now");
    assert!(before.elapsed() >= fixture.tick());
    assert!(before.elapsed() < SOON / 2, "waited on: {:?}", before.elapsed());
}

pub async fn receive_gives_up_after_its_wait(fixture: &impl Fixture) {
    let broker = fixture.broker();
    let queue = fixture.queue(Spec::standard()).await;
    for wait in [Duration::ZERO, fixture.tick()] {
        let before = Instant::now();
        nothing_comes(&*broker, &queue, wait).await;
        assert!(before.elapsed() >= wait, "gave up early");
        assert!(before.elapsed() < wait + SOON / 2, "waited on");
    }
}

pub async fn receive_returns_no_more_than_asked_for(fixture: &impl Fixture) {
    let broker = fixture.broker();
    let queue = fixture.queue(Spec::standard()).await;
    let three = ["a", "b", "c"].map(outgoing);
    send(&*broker, &queue, &three).await;
    let none = broker.receive(&queue, 0, SOON, LONG, &Turn::default()).await.unwrap();
    assert!(none.is_empty());
    // `receive` holds each call to what it was asked for.
    let first = receive(&*broker, &queue, 2, SOON, LONG).await;
    let rest = receive(&*broker, &queue, 1, SOON, LONG).await;
    assert_eq!(first.len() + rest.len(), 3);
}

pub async fn a_dropped_receive_loses_nothing(fixture: &impl Fixture) {
    let (broker, tick) = (fixture.broker(), fixture.tick());
    let queue = fixture.queue(Spec::standard()).await;
    for _ in 0..3 {
        let turn = Turn::default();
        let dropped = broker.receive(&queue, 10, SOON, tick, &turn);
        assert!(tokio::time::timeout(tick / 2, dropped).await.is_err());
    }
    send(&*broker, &queue, &[outgoing("kept")]).await;
    let message = receive_one(&*broker, &queue, SOON, LONG).await;
    assert_eq!(text(&message), "kept");
}
