//! A message made ready to be sent: checked against SQS's rules before any request, so that one bad
//! message never costs its batch mates theirs.

use std::{borrow::Cow, time::Duration};

use aws_sdk_sqs::types::{
    MessageSystemAttributeNameForSends, MessageSystemAttributeValue,
    builders::SendMessageBatchRequestEntryBuilder,
};
use jiff::Timestamp;

use super::{attributes, batch::MAX_BYTES, refusal::Refusal};
use lovage_core::{
    broker::{Attributes, Deferral, Fault, Outgoing, attribute},
    group_id::identifier,
    sqs_charset,
};

/// The longest delay that SQS takes: "valid values: 0 to 900" (SQS API reference, `SendMessage`).
pub(super) const MAX_DELAY: Duration = Duration::from_mins(15);

/// The group of messages on a FIFO queue that name none.
const ONE_GROUP: &str = "lovage";

impl Refusal {
    pub(super) fn invalid(reason: impl Into<String>) -> Self {
        Self { fault: Fault::Invalid, reason: reason.into() }
    }
}

/// A message that SQS should take.
#[derive(Debug)]
pub(super) struct BatchEntry {
    /// All but the entry's id.
    pub entry: SendMessageBatchRequestEntryBuilder,
    /// What it counts for, of the batch's [`MAX_BYTES`].
    pub bytes: usize,
    /// The group, on FIFO queues.
    pub group: Option<String>,
    /// The id that receivers will see, where that is not SQS's own.
    pub id: Option<String>,
}

impl BatchEntry {
    /// Checks and packs a message for a FIFO or a standard queue.
    pub(super) fn pack(message: &Outgoing, fifo: bool, now: Timestamp) -> Result<Self, Refusal> {
        let body = check_body(&message.body)?;
        let mut id = None;
        let mut attributes = Cow::Borrowed(&message.attributes);
        let mut entry = SendMessageBatchRequestEntryBuilder::default().message_body(body);
        // FIFO queues take no delay per message, standard ones 900 seconds.
        let native = if fifo { Duration::ZERO } else { MAX_DELAY };
        if message.delay > native {
            id = Some(defer(attributes.to_mut(), message.delay, now)?);
        }
        if !message.delay.is_zero() && !fifo {
            let seconds = whole_seconds(message.delay.min(MAX_DELAY));
            entry = entry.delay_seconds(i32::try_from(seconds).unwrap_or(900));
        }
        let (wire, attribute_bytes) = attributes::to_wire(&attributes)?;
        let bytes = body.len() + attribute_bytes;
        if bytes > MAX_BYTES {
            return Err(Refusal {
                fault: Fault::TooLarge,
                reason: format!(
                    "the message has {bytes} bytes (body {}, attributes {attribute_bytes}), and \
                     SQS takes {MAX_BYTES}; store the data elsewhere and send a reference",
                    body.len()
                ),
            });
        }
        if !wire.is_empty() {
            entry = entry.set_message_attributes(Some(wire));
        }
        if let Some(header) = trace_header(message) {
            entry = entry.message_system_attributes(
                MessageSystemAttributeNameForSends::AwsTraceHeader,
                header,
            );
        }
        let named =
            |text: &Option<String>| text.as_deref().filter(|text| !text.is_empty()).map(identifier);
        let mut group = named(&message.group);
        if fifo {
            let deduplication = named(&message.deduplication_id)
                .unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
            // Who sends to a FIFO queue and names no group asks for one order of all.
            group.get_or_insert_with(|| ONE_GROUP.to_owned());
            entry = entry.message_deduplication_id(deduplication);
        }
        entry = entry.set_message_group_id(group.clone());
        Ok(Self { entry, bytes, group: group.filter(|_| fifo), id })
    }
}

fn check_body(body: &[u8]) -> Result<&str, Refusal> {
    if body.is_empty() {
        return Err(Refusal::invalid("its body is empty, and SQS takes no message without one"));
    }
    let text = std::str::from_utf8(body).map_err(|error| {
        Refusal::invalid(format!(
            "its body is not UTF-8 from byte {} on; encode binary data, for instance as base64",
            error.valid_up_to()
        ))
    })?;
    match sqs_charset::first_refused(text) {
        None => Ok(text),
        Some((offset, character)) => Err(Refusal::invalid(format!(
            "its body has U+{:04X} at byte {offset}, a character that SQS does not take; escape or \
             encode it",
            u32::from(character)
        ))),
    }
}

