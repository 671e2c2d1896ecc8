//! A receive can say whose messages it is for. What is left to others comes to them.

use std::{collections::BTreeSet, time::Duration};

use lovage::broker::Turn;

use super::{LONG, SOON};
use crate::support::broker::{Fixture, Spec, grouped, receive, receive_one, send, text};

pub async fn what_a_turn_leaves_alone_comes_to_others(fixture: &impl Fixture) {
    let broker = fixture.broker();
    let queue = fixture.queue(Spec::standard()).await;
    send(&*broker, &queue, &[grouped("x", "x1"), grouped("x", "x2"), grouped("y", "y")]).await;
    let mut turn = Turn::default();
    turn.at_most("x".into(), 0);
    let mut got = Vec::new();
    while !got.iter().any(|message| text(message) == "y") {
        let more = broker.receive(&queue, 10, SOON, LONG, &turn).await.unwrap();
        assert!(!more.is_empty(), "the one that may be taken did not come: {got:?}");
        got.extend(more);
    }
    if broker.limits().takes_turns {
        assert_eq!(got.len(), 1, "{got:?}");
        let none = broker.receive(&queue, 10, Duration::ZERO, LONG, &turn).await.unwrap();
        assert!(none.is_empty(), "{none:?}");
    }
    let left = 3 - got.len();
    got.extend(receive(&*broker, &queue, left, SOON, LONG).await);
    let said: BTreeSet<_> = got.iter().map(text).collect();
    assert_eq!(said, ["x1", "x2", "y"].into());
}

pub async fn what_is_avoided_comes_where_nothing_else_is_ready(fixture: &impl Fixture) {
    let broker = fixture.broker();
    let queue = fixture.queue(Spec::standard()).await;
    send(&*broker, &queue, &[grouped("x", "x")]).await;
    let mut turn = Turn::default();
    turn.avoid("x".into());
    let messages = broker.receive(&queue, 10, SOON, LONG, &turn).await.unwrap();
    assert_eq!(messages.len(), 1);
}

pub async fn a_fifo_queue_has_no_turns(fixture: &impl Fixture) {
    let broker = fixture.broker();
    let queue = fixture.queue(Spec::fifo()).await;
    send(&*broker, &queue, &[grouped("x", "x1")]).await;
    let mut turn = Turn::default();
    turn.at_most("x".into(), 0);
    let messages = broker.receive(&queue, 10, SOON, LONG, &turn).await.unwrap();
    assert_eq!(messages.len(), 1, "a group is an order there");
}

pub async fn groups_take_turns(fixture: &impl Fixture) {
    let broker = fixture.broker();
    let queue = fixture.queue(Spec::standard()).await;
    let flood: Vec<_> = (0..30).map(|n| grouped("x", &format!("x{n}"))).collect();
    send(&*broker, &queue, &flood).await;
    send(&*broker, &queue, &[grouped("y", "y")]).await;
    if broker.limits().takes_turns {
        let first = receive_one(&*broker, &queue, SOON, LONG).await;
        let second = receive_one(&*broker, &queue, SOON, LONG).await;
        let groups = [first, second].map(|message| message.group.unwrap());
        assert!(groups.contains(&"y".to_owned()), "{groups:?}");
    }
}
