//! A batch of messages from an SQS event source mapping.
//!
//! The mapping owns leases and deletes, so the answer names the messages that are to stay
//! (`batchItemFailures`; the mapping must have `ReportBatchItemFailures` set). A standard queue's
//! batch runs at once, as far as `worker.concurrency` allows. A FIFO queue's runs in order and
//! stops at its first failure: that message and all behind it stay. A message that there is no
//! time for stays, too.
//!
//! Quotas and rates of tenants do not hold here: how many messages come at once is the mapping's
//! affair, and what stays would count as received once more, for nothing. Whom the queue believes,
//! and what a tenant may run and use, holds as in a worker.
//! <https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html>

use std::{
    collections::{BTreeMap, BTreeSet},
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use lambda_runtime::Diagnostic;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::{sync::OwnedSemaphorePermit, task::JoinSet};
use tracing::{Instrument, Span};

use super::{Deadlines, Function, diagnostic, queue_error};
use crate::{
    broker::{
        Broker, BrokerError, Disposal, Fault, Message, Settlement, Unsettled,
        sqs::{
            Left,
            attributes::TypedAttribute,
            message::{Parts, from_parts},
        },
    },
    events::{HostPanicked, JobReleased, MessagesReceived, SettleFailed},
    pipeline::End,
    routes::Source,
};

/// What becomes of a message that was not begun.
const GIVE_BACK: Disposal = Disposal::Release { after: Duration::ZERO, spent: false };

/// Why it was not.
const NO_TIME: (&str, &str) =
    ("no_time", "the function's deadline came before there was room to run it");

/// An event of an SQS event source mapping.
#[derive(Debug, Deserialize)]
pub struct Event {
    #[serde(rename = "Records")]
    records: Vec<Record>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    message_id: String,
    receipt_handle: String,
    #[serde(default)]
    body: String,
    #[serde(default)]
    attributes: BTreeMap<String, String>,
    #[serde(default)]
    message_attributes: BTreeMap<String, Attribute>,
    #[serde(rename = "eventSourceARN")]
    arn: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Attribute {
    string_value: Option<String>,
    binary_value: Option<String>,
    data_type: String,
}

/// What tells an event of a mapping from a job: nothing else of an event is looked at.
#[derive(Deserialize)]
struct Shape {
    #[serde(rename = "Records")]
    records: Vec<RecordShape>,
}

#[derive(Deserialize)]
struct RecordShape {
    #[serde(rename = "eventSource")]
    source: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    batch_item_failures: Vec<ItemFailure>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ItemFailure {
    item_identifier: String,
}

impl Event {
    /// Reads an event, if it is one of an SQS mapping; an error if it says that it is and is not.
    pub fn parse(payload: &str) -> Option<Result<Self, Diagnostic>> {
        let shape: Shape = serde_json::from_str(payload).ok()?;
        if !shape.records.iter().all(|record| record.source == "aws:sqs") {
            return None;
        }
        Some(serde_json::from_str(payload).map_err(|error| {
            diagnostic("InvalidEvent", format!("the event is no batch of SQS messages: {error}"))
        }))
    }
}

#[cfg(any(test, fuzzing))]
impl Event {
    /// Its messages, for fuzzing.
    pub(crate) fn messages(self) -> impl Iterator<Item = Arc<Message>> {
        self.records.into_iter().map(|record| record.into_message().1)
    }
}

impl Record {
    /// The message, under the id by which the mapping knows it.
    fn into_message(self) -> (String, Arc<Message>) {
        let attributes = self.message_attributes.into_iter().map(|(name, attribute)| {
            let typed = TypedAttribute {
                data_type: attribute.data_type,
                value: attribute.string_value.or(attribute.binary_value).unwrap_or_default(),
            };
            (name, typed)
        });
        let message = from_parts(Parts {
            message_id: self.message_id.clone(),
            receipt_handle: self.receipt_handle,
            body: self.body,
            attributes: attributes.collect(),
            system: self.attributes,
        });
        (self.message_id, Arc::new(message))
    }
}

/// A job that began so soon after its event began in time.
const PROMPT: Duration = Duration::from_millis(100);

/// Jobs that ended within so short a time are settled in one request.
const LINGER: Duration = Duration::from_millis(4);

/// One message of a batch.
#[derive(Debug, Clone)]
struct Item {
    /// Its place in the event.
    index: usize,
    /// The id by which the mapping knows it.
    id: String,
    message: Arc<Message>,
}

impl Function {
    /// Runs a batch; the answer names the messages that are to stay.
    pub(super) async fn batch(
        self: Arc<Self>,
        event: Event,
        Deadlines { soft: deadline, hard }: Deadlines,
    ) -> Result<Box<RawValue>, Diagnostic> {
        let Some(arn) = event.records.first().map(|record| record.arn.clone()) else {
            return answer(Vec::new());
        };
        // A mapping has one queue. Should that ever change, nothing may be done to the wrong one.
        if event.records.iter().any(|record| record.arn != arn) {
            return Err(diagnostic("InvalidEvent", "the batch has messages of several queues"));
        }
        let source = self.source_of_arn(&arn).await.map_err(|error| queue_error(&error))?;
        MessagesReceived { queue: &source.name, count: event.records.len() }.emit();
        let items = event.records.into_iter().enumerate().map(|(index, record)| {
            let (id, message) = record.into_message();
            Item { index, id, message }
        });
        let items: Vec<Item> = items.collect();
        let done = if source.queue.fifo {
            self.in_order(&source, &items, deadline, hard).await
        } else {
            self.at_once(&source, &items, deadline, hard).await
        };
        // Whatever is not known to be done stays. An empty identifier would make the mapping take
        // the whole batch for failed.
        let stays = |item: &Item| !done.contains(&item.index) && !item.id.is_empty();
        answer(items.into_iter().filter(stays).map(|item| item.id).collect())
    }

    /// All at once, as far as there are slots; in the order of the event where they wait for one.
    /// Which are done.
    async fn at_once(
        self: &Arc<Self>,
        source: &Arc<Source>,
        items: &[Item],
        deadline: Instant,
        hard: Instant,
    ) -> BTreeSet<usize> {
        let span = Span::current();
        let most = self.broker.limits().settle_batch;
        let mut waiting = items.iter().cloned().peekable();
        let (mut running, mut settling) = (JoinSet::new(), JoinSet::new());
        let mut ended = Vec::new();
        let mut until = Instant::now();
        let begun = Instant::now();
        while waiting.peek().is_some() || !running.is_empty() {
            tokio::select! {
                biased;
                slot = self.slot(deadline), if waiting.peek().is_some() => {
                    let Some(item) = waiting.next() else { continue };
                    let (function, source) = (Arc::clone(self), Arc::clone(source));
                    // What had to wait for the ones before it may not have its whole time.
                    let end = End { at: deadline, late: begun.elapsed() > PROMPT };
                    // A task of its own, so that guests that compute use all processors there are.
                    let run = async move {
                        let disposal = function.run(&source, &item.message, end, slot).await;
                        (item, disposal)
                    };
                    running.spawn(run.instrument(span.clone()));
                }
                Some(Ok(one)) = running.join_next() => {
                    if ended.is_empty() {
                        until = Instant::now() + LINGER;
                    }
                    ended.push(one);
                }
                () = tokio::time::sleep_until(until.into()), if !ended.is_empty() => {}
                else => {}
            }
            // What has ended is published while others still run: they may take until the deadline.
            let all = running.is_empty() && waiting.peek().is_none();
            if all || ended.len() >= most || (!ended.is_empty() && until <= Instant::now()) {
                let settle =
                    Arc::clone(self).settle(Arc::clone(source), std::mem::take(&mut ended), hard);
                settling.spawn(settle.instrument(span.clone()));
            }
        }
        settling.join_all().await.into_iter().flatten().collect()
    }

    /// One after the other, up to the first that is to stay. Which are done.
    async fn in_order(
        self: &Arc<Self>,
        source: &Arc<Source>,
        items: &[Item],
        deadline: Instant,
        hard: Instant,
    ) -> BTreeSet<usize> {
        let mut done = BTreeSet::new();
        let begun = Instant::now();
        let mut items = items.iter().cloned();
        let settle = |ended| Arc::clone(self).settle(Arc::clone(source), ended, hard);
        for item in items.by_ref() {
            let slot = self.slot(deadline).await;
            let end = End { at: deadline, late: begun.elapsed() > PROMPT };
            let disposal = self.run(source, &item.message, end, slot).await;
            let settled = settle(vec![(item, disposal)]).await;
            if settled.is_empty() {
                break;
            }
            done.extend(settled);
        }
        // The rest would hold up its groups until the visibility timeout ends, since nothing of a
        // group is delivered while one of its messages is hidden. Shown again now, it comes as
        // soon as the message that stopped it does.
        let rest: Vec<_> = items.map(|item| (item, GIVE_BACK)).collect();
        if !rest.is_empty() {
            settle(rest).await;
        }
        done
    }

    /// A place to run one job; none when there was none in time.
    async fn slot(&self, deadline: Instant) -> Option<OwnedSemaphorePermit> {
        let slot = Arc::clone(&self.slots).acquire_owned();
        let slot = tokio::time::timeout_at(deadline.into(), slot).await.ok()?.ok()?;
        (Instant::now() < deadline).then_some(slot)
    }

    /// Runs one message, if there is a slot for it.
    async fn run(
        &self,
        source: &Source,
        message: &Message,
        end: End,
        slot: Option<OwnedSemaphorePermit>,
    ) -> Disposal {
        let Some(_slot) = slot else {
            let (after, spent, failure) = (Duration::ZERO, false, Some(NO_TIME));
            JobReleased { queue: &source.name, after, spent, failure }.emit();
            return GIVE_BACK;
        };
        let process = AssertUnwindSafe(self.pipeline.process(source, message, Some(end)));
        process.catch_unwind().await.unwrap_or_else(|_| {
            HostPanicked { queue: &source.name }.emit();
            let after = Duration::from_millis(self.config.worker.error_backoff_cap_ms.get());
            Disposal::Release { after, spent: true }
        })
    }

    /// Publishes, and hides what comes again. Which are done.
    async fn settle(
        self: Arc<Self>,
        source: Arc<Source>,
        ended: Vec<(Item, Disposal)>,
        hard: Instant,
    ) -> Vec<usize> {
        let (items, disposals): (Vec<Item>, Vec<Disposal>) = ended.into_iter().unzip();
        let settlements: Vec<_> = items
            .iter()
            .zip(disposals)
            .map(|(item, disposal)| Settlement { message: Arc::clone(&item.message), disposal })
            .collect();
        let answers = self.settle_by(&source, settlements, hard).await;
        let gone = |answer: &Result<Left, BrokerError>| matches!(answer, Ok(Left::Done));
        let done = items.into_iter().zip(answers).filter(|(_, answer)| gone(answer));
        done.map(|(item, _)| item.index).collect()
    }

    /// Settles messages of an event, and once more in another way what is refused for good; ends
    /// before Lambda ends the function, whose answer would be lost otherwise.
    pub(super) async fn settle_by(
        &self,
        source: &Source,
        settlements: Vec<Settlement>,
        hard: Instant,
    ) -> Vec<Result<Left, BrokerError>> {
        let settle = |settlements: Vec<Settlement>| async move {
            let settled = self.broker.settle_event(&source.queue, &settlements);
            match tokio::time::timeout_at(hard.into(), settled).await {
                Ok(answers) => answers,
                Err(_elapsed) => settlements.into_iter().map(out_of_time).collect(),
            }
        };
        let messages: Vec<_> = settlements.iter().map(|it| Arc::clone(&it.message)).collect();
        let mut answers = settle(settlements).await;
        let (mut places, mut others) = (Vec::new(), Vec::new());
        for (place, (answer, message)) in answers.iter().zip(messages).enumerate() {
            let Err(Unsettled { error, left, .. }) = answer else { continue };
            let retry_in = None;
            SettleFailed { queue: &source.name, error, tries: 1, retry_in }.emit();
            if error.fault == Fault::Unavailable {
                continue;
            }
            let instead = self.pipeline.instead(source, &message, left);
            if let Ok(Some(disposal)) = tokio::time::timeout_at(hard.into(), instead).await {
                places.push(place);
                others.push(Settlement { message, disposal });
            }
        }
        if !others.is_empty() {
            for (place, answer) in places.into_iter().zip(settle(others).await) {
                if let Some(before) = answers.get_mut(place) {
                    *before = answer;
                }
            }
        }
        answers.into_iter().map(|answer| answer.map_err(|it| it.error)).collect()
    }
}

/// What is said of a settlement that did not end in time.
fn out_of_time(settlement: Settlement) -> Result<Left, Unsettled> {
    let why = "SQS did not answer before the function's deadline";
    let error = BrokerError::new(Fault::Unavailable, why);
    Err(Unsettled { error, at: None, left: Box::new(settlement.disposal) })
}

fn answer(failures: Vec<String>) -> Result<Box<RawValue>, Diagnostic> {
    let batch_item_failures =
        failures.into_iter().map(|item_identifier| ItemFailure { item_identifier }).collect();
    serde_json::value::to_raw_value(&Answer { batch_item_failures })
        .map_err(|error| diagnostic("InternalError", error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_records_of_sqs_make_a_batch() {
        assert!(Event::parse(r#"{"data": 21}"#).is_none());
        assert!(Event::parse(r#"{"Records": [{"eventSource": "aws:s3"}]}"#).is_none());
        assert!(Event::parse("[1]").is_none());
        let torn = Event::parse(r#"{"Records": [{"eventSource": "aws:sqs"}]}"#).unwrap();
        assert_eq!(torn.unwrap_err().error_type, "InvalidEvent");
    }

    #[test]
    fn a_record_becomes_the_message_that_a_worker_would_have_received() {
        let event = r#"{"Records": [{"messageId": "m", "receiptHandle": "r", "body": "{}",
            "attributes": {"ApproximateReceiveCount": "3", "SentTimestamp": "1000",
                "MessageGroupId": "g", "AWSTraceHeader": "Root=1"},
            "messageAttributes": {"a": {"stringValue": "1", "stringListValues": [],
                "binaryListValues": [], "dataType": "String"}},
            "eventSource": "aws:sqs", "eventSourceARN": "arn:aws:sqs:r:1:q", "awsRegion": "r"}]}"#;
        let event = Event::parse(event).unwrap().unwrap();
        let (id, message) = event.records.into_iter().next().unwrap().into_message();
        assert_eq!((id.as_str(), message.id.as_str(), message.attempt), ("m", "m", 3));
        assert_eq!(message.group.as_deref(), Some("g"));
        assert_eq!(message.trace_header.as_deref(), Some("Root=1"));
        assert_eq!(message.attributes["a"], "1");
        assert_eq!(message.sent_at.unwrap().as_millisecond(), 1000);
    }

    #[test]
    fn an_answer_names_what_stays() {
        let text = answer(vec!["m".into()]).unwrap();
        assert_eq!(text.get(), r#"{"batchItemFailures":[{"itemIdentifier":"m"}]}"#);
        assert_eq!(answer(Vec::new()).unwrap().get(), r#"{"batchItemFailures":[]}"#);
    }
}
