//! Where the states and results of jobs are kept by their ids, for whoever asks later: the result
//! backends of Celery, as its own clients and workers read and write them.
//!
//! A store also counts the parts of a chord, and remembers who was revoked, since it is what all
//! workers share.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;

use crate::{celery::keys, config::CeleryConfig};

pub mod dynamodb;
pub mod redis;

/// Why an operation did not happen: the store cannot be reached, or refuses. Says where it is,
/// without user and password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct StoreError(pub String);

/// A chord's part that has come to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part<'a> {
    /// The group that the chord's header is.
    pub group: &'a str,
    /// The part's task.
    pub task: &'a str,
    /// Its place in the header.
    pub index: Option<u64>,
    /// How many parts there are, where the part's message says so.
    pub size: Option<u64>,
    /// What is kept of it, as JSON: `[1, id, state, result]`.
    pub encoded: &'a [u8],
}

/// All parts of a chord have come to their end, and this is who goes on with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Complete {
    /// The parts in the header's order, each as JSON `[1, id, state, result]`; empty in stores that
    /// keep none.
    pub parts: Vec<Bytes>,
    /// The saved results of the group by their ids, as JSON, where they were saved: they are of
    /// another form than a plain list, or the store keeps no parts.
    pub group: Option<Bytes>,
    /// What names this claim to go on with the chord.
    pub claim: String,
}

/// The store that the configuration names. Nothing is connected before it is first asked. `Err` says
/// what is wrong with the URL, without it: there may be a password in it.
pub fn open(config: &CeleryConfig) -> Result<Option<Arc<dyn ResultStore>>, String> {
    let Some(url) = &config.result_backend else { return Ok(None) };
    let prefix = keys::prefix(&config.result_key_prefix);
    let wrong = |why: String| format!("celery.result_backend: {why}");
    let store: Arc<dyn ResultStore> = match url.split_once("://").map(|(scheme, _)| scheme) {
        Some("redis" | "rediss") => {
            let expires = Duration::from_millis(config.result_expires_ms);
            Arc::new(redis::RedisResults::new(url, &prefix, expires).map_err(wrong)?)
        }
        Some("dynamodb") => Arc::new(dynamodb::DynamoResults::new(url, &prefix).map_err(wrong)?),
        _ => {
            return Err(wrong(
                "it begins with `redis://`, `rediss://` or `dynamodb://`, as the clients' own does"
                    .to_owned(),
            ));
        }
    };
    Ok(Some(store))
}

/// What a part of a chord came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Counted {
    /// Others are missing, or the chord was gone on with.
    Waits,
    /// It was the last, and somebody else is about to go on with the chord, or was when it died: to
    /// be told again until that is known.
    Busy,
    /// It was the last.
    Complete(Complete),
}

/// A store of results.
#[async_trait]
pub trait ResultStore: fmt::Debug + Send + Sync {
    /// Keeps a task's state: `meta` is the value as Celery writes it. A task that has succeeded
    /// keeps that, whatever comes later; `Ok(false)` then.
    async fn put(&self, task: &str, meta: Bytes) -> Result<bool, StoreError>;

    /// What is kept of tasks, in their order.
    async fn get(&self, tasks: &[String]) -> Result<Vec<Option<Bytes>>, StoreError>;

    /// A chord begins: `result` is the results of its header by their ids, as JSON, and `nested`
    /// whether there is a group among them.
    async fn begin_chord(&self, group: &str, result: Bytes, nested: bool)
    -> Result<(), StoreError>;

    /// How many parts a chord has, told before any of them can end.
    async fn chord_size(&self, group: &str, size: u64) -> Result<(), StoreError>;

    /// Counts a part of a chord, once, however often it is told.
    async fn end_part(&self, part: Part<'_>) -> Result<Counted, StoreError>;

    /// Drops what was kept of a chord that was gone on with.
    async fn end_chord(&self, group: &str, claim: &str) -> Result<(), StoreError>;

    /// Remembers that jobs are revoked.
    async fn revoke(&self, tasks: &[String]) -> Result<(), StoreError>;

    /// Whether a job is revoked.
    async fn is_revoked(&self, task: &str) -> Result<bool, StoreError>;
}

/// The key under which it is remembered that a job is revoked. Celery has none: its workers tell
/// each other by broadcasts, which SQS has not.
fn revoked(task: &str) -> String {
    format!("lovage-revoked-{task}")
}
