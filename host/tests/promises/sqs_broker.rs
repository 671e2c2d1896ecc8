//! What the broker on SQS promises: what every broker does, and what is special to SQS.

use std::{sync::Arc, time::Duration};

use aws_sdk_sqs::{
    primitives::Blob,
    types::{
        MessageAttributeValue, MessageSystemAttributeNameForSends, MessageSystemAttributeValue,
    },
};
use lovage::broker::{
    Broker, Disposal, Fault, Outgoing, Queue, Send, SendKind, Settlement, attribute,
    sqs::{Left, SqsBroker},
};

use crate::{
    conformance::conformance,
    support::{
        broker::{
            Features, Fixture, Spec, attributes, finish, grouped, nothing_comes, outgoing, receive,
            receive_one, release, send, settle, settle_each, text,
        },
        ministack::{self, NewQueue},
    },
};

const SOON: Duration = Duration::from_secs(20);
const LONG: Duration = Duration::from_mins(1);

struct Sqs(SqsBroker);

async fn fixture() -> Option<Sqs> {
    Some(Sqs(broker().await))
}

async fn broker() -> SqsBroker {
    SqsBroker::from_config(&ministack::config()).await.unwrap()
}

impl Fixture for Sqs {
    fn broker(&self) -> Arc<dyn Broker> {
        Arc::new(self.0.clone())
    }

    async fn queue(&self, spec: Spec) -> Queue {
        let new = NewQueue {
            fifo: spec.fifo,
            visibility_seconds: spec
                .visibility
                .map(|visibility| u32::try_from(visibility.as_secs()).unwrap()),
            redrive: spec.redrive.map(|(target, receives)| (target.address.to_string(), receives)),
            max_bytes: None,
        };
        let url = new.create("promise").await;
        self.0.open(&url).await.unwrap()
    }

