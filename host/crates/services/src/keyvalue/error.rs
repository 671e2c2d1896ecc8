//! Why an operation on a bucket did not happen.

use std::time::Duration;

use lovage_core::byte_size::ByteSize;

/// What a bucket may hold only so much of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Quota {
    /// Keys.
    Keys,
    /// Bytes of keys and values together.
    Bytes,
    /// Bytes of one value.
    ValueBytes,
    /// Bytes of the values in one answer; no configuration raises it.
    AnswerBytes,
}

/// Why an operation did not happen. [`Unavailable`](Self::Unavailable) and
/// [`Timeout`](Self::Timeout) are the store's trouble, and its address may be in them: for the
/// operator's log. All else is for the guest to read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// More than the bucket may hold.
    #[error("{}", refusal(*.quota, *.asked, *.allowed))]
    Quota {
        /// Of what.
        quota: Quota,
        /// How much there would have been.
        asked: u64,
        /// How much there may be.
        allowed: u64,
    },
    /// An increment of what is no number.
    #[error("the key's value is no whole number in decimal digits, so it cannot be incremented")]
    NotANumber,
    /// An increment beyond 64 bits.
    #[error("the number would not fit into 64 bits")]
    Overflow,
    /// The store cannot be reached, or is in trouble.
    #[error("{0}")]
    Unavailable(String),
    /// The store did not answer in time; whether the operation happened is not known.
    #[error("there was no answer within {0:?} (`keyvalue.timeout_ms`)")]
    Timeout(Duration),
}

fn refusal(quota: Quota, asked: u64, allowed: u64) -> String {
    let (has, may) = (ByteSize(asked), ByteSize(allowed));
    match quota {
        Quota::Keys => format!(
            "the bucket would hold {asked} keys, and {allowed} are allowed (`keyvalue.max_keys` \
             raises it)"
        ),
        Quota::Bytes => format!(
            "the bucket would hold {has}, and {may} are allowed (`keyvalue.max_bytes` raises it)"
        ),
        Quota::ValueBytes => format!(
            "the value has {has}, and {may} are allowed (`keyvalue.max_value_bytes` raises it)"
        ),
        Quota::AnswerBytes => {
            format!("the values have more than {may} together; ask for fewer in one call")
        }
    }
}
