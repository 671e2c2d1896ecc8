//! A FIFO queue hands out the messages of one group in the order they were sent.
//!
//! A batch may hold several messages of one group, if they are in order: SQS does that.

use std::time::Duration;

use lovage::broker::{Broker, Outgoing, Queue, Turn};

use super::{LONG, SOON};
use crate::support::broker::{
    Fixture, Spec, finish, grouped, nothing_comes, outgoing, receive_one, release, send, settle,
    text,
};

/// Receives and finishes `count` messages, some at a time; what they said, in order.
async fn work_off(broker: &dyn Broker, queue: &Queue, count: usize) -> Vec<String> {
    let mut said = Vec::new();
    while said.len() < count {
        let messages = broker.receive(queue, 3, SOON, LONG, &Turn::default()).await.unwrap();
        assert!(!messages.is_empty(), "only {said:?} came");
        said.extend(messages.iter().map(|message| text(message).to_owned()));
        let ends: Vec<_> = messages.iter().map(finish).collect();
        settle(broker, queue, &ends).await;
    }
    said
}

pub async fn keeps_order_within_a_group(fixture: &impl Fixture) {
    let broker = fixture.broker();
    let queue = fixture.queue(Spec::fifo()).await;
    let sent: Vec<_> = (0..24)
        .map(|n| grouped(["x", "y"][n % 2], &format!("{}{:02}", ["x", "y"][n % 2], n)))
        .collect();
    send(&*broker, &queue, &sent).await;

    let said = work_off(&*broker, &queue, 24).await;

    for group in ["x", "y"] {
        let of_group: Vec<_> = said.iter().filter(|said| said.starts_with(group)).collect();
        assert_eq!(of_group.len(), 12);
        assert!(of_group.is_sorted(), "{of_group:?}");
    }
}

pub async fn groups_do_not_wait_for_each_other(fixture: &impl Fixture) {
    let broker = fixture.broker();
    let queue = fixture.queue(Spec::fifo()).await;
    send(&*broker, &queue, &[grouped("x", "x1")]).await;
    let held = receive_one(&*broker, &queue, SOON, LONG).await;
    assert_eq!(text(&held), "x1");
    send(&*broker, &queue, &[grouped("x", "x2"), grouped("y", "y1")]).await;

    let other = receive_one(&*broker, &queue, SOON, LONG).await;

    assert_eq!(text(&other), "y1");
    assert_eq!(other.group.as_deref(), Some("y"));
}

pub async fn a_group_waits_for_its_head(fixture: &impl Fixture) {
    let (broker, tick) = (fixture.broker(), fixture.tick());
    let queue = fixture.queue(Spec::fifo()).await;
    send(&*broker, &queue, &[grouped("x", "x1"), grouped("x", "x2")]).await;

    // The head's lease runs out: it comes again, and before the next.
    let lost = receive_one(&*broker, &queue, SOON, tick * 2).await;
    nothing_comes(&*broker, &queue, tick / 2).await;
    let head = receive_one(&*broker, &queue, SOON, LONG).await;
    assert_eq!((text(&lost), text(&head)), ("x1", "x1"));

    settle(&*broker, &queue, &[finish(&head)]).await;
    let next = receive_one(&*broker, &queue, SOON, LONG).await;
    assert_eq!(text(&next), "x2");
}

pub async fn a_released_message_keeps_its_place_in_its_group(fixture: &impl Fixture) {
    let (broker, tick) = (fixture.broker(), fixture.tick());
    let queue = fixture.queue(Spec::fifo()).await;
    send(&*broker, &queue, &[grouped("x", "x1"), grouped("x", "x2")]).await;
    for after in [Duration::ZERO, tick * 2] {
        let head = receive_one(&*broker, &queue, SOON, LONG).await;
        assert_eq!(text(&head), "x1");
        settle(&*broker, &queue, &[release(&head, after, true)]).await;
    }
    nothing_comes(&*broker, &queue, tick / 2).await;
    assert_eq!(work_off(&*broker, &queue, 2).await, ["x1", "x2"]);
}

pub async fn messages_without_a_group_are_one_group(fixture: &impl Fixture) {
    let (broker, tick) = (fixture.broker(), fixture.tick());
    let queue = fixture.queue(Spec::fifo()).await;
    send(&*broker, &queue, &["1", "2", "3"].map(outgoing)).await;
    let head = receive_one(&*broker, &queue, SOON, LONG).await;
    assert_eq!(text(&head), "1");
    nothing_comes(&*broker, &queue, tick).await;
    settle(&*broker, &queue, &[finish(&head)]).await;
    assert_eq!(work_off(&*broker, &queue, 2).await, ["2", "3"]);
}

pub async fn deduplicates_for_five_minutes(fixture: &impl Fixture) {
    let broker = fixture.broker();
    let queue = fixture.queue(Spec::fifo()).await;
    let named = |id: &str, body: &str| Outgoing {
        deduplication_id: Some(id.to_owned()),
        ..grouped("x", body)
    };
    // Twice in one call, once more on its own, and once more when the first is long gone.
    let both = [named("a", "first"), named("a", "second")];
    let ids = send(&*broker, &queue, &both).await;
    let third = send(&*broker, &queue, &[named("a", "third")]).await;
    assert_eq!(ids[0], ids[1], "both are the one that was taken first");
    assert_eq!(ids[0], third[0]);
    send(&*broker, &queue, &[named("b", "other")]).await;
    assert_eq!(work_off(&*broker, &queue, 2).await, ["first", "other"]);

    send(&*broker, &queue, &[named("a", "fourth")]).await;
    nothing_comes(&*broker, &queue, fixture.tick()).await;
}
