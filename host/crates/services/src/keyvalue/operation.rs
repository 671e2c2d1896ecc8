//! An operation on a bucket as a value, so that one process can make it for another.

use serde::{Deserialize, Serialize};

use super::{Namespace, Page, Quota, Store, StoreError, Swap, Version};

/// An operation of [`Store`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[allow(missing_docs, reason = "each is the method of that name")]
pub enum Operation {
    Get(Namespace, Vec<String>),
    Read(Namespace, String),
    Set(Namespace, Vec<(String, Vec<u8>)>),
    Delete(Namespace, Vec<String>),
    Exists(Namespace, String),
    List(Namespace, Option<u64>),
    Increment(Namespace, String, i64),
    Swap(Namespace, String, Option<Version>, Vec<u8>),
}

/// What an operation gives.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[allow(missing_docs, reason = "named after what they hold")]
pub enum Answer {
    Values(Vec<Option<Vec<u8>>>),
    Read(Option<(Version, Vec<u8>)>),
    Done(()),
    Exists(bool),
    Page(Page),
    Number(i64),
    Swap(Swap),
}

/// A [`StoreError`] without what only the operator may read.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[allow(missing_docs, reason = "as in `StoreError`")]
pub enum OperationError {
    Quota { quota: Quota, asked: u64, allowed: u64 },
    NotANumber,
    Overflow,
    Unavailable,
}

impl From<StoreError> for OperationError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Quota { quota, asked, allowed } => Self::Quota { quota, asked, allowed },
            StoreError::NotANumber => Self::NotANumber,
            StoreError::Overflow => Self::Overflow,
            _ => Self::Unavailable,
        }
    }
}

impl From<OperationError> for StoreError {
    fn from(error: OperationError) -> Self {
        match error {
            OperationError::Quota { quota, asked, allowed } => {
                Self::Quota { quota, asked, allowed }
            }
            OperationError::NotANumber => Self::NotANumber,
            OperationError::Overflow => Self::Overflow,
            OperationError::Unavailable => {
                Self::Unavailable("the worker has the reason".to_owned())
            }
        }
    }
}

impl Operation {
    /// The bucket that it is about.
    pub fn bucket(&self) -> &Namespace {
        match self {
            Self::Get(bucket, _)
            | Self::Read(bucket, _)
            | Self::Set(bucket, _)
            | Self::Delete(bucket, _)
            | Self::Exists(bucket, _)
            | Self::List(bucket, _)
            | Self::Increment(bucket, ..)
            | Self::Swap(bucket, ..) => bucket,
        }
    }

    /// Makes the operation.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub async fn make(self, store: &dyn Store) -> Result<Answer, StoreError> {
        Ok(match self {
            Self::Get(bucket, keys) => Answer::Values(store.get(&bucket, keys).await?),
            Self::Read(bucket, key) => Answer::Read(store.read(&bucket, key).await?),
            Self::Set(bucket, entries) => Answer::Done(store.set(&bucket, entries).await?),
            Self::Delete(bucket, keys) => Answer::Done(store.delete(&bucket, keys).await?),
            Self::Exists(bucket, key) => Answer::Exists(store.exists(&bucket, key).await?),
            Self::List(bucket, after) => Answer::Page(store.list(&bucket, after).await?),
            Self::Increment(bucket, key, delta) => {
                Answer::Number(store.increment(&bucket, key, delta).await?)
            }
            Self::Swap(bucket, key, expected, value) => {
                Answer::Swap(store.swap(&bucket, key, expected, value).await?)
            }
        })
    }
}
