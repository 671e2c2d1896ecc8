//! What becomes of a message: all of it, or none of it and the message is still there.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use lovage::broker::{Disposal, Fault, KeptResult, Message, Outgoing, Send, SendKind, Settlement};

use super::{LONG, SOON};
use crate::support::broker::{
    Fixture, Spec, attributes, finish, nothing_comes, outgoing, receive, receive_one, release,
    send, settle, settle_each, text,
};

/// The end of a message that leads to one other.
fn finish_sending(message: &Message, to: &str, outgoing: Outgoing) -> Settlement {
    let sends = vec![Send { kind: SendKind::Result, to: to.into(), message: outgoing }];
    Settlement {
        message: Arc::new(message.clone()),
        disposal: Disposal::Finish { result: None, sends },
    }
}

/// The end of a message that leaves a result.
fn finish_keeping(message: &Message, job_id: &str, envelope: &str) -> Settlement {
    let result = KeptResult {
        tenant: String::new(),
        job_id: job_id.to_owned(),
        envelope: envelope.to_owned().into(),
    };
    Settlement {
        message: Arc::new(message.clone()),
        disposal: Disposal::Finish { result: Some(result), sends: Vec::new() },
    }
}

pub async fn a_settled_message_never_comes_again(fixture: &impl Fixture) {
    let (broker, tick) = (fixture.broker(), fixture.tick());
    let queue = fixture.queue(Spec::standard()).await;
    send(&*broker, &queue, &[outgoing("done")]).await;
    let message = receive_one(&*broker, &queue, SOON, tick).await;
    settle(&*broker, &queue, &[finish(&message)]).await;
    nothing_comes(&*broker, &queue, tick * 3).await;
}

pub async fn release_spends_or_keeps_the_attempt(fixture: &impl Fixture) {
    let broker = fixture.broker();
    let queue = fixture.queue(Spec::standard()).await;
    send(&*broker, &queue, &[outgoing("back")]).await;
    let mut attempts = Vec::new();
    for spent in [true, false, false, true, true, false] {
        let message = receive_one(&*broker, &queue, SOON, LONG).await;
        attempts.push(message.attempt);
        let at_once = spent || fixture.features().free_release_at_once;
        let after = if at_once { Duration::ZERO } else { fixture.tick() };
        settle(&*broker, &queue, &[release(&message, after, spent)]).await;
    }
    assert_eq!(attempts, [1, 2, 2, 2, 3, 4]);
    let last = receive_one(&*broker, &queue, SOON, LONG).await;
    assert_eq!(last.attempt, 4);
    assert_eq!(text(&last), "back");
}

pub async fn a_release_hides_for_as_long_as_it_says(fixture: &impl Fixture) {
    let (broker, tick) = (fixture.broker(), fixture.tick());
    let queue = fixture.queue(Spec::standard()).await;
    for spent in [true, false] {
        send(&*broker, &queue, &[outgoing("later")]).await;
        let message = receive_one(&*broker, &queue, SOON, LONG).await;
        let before = Instant::now();
        settle(&*broker, &queue, &[release(&message, tick * 2, spent)]).await;
        let again = receive_one(&*broker, &queue, SOON, LONG).await;
        assert!(before.elapsed() >= tick * 2, "came early");
        settle(&*broker, &queue, &[finish(&again)]).await;
    }
}

pub async fn finish_delivers_what_it_sends(fixture: &impl Fixture) {
    let broker = fixture.broker();
    let queue = fixture.queue(Spec::standard()).await;
    let results = fixture.queue(Spec::standard()).await;
    send(&*broker, &queue, &[outgoing("21")]).await;
    let message = receive_one(&*broker, &queue, SOON, LONG).await;
    let result =
        Outgoing { attributes: attributes(&[("lovage-status", "done")]), ..outgoing("42") };

    let end = finish_sending(&message, &results.address, result.clone());
    settle(&*broker, &queue, &[end]).await;

    let got = receive_one(&*broker, &results, SOON, LONG).await;
    assert_eq!((got.body, got.attributes), (result.body, result.attributes));
    nothing_comes(&*broker, &queue, fixture.tick()).await;
}

pub async fn finish_sends_before_it_deletes(fixture: &impl Fixture) {
    let (broker, tick) = (fixture.broker(), fixture.tick());
    let queue = fixture.queue(Spec::standard()).await;
    // An address of the broker's own form, that leads nowhere.
    let nowhere = queue.address.replace(&*queue.name, &fixture.missing_name());
    send(&*broker, &queue, &[outgoing("stays")]).await;
    let message = receive_one(&*broker, &queue, SOON, tick * 2).await;

    let end = finish_sending(&message, &nowhere, outgoing("lost"));
    let answers = settle_each(&*broker, &queue, &[end]).await;

    let error = answers[0].as_ref().unwrap_err();
    assert_eq!(error.fault, Fault::NotFound, "{error}");
    let again = receive_one(&*broker, &queue, SOON, LONG).await;
    assert_eq!((text(&again), again.attempt), ("stays", 2));
}

