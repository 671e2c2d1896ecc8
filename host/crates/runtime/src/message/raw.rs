//! The raw format: the body is the payload, and nothing but.
//!
//! Task, id and tenant come from the message attributes `lovage-task`, `lovage-id` and
//! `lovage-tenant`, else from the queue's configuration. `content-type` says what the payload is
//! (JSON when neither the message nor the queue says otherwise, and then it must be JSON).
//! `content-encoding: base64` lets bytes travel that a queue cannot carry.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::de::IgnoredAny;

use super::Defaults;
use lovage_core::{
    broker::{Message, attribute},
    job::Job,
    media_type::{JSON, is_json},
};

/// Fills a job from a raw body.
pub(super) fn decode(job: &mut Job, message: &Message, defaults: &Defaults) -> Result<(), String> {
    message
        .attributes
        .get(attribute::CONTENT_TYPE)
        .or(defaults.content_type.as_ref())
        .map_or(JSON, String::as_str)
        .clone_into(&mut job.content_type);
    match message.attributes.get(attribute::CONTENT_ENCODING).map(String::as_str) {
        None | Some("identity") => job.payload = message.body.clone(),
        Some("base64") => {
            job.payload = BASE64_STANDARD
                .decode(message.body.trim_ascii())
                .map_err(|error| {
                    format!(
                        "the body is not base64, as its `{}` says: {error}",
                        attribute::CONTENT_ENCODING
                    )
                })?
                .into();
        }
        Some(_) => {
            return Err(format!(
                "the message attribute `{}` names no encoding that is known; use `base64`, or \
                 leave it away",
                attribute::CONTENT_ENCODING
            ));
        }
    }
    if is_json(&job.content_type) {
        serde_json::from_slice::<IgnoredAny>(&job.payload).map_err(|error| {
            format!(
                "the payload is not JSON ({error}), as its content type says; set the message \
                 attribute `{}` to what it is",
                attribute::CONTENT_TYPE
            )
        })?;
    }
    Ok(())
}
