//! A broker under test, and short ways to say what a test does with it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use lovage::broker::{
    Attributes, Broker, BrokerError, Disposal, Message, Outgoing, Queue, Settlement, Turn,
};

/// Brings up a broker for one test. Dropping it takes away what it made.
pub trait Fixture {
    /// The broker.
    fn broker(&self) -> Arc<dyn Broker>;

    /// Makes a queue that no other test knows of, and opens it.
    async fn queue(&self, spec: Spec) -> Queue;

    /// A name that no queue has, of a form that the broker takes.
    fn missing_name(&self) -> String {
        "no-such-queue".to_owned()
    }

    /// The shortest lease and delay that the broker can tell from none, with room for a slow
    /// machine. Tests count their times in it: whole seconds on SQS.
    fn tick(&self) -> Duration;

    /// What this broker can do that not every broker can.
    fn features(&self) -> Features;
}

/// What sort of queue a test needs.
#[derive(Debug, Clone, Default)]
pub struct Spec {
    /// Whether it keeps order.
    pub fifo: bool,
    /// Its own visibility timeout; 30 s where absent.
    pub visibility: Option<Duration>,
    /// Where the broker itself is to move messages, and after how many receives.
    pub redrive: Option<(Queue, u32)>,
}

impl Spec {
    /// A standard queue.
    pub fn standard() -> Self {
        Self::default()
    }

    /// A FIFO queue.
    pub fn fifo() -> Self {
        Self { fifo: true, ..Self::default() }
    }
}

/// What brokers differ in. A promise that a broker cannot make is passed over in its suite.
#[derive(Debug, Clone, Copy)]
#[allow(clippy::struct_excessive_bools, reason = "a list of features, no state")]
pub struct Features {
    /// `result` gives what `Finish` was told to keep; else it must answer `Unsupported`.
    pub keeps_results: bool,
    /// A body that is no text comes back as it was sent.
    pub binary_bodies: bool,
    /// `depth` counts exactly and at once.
    pub exact_depth: bool,
    /// `browse` leaves receive counts and visibility as they are.
    pub browse_is_invisible: bool,
    /// Receipts of settled and taken-over deliveries are told from good ones.
    pub refuses_stale_receipts: bool,
    /// A delivery given back without a wait need not count as an attempt.
    pub free_release_at_once: bool,
    /// The broker moves exhausted messages by itself ([`Spec::redrive`]).
    pub redrives: bool,
}

/// A message with a body and nothing else.
pub fn outgoing(body: impl Into<bytes::Bytes>) -> Outgoing {
    Outgoing { body: body.into(), ..Outgoing::default() }
}

/// A message of a group.
pub fn grouped(group: &str, body: &str) -> Outgoing {
    Outgoing { group: Some(group.to_owned()), ..outgoing(body.to_owned()) }
}

/// One attribute.
pub fn attributes(pairs: &[(&str, &str)]) -> Attributes {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    pairs.iter().map(owned).collect()
}

/// The end of a message that leads to nothing.
pub fn finish(message: &Message) -> Settlement {
    Settlement {
        message: Arc::new(message.clone()),
        disposal: Disposal::Finish { result: None, sends: Vec::new() },
    }
}

/// A message put back.
pub fn release(message: &Message, after: Duration, spent: bool) -> Settlement {
    Settlement { message: Arc::new(message.clone()), disposal: Disposal::Release { after, spent } }
}

/// The text of a message.
pub fn text(message: &Message) -> &str {
    std::str::from_utf8(&message.body).expect("a body that the test sent as text")
}

/// Sends messages that must all be taken; their ids.
pub async fn send(broker: &dyn Broker, queue: &Queue, messages: &[Outgoing]) -> Vec<String> {
    let answers = broker.send(queue, messages).await;
    assert_eq!(answers.len(), messages.len(), "one answer a message");
    answers.into_iter().map(|answer| answer.expect("a message that is taken")).collect()
}

/// Settles what must settle.
pub async fn settle(broker: &dyn Broker, queue: &Queue, settlements: &[Settlement]) {
    for answer in settle_each(broker, queue, settlements).await {
        answer.expect("a settlement that is carried out");
    }
}

/// Settles; one answer each is checked for.
pub async fn settle_each(
    broker: &dyn Broker,
    queue: &Queue,
    settlements: &[Settlement],
) -> Vec<Result<(), BrokerError>> {
    let answers = broker.settle(queue, settlements).await;
    assert_eq!(answers.len(), settlements.len(), "one answer a settlement");
    answers.into_iter().map(|answer| answer.map_err(|it| it.error)).collect()
}

/// Receives until `count` messages are there, however many come at a time; fails after `within`.
pub async fn receive(
    broker: &dyn Broker,
    queue: &Queue,
    count: usize,
    within: Duration,
    lease: Duration,
) -> Vec<Message> {
    let end = Instant::now() + within;
    let mut messages = Vec::new();
    while messages.len() < count {
        let left = end.saturating_duration_since(Instant::now());
        assert!(
            !left.is_zero(),
            "{} of {count} messages came within {within:?}: {messages:?}",
            messages.len()
        );
        let max = count - messages.len();
        let more = broker
            .receive(queue, max, left, lease, &Turn::default())
            .await
            .expect("a receive that works");
        assert!(more.len() <= max, "asked for {max}, got {}", more.len());
        messages.extend(more);
    }
    messages
}

/// Receives the one message that there must be.
pub async fn receive_one(
    broker: &dyn Broker,
    queue: &Queue,
    within: Duration,
    lease: Duration,
) -> Message {
    let mut messages = receive(broker, queue, 1, within, lease).await;
    messages.remove(0)
}

/// Fails if a message comes within `wait`.
pub async fn nothing_comes(broker: &dyn Broker, queue: &Queue, wait: Duration) {
    let messages = broker
        .receive(queue, 10, wait, Duration::from_secs(30), &Turn::default())
        .await
        .expect("a receive that works");
    assert!(messages.is_empty(), "nothing was to come: {messages:?}");
}
