use std::{sync::Arc, time::Duration};

use proptest::prelude::*;

use super::*;
use lovage_core::broker::Receipt;

fn message(body: impl Into<bytes::Bytes>) -> Message {
    Message {
        id: "broker-id".into(),
        receipt: Receipt(Arc::from("r")),
        body: body.into(),
        attributes: [].into(),
        group: None,
        attempt: 2,
        sent_at: None,
        not_before: None,
        trace_header: None,
    }
}

fn with(body: &str, attributes: &[(&str, &str)]) -> Message {
    let mut message = message(body.to_owned());
    message.attributes =
        attributes.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    message
}

fn defaults() -> Defaults {
    Defaults { task: Some("process_data".into()), ..Defaults::default() }
}

fn raw() -> Defaults {
    Defaults { format: Format::Raw, ..defaults() }
}

fn refused(message: &Message, defaults: &Defaults) -> String {
    decode(message, defaults).unwrap_err().reason
}

#[test]
fn the_seeds_message_is_valid_where_the_queue_has_a_default_task() {
    let job = decode(&message(r#"{"data": 21}"#), &defaults()).unwrap();
    assert_eq!((job.task.as_str(), job.id.as_str(), job.attempt), ("process_data", "broker-id", 2));
    assert_eq!(&*job.payload, b"21");
}

#[test]
fn every_native_field_reaches_the_job() {
    let body = r#"{"task":"t","id":"i","data":{"a": 1.50},"tenant":"acme",
        "eta":"2026-01-31T12:00:00+01:00","expires":1769860800000,"max_attempts":3,
        "timeout_ms":5000,"reply_to":"results","headers":{"X-Request":"7"}}"#;
    let job = decode(&message(body), &defaults()).unwrap();
    assert_eq!((job.task.as_str(), job.id.as_str(), job.tenant.as_str()), ("t", "i", "acme"));
    assert_eq!(&*job.payload, br#"{"a": 1.50}"#, "the payload is not rewritten");
    assert_eq!(job.eta, Some("2026-01-31T11:00:00Z".parse().unwrap()));
    assert_eq!(job.expires, Some("2026-01-31T12:00:00Z".parse().unwrap()));
    assert_eq!((job.max_attempts, job.timeout), (Some(3), Some(Duration::from_secs(5))));
    assert_eq!(job.reply_to.as_deref(), Some("results"));
    assert_eq!(job.headers, [("x-request".to_owned(), "7".to_owned())]);
}

#[test]
fn null_is_data() {
    assert_eq!(&*decode(&message(r#"{"data":null}"#), &defaults()).unwrap().payload, b"null");
}

#[test]
fn integers_of_any_size_stay_exact() {
    let digits = "9".repeat(400);
    let job = decode(&message(format!(r#"{{"data":{digits}}}"#)), &defaults()).unwrap();
    assert_eq!(&*job.payload, digits.as_bytes());
}

#[test]
fn bad_bodies_are_told_apart() {
    let native = |body: &str| refused(&message(body.to_owned()), &defaults());
    assert!(native("").contains("empty"), "{}", native(""));
    assert!(native("{nope").contains("not JSON"), "{}", native("{nope"));
    assert!(native("21").contains("no object"), "{}", native("21"));
    assert!(native(r#"{"task":"t"}"#).contains("`data` is missing"));
    assert!(native(r#"{"data":1,"max_attempt":3}"#).contains("unknown field `max_attempt`"));
    assert!(native(r#"{"data":1,"data":2}"#).contains("duplicate field `data`"));
    assert!(native(r#"{"data":1,"max_attempts":"3"}"#).contains("expected u32"));
    assert!(native(r#"{"data":1,"max_attempts":0}"#).contains("at least 1"));
    assert!(native(r#"{"data":1,"timeout_ms":0}"#).contains("at least 1"));
    assert!(native(r#"{"data":1,"eta":"tomorrow"}"#).contains("`eta` is no time"));
    assert!(native(r#"{"data":1,"eta":true}"#).contains("`eta` is no time"));
    assert!(native(r#"{"data":1,"expires":1e300}"#).contains("`expires` is no time"));
    assert!(native(r#"{"data":1,"id":""}"#).contains("`id` has 0 bytes"));
    assert!(native(r#"{"data":1,"tenant":"a\u0000b"}"#).contains("control character"));
    let utf8 = refused(&message(&b"{\"data\":\"\xff\"}"[..]), &defaults());
    assert!(utf8.contains("not UTF-8 (at byte 9)"), "{utf8}");
}

#[test]
fn a_message_without_task_says_how_to_name_one() {
    let reason = refused(&message(r#"{"data":1}"#), &Defaults::default());
    assert!(reason.contains("default_task") && reason.contains("lovage-task"), "{reason}");
}

#[test]
fn what_could_be_read_of_a_malformed_message_is_kept() {
    let body = r#"{"data":1,"id":"i","task":"t","tenant":"x","reply_to":"r","eta":"never"}"#;
    let malformed = decode(&message(body), &defaults()).unwrap_err();
    assert_eq!((malformed.id.as_str(), malformed.task.as_str()), ("i", "t"));
    assert_eq!((malformed.tenant.as_str(), malformed.reply_to.as_deref()), ("x", Some("r")));
    let wrong = body.replace("\"eta\":\"never\"", "\"max_attempts\":\"3\",\"extra\":{}");
    let malformed = decode(&message(wrong), &defaults()).unwrap_err();
    assert!(malformed.reason.contains("expected u32"), "{malformed}");
    assert_eq!((malformed.id.as_str(), malformed.task.as_str()), ("i", "t"));
    assert_eq!((malformed.tenant.as_str(), malformed.reply_to.as_deref()), ("x", Some("r")));
    let unreadable = body.replace("\"i\"", "7");
    assert_eq!(decode(&message(unreadable), &defaults()).unwrap_err().id, "broker-id");
    let long = format!(r#"{{"data":1,"id":"{}"}}"#, "x".repeat(201));
    assert_eq!(decode(&message(long), &defaults()).unwrap_err().id, "broker-id");
}

#[test]
fn a_raw_body_is_the_payload_and_attributes_say_the_rest() {
    let attributes = [
        ("lovage-id", "i"),
        ("lovage-task", "t"),
        ("lovage-tenant", "acme"),
        ("Traceparent", "00-x"),
        ("content-type", "text/plain"),
    ];
    let job = decode(&with("hello", &attributes), &raw()).unwrap();
    assert_eq!((job.id.as_str(), job.task.as_str(), job.tenant.as_str()), ("i", "t", "acme"));
    assert_eq!((&*job.payload, job.content_type.as_str()), (&b"hello"[..], "text/plain"));
    assert_eq!(job.headers, [("traceparent".to_owned(), "00-x".to_owned())]);
}

#[test]
fn the_format_attribute_wins_over_the_queue() {
    let job = decode(&with("[1]", &[("lovage-format", "raw")]), &defaults()).unwrap();
    assert_eq!(&*job.payload, b"[1]");
    let job = decode(&with(r#"{"data":2}"#, &[("lovage-format", "native")]), &raw()).unwrap();
    assert_eq!(&*job.payload, b"2");
    let reason = refused(&with("1", &[("lovage-format", "yaml")]), &raw());
    assert!(reason.contains("names no format"), "{reason}");
}

#[test]
fn raw_bodies_are_checked_against_what_they_say_they_are() {
    assert!(refused(&message("{"), &raw()).contains("not JSON"));
    assert!(refused(&with("?", &[("content-encoding", "base64")]), &raw()).contains("not base64"));
    assert!(refused(&with("1", &[("content-encoding", "zip")]), &raw()).contains("encoding"));
    let bytes = with("/w==\n", &[("content-encoding", "base64"), ("content-type", "x/y")]);
    assert_eq!(&*decode(&bytes, &raw()).unwrap().payload, b"\xff");
}

#[test]
fn a_group_is_the_tenant_on_standard_queues_and_a_mere_order_on_fifo_ones() {
    let mut grouped = message(r#"{"data":1}"#);
    grouped.group = Some("acme".into());
    assert_eq!(decode(&grouped, &defaults()).unwrap().tenant, "acme");
    let fifo = Defaults { fifo: true, ..defaults() };
    assert_eq!(decode(&grouped, &fifo).unwrap().tenant, "");
}

#[test]
fn a_deferral_of_the_broker_moves_the_eta() {
    let mut deferred = message(r#"{"data":1,"eta":1000}"#);
    deferred.not_before = Some(Timestamp::from_millisecond(5000).unwrap());
    assert_eq!(decode(&deferred, &defaults()).unwrap().eta, deferred.not_before);
}

proptest! {
    #[test]
    fn no_bytes_make_the_decoder_panic(
        body in proptest::collection::vec(any::<u8>(), 0..200), is_raw: bool,
    ) {
        let defaults = if is_raw { raw() } else { defaults() };
        let _ = decode(&message(body), &defaults);
    }

    #[test]
    fn no_text_near_the_format_makes_the_decoder_panic(
        body in r#"\{("(data|id|eta|headers|task)":("\PC{0,5}"|-?[0-9]{1,30}|null|\[\]|\{\}),?){0,5}\}"#,
    ) {
        let _ = decode(&message(body), &defaults());
    }

    #[test]
    fn any_payload_survives_the_native_format(text in "\\PC*") {
        let data = serde_json::to_string(&text).unwrap();
        let job = decode(&message(format!(r#"{{"data":{data}}}"#)), &defaults()).unwrap();
        prop_assert_eq!(&*job.payload, data.as_bytes());
    }
}
