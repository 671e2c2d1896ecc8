//! What is sent is what comes: unchanged, once it may, and not at all if it is refused.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use lovage::broker::{Fault, Outgoing};

use super::{LONG, SOON};
use crate::support::broker::{
    Fixture, Spec, attributes, nothing_comes, outgoing, receive, receive_one, release, send,
    settle, text,
};

pub async fn carries_bodies_and_attributes_unchanged(fixture: &impl Fixture) {
    let broker = fixture.broker();
    let queue = fixture.queue(Spec::standard()).await;
    let bodies = [
        "{\"data\": 21}",
        " white space,\ttabs\r\nand line ends \n",
        "žluťoučký kůň, 日本語, 🌿",
        "\u{fffd}\u{e000}\u{10ffff} & <xml> %41 \\u0041 \"",
        "0",
    ];
    let attributes = attributes(&[
        ("lovage-task", "process_data"),
        ("content-type", "text/plain; charset=\"utf-8\""),
        ("name.with-signs_2", "🌿 {\"a\": [1, 2]}"),
    ]);
    for body in bodies {
        let message = Outgoing { attributes: attributes.clone(), ..outgoing(body) };
        send(&*broker, &queue, std::slice::from_ref(&message)).await;
        let before = jiff::Timestamp::now();
        let got = receive_one(&*broker, &queue, SOON, LONG).await;
        assert_eq!(text(&got), body);
        assert_eq!(got.attributes, attributes);
        assert_eq!(got.attempt, 1);
        assert_eq!(got.not_before, None);
        if let Some(sent_at) = got.sent_at {
            let age = before.duration_since(sent_at).as_secs();
            assert!((-60..60).contains(&age), "sent {age} s ago?");
        }
    }
}

pub async fn carries_bytes_that_are_no_text(fixture: &impl Fixture) {
    let broker = fixture.broker();
    let queue = fixture.queue(Spec::standard()).await;
    let bytes: Vec<u8> = (0..=255).collect();
    let mut answers = broker.send(&queue, &[outgoing(bytes.clone())]).await;
    let answer = answers.remove(0);
    if fixture.features().binary_bodies {
        answer.unwrap();
        let got = receive_one(&*broker, &queue, SOON, LONG).await;
        assert_eq!(got.body, bytes);
    } else {
        assert_eq!(answer.unwrap_err().fault, Fault::Invalid);
        nothing_comes(&*broker, &queue, fixture.tick()).await;
    }
}

pub async fn carries_the_group_of_a_standard_queue(fixture: &impl Fixture) {
    let broker = fixture.broker();
    let queue = fixture.queue(Spec::standard()).await;
    let tenant = |group: Option<&str>| Outgoing {
        group: group.map(str::to_owned),
        ..outgoing(group.unwrap_or("none").to_owned())
    };
    let sent = [tenant(Some("acme")), tenant(Some("acme")), tenant(None)];
    send(&*broker, &queue, &sent).await;
    // Here a group orders nothing and holds nothing up: all may be in flight at once.
    let got = receive(&*broker, &queue, 3, SOON, LONG).await;
    for message in &got {
        assert_eq!(message.group.as_deref().unwrap_or("none"), text(message));
    }
}

pub async fn an_id_is_the_same_from_send_to_last_delivery(fixture: &impl Fixture) {
    let broker = fixture.broker();
    let queue = fixture.queue(Spec::standard()).await;
    let ids = send(&*broker, &queue, &[outgoing("same")]).await;
    for _ in 0..3 {
        let message = receive_one(&*broker, &queue, SOON, LONG).await;
        assert_eq!(message.id, ids[0]);
        settle(&*broker, &queue, &[release(&message, Duration::ZERO, true)]).await;
    }
}

pub async fn takes_any_number_of_messages(fixture: &impl Fixture) {
    const COUNT: usize = 43;
    let broker = fixture.broker();
    let queue = fixture.queue(Spec::standard()).await;
    assert!(broker.send(&queue, &[]).await.is_empty());
    let sent: Vec<_> = (0..COUNT).map(|n| outgoing(n.to_string())).collect();
    let ids = send(&*broker, &queue, &sent).await;
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), COUNT);
    let got = receive(&*broker, &queue, COUNT, SOON, LONG).await;
    for message in got {
        let n: usize = text(&message).parse().unwrap();
        assert_eq!(message.id, ids[n], "answers are in order");
    }
}

pub async fn takes_the_largest_message(fixture: &impl Fixture) {
    let broker = fixture.broker();
    let queue = fixture.queue(Spec::standard()).await;
    let body = "x".repeat(broker.limits().message_bytes);
    // Two, since a batch of them is over the limit of a batch.
    let two = [outgoing(body.clone()), outgoing(body.clone())];
    send(&*broker, &queue, &two).await;
    for message in receive(&*broker, &queue, 2, SOON, LONG).await {
        assert_eq!(message.body.len(), body.len());
    }
}

pub async fn refuses_what_is_too_large(fixture: &impl Fixture) {
    let broker = fixture.broker();
    let queue = fixture.queue(Spec::standard()).await;
    let limit = broker.limits().message_bytes;
    let by_attributes = Outgoing {
        attributes: attributes(&[("note", &"y".repeat(200))]),
        ..outgoing("x".repeat(limit - 100))
    };
    let both = [outgoing("x".repeat(limit + 1)), by_attributes];
    for answer in broker.send(&queue, &both).await {
        let error = answer.unwrap_err();
        assert_eq!(error.fault, Fault::TooLarge, "{error}");
        assert!(!error.message.contains("xxxx"), "holds the payload");
    }
    nothing_comes(&*broker, &queue, fixture.tick()).await;
}

pub async fn one_bad_message_fails_alone(fixture: &impl Fixture) {
    let broker = fixture.broker();
    let queue = fixture.queue(Spec::standard()).await;
    let huge = outgoing("x".repeat(broker.limits().message_bytes + 1));
    let sent = [outgoing("a"), huge, outgoing("b")];
    let answers = broker.send(&queue, &sent).await;
    let taken: Vec<_> = answers.iter().map(Result::is_ok).collect();
    assert_eq!(taken, [true, false, true]);
    let got = receive(&*broker, &queue, 2, SOON, LONG).await;
    assert_eq!(got.iter().map(text).collect::<BTreeSet<_>>(), BTreeSet::from(["a", "b"]));
}

pub async fn delays_of_any_length(fixture: &impl Fixture) {
    let (broker, tick) = (fixture.broker(), fixture.tick());
    let queue = fixture.queue(Spec::standard()).await;
    let delayed = |days: u64, delay| Outgoing { delay, ..outgoing(format!("{days} days")) };
    let day = Duration::from_hours(24);
    let mut sent = vec![delayed(0, tick * 2)];
    sent.extend([1, 30, 3650].map(|days| delayed(days, day * u32::try_from(days).unwrap())));
    let before = Instant::now();
    send(&*broker, &queue, &sent).await;

    let first = receive_one(&*broker, &queue, SOON, LONG).await;

    assert_eq!(text(&first), "0 days");
    assert!(before.elapsed() >= tick * 2, "came early");
    nothing_comes(&*broker, &queue, tick).await;
}
