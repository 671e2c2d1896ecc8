//! Keys that may sign components.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;

use lovage_core::text::one_line;

/// A key that may sign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// What signatures call it.
    pub id: String,
    /// Its 32 bytes.
    pub public: Vec<u8>,
    /// Until when what it signed is taken.
    pub not_after: Option<Timestamp>,
    /// True if it may sign native code, too.
    pub precompiled: bool,
}

impl Key {
    /// From the text of a public key: 32 bytes in base64.
    pub fn parse(id: &str, public: &str, not_after: Option<Timestamp>) -> Result<Self, String> {
        let bytes = STANDARD.decode(public.trim()).ok().filter(|bytes| bytes.len() == 32);
        let public = bytes.ok_or_else(|| {
            format!(
                "the public key `{}` is not 32 bytes in base64, as `lovage sign --new-key` prints \
                 them",
                one_line(id, 100)
            )
        })?;
        Ok(Self { id: id.to_owned(), public, not_after, precompiled: false })
    }

    /// Whether it has expired, or does so within that time.
    pub fn expires_within(&self, time: Duration, now: Timestamp) -> bool {
        let Some(not_after) = self.not_after else { return false };
        let left = now.duration_until(not_after);
        jiff::SignedDuration::try_from(time).is_ok_and(|time| left <= time)
    }
}
