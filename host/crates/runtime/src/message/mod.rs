//! From the bytes of a message to a [`Job`], whatever wire format they are in.
//!
//! Which format applies is decided by rule, never by guessing at the body:
//!
//! 1. the message attribute `lovage-format` (`native` or `raw`), where there is one;
//! 2. else the queue's `format` in the configuration, which is `native` unless set.
//!
//! Decoding reads the message and the queue's settings and nothing else. What no format takes is
//! [`Malformed`]: a job that is rejected without a guest being run.

use std::{collections::BTreeMap, fmt, sync::Arc};

use jiff::Timestamp;

use lovage_celery::Request;
use lovage_core::{
    broker::{Message, attribute},
    follow_on::{Budget, Lineage},
    format::Format,
    job::{Job, MAX_NAME_BYTES},
    text::without_values,
};

pub mod celery;
mod decoded;
pub mod native;
pub mod raw;
pub mod tenant;

pub use decoded::DecodedJob;
pub use tenant::Trust;

use tenant::Claims;

/// The failure's kind of what is no job.
const INVALID: &str = "invalid_message";
/// That of a message on a queue of Celery's that is not one of Celery's.
pub const NOT_CELERY: &str = "not_celery";

/// What a queue (or a function) supplies where the message is silent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Defaults {
    /// The format, where the message names none.
    pub format: Format,
    /// The task, where the message names none.
    pub task: Option<String>,
    /// The tenant, where the message names none.
    pub tenant: Option<String>,
    /// Whom it believes about tenants.
    pub trust: Trust,
    /// The media type of raw bodies, where the message names none; JSON when absent.
    pub content_type: Option<String>,
    /// True if the group is an ordering key. On other queues it names the tenant, as in SQS's
    /// fair queues.
    pub fifo: bool,
    /// Which tasks those of Celery are, by its names for them, where the last part of the name
    /// does not say it.
    pub celery_tasks: Arc<BTreeMap<String, String>>,
    /// The most bytes that a body of Celery's may have when it is unpacked; its own size when 0.
    pub celery_body_bytes: usize,
}

/// A message that is no job. What could be read of it is kept for the result and the dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Malformed {
    /// The failure's kind.
    pub kind: &'static str,
    /// What is wrong with it and what would be right. Holds nothing of the payload.
    pub reason: String,
    /// The job's id where it could be read, else the broker's.
    pub id: String,
    /// The task's name where it could be read, else empty.
    pub task: String,
    /// The tenant by those that are believed, where it could be read, else empty.
    pub tenant: String,
    /// Where the sender wants the answer, where it could be read.
    pub reply_to: Option<String>,
    /// The task's id, where the message is Celery's and has one: its client asks for the state by it.
    pub celery: Option<String>,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for Malformed {}

/// Decodes a message.
pub fn decode(message: &Message, defaults: &Defaults) -> Result<DecodedJob, Box<Malformed>> {
    let mut job = Job::new(message.id.clone(), "", message.body.clone());
    job.attempt = message.attempt;
    let mut task_id = None;
    let mut request = None;
    let mut outcome = match fill(&mut job, message, defaults) {
        Ok(celery) => {
            request = celery;
            Ok(())
        }
        Err(wrong) => {
            task_id = wrong.task_id;
            Err((wrong.kind, wrong.reason))
        }
    };
    // Of a message that is no job, too: whoever is believed about it is to be told.
    let said = std::mem::take(&mut job.tenant);
    let claims = Claims::of(message, &said, defaults.fifo);
    let (tenant, verdict) = claims.judge(&defaults.trust, defaults.tenant.as_deref());
    if outcome.is_ok() {
        outcome = verdict.map_err(|refusal| (refusal.kind, refusal.reason));
    }
    match check_name("tenant", &tenant) {
        Err(reason) if !tenant.is_empty() => outcome = outcome.and(Err((INVALID, reason))),
        _ => job.tenant = tenant,
    }
    let Err((kind, reason)) = outcome else {
        return Ok(DecodedJob { job: Arc::new(job), celery: request });
    };
    // An id that is itself what is wrong must not travel on.
    let is_fit = check_name("id", &job.id).is_ok();
    let id = if is_fit { job.id } else { message.id.clone() };
    Err(Box::new(Malformed {
        kind,
        reason,
        id,
        task: job.task,
        tenant: job.tenant,
        celery: task_id.or_else(|| Some(request?.id.clone())),
        reply_to: job.reply_to,
    }))
}