/// Writes down, in the message itself, a wait that SQS cannot express; answers the id that the
/// message goes by from now on.
fn defer(attributes: &mut Attributes, delay: Duration, now: Timestamp) -> Result<String, Refusal> {
    // A copy has one already, with its original's id and attempts.
    let mut deferral = attributes
        .get(attribute::DEFERRED)
        .and_then(|raw| serde_json::from_str::<Deferral>(raw).ok())
        .unwrap_or_else(|| Deferral {
            // SQS's own id is not known yet, and the next copy must keep this one's.
            message_id: uuid::Uuid::new_v4().to_string(),
            ..Deferral::default()
        });
    // Rounded up, as all waits are.
    let nanos = i128::try_from(delay.as_nanos()).unwrap_or(i128::MAX);
    let due = now.as_nanosecond().saturating_add(nanos).saturating_add(999_999) / 1_000_000;
    let last = Timestamp::MAX.as_second().saturating_mul(1000);
    deferral.not_before_ms = i64::try_from(due).unwrap_or(last).min(last);
    put_deferral(attributes, &deferral)?;
    Ok(deferral.message_id)
}

/// Sets the deferral of a message.
pub(super) fn put_deferral(
    attributes: &mut Attributes,
    deferral: &Deferral,
) -> Result<(), Refusal> {
    let json =
        serde_json::to_string(deferral).map_err(|error| Refusal::invalid(error.to_string()))?;
    // The id may have come from a hostile sender, by way of an earlier copy.
    let json = sqs_charset::escape_json(&json).into_owned();
    attributes.insert(attribute::DEFERRED.to_owned(), json);
    Ok(())
}

/// A hint to tracers, so one that SQS would not take is left out rather than refused. It does not
/// count towards the size ("the size of a message system attribute doesn't count towards the total
/// size of a message").
fn trace_header(message: &Outgoing) -> Option<MessageSystemAttributeValue> {
    let header = message.trace_header.as_deref()?;
    if header.is_empty() || sqs_charset::first_refused(header).is_some() {
        return None;
    }
    MessageSystemAttributeValue::builder().data_type("String").string_value(header).build().ok()
}

