//! Receiving, for work and for a look.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use aws_sdk_sqs::types::MessageSystemAttributeName;

use super::{
    MAX_VISIBILITY, SqsBroker,
    batch::MAX_ENTRIES,
    batch_entry::whole_seconds,
    change::Change,
    connect,
    message::{Parts, from_parts},
    request_context::Action,
};
use lovage_core::broker::{BrokerError, Message, Queue};

/// The longest wait that SQS takes: "maximum: 20 seconds" (SQS API reference, `ReceiveMessage`,
/// `WaitTimeSeconds`).
const MAX_WAIT: Duration = Duration::from_secs(20);

/// How long a message is hidden that somebody looks at, should the look not end in order.
const LOOK: Duration = Duration::from_secs(10);
/// How long to go on looking.
const LOOKING: Duration = Duration::from_secs(8);

impl SqsBroker {
    /// One `ReceiveMessage`.
    ///
    /// The request carries no `ReceiveRequestAttemptId`: it would let a retried request of a FIFO
    /// queue have the lost answer's messages, and the SDK, which is the one that retries, sends
    /// the same request again with none. A lost answer costs one visibility timeout.
    pub(super) async fn receive_once(
        &self,
        queue: &Queue,
        max: usize,
        wait: Duration,
        visibility: Duration,
    ) -> Result<Vec<Message>, BrokerError> {
        let max = max.min(MAX_ENTRIES);
        if max == 0 {
            return Ok(Vec::new());
        }
        // Rounded up, so that a wait of less than a second is no busy poll.
        let wait = Duration::from_secs(whole_seconds(wait.min(MAX_WAIT)));
        let visibility = whole_seconds(visibility.min(MAX_VISIBILITY));
        let request_context = self.request_context(Action::Receive, &queue.address);
        let output = self
            .client
            .receive_message()
            .queue_url(&*queue.address)
            .max_number_of_messages(i32::try_from(max).unwrap_or(1))
            .wait_time_seconds(i32::try_from(wait.as_secs()).unwrap_or(0))
            .visibility_timeout(i32::try_from(visibility).unwrap_or(i32::MAX))
            .message_system_attribute_names(MessageSystemAttributeName::ApproximateReceiveCount)
            .message_system_attribute_names(MessageSystemAttributeName::SentTimestamp)
            .message_system_attribute_names(MessageSystemAttributeName::MessageGroupId)
            .message_system_attribute_names(MessageSystemAttributeName::AwsTraceHeader)
            .message_system_attribute_names(MessageSystemAttributeName::DeadLetterQueueSourceArn)
            .message_attribute_names("All")
            .customize()
            .config_override(connect::waiting(wait))
            .send()
            .await
            .map_err(|error| request_context.sdk_error(&error))?;
        Ok(output
            .messages
            .unwrap_or_default()
            .into_iter()
            .map(|message| {
                let mut message = from_parts(Parts::from(message));
                self.unspent.correct(&mut message);
                message
            })
            .collect())
    }

    /// Looks at messages and puts them back.
    ///
    /// SQS has no look that leaves no trace: each message is hidden for a moment, and counted as
    /// received once more, which the queue's redrive policy sees, too. On a FIFO queue no more
    /// than the first few messages of each group show.
    pub(super) async fn look(
        &self,
        queue: &Queue,
        max: usize,
    ) -> Result<Vec<Message>, BrokerError> {
        // By id, since a look that takes long can see a message again.
        let mut seen = BTreeMap::new();
        let mut order = Vec::new();
        let mut outcome = Ok(());
        let (begin, mut fruitless) = (Instant::now(), 0);
        while order.len() < max && fruitless < 2 && begin.elapsed() < LOOKING {
            // A short poll asks only some of SQS's servers; a long one asks all of them, and
            // answers at once when there is anything.
            let wait = Duration::from_secs(1);
            let batch = match self.receive_once(queue, max - order.len(), wait, LOOK).await {
                Ok(batch) => batch,
                Err(error) => {
                    outcome = Err(error);
                    break;
                }
            };
            let before = order.len();
            let empty = batch.is_empty();
            for message in batch {
                if !seen.contains_key(&message.id) {
                    order.push(message.id.clone());
                }
                seen.insert(message.id.clone(), message);
            }
            fruitless = if order.len() > before { 0 } else { fruitless + 1 };
            if empty {
                break;
            }
        }
        let receipts: Vec<_> = seen.values().map(|message| (&message.receipt, 0)).collect();
        for answer in self.change(&queue.address, Change::Hide, &receipts).await {
            if let Err(error) = answer {
                tracing::debug!(queue = %queue.name, %error, "a message looked at stays hidden for a moment");
            }
        }
        let messages: Vec<_> = order.iter().filter_map(|id| seen.remove(id)).collect();
        match outcome {
            Err(error) if messages.is_empty() => Err(error),
            _ => Ok(messages),
        }
    }
}
