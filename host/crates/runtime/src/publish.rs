//! From a finished job to the messages that must be sent before its own is deleted: the result,
//! and where it comes to that the dead letter.

// Over 500 lines: all messages that follow from a job are rendered by the same rules.

use std::{borrow::Cow, collections::BTreeMap, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use jiff::Timestamp;
use serde_json::{
    json,
    value::{RawValue, to_raw_value},
};

use lovage_celery::{Meta, TaskMessage};
use lovage_config::ResultFormat;
use lovage_core::{
    broker::{
        Attributes, BrokerError, DeadLetter, Fault, Message, Outgoing, Queue, Send, SendKind,
        attribute,
    },
    follow_on::{Budget, FollowOn, Lineage},
    group_id,
    job::Job,
    media_type::{JSON, is_json},
    outcome::{Failure, Status},
    result::{JobResult, whole_millis},
    sqs_charset::{escape_json, first_refused},
    text::one_line,
};

/// How many attributes SQS lets a message have.
const MAX_ATTRIBUTES: usize = 10;

/// The attribute by which a client of Celery's tells states on its queue apart.
pub const CORRELATION_ID: &str = "correlation_id";

/// How long the reason in a dead letter may be, in bytes.
const REASON_BYTES: usize = 1024;

/// A result as a message to its queue. One that is larger than `limit` bytes becomes the failure
/// that says so. `envelope` is the result's, where it is there already.
pub fn result(
    result: &JobResult,
    envelope: Option<&Bytes>,
    message: &Message,
    to: &Queue,
    format: ResultFormat,
    limit: usize,
) -> Send {
    let mut outgoing = render(result, envelope, format);
    let size = size(&outgoing.body, &outgoing.attributes);
    if size > limit {
        outgoing = render(&result.too_large(size, limit), None, format);
    }
    outgoing.trace_header.clone_from(&message.trace_header);
    address(outgoing, message, &result.id, &result.tenant, to)
}

/// Puts a result on its way. What orders results on a FIFO queue is the job's own group, else its
/// tenant, else nothing but itself.
fn address(mut outgoing: Outgoing, message: &Message, id: &str, tenant: &str, to: &Queue) -> Send {
    (outgoing.group, outgoing.deduplication_id) = (None, None);
    if to.fifo {
        outgoing.group = Some(group(message, id, tenant));
        outgoing.deduplication_id = Some(group_id::scoped(tenant, id));
    }
    Send { kind: SendKind::Result, to: to.address.clone(), message: outgoing }
}

/// A result that was to go elsewhere.
pub fn redirected(send: &Send, message: &Message, id: &str, tenant: &str, to: &Queue) -> Send {
    address(send.message.clone(), message, id, tenant, to)
}

/// The failure that takes the place of a result that its queue refuses for good; `None` where the
/// result is such a failure already.
pub fn refused(send: &Send, error: &BrokerError) -> Option<Send> {
    const TOO_LARGE: &str = "result_too_large";
    const REFUSED: &str = "result_refused";
    let kind = if error.fault == Fault::TooLarge { TOO_LARGE } else { REFUSED };
    let why = one_line(&format!("the result cannot be published: {error}"), REASON_BYTES);
    let parsed = Fields::parse(&send.message.body);
    let fields = parsed.as_ref();
    let (status, was) = match send.message.attributes.get(attribute::STATUS) {
        Some(status) => (Some(status.clone()), fields.and_then(|it| it.text("kind"))),
        None => (
            fields.and_then(|it| it.text("status")),
            fields.and_then(|it| Fields::parse(it.0.get("error")?.get().as_bytes())?.text("kind")),
        ),
    };
    let again = was.is_some_and(|was| [TOO_LARGE, REFUSED].contains(&was.as_str()));
    if again && status.as_deref() == Some(Status::Failed.as_str()) {
        return None;
    }
    failed(send, &Failure::new(kind, why))
}

/// The same result, had the job failed; `None` where it cannot be read.
pub fn failed(send: &Send, failure: &Failure) -> Option<Send> {
    let mut outgoing = send.message.clone();
    let body = if outgoing.attributes.contains_key(attribute::STATUS) {
        let failed = Status::Failed.as_str().to_owned();
        outgoing.attributes.insert(attribute::STATUS.to_owned(), failed);
        outgoing.attributes.insert(attribute::CONTENT_TYPE.to_owned(), JSON.to_owned());
        outgoing.attributes.remove(attribute::CONTENT_ENCODING);
        error_object(failure)
    } else {
        envelope_of_failure(&outgoing.body, failure)?
    };
    outgoing.body = escape_json(&body).into_owned().into();
    Some(Send { kind: send.kind, to: send.to.clone(), message: outgoing })
}

/// The same envelope, had the job failed; `None` where it cannot be read.
pub fn failed_envelope(envelope: &Bytes, failure: &Failure) -> Option<Bytes> {
    envelope_of_failure(envelope, failure).map(Bytes::from)
}

fn envelope_of_failure(envelope: &[u8], failure: &Failure) -> Option<String> {
    let Fields(mut envelope) = Fields::parse(envelope)?;
    for value in ["data", "data_base64", "content_type"] {
        envelope.remove(value);
    }
    envelope.insert("status".to_owned(), to_raw_value(Status::Failed.as_str()).ok()?);
    envelope.insert("error".to_owned(), RawValue::from_string(error_object(failure)).ok()?);
    serde_json::to_string(&envelope).ok()
}

fn error_object(failure: &Failure) -> String {
    json!({"kind": failure.kind, "message": failure.message}).to_string()
}

/// The fields of a JSON object, unread: what a guest gave back may be nested deeper than a reader
/// of values goes.
struct Fields(BTreeMap<String, Box<RawValue>>);

impl Fields {
    fn parse(json: &[u8]) -> Option<Self> {
        serde_json::from_slice(json).ok().map(Self)
    }

    fn text(&self, field: &str) -> Option<String> {
        serde_json::from_str(self.0.get(field)?.get()).ok()
    }
}

/// A result in characters that SQS takes, whatever is in it. The same for every broker, so that
/// nobody who reads results has to know which it was.
fn render(result: &JobResult, envelope: Option<&Bytes>, format: ResultFormat) -> Outgoing {
    let mut outgoing = match format {
        ResultFormat::Envelope => {
            JobResult::envelope_message(envelope.cloned().unwrap_or_else(|| result.envelope()))
        }
        ResultFormat::Bare => result.bare_message(),
    };
    let attributes = &mut outgoing.attributes;
    for value in attributes.values_mut() {
        if first_refused(value).is_some() {
            *value = escape_json(value).into_owned();
        }
    }
    fit_body(&mut outgoing);
    outgoing
}

/// Makes a body fit for SQS: JSON is escaped, other text that is not, and what is no text, is
/// base64.
fn fit_body(outgoing: &mut Outgoing) {
    let attributes = &mut outgoing.attributes;
    let text = std::str::from_utf8(&outgoing.body).ok();
    if let Some(text) = text
        && attributes.get(attribute::CONTENT_TYPE).is_some_and(|it| is_json(it))
    {
        if let Cow::Owned(escaped) = escape_json(text) {
            outgoing.body = escaped.into();
        }
    } else if text.is_none_or(|text| text.is_empty() || first_refused(text).is_some()) {
        attributes.insert(attribute::CONTENT_ENCODING.to_owned(), "base64".to_owned());
        // SQS takes no message without a body; a line feed is base64 of nothing.
        let encoded = BASE64_STANDARD.encode(&outgoing.body);
        outgoing.body = if encoded.is_empty() { "\n".into() } else { encoded.into() };
    }
}

/// A job that a job leads to, as a message: a raw one, with all but the payload in attributes. It
/// is for the tenant of the job that it came from. Errors where it is larger than `limit` bytes,
/// with its size.
pub fn follow_on(
    parent: &Job,
    job: &FollowOn,
    budget: Budget,
    message: &Message,
    to: &Queue,
    limit: usize,
) -> Result<Send, usize> {
    let lineage = serde_json::to_string(&Lineage::of_child(parent)).unwrap_or_default();
    let mut attributes = Attributes::from([
        (attribute::FORMAT.to_owned(), "raw".to_owned()),
        (attribute::TASK.to_owned(), job.task.clone()),
        (attribute::ID.to_owned(), job.id.clone()),
        (attribute::CONTENT_TYPE.to_owned(), job.content_type.clone()),
        (attribute::LINEAGE.to_owned(), escape_json(&lineage).into_owned()),
        (attribute::BUDGET.to_owned(), budget.encode()),
    ]);
    if !parent.tenant.is_empty() {
        attributes.insert(attribute::TENANT.to_owned(), parent.tenant.clone());
    }
    let mut outgoing = Outgoing {
        body: job.payload.clone(),
        attributes,
        delay: job.delay,
        trace_header: message.trace_header.clone(),
        ..Outgoing::default()
    };
    fit_body(&mut outgoing);
    let size = size(&outgoing.body, &outgoing.attributes);
    if size > limit {
        return Err(size);
    }
    if to.fifo {
        outgoing.group = Some(group(message, &parent.id, &parent.tenant));
        outgoing.deduplication_id = Some(group_id::scoped(&parent.tenant, &job.id));
    } else if !parent.tenant.is_empty() {
        // The tenant of fair queues.
        outgoing.group = Some(group_id::of_tenant(&parent.tenant));
    }
    Ok(Send { kind: SendKind::FollowOn, to: to.address.clone(), message: outgoing })
}

/// A task message of Celery's, for a task that comes after a job: for that job's tenant, and, where
/// it names no other, of the group that the job's message had. Errors where it is larger than `limit`
/// bytes, with its size.
///
/// Whoever writes a workflow chooses its attributes, its group and its deduplication id. None of them
/// says more than the job's own message: reserved attributes are left out, the group of a queue that
/// is not FIFO is the job's tenant, and the ids of a FIFO queue are scoped to it.
pub fn celery_task(
    task: &TaskMessage,
    job: &Job,
    budget: Budget,
    message: &Message,
    to: &Queue,
    delay: Duration,
    limit: usize,
) -> Result<Send, usize> {
    let mut attributes = Attributes::from([(attribute::BUDGET.to_owned(), budget.encode())]);
    if !job.tenant.is_empty() {
        attributes.insert(attribute::TENANT.to_owned(), job.tenant.clone());
    }
    let room = MAX_ATTRIBUTES - attributes.len();
    let named = task.attributes.iter().filter(|(name, _)| !attribute::is_reserved(name));
    attributes.extend(named.take(room).map(|(name, value)| (name.clone(), value.clone())));
    let size = size(&task.body, &attributes);
    if size > limit {
        return Err(size);
    }
    let mut outgoing = Outgoing {
        body: task.body.clone(),
        attributes,
        delay,
        trace_header: message.trace_header.clone(),
        ..Outgoing::default()
    };
    let tenant = &job.tenant;
    if to.fifo {
        let inherited = || group(message, &job.id, tenant);
        let own = task.group.as_deref().filter(|own| message.group.as_deref() != Some(*own));
        outgoing.group = Some(own.map_or_else(inherited, |own| group_id::scoped(tenant, own)));
        // A retry is another message of the same id.
        let made = || format!("{}:{}", task.id, job.attempt);
        let own = task.deduplication_id.clone().unwrap_or_else(made);
        outgoing.deduplication_id = Some(group_id::scoped(tenant, &own));
    } else if !tenant.is_empty() {
        outgoing.group = Some(group_id::of_tenant(tenant));
    }
    Ok(Send { kind: SendKind::CeleryTask, to: to.address.clone(), message: outgoing })
}

/// The state of a task of Celery's, for the client that waits for it at a queue of its own. Errors
/// where it is larger than `limit` bytes, with its size.
pub fn celery_state(
    state: &Meta,
    message: &Message,
    to: &Queue,
    limit: usize,
) -> Result<Send, usize> {
    let send = celery_state_whole(state, message, to);
    let size = size(&send.message.body, &send.message.attributes);
    if size > limit { Err(size) } else { Ok(send) }
}

/// The same, however large.
pub fn celery_state_whole(state: &Meta, message: &Message, to: &Queue) -> Send {
    let mut attributes = Attributes::from([("content_type".to_owned(), JSON.to_owned())]);
    // The body says it, too. An attribute takes neither all characters nor an empty text.
    if !state.id.is_empty() && first_refused(&state.id).is_none() {
        attributes.insert(CORRELATION_ID.to_owned(), state.id.clone());
    }
    let outgoing = Outgoing {
        body: escape_json(&state.json()).into_owned().into(),
        attributes,
        trace_header: message.trace_header.clone(),
        group: to.fifo.then(|| group_id::identifier(&state.id)),
        deduplication_id: to.fifo.then(|| group_id::identifier(&state.id)),
        ..Outgoing::default()
    };
    Send { kind: SendKind::CeleryState, to: to.address.clone(), message: outgoing }
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
    let letter = escape_json(&letter).into_owned();
    // One that is there already is a sender's, and not to be believed when it is sent back.
    attributes.insert(attribute::DEAD_LETTER.to_owned(), letter);
    // The original must get through whole. Where there is no room beside it, the reason stays in
    // the log alone.
    let travelling = attributes.keys().filter(|name| *name != attribute::TYPES).count();
    if travelling > MAX_ATTRIBUTES || size(&message.body, &attributes) > limit {
        attributes.remove(attribute::DEAD_LETTER);
    }
    Send {
        kind: SendKind::DeadLetter,
        to: to.address.clone(),
        message: Outgoing {
            body: message.body.clone(),
            attributes,
            group: message
                .group
                .clone()
                .or_else(|| to.fifo.then(|| group(message, &result.id, &result.tenant))),
            deduplication_id: to.fifo.then(|| group_id::identifier(&message.id)),
            trace_header: message.trace_header.clone(),
            ..Outgoing::default()
        },
    }
}

fn group(message: &Message, id: &str, tenant: &str) -> String {
    let tenant = (!tenant.is_empty()).then_some(tenant);
    group_id::identifier(message.group.as_deref().or(tenant).unwrap_or(id))
}

/// The deduplication id of a tenant's message: senders choose ids, and the same id of another
/// tenant is no repetition.
pub fn deduplication_of(tenant: &str, id: &str) -> String {
    group_id::scoped(tenant, id)
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

    use serde_json::Value;

    use super::*;
    use lovage_core::{broker::Receipt, outcome::Output};

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
            let sent = result(&big, None, &message("1"), &queue("r"), format, 1500).message;
            let body = std::str::from_utf8(&sent.body).unwrap();
            assert!(body.contains("result_too_large") && body.contains("takes 1500"), "{body}");
        }
    }

    #[test]
    fn fifo_results_are_grouped_by_tenant_and_deduplicated_by_id() {
        let sent =
            result(&done("1"), None, &message("1"), &queue("r.fifo"), ResultFormat::Bare, 9999);
        assert_eq!(sent.message.group.as_deref(), Some("acme"));
        // The id has a blank, which SQS does not take.
        assert_eq!(sent.message.deduplication_id.unwrap().len(), 71);
        let sent = result(&done("1"), None, &message("1"), &queue("r"), ResultFormat::Bare, 9999);
        assert_eq!((sent.message.group, sent.message.deduplication_id), (None, None));
    }

    #[test]
    fn results_of_two_tenants_are_no_duplicates() {
        let of = |tenant: &str| {
            let result = JobResult { tenant: tenant.to_owned(), ..done("1") };
            let to = queue("r.fifo");
            let sent = super::result(&result, None, &message("1"), &to, ResultFormat::Bare, 9999);
            sent.message.deduplication_id.unwrap()
        };
        assert_ne!(of("acme"), of("mallory"));
        assert_eq!(of("acme"), of("acme"));
        assert_ne!(deduplication_of("a", "bc"), deduplication_of("ab", "c"));
        assert_eq!(deduplication_of("", "plain"), "plain");
    }

    #[test]
    fn characters_that_sqs_refuses_are_escaped_in_json() {
        let sent = result(
            &done("\"\u{ffff}\""),
            None,
            &message("1"),
            &queue("r"),
            ResultFormat::Bare,
            9999,
        );
        assert_eq!(&*sent.message.body, b"\"\\uffff\"");
    }

    #[test]
    fn whatever_sqs_would_refuse_of_a_bare_result_travels_otherwise() {
        let cases: [(&'static [u8], &str); 4] =
            [(b"plain", "plain"), (b"a\0b", "YQBi"), ("\u{fffe}".as_bytes(), "77++"), (b"", "\n")];
        for (data, body) in cases {
            let mut text = done("");
            text.id = "i\u{ffff}".to_owned();
            text.value = Ok(Output { content_type: "text/plain".into(), data: data.into() });
            let sent =
                result(&text, None, &message("1"), &queue("r"), ResultFormat::Bare, 9999).message;
            assert_eq!(sent.body, body);
            let encoding = sent.attributes.get("content-encoding").map(String::as_str);
            assert_eq!(encoding, (body != "plain").then_some("base64"));
            assert_eq!(sent.attributes["lovage-id"], "i\\uffff");
        }
    }

    fn workflow_step(attributes: &[(&str, &str)]) -> TaskMessage {
        let attributes = attributes.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        TaskMessage {
            id: "child".to_owned(),
            task: "t".to_owned(),
            queue: "q".to_owned(),
            body: "{}".into(),
            eta: None,
            priority: None,
            group: Some("victim".to_owned()),
            deduplication_id: Some("victims-job".to_owned()),
            attributes: attributes.collect(),
            follow: lovage_celery::cost::Cost::default(),
        }
    }

    fn sent(step: &TaskMessage, tenant: &str, to: &str) -> Outgoing {
        let mut job = Job::new("parent", "t", "1");
        tenant.clone_into(&mut job.tenant);
        let budget = Budget { jobs: 1, bytes: 1 };
        let message = message("1");
        celery_task(step, &job, budget, &message, &queue(to), Duration::ZERO, 9999).unwrap().message
    }

    #[test]
    fn a_workflow_names_no_reserved_attribute_in_any_case() {
        let named = [
            ("lovage-tenant", "victim"),
            ("Lovage-Tenant", "victim"),
            ("LOVAGE-TENANT", "victim"),
            ("lovage-id", "victims"),
            ("lovage-lineage", "{}"),
            ("Lovage-Budget", "{}"),
            ("lovage-deferred", "{}"),
            ("lovage-types", "{}"),
            ("lovage-dead-letter", "{}"),
            ("lovage-anything", "x"),
            ("Content-Type", "text/plain"),
            ("content-encoding", "base64"),
            ("mine", "1"),
        ];
        for (tenant, others) in [("", 0), ("acme", 1)] {
            let sent = sent(&workflow_step(&named), tenant, "q");
            assert_eq!(sent.attributes.get("mine").map(String::as_str), Some("1"));
            let own = sent.attributes.get(attribute::TENANT).map_or("", String::as_str);
            assert_eq!(own, tenant);
            // The budget, the workflow's own attribute, and the tenant.
            assert_eq!(sent.attributes.len(), 2 + others, "{:?}", sent.attributes);
            let budget = &sent.attributes[attribute::BUDGET];
            assert_eq!(Budget::parse(budget), Some(Budget { jobs: 1, bytes: 1 }));
        }
    }

    #[test]
    fn a_workflow_does_not_choose_the_group_of_another_tenant() {
        let step = workflow_step(&[]);
        assert_eq!(sent(&step, "", "q").group, None, "a group would name a tenant");
        assert_eq!(sent(&step, "acme", "q").group.as_deref(), Some("acme"));
        let fifo = sent(&step, "acme", "q.fifo");
        assert_eq!(fifo.group, Some(group_id::scoped("acme", "victim")));
        assert_eq!(fifo.deduplication_id, Some(group_id::scoped("acme", "victims-job")));
        let other = sent(&step, "victim", "q.fifo");
        assert_ne!(fifo.group, other.group);
        assert_ne!(fifo.deduplication_id, other.deduplication_id);
        // Without tenants the workflow orders its tasks as it likes.
        assert_eq!(sent(&step, "", "q.fifo").group.as_deref(), Some("victim"));
    }

    #[test]
    fn a_workflow_with_ten_attributes_has_room_for_the_budget_and_the_tenant() {
        let names: Vec<String> = (0..10).map(|n| format!("n{n}")).collect();
        let named: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "1")).collect();
        let sent = sent(&workflow_step(&named), "acme", "q");
        assert_eq!(sent.attributes.len(), MAX_ATTRIBUTES);
        assert!(sent.attributes.contains_key(attribute::BUDGET));
        assert_eq!(sent.attributes[attribute::TENANT], "acme");
    }

    #[test]
    fn a_follow_on_job_of_any_tenant_is_recognised_as_that_tenants() {
        let defaults = crate::message::Defaults::default();
        for tenant in ["acme", "Müller GmbH", "a b", "sha256-x", "日本", &"x".repeat(200)] {
            let mut job = Job::new("parent", "t", "1");
            tenant.clone_into(&mut job.tenant);
            let next = FollowOn {
                id: "child".to_owned(),
                task: "t".to_owned(),
                content_type: JSON.to_owned(),
                payload: "1".into(),
                delay: Duration::ZERO,
            };
            let budget = Budget { jobs: 7, bytes: 8 };
            let sent = follow_on(&job, &next, budget, &message("1"), &queue("q"), 9999).unwrap();
            let mut received = message("1");
            received.attributes = sent.message.attributes.clone();
            // As the embedded broker hands it out, and as SQS does.
            for group in [
                sent.message.group.clone(),
                sent.message.group.as_deref().map(group_id::identifier),
            ] {
                received.group = group;
                let child = crate::message::decode(&received, &defaults).unwrap();
                assert_eq!(child.tenant, tenant);
                assert_eq!((child.budget, child.depth), (Some(budget), 1));
            }
        }
    }

    #[test]
    fn a_refused_result_becomes_the_failure_that_says_so_once() {
        let error = BrokerError::new(Fault::TooLarge, "the queue takes 1024 bytes");
        for format in [ResultFormat::Envelope, ResultFormat::Bare] {
            let big =
                done(format!("{{\"kind\":\"result_refused\",\"x\":\"{}\"}}", "x".repeat(2000)));
            let sent = result(&big, None, &message("1"), &queue("r.fifo"), format, 9999);
            let failure = refused(&sent, &error).unwrap();
            let body: Value = serde_json::from_slice(&failure.message.body).unwrap();
            let told = if format == ResultFormat::Bare { &body } else { &body["error"] };
            assert_eq!(told["kind"], "result_too_large", "{body}");
            assert!(told["message"].as_str().unwrap().contains("takes 1024"), "{body}");
            let status = failure.message.attributes.get(attribute::STATUS);
            let status = status.map_or(body["status"].as_str(), |status| Some(status));
            assert_eq!(status, Some("failed"));
            assert!(failure.message.body.len() < 500, "{body}");
            assert_eq!(failure.message.deduplication_id, sent.message.deduplication_id);
            assert_eq!(refused(&failure, &error), None, "there is nothing smaller");
        }
    }

    #[test]
    fn a_refused_result_is_told_however_deeply_it_is_nested() {
        let error = BrokerError::new(Fault::TooLarge, "the queue takes 1024 bytes");
        let deep = done(format!("{}{}", "[".repeat(100_000), "]".repeat(100_000)));
        let sent =
            result(&deep, None, &message("1"), &queue("r"), ResultFormat::Envelope, usize::MAX);
        let failure = refused(&sent, &error).unwrap();
        let body: Value = serde_json::from_slice(&failure.message.body).unwrap();
        assert_eq!(
            (&body["status"], &body["error"]["kind"]),
            (&"failed".into(), &"result_too_large".into())
        );
        assert_eq!(refused(&failure, &error), None, "there is nothing smaller");
    }

    #[test]
    fn a_result_can_be_turned_into_that_of_a_job_that_failed() {
        let failure = Failure::new("dispatch", "no such queue");
        for format in [ResultFormat::Envelope, ResultFormat::Bare] {
            let sent = result(&done("42"), None, &message("1"), &queue("r"), format, 9999);
            let failed = super::failed(&sent, &failure).unwrap();
            let body: Value = serde_json::from_slice(&failed.message.body).unwrap();
            let error = json!({"kind": "dispatch", "message": "no such queue"});
            if format == ResultFormat::Bare {
                assert_eq!(
                    (&body, &*failed.message.attributes["lovage-status"]),
                    (&error, "failed")
                );
            } else {
                assert_eq!((&body["status"], &body["error"]), (&json!("failed"), &error));
                assert_eq!((&body["id"], body.get("data")), (&json!("job 1"), None));
            }
        }
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