/// Whole seconds, rounded up: SQS counts in those, and waiting a little longer breaks no promise.
pub(super) fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs().saturating_add(u64::from(duration.subsec_nanos() > 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_sdk_sqs::types::SendMessageBatchRequestEntry;

    const NOW: Timestamp = Timestamp::constant(1_700_000_000, 0);

    fn outgoing(body: &str) -> Outgoing {
        Outgoing { body: body.to_owned().into(), ..Outgoing::default() }
    }

    fn pack(message: &Outgoing, fifo: bool) -> (SendMessageBatchRequestEntry, BatchEntry) {
        let batch_entry = BatchEntry::pack(message, fifo, NOW).unwrap();
        (batch_entry.entry.clone().id("0").build().unwrap(), batch_entry)
    }

    fn deferral(entry: &SendMessageBatchRequestEntry) -> Deferral {
        let raw = entry.message_attributes().unwrap()[attribute::DEFERRED].string_value().unwrap();
        serde_json::from_str(raw).unwrap()
    }

    #[test]
    fn a_delay_that_sqs_can_express_is_left_to_it() {
        for (delay, seconds) in [(1, 1), (1_001, 2), (899_001, 900), (900_000, 900)] {
            let mut message = outgoing("x");
            message.delay = Duration::from_millis(delay);
            let (entry, batch_entry) = pack(&message, false);
            assert_eq!(entry.delay_seconds(), Some(seconds), "{delay} ms");
            assert!(entry.message_attributes().is_none());
            assert_eq!(batch_entry.id, None);
        }
        // Not zero: without one, the delay that the queue is set to holds.
        assert_eq!(pack(&outgoing("x"), false).0.delay_seconds(), None);
    }

    #[test]
    fn a_longer_delay_is_written_down_and_begins_with_the_longest_that_sqs_has() {
        let mut message = outgoing("x");
        message.delay = Duration::from_millis(900_001);
        let (entry, batch_entry) = pack(&message, false);
        assert_eq!(entry.delay_seconds(), Some(900));
        let deferral = deferral(&entry);
        assert_eq!(deferral.not_before_ms, NOW.as_millisecond() + 900_001);
        assert_eq!(deferral.attempts, 0);
        assert_eq!(batch_entry.id, Some(deferral.message_id));
    }

    #[test]
    fn the_longest_delay_of_all_stays_within_time() {
        let mut message = outgoing("x");
        message.delay = Duration::MAX;
        let (entry, _) = pack(&message, false);
        assert!(Timestamp::from_millisecond(deferral(&entry).not_before_ms).is_ok());
    }

    #[test]
    fn a_fifo_message_has_no_delay_of_its_own_but_a_time() {
        let mut message = outgoing("x");
        message.delay = Duration::from_secs(2);
        let (entry, _) = pack(&message, true);
        assert_eq!(entry.delay_seconds(), None);
        assert_eq!(deferral(&entry).not_before_ms, NOW.as_millisecond() + 2_000);
    }

    #[test]
    fn fifo_messages_without_group_and_id_are_one_group_and_never_one_message() {
        let (first, _) = pack(&outgoing("x"), true);
        let (second, _) = pack(&outgoing("x"), true);
        assert!(first.message_group_id().is_some());
        assert_eq!(first.message_group_id(), second.message_group_id());
        assert_ne!(first.message_deduplication_id(), second.message_deduplication_id());
    }

    #[test]
    fn a_standard_queue_gets_the_group_of_fair_queues_and_no_deduplication_id() {
        let mut message = outgoing("x");
        message.group = Some("tenant-7".to_owned());
        message.deduplication_id = Some("d".to_owned());
        message.trace_header = Some("Root=1-2-3".to_owned());
        let (entry, batch_entry) = pack(&message, false);
        assert_eq!(entry.message_group_id(), Some("tenant-7"));
        assert_eq!(entry.message_deduplication_id(), None);
        assert_eq!(batch_entry.group, None, "no order is kept");
        let header = &entry.message_system_attributes().unwrap()
            [&MessageSystemAttributeNameForSends::AwsTraceHeader];
        assert_eq!(header.string_value(), Some("Root=1-2-3"));
    }

    #[test]
    fn a_group_that_sqs_does_not_take_goes_by_its_digest() {
        for odd in ["Müller GmbH", "with space", &"x".repeat(129)] {
            let once = identifier(odd);
            assert_eq!(once, identifier(odd));
            assert_eq!(once, identifier(&once), "a copy keeps its group");
            assert_eq!(once.len(), 71);
        }
        assert_eq!(identifier("a/b:c"), "a/b:c");
    }

    #[test]
    fn bodies_that_sqs_does_not_take_are_refused_with_the_place() {
        for (body, expected) in [
            (&b""[..], "empty"),
            (&b"ab\xff"[..], "byte 2"),
            (&b"ab\x00"[..], "U+0000 at byte 2"),
            ("é\u{ffff}".as_bytes(), "U+FFFF at byte 2"),
        ] {
            let message = Outgoing { body: body.to_vec().into(), ..Outgoing::default() };
            let refusal = BatchEntry::pack(&message, false, NOW).unwrap_err();
            assert_eq!(refusal.fault, Fault::Invalid);
            assert!(refusal.reason.contains(expected), "{}", refusal.reason);
        }
    }

    #[test]
    fn the_limit_of_size_counts_attributes_and_is_reached_but_not_passed() {
        let mut message = outgoing(&"x".repeat(MAX_BYTES - "nameStringvalue".len()));
        message.attributes.insert("name".into(), "value".into());
        assert_eq!(pack(&message, false).1.bytes, MAX_BYTES);
        message.attributes.insert("name".into(), "value!".into());
        let refusal = BatchEntry::pack(&message, false, NOW).unwrap_err();
        assert_eq!(refusal.fault, Fault::TooLarge);
        assert!(
            refusal.reason.contains("1048577") && refusal.reason.contains("1048576"),
            "{}",
            refusal.reason
        );
    }

    #[test]
    fn a_deferral_needs_room_for_its_attribute() {
        let mut message = outgoing("x");
        message.attributes = (0..10).map(|n| (format!("n{n}"), "v".to_owned())).collect();
        assert!(BatchEntry::pack(&message, false, NOW).is_ok());
        message.delay = Duration::from_secs(901);
        assert!(BatchEntry::pack(&message, false, NOW).is_err());
    }
}
