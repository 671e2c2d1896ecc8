//! From a message as SQS has it to a [`Message`]: one mapping for those that the worker receives
//! and for those that an event source mapping hands to a Lambda function.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use jiff::Timestamp;

use super::attributes::{TypedAttribute, to_text};
use lovage_core::{
    broker::{Deferral, Message, Receipt, attribute},
    job::MAX_NAME_BYTES,
};

/// A message in plain parts, named as both the API and the Lambda event name them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parts {
    /// `MessageId`, `messageId`.
    pub message_id: String,
    /// `ReceiptHandle`, `receiptHandle`.
    pub receipt_handle: String,
    /// `Body`, `body`.
    pub body: String,
    /// `MessageAttributes`, `messageAttributes`.
    pub attributes: BTreeMap<String, TypedAttribute>,
    /// `Attributes`, `attributes`: what SQS itself says of the message. Read are
    /// `ApproximateReceiveCount`, `SentTimestamp`, `MessageGroupId`, `AWSTraceHeader` and
    /// `DeadLetterQueueSourceArn`.
    pub system: BTreeMap<String, String>,
}

/// The message that these parts make.
///
/// - `attempt` is `ApproximateReceiveCount` (1 where it is absent or no number) and the attempts
///   that its [`Deferral`] says were spent before this copy.
/// - `id` is the deferral's where there is one, so that a copy keeps the id of its original.
/// - The deferral is taken out of the attributes: all that it says is in the fields. One that
///   cannot be read is ignored, since anybody who may send can write one.
pub fn from_parts(parts: Parts) -> Message {
    let Parts { message_id, receipt_handle, body, attributes, mut system } = parts;
    let (mut attributes, raw) = to_text(attributes);
    attributes.remove(attribute::MOVED_FROM);
    if let Some(arn) = system.remove("DeadLetterQueueSourceArn") {
        // SQS moved it, so what it says of being a dead letter is its sender's word.
        attributes.remove(attribute::DEAD_LETTER);
        let name = arn.rsplit(':').next().unwrap_or_default().to_owned();
        attributes.insert(attribute::MOVED_FROM.to_owned(), name);
    }
    let deferral = raw.and_then(|raw| {
        let deferral = parse_deferral(&raw);
        if deferral.is_none() {
            tracing::debug!(
                %message_id,
                "ignored a malformed {} attribute",
                attribute::DEFERRED
            );
        }
        deferral
    });
    let sent_at = number(&system, "SentTimestamp");
    let first_sent = attributes.remove(attribute::FIRST_SENT).and_then(|it| it.parse::<i64>().ok());
    // Of a copy the time of its original, which is before its own.
    let sent_at =
        sent_at.map(|sent| first_sent.filter(|it| *it >= 0).map_or(sent, |it| it.min(sent)));
    let sent_at = sent_at.and_then(|millis| Timestamp::from_millisecond(millis).ok());
    let receives = number(&system, "ApproximateReceiveCount").unwrap_or(1).max(1);
    let (id, spent, not_before) = match deferral {
        Some((deferral, not_before)) => {
            (Some(deferral.message_id).filter(|id| !id.is_empty()), deferral.attempts, not_before)
        }
        None => (None, 0, None),
    };
    Message {
        id: id.unwrap_or(message_id),
        receipt: Receipt(Arc::from(receipt_handle)),
        body: Bytes::from(body),
        attributes,
        group: system.remove("MessageGroupId"),
        attempt: u32::try_from(receives).unwrap_or(u32::MAX).saturating_add(spent),
        sent_at,
        not_before,
        trace_header: system.remove("AWSTraceHeader"),
    }
}

/// The deferral, with its time; `None` unless every part of it is sound.
fn parse_deferral(raw: &str) -> Option<(Deferral, Option<Timestamp>)> {
    let deferral: Deferral = serde_json::from_str(raw).ok()?;
    let id = &deferral.message_id;
    if id.len() > MAX_NAME_BYTES || id.contains(char::is_control) {
        return None;
    }
    let not_before = match deferral.not_before_ms {
        0 => None,
        millis if millis < 0 => return None,
        millis => Some(Timestamp::from_millisecond(millis).ok()?),
    };
    Some((deferral, not_before))
}

fn number(system: &BTreeMap<String, String>, name: &str) -> Option<i64> {
    system.get(name)?.parse().ok()
}

