//! The outer layers of a message: base64 or not, the envelope, its body's encoding, compression and
//! media type.

use base64::{
    Engine as _,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};

use super::{
    compression::{Fault, METHODS, decompress},
    json::{Json, Map},
    msgpack, python_json,
    request::{Refusal, Refused},
};
use lovage_core::text::one_line;

/// Padding may be absent: kombu does not ask for it either.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// How much of a stranger's media type is shown.
const SHOWN_BYTES: usize = 60;

/// An envelope, opened as far as it can be without looking at the body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Envelope {
    /// True if the message was base64.
    pub base64: bool,
    /// The body, as it stood.
    pub body: Json,
    pub content_type: Json,
    pub content_encoding: Json,
    pub headers: Map,
    pub properties: Map,
}

/// What a body is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Json,
    MessagePack,
}

/// Not a message of Celery's.
fn stranger(reason: &str) -> Refused {
    Refused::new(
        Refusal::NotCelery,
        format!(
            "this is no message of Celery's: {reason}; send it with a Celery client, or name the \
             right `format` for the queue"
        ),
    )
}

impl Envelope {
    /// Opens a message. What begins with a brace is the envelope itself, all else is base64 of it:
    /// base64 has no braces.
    pub(super) fn open(message: &[u8]) -> Result<Self, Refused> {
        let message = message.trim_ascii();
        let plain = message.starts_with(b"{");
        let decoded;
        let bytes = if plain {
            message
        } else {
            decoded = BASE64
                .decode(message)
                .map_err(|_| stranger("it is neither a JSON object nor base64 of one"))?;
            &decoded
        };
        let text = std::str::from_utf8(bytes).map_err(|_| stranger("it is not UTF-8"))?;
        if !text.trim_start().starts_with('{') {
            return Err(stranger("it is no JSON object"));
        }
        let text = python_json::read(text).map_err(|_| stranger("it is nested too deep"))?;
        let mut fields: Map =
            serde_json::from_str(&text).map_err(|_| stranger("it is not well-formed JSON"))?;
        let mut object = |name: &str| match fields.take(name) {
            Some(value) => {
                value.fields().ok_or_else(|| stranger(&format!("`{name}` is no object")))
            }
            None => Err(stranger(&format!("there is no `{name}`"))),
        };
        let properties = object("properties")?;
        let headers = object("headers")?;
        let body = fields.take("body").ok_or_else(|| stranger("there is no `body`"))?;
        let mut rest = |name: &str| fields.take(name).unwrap_or_else(Json::null);
        Ok(Self {
            base64: !plain,
            body,
            content_type: rest("content-type"),
            content_encoding: rest("content-encoding"),
            headers,
            properties,
        })
    }

    /// The body's text. `max` bounds it, whatever it was packed in.
    pub(super) fn content(&self, max: usize) -> Result<String, Refused> {
        let format = self.format()?;
        let encoding = self.content_encoding.as_string().unwrap_or_default().to_ascii_lowercase();
        let is_text = ["", "utf-8", "utf8", "us-ascii", "ascii"].contains(&encoding.as_str());
        let latin = ["iso-8859-1", "latin-1", "latin1"].contains(&encoding.as_str());
        if format == Format::Json && !is_text && !latin {
            return Err(Refused::new(
                Refusal::ContentType,
                format!(
                    "the body's characters are `{}`; utf-8 and iso-8859-1 are read",
                    one_line(&encoding, SHOWN_BYTES)
                ),
            ));
        }
        let body = self.body.as_string().ok_or_else(|| {
            Refused::new(Refusal::Invalid, "the envelope's `body` is no text".to_owned())
        })?;
        let bytes = match self.properties.string("body_encoding").as_deref() {
            Some("base64") => BASE64.decode(body.trim_ascii()).map_err(|_| {
                Refused::new(
                    Refusal::Invalid,
                    "the body is said to be base64 and is not".to_owned(),
                )
            })?,
            None | Some("") => body.into_bytes(),
            Some(other) => {
                return Err(Refused::new(
                    Refusal::Invalid,
                    format!(
                        "`body_encoding` is `{}`; `base64` is read, or none",
                        one_line(other, SHOWN_BYTES)
                    ),
                ));
            }
        };
        let bytes = match self.headers.string("compression") {
            None => bytes,
            Some(method) => inflate(&method, &bytes, max)?,
        };
        if bytes.len() > max {
            return Err(too_large(max));
        }
        let invalid = |why: String| Refused::new(Refusal::Invalid, why);
        match format {
            Format::Json if latin => Ok(bytes.into_iter().map(char::from).collect()),
            Format::Json => String::from_utf8(bytes)
                .map_err(|_| invalid("the body is not UTF-8, as JSON must be".to_owned())),
            Format::MessagePack => msgpack::to_json(&bytes, max)
                .map_err(|why| invalid(format!("the body, in MessagePack, cannot be read: {why}"))),
        }
    }

    fn format(&self) -> Result<Format, Refused> {
        let whole = self.content_type.as_string().unwrap_or_default().to_ascii_lowercase();
        let kind = whole.split(';').next().unwrap_or_default().trim();
        let advice = "set `task_serializer = 'json'` on the client";
        let reason = match kind {
            "" | "application/json" => return Ok(Format::Json),
            "application/x-msgpack" | "application/msgpack" => return Ok(Format::MessagePack),
            "application/x-python-serialize" => format!(
                "the arguments are pickled, and what is pickled is never read here, since reading \
                 it runs whatever its sender wants; {advice}"
            ),
            other => format!(
                "the arguments are `{}`, and only JSON and MessagePack are read; {advice}",
                one_line(other, SHOWN_BYTES)
            ),
        };
        Err(Refused::new(Refusal::ContentType, reason))
    }
}

fn too_large(max: usize) -> Refused {
    Refused::new(
        Refusal::TooLarge,
        format!(
            "the body is more than {max} bytes when it is unpacked, which is celery.max_body_bytes; \
             raise it, or send less"
        ),
    )
}

/// Decompresses a body, within bounds.
fn inflate(method: &str, bytes: &[u8], max: usize) -> Result<Vec<u8>, Refused> {
    decompress(method, bytes, max).map_err(|fault| match fault {
        Fault::TooLarge => too_large(max),
        Fault::Unknown => Refused::new(
            Refusal::Compression,
            format!(
                "the body is compressed with `{}`; {METHODS} are read, so set `task_compression` to \
                 one of them on the client",
                one_line(method, SHOWN_BYTES)
            ),
        ),
        Fault::Broken => Refused::new(
            Refusal::Invalid,
            format!(
                "the body is said to be compressed with `{}`, and cannot be decompressed",
                one_line(method, SHOWN_BYTES)
            ),
        ),
    })
}
