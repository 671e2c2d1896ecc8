//! The native format: a JSON object, of which only `data` is required.
//!
//! ```json
//! {"task": "process_data", "id": "order-17", "data": 21, "tenant": "acme",
//!  "eta": "2026-01-31T12:00:00Z", "expires": 1769860800000, "max_attempts": 3,
//!  "timeout_ms": 5000, "reply_to": "results", "headers": {"x-request": "7"}}
//! ```
//!
//! `data` may be any JSON value and reaches the guest byte for byte. Any other field than those
//! shown is an error: a misspelt `max_attempts` must not be lost in silence.

use std::{collections::BTreeMap, mem::take, time::Duration};

use bytes::Bytes;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::parse_time;
use lovage_core::job::Job;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body<'a> {
    // `null` is a value like any other here; an `Option` alone would take it for absence.
    #[serde(borrow, default, deserialize_with = "present")]
    data: Option<&'a RawValue>,
    task: Option<String>,
    id: Option<String>,
    tenant: Option<String>,
    eta: Option<serde_json::Value>,
    expires: Option<serde_json::Value>,
    max_attempts: Option<u32>,
    timeout_ms: Option<u64>,
    reply_to: Option<String>,
    headers: Option<BTreeMap<String, String>>,
}

fn present<'de: 'a, 'a, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// Fills a job from a native body. On an error the job holds what could be read before it.
pub fn decode(job: &mut Job, body: &Bytes) -> Result<(), String> {
    let text = std::str::from_utf8(body)
        .map_err(|error| format!("the body is not UTF-8 (at byte {})", error.valid_up_to()))?;
    let fields: Body<'_> = serde_json::from_str(text).map_err(|error| {
        identify(job, text);
        explain(text, &error)
    })?;
    if let Some(id) = fields.id {
        job.id = id;
    }
    if let Some(task) = fields.task {
        job.task = task;
    }
    if let Some(tenant) = fields.tenant {
        job.tenant = tenant;
    }
    job.reply_to = fields.reply_to;
    for (name, value) in fields.headers.into_iter().flatten() {
        let name = name.to_ascii_lowercase();
        job.headers.retain(|(other, _)| *other != name);
        job.headers.push((name, value));
    }
    let data = fields.data.ok_or_else(|| {
        "`data` is missing: a native message is a JSON object such as `{\"data\": 21}`".to_owned()
    })?;
    job.payload = body.slice_ref(data.get().as_bytes());
    job.eta = fields.eta.map(|value| parse_time("eta", &value)).transpose()?;
    job.expires = fields.expires.map(|value| parse_time("expires", &value)).transpose()?;
    job.max_attempts = fields.max_attempts;
    job.timeout = fields.timeout_ms.map(Duration::from_millis);
    if job.max_attempts == Some(0) {
        return Err("`max_attempts` is 0; it takes at least 1".to_owned());
    }
    if job.timeout == Some(Duration::ZERO) {
        return Err("`timeout_ms` is 0; it takes at least 1".to_owned());
    }
    Ok(())
}

/// Reads of a refused body whose job it is and who waits for its answer, where that is well formed:
/// the result must reach somebody.
fn identify(job: &mut Job, text: &str) {
    let Ok(fields) = serde_json::from_str::<BTreeMap<&str, serde_json::Value>>(text) else {
        return;
    };
    let read = |name: &str| fields.get(name).and_then(serde_json::Value::as_str).map(str::to_owned);
    let replace = |field: &mut String, name: &str| *field = read(name).unwrap_or(take(field));
    replace(&mut job.id, "id");
    replace(&mut job.task, "task");
    replace(&mut job.tenant, "tenant");
    job.reply_to = read("reply_to");
}

fn explain(text: &str, error: &serde_json::Error) -> String {
    use serde_json::error::Category;
    let start = text.trim_start().chars().next();
    match error.classify() {
        _ if start.is_none() => "the body is empty".to_owned(),
        Category::Data if start != Some('{') => {
            "the body is JSON but no object; a native message is an object such as `{\"data\": 21}`"
                .to_owned()
        }
        Category::Data => {
            let reason = lovage_core::text::without_values(&error.to_string());
            format!("the body is no native message: {reason}")
        }
        Category::Syntax | Category::Eof | Category::Io => {
            format!("the body is not JSON: {error}")
        }
    }
}
