//! A batch of messages from an SQS event source mapping.
//!
//! The mapping owns leases and deletes, so the answer names the messages that are to stay
//! (`batchItemFailures`; the mapping must have `ReportBatchItemFailures` set). A standard queue's
//! batch runs at once. A FIFO queue's runs in order and stops at its first failure: that message
//! and all behind it stay.
//! <https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html>

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::future::join_all;
use lambda_runtime::Diagnostic;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::{Function, diagnostic};
use crate::{
    broker::{
        BrokerError, Disposal, Message, Settlement,
        sqs::{
            Left,
            attributes::TypedAttribute,
            message::{Parts, from_parts},
        },
    },
    config::QueueConfig,
    events::SettleFailed,
    routes::Source,
};

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

impl Function {
    /// Runs a batch; the answer names the messages that are to stay.
    pub(super) async fn batch(
        &self,
        event: Event,
        budget: Duration,
    ) -> Result<Box<RawValue>, Diagnostic> {
        let until = Instant::now() + budget;
        let Some(arn) = event.records.first().map(|record| record.arn.clone()) else {
            return answer(Vec::new());
        };
        // A mapping has one queue. Should that ever change, nothing may be done to the wrong one.
        if event.records.iter().any(|record| record.arn != arn) {
            return Err(diagnostic("InvalidEvent", "the batch has messages of several queues"));
        }
        let source = self
            .source_of_arn(&arn)
            .await
            .map_err(|error| diagnostic("QueueError", error.to_string()))?;
        let messages = event.records.into_iter().map(Record::into_message);
        let failures = if source.queue.fifo {
            self.in_order(&source, messages.collect(), until).await
        } else {
            let runs = messages.map(|(id, message)| async {
                let disposal = self.run(&source, &message, until).await;
                (id, Settlement { message, disposal })
            });
            let (ids, settlements): (Vec<_>, Vec<_>) = join_all(runs).await.into_iter().unzip();
            self.settle(&source, ids, &settlements).await
        };
        answer(failures)
    }

    /// One after the other, up to the first that is to stay.
    async fn in_order(
        &self,
        source: &Source,
        messages: Vec<(String, Arc<Message>)>,
        until: Instant,
    ) -> Vec<String> {
        let mut messages = messages.into_iter();
        let mut failures = Vec::new();
        for (id, message) in messages.by_ref() {
            let disposal = self.run(source, &message, until).await;
            let settlement = Settlement { message, disposal };
            failures = self.settle(source, vec![id], &[settlement]).await;
            if !failures.is_empty() {
                break;
            }
        }
        failures.extend(messages.map(|(id, _)| id));
        failures
    }

    async fn run(&self, source: &Source, message: &Message, until: Instant) -> Disposal {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Disposal::Release { after: Duration::ZERO, spent: false };
        }
        self.pipeline.process(source, message, Some(left)).await
    }

    /// Publishes, and hides what comes again. The ids of those that are to stay.
    async fn settle(
        &self,
        source: &Source,
        ids: Vec<String>,
        settlements: &[Settlement],
    ) -> Vec<String> {
        let answers = self.broker.settle_event(&source.queue, settlements).await;
        let stays = |(id, answer): (String, Result<Left, BrokerError>)| match answer {
            Ok(Left::Done) => None,
            Ok(Left::Again) => Some(id),
            Err(error) => {
                let queue = &source.name;
                SettleFailed { queue, error: &error, tries: 1, retry_in: None }.emit();
                Some(id)
            }
        };
        // An empty identifier would make the mapping take the whole batch for failed.
        ids.into_iter().zip(answers).filter_map(stays).filter(|id| !id.is_empty()).collect()
    }

    /// The queue that an event came from, with its settings: those of the queue in the
    /// configuration that has the same name, else those of `lambda.queue`.
    async fn source_of_arn(&self, arn: &str) -> Result<Source, BrokerError> {
        let queue = self.routes.queue(arn).await?;
        let same = |(name, settings): &(&String, &QueueConfig)| {
            let address = settings.address.as_deref().unwrap_or(name);
            address == arn || address.rsplit(['/', ':']).next() == Some(&*queue.name)
        };
        let (name, settings) = match self.config.queues.iter().find(same) {
            Some((name, settings)) => (name.clone(), settings.clone()),
            None => (queue.name.to_string(), self.direct_settings()),
        };
        self.routes.source_of(&name, queue, &settings).await
    }
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