/// The parts of a message as the SDK gives it.
impl From<aws_sdk_sqs::types::Message> for Parts {
    fn from(message: aws_sdk_sqs::types::Message) -> Self {
        Self {
            message_id: message.message_id.unwrap_or_default(),
            receipt_handle: message.receipt_handle.unwrap_or_default(),
            body: message.body.unwrap_or_default(),
            attributes: message
                .message_attributes
                .unwrap_or_default()
                .iter()
                .map(|(name, value)| (name.clone(), TypedAttribute::from(value)))
                .collect(),
            system: message
                .attributes
                .unwrap_or_default()
                .into_iter()
                .map(|(name, value)| (name.as_str().to_owned(), value))
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parts(system: &[(&str, &str)], deferral: Option<&str>) -> Parts {
        let text = |value: &str| TypedAttribute {
            data_type: "String".to_owned(),
            value: value.to_owned(),
        };
        let mut attributes = BTreeMap::from([("k".to_owned(), text("v"))]);
        if let Some(deferral) = deferral {
            attributes.insert(attribute::DEFERRED.to_owned(), text(deferral));
        }
        Parts {
            message_id: "m1".to_owned(),
            receipt_handle: "r1".to_owned(),
            body: "{}".to_owned(),
            attributes,
            system: system
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
        }
    }

    #[test]
    fn what_sqs_says_of_a_message_lands_in_its_fields() {
        let message = from_parts(parts(
            &[
                ("ApproximateReceiveCount", "3"),
                ("SentTimestamp", "1700000000123"),
                ("MessageGroupId", "tenant-7"),
                ("AWSTraceHeader", "Root=1-2-3"),
            ],
            None,
        ));
        assert_eq!(message.id, "m1");
        assert_eq!(&*message.receipt.0, "r1");
        assert_eq!(message.body, "{}");
        assert_eq!(message.attempt, 3);
        assert_eq!(message.sent_at, Timestamp::from_millisecond(1_700_000_000_123).ok());
        assert_eq!(message.group.as_deref(), Some("tenant-7"));
        assert_eq!(message.trace_header.as_deref(), Some("Root=1-2-3"));
        assert_eq!(message.not_before, None);
        assert_eq!(message.attributes.len(), 1);
    }

    #[test]
    fn a_copy_remembers_its_original() {
        let deferral = r#"{"message_id":"m0","attempts":2,"not_before_ms":1700000000000}"#;
        let message = from_parts(parts(&[("ApproximateReceiveCount", "1")], Some(deferral)));
        assert_eq!(message.id, "m0");
        assert_eq!(message.attempt, 3);
        assert_eq!(message.not_before, Timestamp::from_millisecond(1_700_000_000_000).ok());
        assert!(!message.attributes.contains_key(attribute::DEFERRED));
    }

    #[test]
    fn a_copy_is_as_old_as_its_original_and_never_younger_than_sqs_says() {
        let sent = |first: &str| {
            let mut parts = parts(&[("SentTimestamp", "5000")], None);
            let value = TypedAttribute { data_type: "String".to_owned(), value: first.to_owned() };
            parts.attributes.insert(attribute::FIRST_SENT.to_owned(), value);
            from_parts(parts).sent_at.unwrap().as_millisecond()
        };
        for (first, expected) in [("1000", 1000), ("9000", 5000), ("-1", 5000), ("soon", 5000)] {
            assert_eq!(sent(first), expected, "{first}");
        }
    }

    #[test]
    fn a_malformed_deferral_counts_as_none() {
        let long = format!("{{\"message_id\":\"{}\"}}", "x".repeat(201));
        for wrong in [
            "",
            "nonsense",
            "[]",
            "{}",
            r#"{"message_id":"m0","attempts":-1}"#,
            r#"{"message_id":"m0","attempts":4294967296}"#,
            r#"{"message_id":"m0","not_before_ms":9223372036854775807}"#,
            r#"{"message_id":"m0","not_before_ms":-5}"#,
            r#"{"message_id":"m0","more":1}"#,
            &long,
        ] {
            let message = from_parts(parts(&[("ApproximateReceiveCount", "2")], Some(wrong)));
            assert_eq!((message.id.as_str(), message.attempt), ("m1", 2), "{wrong}");
            assert_eq!(message.not_before, None, "{wrong}");
            assert!(!message.attributes.contains_key(attribute::DEFERRED));
        }
    }

    #[test]
    fn counts_at_their_limits_do_not_wrap() {
        let deferral = r#"{"message_id":"","attempts":4294967295}"#;
        let message = from_parts(parts(&[("ApproximateReceiveCount", "9")], Some(deferral)));
        assert_eq!((message.id.as_str(), message.attempt), ("m1", u32::MAX));
        for odd in ["0", "-4", "many", "99999999999999999999"] {
            let message = from_parts(parts(&[("ApproximateReceiveCount", odd)], None));
            assert_eq!(message.attempt, 1, "{odd}");
        }
    }

    proptest! {
        #[test]
        fn no_message_can_make_the_mapping_fail(
            deferral in any::<String>(), count in any::<String>(), sent in any::<String>(),
        ) {
            let message = from_parts(parts(
                &[("ApproximateReceiveCount", &count), ("SentTimestamp", &sent)],
                Some(&deferral),
            ));
            prop_assert!(message.attempt >= 1);
        }
    }
}