pub async fn partial_failures_are_told_apart(fixture: &impl Fixture) {
    let broker = fixture.broker();
    let queue = fixture.queue(Spec::standard()).await;
    let results = fixture.queue(Spec::standard()).await;
    let nowhere = queue.address.replace(&*queue.name, &fixture.missing_name());
    let huge = outgoing("x".repeat(broker.limits().message_bytes + 1));
    let bodies: Vec<_> = (0..5).map(|n| outgoing(n.to_string())).collect();
    send(&*broker, &queue, &bodies).await;
    let mut got = receive(&*broker, &queue, 5, SOON, LONG).await;
    got.sort_by(|a, b| a.body.cmp(&b.body));

    let answers = settle_each(
        &*broker,
        &queue,
        &[
            finish(&got[0]),
            finish_sending(&got[1], &nowhere, outgoing("lost")),
            finish_sending(&got[2], &results.address, outgoing("sent")),
            finish_sending(&got[3], &results.address, huge),
            release(&got[4], Duration::ZERO, true),
        ],
    )
    .await;

    let faults: Vec<_> =
        answers.iter().map(|answer| answer.as_ref().err().map(|error| error.fault)).collect();
    let (gone, large) = (Some(Fault::NotFound), Some(Fault::TooLarge));
    assert_eq!(faults, [None, gone, None, large, None]);
    let sent = receive_one(&*broker, &results, SOON, LONG).await;
    assert_eq!(text(&sent), "sent");
    let back = receive_one(&*broker, &queue, SOON, LONG).await;
    assert_eq!(text(&back), "4");
    // The two that failed are still held: their leases can be given back.
    let held = [&got[1], &got[3]].map(|message| message.receipt.clone());
    for answer in broker.extend(&queue, &held, Duration::ZERO).await {
        answer.unwrap();
    }
    receive(&*broker, &queue, 2, SOON, LONG).await;
    nothing_comes(&*broker, &results, fixture.tick()).await;
}

pub async fn takes_any_number_of_settlements(fixture: &impl Fixture) {
    const COUNT: usize = 33;
    let broker = fixture.broker();
    let queue = fixture.queue(Spec::standard()).await;
    assert!(broker.settle(&queue, &[]).await.is_empty());
    assert!(broker.extend(&queue, &[], LONG).await.is_empty());
    let bodies: Vec<_> = (0..COUNT).map(|n| outgoing(n.to_string())).collect();
    send(&*broker, &queue, &bodies).await;
    let got = receive(&*broker, &queue, COUNT, SOON, fixture.tick() * 5).await;
    let receipts: Vec<_> = got.iter().map(|message| message.receipt.clone()).collect();
    let answers = broker.extend(&queue, &receipts, LONG).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), COUNT);
    let ends: Vec<_> = got.iter().map(finish).collect();
    settle(&*broker, &queue, &ends).await;
    nothing_comes(&*broker, &queue, fixture.tick()).await;
}

pub async fn keeps_results_by_job(fixture: &impl Fixture) {
    let broker = fixture.broker();
    if !fixture.features().keeps_results {
        let error = broker.result("job-1".into(), Duration::ZERO).await.unwrap_err();
        assert_eq!(error.fault, Fault::Unsupported);
        return;
    }
    let queue = fixture.queue(Spec::standard()).await;
    assert_eq!(broker.result("job-1".into(), Duration::ZERO).await.unwrap(), None);
    for envelope in ["{\"v\": 1}", "{\"v\": 2}"] {
        send(&*broker, &queue, &[outgoing("1")]).await;
        let message = receive_one(&*broker, &queue, SOON, LONG).await;
        settle(&*broker, &queue, &[finish_keeping(&message, "job-1", envelope)]).await;
        // A job that runs again, such as one taken from the dead letters, replaces its result.
        let kept = broker.result("job-1".into(), SOON).await.unwrap();
        assert_eq!(kept.unwrap(), envelope);
    }
    assert_eq!(broker.result("job-2".into(), fixture.tick()).await.unwrap(), None);
}

pub async fn a_wait_for_a_result_ends_when_it_comes(fixture: &impl Fixture) {
    if !fixture.features().keeps_results {
        return;
    }
    let broker = fixture.broker();
    let queue = fixture.queue(Spec::standard()).await;
    send(&*broker, &queue, &[outgoing("1")]).await;
    let before = Instant::now();
    let (one, other, ()) = tokio::join!(
        broker.result("job-w".into(), SOON),
        broker.result("job-w".into(), SOON),
        async {
            let message = receive_one(&*broker, &queue, SOON, LONG).await;
            tokio::time::sleep(fixture.tick()).await;
            settle(&*broker, &queue, &[finish_keeping(&message, "job-w", "7")]).await;
        }
    );
    assert_eq!(one.unwrap().unwrap(), "7");
    assert_eq!(other.unwrap().unwrap(), "7");
    assert!(before.elapsed() < SOON / 2, "waited on");
}