    fn tick(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn features(&self) -> Features {
        Features {
            keeps_results: false,
            binary_bodies: false,
            exact_depth: false,
            browse_is_invisible: false,
            // ministack does always; SQS itself on FIFO queues only.
            refuses_stale_receipts: true,
            free_release_at_once: false,
            redrives: true,
        }
    }
}

conformance!(fixture);

async fn opened(url: &str) -> (SqsBroker, Queue) {
    let broker = broker().await;
    let queue = broker.open(url).await.unwrap();
    (broker, queue)
}

#[tokio::test]
async fn a_queue_is_found_by_name_by_url_and_by_arn() {
    let url = ministack::queue("found").await;
    let (broker, by_url) = opened(&url).await;
    let by_arn = broker.open(&ministack::arn(&url).await).await.unwrap();
    let by_name = broker.open(&by_url.name).await.unwrap();
    assert_eq!((&by_url, &by_url), (&by_arn, &by_name));
    assert_eq!(&*by_url.address, url);
    assert_eq!(broker.url_from_arn(&ministack::arn(&url).await).await.unwrap(), url);
}

#[tokio::test]
async fn the_redrive_target_is_an_address_to_send_to() {
    let dead = ministack::queue("dead").await;
    let new = NewQueue { redrive: Some((dead.clone(), 3)), ..NewQueue::default() };
    let (broker, queue) = opened(&new.create("alive").await).await;
    assert_eq!(queue.redrive_target.as_deref(), Some(dead.as_str()));
    send(&broker, &queue, &[outgoing("bad")]).await;
    let message = receive_one(&broker, &queue, SOON, LONG).await;
    let end = Settlement {
        message: Arc::new(message),
        disposal: Disposal::Finish {
            result: None,
            sends: vec![Send {
                kind: SendKind::DeadLetter,
                to: queue.redrive_target.clone().unwrap(),
                message: outgoing("bad"),
            }],
        },
    };
    settle(&broker, &queue, &[end]).await;
    let dead = broker.open(&dead).await.unwrap();
    assert_eq!(text(&receive_one(&broker, &dead, SOON, LONG).await), "bad");
}

#[tokio::test]
async fn a_message_comes_with_what_sqs_knows_of_it() {
    let (broker, queue) = opened(&ministack::queue("system").await).await;
    let header = MessageSystemAttributeValue::builder()
        .data_type("String")
        .string_value("Root=1-5759e988-bd862e3fe1be46a994272793;Sampled=1")
        .build()
        .unwrap();
    ministack::sqs_client()
        .send_message()
        .queue_url(&*queue.address)
        .message_body("traced")
        .message_group_id("tenant-7")
        .message_system_attributes(MessageSystemAttributeNameForSends::AwsTraceHeader, header)
        .send()
        .await
        .unwrap();
    let message = receive_one(&broker, &queue, SOON, LONG).await;
    assert_eq!(
        message.trace_header.as_deref(),
        Some("Root=1-5759e988-bd862e3fe1be46a994272793;Sampled=1")
    );
    assert_eq!(message.group.as_deref(), Some("tenant-7"));
    assert!(message.sent_at.is_some());
}

#[tokio::test]
async fn attributes_keep_their_types_when_a_message_moves() {
    let (broker, queue) = opened(&ministack::queue("types").await).await;
    let (_, target) = opened(&ministack::queue("types-moved").await).await;
    let value = |data_type: &str| MessageAttributeValue::builder().data_type(data_type);
    ministack::sqs_client()
        .send_message()
        .queue_url(&*queue.address)
        .message_body("typed")
        .message_attributes("n", value("Number.int").string_value("42").build().unwrap())
        .message_attributes(
            "b",
            value("Binary").binary_value(Blob::new([0u8, 255])).build().unwrap(),
        )
        .message_attributes("s", value("String").string_value("x").build().unwrap())
        .send()
        .await
        .unwrap();
    let message = receive_one(&broker, &queue, SOON, LONG).await;
    assert_eq!(message.attributes["n"], "42");
    assert_eq!(message.attributes["b"], "AP8=");
    assert_eq!(message.attributes["s"], "x");
    assert!(message.attributes.contains_key(attribute::TYPES));

    let moved =
        Outgoing { body: message.body, attributes: message.attributes, ..Outgoing::default() };
    send(&broker, &target, &[moved]).await;
    let raw = ministack::sqs_client()
        .receive_message()
        .queue_url(&*target.address)
        .message_attribute_names("All")
        .wait_time_seconds(5)
        .send()
        .await
        .unwrap();
    let raw = raw.messages()[0].message_attributes().unwrap();
    assert_eq!(raw.len(), 3, "the memory of types does not travel");
    assert_eq!(raw["n"].data_type(), "Number.int");
    assert_eq!(raw["b"].data_type(), "Binary");
    assert_eq!(raw["b"].binary_value(), Some(&Blob::new([0u8, 255])));
}

#[tokio::test]
async fn a_snooze_spends_no_attempt_and_keeps_the_message_whole() {
    let (broker, queue) = opened(&ministack::queue("snooze").await).await;
    let sent = Outgoing {
        attributes: attributes(&[("k", "v")]),
        group: Some("tenant-7".to_owned()),
        ..outgoing("later")
    };
    let ids = send(&broker, &queue, std::slice::from_ref(&sent)).await;
    let first = receive_one(&broker, &queue, SOON, LONG).await;
    let retry = release(&first, Duration::ZERO, true);
    settle(&broker, &queue, &[retry]).await;
    for _ in 0..2 {
        let message = receive_one(&broker, &queue, SOON, LONG).await;
        assert_eq!(message.attempt, 2);
        assert_eq!(message.id, ids[0]);
        assert_eq!(message.body, sent.body);
        assert_eq!(message.attributes, sent.attributes);
        assert_eq!(message.group, sent.group);
        assert_eq!(message.not_before, None);
        let snooze = release(&message, Duration::from_millis(500), false);
        settle(&broker, &queue, &[snooze]).await;
    }
    let last = receive_one(&broker, &queue, SOON, LONG).await;
    settle(&broker, &queue, &[finish(&last)]).await;
    let depth = broker.depth(&queue).await.unwrap();
    assert_eq!(depth.ready + depth.delayed + depth.in_flight, 0, "{depth:?}");
}

#[tokio::test]
async fn a_snooze_of_a_message_with_ten_attributes_counts_as_no_attempt() {
    let (broker, queue) = opened(&ministack::queue("full").await).await;
    let ten: Vec<_> = (0..10).map(|n| format!("n{n}")).collect();
    let ten: Vec<_> = ten.iter().map(|name| (name.as_str(), "v")).collect();
    let full = Outgoing { attributes: attributes(&ten), ..outgoing("full") };
    send(&broker, &queue, &[full]).await;
    let first = receive_one(&broker, &queue, SOON, LONG).await;
    let snooze = release(&first, Duration::from_secs(1), false);
    settle(&broker, &queue, &[snooze]).await;
    let second = receive_one(&broker, &queue, SOON, LONG).await;
    assert_eq!(second.attempt, 1);
    assert_eq!(second.attributes.len(), 10);
}

#[tokio::test]
async fn a_snooze_on_a_fifo_queue_keeps_its_place_and_counts() {
    let (broker, queue) = opened(&ministack::fifo_queue("snooze").await).await;
    send(&broker, &queue, &[grouped("g", "1"), grouped("g", "2")]).await;
    let first = receive_one(&broker, &queue, SOON, LONG).await;
    let snooze = release(&first, Duration::from_secs(1), false);
    settle(&broker, &queue, &[snooze]).await;
    let again = receive_one(&broker, &queue, SOON, LONG).await;
    assert_eq!((text(&again), again.attempt), ("1", 2));
}

#[tokio::test]
async fn a_wait_beyond_every_limit_travels_with_the_message() {
    let (broker, queue) = opened(&ministack::fifo_queue("eta").await).await;
    let later = Outgoing { delay: Duration::from_hours(40 * 24), ..grouped("g", "later") };
    let now = jiff::Timestamp::now();
    let ids = send(&broker, &queue, &[later]).await;
    // A FIFO queue has no delay per message, so the wait shows at once.
    let message = receive_one(&broker, &queue, SOON, LONG).await;
    let wait = message.not_before.unwrap().duration_since(now).as_secs();
    assert!((40 * 86_400..40 * 86_400 + 60).contains(&wait), "{wait}");
    assert_eq!(message.id, ids[0], "known by the id that `send` told");
    assert_eq!(message.attempt, 1);
    assert!(!message.attributes.contains_key(attribute::DEFERRED));
}

#[tokio::test]
async fn a_forged_deferral_does_no_harm() {
    let (broker, queue) = opened(&ministack::queue("forged").await).await;
    for forged in ["nonsense", "{\"attempts\":4}", "[[[["] {
        let message = Outgoing {
            attributes: attributes(&[(attribute::DEFERRED, forged), ("k", "v")]),
            ..outgoing("x")
        };
        let ids = send(&broker, &queue, &[message]).await;
        let message = receive_one(&broker, &queue, SOON, LONG).await;
        assert_eq!((message.attempt, &message.id), (1, &ids[0]));
        assert_eq!(message.attributes, attributes(&[("k", "v")]));
    }
}

#[tokio::test]
async fn a_queue_with_a_lower_limit_refuses_what_is_too_large_and_nothing_else() {
    let new = NewQueue { max_bytes: Some(1024), ..NewQueue::default() };
    let (broker, queue) = opened(&new.create("small").await).await;
    let bodies = ["a".to_owned(), "x".repeat(2000), "b".to_owned()].map(outgoing);
    let answers = broker.send(&queue, &bodies).await;
    assert!(answers[0].is_ok() && answers[2].is_ok(), "{answers:?}");
    let error = answers[1].as_ref().unwrap_err();
    assert_eq!(error.fault, Fault::TooLarge);
    assert!(error.message.contains("1024"), "{error}");
    assert!(!error.message.contains("xxx"), "{error}");
}

#[tokio::test]
async fn what_a_delivery_sends_to_a_fifo_queue_is_sent_once_however_often_it_is_settled() {
    let (broker, queue) = opened(&ministack::queue("once").await).await;
    let (_, results) = opened(&ministack::fifo_queue("once-results").await).await;
    send(&broker, &queue, &[outgoing("1")]).await;
    let message = receive_one(&broker, &queue, SOON, LONG).await;
    let to = |body: &str| Send {
        kind: SendKind::Result,
        to: results.address.clone(),
        message: outgoing(body.to_owned()),
    };
    let end = Settlement {
        message: Arc::new(message),
        disposal: Disposal::Finish { result: None, sends: vec![to("result"), to("result")] },
    };
    // As if the answer to the first had been lost.
    for _ in 0..2 {
        let _ = settle_each(&broker, &queue, std::slice::from_ref(&end)).await;
    }
    // Two sends are two messages, even if they are equal; settling again adds none.
    for message in receive(&broker, &results, 2, SOON, LONG).await {
        settle(&broker, &results, &[finish(&message)]).await;
    }
    nothing_comes(&broker, &results, Duration::from_secs(1)).await;
}

#[tokio::test]
async fn messages_of_an_event_are_published_for_and_put_back_but_not_deleted() {
    let (broker, queue) = opened(&ministack::queue("event").await).await;
    let (_, results) = opened(&ministack::queue("event-results").await).await;
    send(&broker, &queue, &["done", "retry", "snooze"].map(outgoing)).await;
    let mut messages = receive(&broker, &queue, 3, SOON, LONG).await;
    messages.sort_by(|a, b| a.body.cmp(&b.body));
    let result =
        Send { kind: SendKind::Result, to: results.address.clone(), message: outgoing("result") };
    let done = Settlement {
        message: Arc::new(messages[0].clone()),
        disposal: Disposal::Finish { result: None, sends: vec![result] },
    };
    let retry = release(&messages[1], Duration::from_secs(1), true);
    let snooze = release(&messages[2], Duration::from_secs(1), false);

    let answers = broker.settle_event(&queue, &[done, retry, snooze]).await;

    let left: Vec<_> = answers.into_iter().map(Result::unwrap).collect();
    assert_eq!(left, [Left::Done, Left::Again, Left::Done]);
    let result = receive_one(&broker, &results, SOON, LONG).await;
    assert_eq!(text(&result), "result");
    let mut back = receive(&broker, &queue, 2, SOON, LONG).await;
    back.sort_by(|a, b| a.body.cmp(&b.body));
    assert_eq!((text(&back[0]), back[0].attempt), ("retry", 2));
    assert_eq!((text(&back[1]), back[1].attempt), ("snooze", 1));
    // `done` and the original of `snooze` are still held: the event source mapping deletes them.
    assert_eq!(broker.depth(&queue).await.unwrap().in_flight, 4);
}

#[tokio::test]
async fn a_reply_queue_lives_until_it_is_deleted() {
    let broker = broker().await;
    let queue = broker.create_reply_queue().await.unwrap();
    assert!(queue.name.starts_with("lovage-reply-"), "{}", queue.name);
    assert_eq!(broker.open(&queue.name).await.unwrap().address, queue.address);
    send(&broker, &queue, &[outgoing("reply")]).await;
    assert_eq!(text(&receive_one(&broker, &queue, SOON, LONG).await), "reply");
    broker.delete_queue(&queue).await.unwrap();
    let error = broker.open(&queue.name).await.unwrap_err();
    assert_eq!(error.fault, Fault::NotFound);
}

#[tokio::test]
async fn a_look_shows_more_than_one_receive_does_and_gives_all_back() {
    let (broker, queue) = opened(&ministack::queue("look").await).await;
    let many: Vec<_> = (0..25).map(|n| outgoing(n.to_string())).collect();
    send(&broker, &queue, &many).await;
    let seen = broker.browse(&queue, 23).await.unwrap();
    assert_eq!(seen.len(), 23);
    assert_eq!(receive(&broker, &queue, 25, SOON, LONG).await.len(), 25);
}
