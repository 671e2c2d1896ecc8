//! From a finished job to the messages that must be sent before its own is deleted: the result,
//! and where it comes to that the dead letter.

use std::fmt::Write as _;

use bytes::Bytes;
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

use crate::{
    broker::{
        Attributes, DeadLetter, Message, Outgoing, Queue, Send, attribute,
        sqs::{attributes::TYPES, charset::escape_json},
    },
    config::ResultFormat,
    message::raw::is_json,
    result::{JobResult, whole_millis},
    text::one_line,
};

/// How many attributes SQS lets a message have.
const MAX_ATTRIBUTES: usize = 10;

/// How long the reason in a dead letter may be, in bytes.
const REASON_BYTES: usize = 1024;

/// A result as a message to its queue. One that is larger than `limit` bytes becomes the failure
/// that says so.
pub fn result(
    result: &JobResult,
    message: &Message,
    to: &Queue,
    format: ResultFormat,
    limit: usize,
) -> Send {
    let mut outgoing = render(result, format);
    let size = size(&outgoing.body, &outgoing.attributes);
    if size > limit {
        outgoing = render(&result.too_large(size, limit), format);
    }
    outgoing.trace_header.clone_from(&message.trace_header);
    if to.fifo {
        outgoing.group = Some(group(message, result));
        outgoing.deduplication_id = Some(deduplication_id(&result.id));
    }
    Send { to: to.address.clone(), message: outgoing }
}

fn render(result: &JobResult, format: ResultFormat) -> Outgoing {
    let mut outgoing = match format {
        ResultFormat::Envelope => result.envelope_message(),
        ResultFormat::Bare => result.bare_message(),
    };
    let says_json = outgoing.attributes.get(attribute::CONTENT_TYPE).is_some_and(|it| is_json(it));
    if says_json
        && let Ok(text) = std::str::from_utf8(&outgoing.body)
        && let std::borrow::Cow::Owned(escaped) = escape_json(text)
    {
        outgoing.body = escaped.into();
    }
    outgoing
}

/// The message itself, whole, with the reason why it is a dead letter.
pub fn dead_letter(
    message: &Message,
    from: &Queue,
    to: &Queue,
    result: &JobResult,
    limit: usize,
) -> Send {
    let (kind, reason) = match &result.value {
        Err(failure) => (failure.kind.as_str(), failure.message.as_str()),
        Ok(_) => ("", ""),
    };
    let letter = DeadLetter {
        queue: from.name.to_string(),
        status: result.status,
        kind: one_line(kind, 200),
        reason: one_line(reason, REASON_BYTES),
        attempts: result.attempt,
        job_id: result.id.clone(),
        task: result.task.clone(),
        tenant: result.tenant.clone(),
        at: whole_millis(Timestamp::now()),
    };
    let mut attributes = message.attributes.clone();
    attributes.remove(attribute::DEFERRED);
    let letter = serde_json::to_string(&letter).unwrap_or_default();
    let previous = attributes.insert(attribute::DEAD_LETTER.to_owned(), letter);
    // The original must get through whole. Where there is no room beside it, the reason stays in
    // the log alone.
    let travelling = attributes.keys().filter(|name| *name != TYPES).count();
    if travelling > MAX_ATTRIBUTES || size(&message.body, &attributes) > limit {
        attributes.remove(attribute::DEAD_LETTER);
        attributes.extend(previous.map(|previous| (attribute::DEAD_LETTER.to_owned(), previous)));
    }
    Send {
        to: to.address.clone(),
        message: Outgoing {
            body: message.body.clone(),
            attributes,
            group: message.group.clone().or_else(|| to.fifo.then(|| group(message, result))),
            deduplication_id: to.fifo.then(|| deduplication_id(&message.id)),
            trace_header: message.trace_header.clone(),
            ..Outgoing::default()
        },
    }
}

/// What orders results on a FIFO queue: the job's own group, else its tenant, else nothing but
/// itself.
fn group(message: &Message, result: &JobResult) -> String {
    let tenant = (!result.tenant.is_empty()).then_some(&result.tenant);
    let group = message.group.as_ref().or(tenant).unwrap_or(&result.id);
    deduplication_id(group)
}

