//! The result that is published for a finished job, in one of two formats.
//!
//! `envelope` is a JSON object that tells all:
//!
//! ```json
//! {"id": "order-17", "task": "process_data", "tenant": "acme", "status": "done", "data": 42,
//!  "attempt": 1, "queued_at": "2026-01-31T11:59:58.250Z", "started_at": "2026-01-31T12:00:00Z",
//!  "finished_at": "2026-01-31T12:00:00.002Z", "component": "sha256:…",
//!  "usage": {"cpu_us": 21, "wall_us": 60, "peak_memory_bytes": 131072, "memory_byte_ms": 7864,
//!            "host_calls": 3, "bytes_in": 2, "bytes_out": 2}}
//! ```
//!
//! In place of `data` a job without value has `"error": {"kind", "message", "detail"}`. Output
//! that is not JSON is `"data_base64"` with its `"content_type"`. `queued_at` is absent where the
//! broker does not say it, `started_at`, `component` and `usage` where no guest ran.
//!
//! `bare` is the value alone (for a failure the error object); the rest is in the message
//! attributes `lovage-id`, `lovage-task`, `lovage-tenant`, `lovage-status`, `lovage-attempt`,
//! `lovage-component` and `content-type`.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::{
    broker::{Attributes, Outgoing, attribute},
    media_type::{JSON, is_json},
    outcome::{Failure, Output, Status},
    usage::{Cost, Usage},
};

/// The result of a finished job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobResult {
    /// The job's id.
    pub id: String,
    /// The job's task; empty where a malformed message did not tell.
    pub task: String,
    /// The job's tenant; empty where there is none.
    pub tenant: String,
    /// The final word.
    pub status: Status,
    /// The value, or why there is none.
    pub value: Result<Output, Failure>,
    /// The attempt that it is of, counted from 1.
    pub attempt: u32,
    /// When the message was sent.
    pub queued_at: Option<Timestamp>,
    /// When the attempt began.
    pub started_at: Option<Timestamp>,
    /// When the attempt ended.
    pub finished_at: Timestamp,
    /// The digest of the component that ran, `sha256:` and 64 hex digits.
    pub component: Option<String>,
    /// The resources that the attempt used.
    pub usage: Option<Usage>,
}

#[derive(Serialize)]
struct Envelope<'a> {
    id: &'a str,
    task: &'a str,
    tenant: &'a str,
    status: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Error<'a>>,
    attempt: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    queued_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    started_at: Option<Timestamp>,
    finished_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    component: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Cost>,
}

#[derive(Serialize)]
struct Error<'a> {
    kind: &'a str,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
}

impl<'a> From<&'a Failure> for Error<'a> {
    fn from(failure: &'a Failure) -> Self {
        Self { kind: &failure.kind, message: &failure.message, detail: failure.detail.as_deref() }
    }
}

impl JobResult {
    /// The `envelope` format, as JSON.
    pub fn envelope(&self) -> Bytes {
        let mut envelope = Envelope {
            id: &self.id,
            task: &self.task,
            tenant: &self.tenant,
            status: self.status.as_str(),
            data: None,
            data_base64: None,
            content_type: None,
            error: None,
            attempt: self.attempt,
            queued_at: self.queued_at.map(whole_millis),
            started_at: self.started_at.map(whole_millis),
            finished_at: whole_millis(self.finished_at),
            component: self.component.as_deref(),
            usage: self.usage.map(Cost::from),
        };
        match &self.value {
            Err(failure) => envelope.error = Some(failure.into()),
            Ok(output) => {
                envelope.data = json(output);
                if envelope.data.is_none() {
                    envelope.data_base64 = Some(BASE64_STANDARD.encode(&output.data));
                    envelope.content_type = Some(&output.content_type);
                }
            }
        }
        to_json(&envelope)
    }

    /// An [`envelope`](Self::envelope) as a message.
    pub fn envelope_message(envelope: Bytes) -> Outgoing {
        let attributes = [(attribute::CONTENT_TYPE.to_owned(), JSON.to_owned())];
        Outgoing { body: envelope, attributes: attributes.into(), ..Outgoing::default() }
    }

    /// The `bare` format as a message. Output that is not text is base64, and says so in the
    /// attribute `content-encoding`.
    pub fn bare_message(&self) -> Outgoing {
        let mut attributes = Attributes::from([
            (attribute::ID.to_owned(), self.id.clone()),
            (attribute::STATUS.to_owned(), self.status.as_str().to_owned()),
            (attribute::ATTEMPT.to_owned(), self.attempt.to_string()),
        ]);
        let optional = [
            (attribute::TASK, Some(&self.task)),
            (attribute::TENANT, Some(&self.tenant)),
            (attribute::COMPONENT, self.component.as_ref()),
        ];
        for (name, value) in optional {
            // SQS refuses attributes without a value.
            if let Some(value) = value.filter(|value| !value.is_empty()) {
                attributes.insert(name.to_owned(), value.clone());
            }
        }
        let (body, content_type) = match &self.value {
            Err(failure) => (to_json(&Error::from(failure)), JSON),
            Ok(output)
                if is_json(&output.content_type) || std::str::from_utf8(&output.data).is_ok() =>
            {
                (output.data.clone(), output.content_type.as_str())
            }
            Ok(output) => {
                attributes.insert(attribute::CONTENT_ENCODING.to_owned(), "base64".to_owned());
                (BASE64_STANDARD.encode(&output.data).into(), output.content_type.as_str())
            }
        };
        attributes.insert(attribute::CONTENT_TYPE.to_owned(), content_type.to_owned());
        Outgoing { body, attributes, ..Outgoing::default() }
    }

