//! Queues are found by name, counted and looked into.

use std::time::Duration;

use lovage::broker::{Depth, Fault, Outgoing};

use super::{LONG, SOON};
use crate::support::broker::{
    Fixture, Spec, finish, nothing_comes, outgoing, receive_one, send, settle, text,
};

pub async fn an_open_of_a_missing_queue_says_so(fixture: &impl Fixture) {
    let name = fixture.missing_name();
    let error = fixture.broker().open(&name).await.unwrap_err();
    assert_eq!(error.fault, Fault::NotFound);
    assert!(error.message.contains(&name), "{error}");
    assert!(!error.message.contains('\n'), "one line: {error}");
}

pub async fn open_tells_what_a_queue_is(fixture: &impl Fixture) {
    let broker = fixture.broker();
    for fifo in [false, true] {
        let spec = Spec { fifo, visibility: Some(Duration::from_secs(45)), redrive: None };
        let queue = fixture.queue(spec).await;
        let opened = broker.open(&queue.name).await.unwrap();
        assert_eq!(opened, queue);
        assert_eq!(opened.fifo, fifo);
        assert_eq!(opened.visibility_timeout, Duration::from_secs(45));
        assert_eq!(opened.redrive_target, None);
    }
}

pub async fn depth_tells_ready_from_delayed_from_in_flight(fixture: &impl Fixture) {
    let broker = fixture.broker();
    let queue = fixture.queue(Spec::standard()).await;
    let delayed = Outgoing { delay: Duration::from_mins(10), ..outgoing("later") };
    let four = [delayed, outgoing("a"), outgoing("b"), outgoing("c")];
    send(&*broker, &queue, &four).await;
    receive_one(&*broker, &queue, SOON, LONG).await;
    let expected = Depth { ready: 2, delayed: 1, in_flight: 1 };
    let end = std::time::Instant::now() + SOON;
    loop {
        let depth = broker.depth(&queue).await.unwrap();
        if depth == expected {
            break;
        }
        // Only an approximate count may take its time.
        assert!(!fixture.features().exact_depth, "{depth:?}");
        assert!(std::time::Instant::now() < end, "{depth:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

pub async fn browse_takes_nothing_away(fixture: &impl Fixture) {
    let (broker, features) = (fixture.broker(), fixture.features());
    let queue = fixture.queue(Spec::standard()).await;
    send(&*broker, &queue, &[outgoing("seen")]).await;

    let seen = broker.browse(&queue, 10).await.unwrap();

    assert_eq!(seen.iter().map(text).collect::<Vec<_>>(), ["seen"]);
    let message = receive_one(&*broker, &queue, SOON, LONG).await;
    assert_eq!(message.id, seen[0].id);
    if features.browse_is_invisible {
        assert_eq!(message.attempt, 1);
        let leased = broker.browse(&queue, 10).await.unwrap();
        assert_eq!(leased.len(), 1, "messages under a lease are there, too");
        settle(&*broker, &queue, &[finish(&message)]).await;
        assert!(broker.browse(&queue, 10).await.unwrap().is_empty());
    }
}

pub async fn queues_are_apart(fixture: &impl Fixture) {
    let broker = fixture.broker();
    let (one, other) =
        (fixture.queue(Spec::standard()).await, fixture.queue(Spec::standard()).await);
    send(&*broker, &one, &[outgoing("mine")]).await;
    nothing_comes(&*broker, &other, fixture.tick()).await;
    let message = receive_one(&*broker, &one, SOON, LONG).await;
    assert_eq!(text(&message), "mine");
}

pub async fn exhausted_messages_move_where_the_queue_says(fixture: &impl Fixture) {
    if !fixture.features().redrives {
        return;
    }
    let broker = fixture.broker();
    let dead = fixture.queue(Spec::standard()).await;
    let spec = Spec { redrive: Some((dead.clone(), 1)), ..Spec::standard() };
    let queue = fixture.queue(spec).await;
    let target = queue.redrive_target.as_deref().unwrap_or_default();
    assert!(target.contains(&*dead.name), "{target}");
    send(&*broker, &queue, &[outgoing("worn out")]).await;
    receive_one(&*broker, &queue, SOON, fixture.tick()).await;
    nothing_comes(&*broker, &queue, fixture.tick() * 3).await;
    let moved = receive_one(&*broker, &dead, SOON, LONG).await;
    assert_eq!(text(&moved), "worn out");
}