/// An id that SQS takes for groups and deduplication (1 to 128 of ASCII's letters, digits and
/// punctuation): the id itself where it is one, else a digest of it.
fn deduplication_id(id: &str) -> String {
    if (1..=128).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic()) {
        return id.to_owned();
    }
    Sha256::digest(id.as_bytes()).iter().fold(String::with_capacity(64), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// What a message weighs against SQS's limit: the body, and each attribute's name, type and value.
/// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html>
fn size(body: &Bytes, attributes: &Attributes) -> usize {
    let attributes =
        attributes.iter().map(|(name, value)| name.len() + "String".len() + value.len());
    body.len() + attributes.sum::<usize>()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        broker::Receipt,
        outcome::{Failure, Output, Status},
    };

    fn queue(name: &str) -> Queue {
        let is_fifo = name.split('.').next_back() == Some("fifo");
        Queue {
            name: name.into(),
            address: name.into(),
            fifo: is_fifo,
            visibility_timeout: Duration::from_secs(30),
            redrive_target: None,
        }
    }

    fn message(body: &str) -> Message {
        Message {
            id: "m".into(),
            receipt: Receipt("r".into()),
            body: body.to_owned().into(),
            attributes: [("x".to_owned(), "1".to_owned())].into(),
            group: None,
            attempt: 3,
            sent_at: None,
            not_before: None,
            trace_header: Some("Root=1".into()),
        }
    }

    fn done(data: impl Into<Bytes>) -> JobResult {
        JobResult {
            id: "job 1".into(),
            task: "t".into(),
            tenant: "acme".into(),
            status: Status::Done,
            value: Ok(Output { content_type: "application/json".into(), data: data.into() }),
            attempt: 3,
            queued_at: None,
            started_at: None,
            finished_at: Timestamp::UNIX_EPOCH,
            component: None,
            usage: None,
        }
    }

    fn failed() -> JobResult {
        let failure = Failure::new("k", "because\nof that");
        JobResult { status: Status::Failed, value: Err(failure), ..done("") }
    }

    #[test]
    fn a_result_over_the_limit_is_a_failure_that_says_so() {
        let big = done(format!("\"{}\"", "x".repeat(2000)));
        for format in [ResultFormat::Envelope, ResultFormat::Bare] {
            let sent = result(&big, &message("1"), &queue("r"), format, 1500).message;
            let body = std::str::from_utf8(&sent.body).unwrap();
            assert!(body.contains("result_too_large") && body.contains("takes 1500"), "{body}");
        }
    }

    #[test]
    fn fifo_results_are_grouped_by_tenant_and_deduplicated_by_id() {
        let sent = result(&done("1"), &message("1"), &queue("r.fifo"), ResultFormat::Bare, 9999);
        assert_eq!(sent.message.group.as_deref(), Some("acme"));
        // The id has a blank, which SQS does not take.
        assert_eq!(sent.message.deduplication_id.unwrap().len(), 64);
        let sent = result(&done("1"), &message("1"), &queue("r"), ResultFormat::Bare, 9999);
        assert_eq!((sent.message.group, sent.message.deduplication_id), (None, None));
    }

    #[test]
    fn characters_that_sqs_refuses_are_escaped_in_json() {
        let sent =
            result(&done("\"\u{ffff}\""), &message("1"), &queue("r"), ResultFormat::Bare, 9999);
        assert_eq!(&*sent.message.body, b"\"\\uffff\"");
    }

    #[test]
    fn a_dead_letter_is_the_original_with_its_reason() {
        let sent = dead_letter(&message("body"), &queue("q"), &queue("d"), &failed(), 9999);
        assert_eq!((&*sent.to, &*sent.message.body), ("d", &b"body"[..]));
        assert_eq!(sent.message.attributes["x"], "1");
        let letter: DeadLetter =
            serde_json::from_str(&sent.message.attributes["lovage-dead-letter"]).unwrap();
        assert_eq!((letter.kind.as_str(), letter.reason.as_str()), ("k", "because\\nof that"));
        assert_eq!((letter.queue.as_str(), letter.attempts), ("q", 3));
    }

    #[test]
    fn a_dead_letter_without_room_for_the_reason_travels_without_it() {
        let sent = dead_letter(&message("body"), &queue("q"), &queue("d"), &failed(), 20);
        assert!(!sent.message.attributes.contains_key("lovage-dead-letter"));
        let mut full = message("body");
        full.attributes = (0..10).map(|n| (format!("a{n}"), "1".to_owned())).collect();
        let sent = dead_letter(&full, &queue("q"), &queue("d"), &failed(), 9999);
        assert_eq!(sent.message.attributes, full.attributes);
    }
}