    /// The same job's result where its value turned out to be too large to publish.
    #[must_use]
    pub fn too_large(&self, bytes: usize, limit: usize) -> Self {
        let failure = Failure::new(
            "result_too_large",
            format!(
                "the result has {bytes} bytes, and the queue takes {limit}; return a reference \
                 to where the data is, or less of it"
            ),
        );
        Self { status: Status::Failed, value: Err(failure), ..self.clone() }
    }
}

/// The output as JSON, if that is what it is.
fn json(output: &Output) -> Option<&RawValue> {
    if !is_json(&output.content_type) {
        return None;
    }
    // The sandbox has checked it; a second look costs little and trusts nobody.
    serde_json::from_slice(&output.data).ok()
}

/// A time as it travels: nobody reads more digits than milliseconds, and clocks have no more.
pub fn whole_millis(time: Timestamp) -> Timestamp {
    Timestamp::from_millisecond(time.as_millisecond()).unwrap_or(time)
}

/// Serialises what cannot fail: maps with text keys, numbers and text.
fn to_json(value: &impl Serialize) -> Bytes {
    serde_json::to_vec(value).unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use std::time::Duration;

    fn result(value: Result<Output, Failure>, status: Status) -> JobResult {
        JobResult {
            id: "i".into(),
            task: "t".into(),
            tenant: String::new(),
            status,
            value,
            attempt: 2,
            queued_at: None,
            started_at: Some(Timestamp::from_millisecond(1000).unwrap()),
            finished_at: Timestamp::from_millisecond(1002).unwrap(),
            component: Some("sha256:ab".into()),
            usage: Some(Usage {
                cpu: Duration::from_micros(21),
                wall: Duration::from_micros(60),
                peak_memory_bytes: 7,
                memory_byte_ms: 1,
                host_calls: 2,
                bytes_in: 3,
                bytes_out: 4,
            }),
        }
    }

    fn output(content_type: &str, data: &'static [u8]) -> Output {
        Output { content_type: content_type.into(), data: Bytes::from_static(data) }
    }

    #[test]
    fn an_envelope_tells_all() {
        let result = result(Ok(output("application/json", b"42")), Status::Done);
        let value: Value = serde_json::from_slice(&result.envelope()).unwrap();
        assert_eq!(
            value,
            json!({"id": "i", "task": "t", "tenant": "", "status": "done", "data": 42,
                "attempt": 2, "started_at": "1970-01-01T00:00:01Z",
                "finished_at": "1970-01-01T00:00:01.002Z", "component": "sha256:ab",
                "usage": {"cpu_us": 21, "wall_us": 60, "peak_memory_bytes": 7, "memory_byte_ms": 1,
                    "host_calls": 2, "bytes_in": 3, "bytes_out": 4}})
        );
    }

    #[test]
    fn a_failure_has_an_error_in_place_of_data() {
        let failure = Failure::new("ValueError", "no").with_detail("at line 1");
        let result = result(Err(failure), Status::Failed);
        let value: Value = serde_json::from_slice(&result.envelope()).unwrap();
        assert_eq!(value["status"], "failed");
        assert_eq!(
            value["error"],
            json!({"kind": "ValueError", "message": "no", "detail": "at line 1"})
        );
        assert!(value.get("data").is_none());
    }

    #[test]
    fn numbers_are_published_digit_by_digit() {
        let digits: &[u8] = b"1606938044258990275541962092341162602522202993782792835301376";
        let result = result(Ok(output("application/json", digits)), Status::Done);
        let envelope = result.envelope();
        assert!(envelope.windows(digits.len()).any(|window| window == digits));
        assert_eq!(&*result.bare_message().body, digits);
    }

    #[test]
    fn output_that_is_not_json_is_base64_in_an_envelope() {
        let result = result(Ok(output("image/png", b"\x89P")), Status::Done);
        let value: Value = serde_json::from_slice(&result.envelope()).unwrap();
        assert_eq!(
            (&value["data_base64"], &value["content_type"]),
            (&json!("iVA="), &json!("image/png"))
        );
        let bare = result.bare_message();
        assert_eq!(&*bare.body, b"iVA=");
        assert_eq!(bare.attributes["content-encoding"], "base64");
    }

    #[test]
    fn a_bare_result_is_the_value_alone() {
        let bare = result(Ok(output("application/json", b"42")), Status::Done).bare_message();
        assert_eq!(&*bare.body, b"42");
        let attributes: Vec<_> =
            bare.attributes.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(
            attributes,
            [
                ("content-type", "application/json"),
                ("lovage-attempt", "2"),
                ("lovage-component", "sha256:ab"),
                ("lovage-id", "i"),
                ("lovage-status", "done"),
                ("lovage-task", "t"),
            ]
        );
    }
}