/// Fills all but the tenant, which is left as the body has it. Returns the request, if the message
/// is one of Celery's.
fn fill(
    job: &mut Job,
    message: &Message,
    defaults: &Defaults,
) -> Result<Option<Arc<Request>>, Wrong> {
    take_attributes(job, message)?;
    let mut request = None;
    match format(message, defaults)? {
        Format::Native => native::decode(job, &message.body)?,
        Format::Raw => raw::decode(job, message, defaults)?,
        Format::Celery => {
            let decoded = celery::decode(job, message, defaults).map_err(
                |celery::Wrong { kind, reason, task_id }| Wrong { kind, reason, task_id },
            )?;
            request = Some(Arc::new(decoded));
        }
    }
    if job.task.is_empty() {
        job.task = defaults.task.clone().ok_or_else(|| {
            format!(
                "no task is named: neither by the message nor by the queue's `default_task`; add \
                 `\"task\"` to the body, or the message attribute `{}`",
                attribute::TASK
            )
        })?;
    }
    // The broker may hold a job back for longer than it can express.
    job.eta = job.eta.max(message.not_before);
    check_name("id", &job.id)?;
    check_name("task", &job.task)?;
    Ok(request)
}

/// What is wrong with a message, as the kind of a failure and its reason.
struct Wrong {
    kind: &'static str,
    reason: String,
    /// The task's id, of a message of Celery's.
    task_id: Option<String>,
}

impl From<String> for Wrong {
    fn from(reason: String) -> Self {
        Self { kind: INVALID, reason, task_id: None }
    }
}

/// The format of a message: by its attribute, else by its queue.
fn format(message: &Message, defaults: &Defaults) -> Result<Format, String> {
    match message.attributes.get(attribute::FORMAT).map(String::as_str) {
        None => Ok(defaults.format),
        Some("native") => Ok(Format::Native),
        Some("raw") => Ok(Format::Raw),
        Some("celery") => Ok(Format::Celery),
        Some(_) => Err(format!(
            "the message attribute `{}` names no format; use `native`, `raw` or `celery`",
            attribute::FORMAT
        )),
    }
}

/// What attributes say holds for every format; a body that says otherwise wins.
fn take_attributes(job: &mut Job, message: &Message) -> Result<(), String> {
    for (name, value) in &message.attributes {
        match name.as_str() {
            attribute::ID => job.id.clone_from(value),
            attribute::TASK => job.task.clone_from(value),
            attribute::LINEAGE => take_lineage(job, value)?,
            attribute::BUDGET => job.budget = Budget::parse(value),
            // In another case they are neither believed nor handed on.
            reserved if attribute::is_reserved(reserved) => {}
            header => job.headers.push((header.to_ascii_lowercase(), value.clone())),
        }
    }
    if let Some(trace) = &message.trace_header {
        job.headers.push(("x-amzn-trace-id".to_owned(), trace.clone()));
    }
    Ok(())
}

/// Where a follow-on job stands in its chain.
fn take_lineage(job: &mut Job, value: &str) -> Result<(), String> {
    let lineage: Lineage = serde_json::from_str(value).map_err(|error| {
        let reason = without_values(&error.to_string());
        format!(
            "the message attribute `{}` is not what Lovage writes: {reason}",
            attribute::LINEAGE
        )
    })?;
    check_name("root", &lineage.root)?;
    check_name("parent", &lineage.parent)?;
    job.root_id = Some(lineage.root);
    job.parent_id = Some(lineage.parent);
    job.depth = lineage.depth;
    Ok(())
}

/// Ids, tasks and tenants end up in logs, attributes and keys: short, and nothing invisible.
fn check_name(what: &str, name: &str) -> Result<(), String> {
    if name.is_empty() || name.len() > MAX_NAME_BYTES {
        return Err(format!("`{what}` has {} bytes; it takes 1 to {MAX_NAME_BYTES}", name.len()));
    }
    if name.chars().any(char::is_control) {
        return Err(format!("`{what}` holds a control character"));
    }
    Ok(())
}

/// Reads a time: RFC 3339 text, or whole milliseconds since the Unix epoch.
fn parse_time(field: &str, value: &serde_json::Value) -> Result<Timestamp, String> {
    let parsed = match value {
        serde_json::Value::String(text) => text.parse().ok(),
        serde_json::Value::Number(number) => {
            number.as_i64().and_then(|ms| Timestamp::from_millisecond(ms).ok())
        }
        _ => None,
    };
    parsed.ok_or_else(|| {
        format!(
            "`{field}` is no time; use RFC 3339 with an offset, such as `2026-01-31T12:00:00Z`, \
             or whole milliseconds since the Unix epoch"
        )
    })
}

#[cfg(test)]
mod tests;
