//! The broker on Amazon SQS.
//!
//! # Promises beyond the trait's, and limits
//!
//! - **Requests.** Ten messages travel in one request wherever SQS allows it, receives wait for
//!   messages instead of polling, and no permission is asked for that is not needed:
//!   `sqs:GetQueueUrl`, `sqs:ReceiveMessage`, `sqs:ChangeMessageVisibility`, `sqs:DeleteMessage` on
//!   the queues worked on, `sqs:SendMessage` on those sent to. `sqs:GetQueueAttributes` helps, and
//!   `sqs:SendMessage` on the own queue is needed for long or free waits ([`settle`](Broker::settle)).
//! - **Text.** Bodies are UTF-8 in the characters that [`sqs_charset`](lovage_core::sqs_charset) tells. Others are refused, with
//!   the place; [`escape_json`](lovage_core::sqs_charset::escape_json) makes any JSON acceptable.
//! - **Attempts.** SQS counts receives. A delivery that spends no attempt is therefore given back
//!   as a copy, where it can be: the head of `settle.rs` tells when. One that is given back at once,
//!   this process remembers, and takes it off the count of the next one.
//! - **Waits.** SQS knows delays of 15 minutes and visibility timeouts of 12 hours. A message with
//!   a longer wait carries its time with it ([`Message::not_before`]), and whoever receives it
//!   before that gives it back for the rest. Each such hop is a copy, so neither the wait nor
//!   SQS's retention period ends the other. On FIFO queues, which take no delay per message, every
//!   wait is carried so, and holds back its group meanwhile.
//! - **Groups.** On a standard queue [`Outgoing::group`] is the tenant of SQS's fair queues, on a
//!   FIFO queue the ordering key. A group that SQS does not take (over 128 characters, or other
//!   than letters, digits and punctuation) goes as its SHA-256. FIFO messages without a group are
//!   one group; without a deduplication id each is given a new one, whatever the queue's
//!   content-based deduplication says: two jobs with equal bodies are two jobs.
//! - **Types.** What an attribute's type was is kept for a copy or a move: `TYPES`.
//! - **Results.** None are kept by the broker: [`Broker::result`] is [`Fault::Unsupported`], and
//!   [`Disposal::Finish`]'s `result` is ignored. Results go to queues.

#![forbid(unsafe_code)]

mod address;
pub mod attributes;
mod batch;
mod batch_entry;
mod change;
mod connect;
mod fault;
pub mod message;
mod queues;
mod receive;
mod refusal;
mod request_context;
mod send;
mod settle;
mod unspent;

use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_sqs::Client;
use bytes::Bytes;

pub use queues::WantedQueue;
pub use settle::Left;

/// The size in bytes of a message that SQS should take, else why it should not. For
/// fuzzing.
#[doc(hidden)]
pub fn check(message: &Outgoing, fifo: bool) -> Result<usize, String> {
    batch_entry::BatchEntry::pack(message, fifo, jiff::Timestamp::UNIX_EPOCH)
        .map(|batch_entry| batch_entry.bytes)
        .map_err(|refusal| refusal.reason)
}

use self::{
    batch::{MAX_BYTES, MAX_ENTRIES},
    batch_entry::whole_seconds,
    change::Change,
    request_context::{Action, Endpoint, RequestContext},
};
#[cfg(doc)]
use lovage_core::broker::Disposal;
use lovage_core::broker::{
    Broker, BrokerError, Depth, Fault, Limits, Message, Outgoing, Queue, Receipt, Settlement, Turn,
    Unsettled,
};

/// "The maximum is 12 hours from the time that Amazon SQS receives the `ReceiveMessage` request"
/// (SQS developer guide, visibility timeout).
const MAX_VISIBILITY: Duration = Duration::from_hours(12);

/// How many settlement calls may be under way at once. Enough to keep the SDK's connections busy;
/// SQS itself sets no limit.
const SETTLE_CONCURRENCY: usize = 16;

/// The broker on Amazon SQS. Cheap to clone; clones share their connections.
#[derive(Debug, Clone)]
pub struct SqsBroker {
    client: Client,
    endpoint: Endpoint,
    unspent: unspent::Unspent,
}

impl SqsBroker {
    /// Takes the deliveries that this process put back unrun off the count of a message that came in
    /// an event. Messages that are received here have that done already.
    pub fn correct_attempt(&self, message: &mut Message) {
        self.unspent.correct(message);
    }

    fn request_context(&self, action: Action, queue: &str) -> RequestContext {
        RequestContext::new(action, queue, &self.endpoint)
    }
}

/// Each request is billed and costs CPU time; waiting this long fills many of them with ten.
const SETTLE_LINGER: Duration = Duration::from_millis(4);

#[async_trait]
impl Broker for SqsBroker {
    fn kind(&self) -> &'static str {
        "sqs"
    }

    fn limits(&self) -> Limits {
        Limits {
            receive_batch: MAX_ENTRIES,
            settle_batch: MAX_ENTRIES,
            settle_concurrency: SETTLE_CONCURRENCY,
            message_bytes: MAX_BYTES,
            settle_linger: SETTLE_LINGER,
            keeps_results: false,
            counts_waits: true,
            takes_turns: false,
            max_lease: MAX_VISIBILITY,
        }
    }

    /// Takes a name in the client's account and region, a URL, or an ARN in the client's region.
    async fn open(&self, name: &str) -> Result<Queue, BrokerError> {
        self.open_queue(name).await
    }

    /// Waits 20 seconds at most, whatever `wait` says, and for whole seconds, rounded up. Whose turn
    /// it is, SQS decides: fair queues, by group.
    async fn receive(
        &self,
        queue: &Queue,
        max: usize,
        wait: Duration,
        visibility: Duration,
        _turn: &Turn,
    ) -> Result<Vec<Message>, BrokerError> {
        self.receive_once(queue, max, wait, visibility).await
    }

    /// [`Fault::Invalid`] where the lease would pass twelve hours since the message was received.
    async fn extend(
        &self,
        queue: &Queue,
        receipts: &[Receipt],
        visibility: Duration,
    ) -> Vec<Result<(), BrokerError>> {
        let seconds = whole_seconds(visibility.min(MAX_VISIBILITY));
        let deliveries: Vec<_> = receipts.iter().map(|receipt| (receipt, seconds)).collect();
        self.change(&queue.address, Change::Hide, &deliveries).await
    }

    /// On a standard queue SQS takes the delete of a lost lease without a word where it still
    /// knows the receipt, so [`Fault::Stale`] is not certain there.
    async fn settle(
        &self,
        queue: &Queue,
        settlements: &[Settlement],
    ) -> Vec<Result<(), Unsettled>> {
        let answers = self.carry_out(queue, settlements, true).await;
        answers.into_iter().map(|answer| answer.map(|_| ())).collect()
    }

    async fn send(&self, queue: &Queue, messages: &[Outgoing]) -> Vec<Result<String, BrokerError>> {
        let messages: Vec<&Outgoing> = messages.iter().collect();
        self.send_to(&queue.address, &messages).await
    }

    async fn depth(&self, queue: &Queue) -> Result<Depth, BrokerError> {
        self.count(queue).await
    }

    async fn browse(&self, queue: &Queue, max: usize) -> Result<Vec<Message>, BrokerError> {
        self.look(queue, max).await
    }

    async fn result(
        &self,
        _job: lovage_core::job::JobKey<'_>,
        _wait: Duration,
    ) -> Result<Option<Bytes>, BrokerError> {
        Err(BrokerError::new(
            Fault::Unsupported,
            "SQS keeps no results; send the job with a reply queue, or read the results' queue",
        ))
    }
}
