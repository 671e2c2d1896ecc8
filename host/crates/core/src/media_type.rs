//! Media types of payloads and outputs.

/// The media type of JSON, which payloads and outputs have unless somebody says otherwise.
pub const JSON: &str = "application/json";

/// Returns true if a media type is JSON, parameters aside.
pub fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case(JSON)
}
