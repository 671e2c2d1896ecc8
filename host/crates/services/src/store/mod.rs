//! Where the states and results of jobs are kept by their ids, for whoever asks later: the result
//! backends of Celery, as its own clients and workers read and write them.
//!
//! A store also counts the parts of a chord, and keeps revocations, since it is what all workers
//! share.
//!
//! Celery's keys hold a task's or group's id and nothing else, and senders choose ids. So a store
//! keeps beside each key whose tenant's it is: the first that writes under it. Another tenant's job
//! neither reads nor replaces it ([`StoreError::OtherTenants`]). With `{tenant}:` in
//! `celery.result_key_prefix` each tenant has keys of its own, and nobody can be first in another's
//! place.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;

use lovage_celery::keys::Prefix;
use lovage_config::Config;
use lovage_core::{dependency::Probe, job::JobKey};

pub mod dynamodb;
mod guarded;
pub mod redis;

pub use guarded::Guarded;

/// Why an operation did not happen. Says where the store is, without user and password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The store cannot be reached, or refuses everybody: the same may succeed later.
    #[error("{0}")]
    Away(String),
    /// The store refuses this operation, and would again.
    #[error("{0}")]
    Refused(String),
    /// What is kept under the id is another tenant's.
    #[error("the result store keeps this id for another tenant")]
    OtherTenants,
}

/// The id of the task that probes write under, with a state that no client waits for.
const PROBE_ID: &str = "lovage-probe";
/// What a probe writes.
const PROBE_META: &str = r#"{"status": "PENDING", "result": null, "task_id": "lovage-probe"}"#;

/// A chord's part that has come to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part<'a> {
    /// The tenant of the part's job.
    pub tenant: &'a str,
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
pub fn open(config: &Config) -> Result<Option<Arc<dyn ResultStore>>, String> {
    let marks_all = !config.tenants.is_empty();
    let config = &config.celery;
    let prefix = Prefix::parse(&config.result_key_prefix)
        .map_err(|why| format!("celery.result_key_prefix: {why}"))?;
    let Some(url) = &config.result_backend else { return Ok(None) };
    let keys = Keys { prefix, marks_all };
    let wrong = |why: String| format!("celery.result_backend: {why}");
    let store: Arc<dyn ResultStore> = match url.split_once("://").map(|(scheme, _)| scheme) {
        Some("redis" | "rediss") => {
            let expires = Duration::from_millis(config.result_expires_ms);
            let expires_ms = [config.result_failure_expires_ms, config.result_chord_expires_ms];
            let [failures, chords] = expires_ms.map(|ms| ms.map(Duration::from_millis));
            let store = redis::RedisResults::new(url, keys, expires).map_err(wrong)?;
            Arc::new(store.expiring(failures, chords))
        }
        Some("dynamodb") => Arc::new(dynamodb::DynamoResults::new(url, keys).map_err(wrong)?),
        _ => {
            return Err(wrong(
                "it begins with `redis://`, `rediss://` or `dynamodb://`, as the clients' own does"
                    .to_owned(),
            ));
        }
    };
    Ok(Some(store))
}

/// How a store names what it keeps, and whose it is.
#[derive(Debug, Clone)]
pub struct Keys {
    /// Stands before all keys.
    pub prefix: Prefix,
    /// Values of jobs without a tenant are marked as such: where there are tenants, they are nobody
    /// else's. Celery's own workers mark nothing.
    pub marks_all: bool,
}

impl Keys {
    /// The mark of a tenant's values; `None` where they have none.
    fn mark<'a>(&self, tenant: &'a str) -> Option<&'a str> {
        (self.marks_all || !tenant.is_empty()).then_some(tenant)
    }
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

/// A store of results. Whatever is written or read is written and read for a tenant, which is empty
/// for jobs without one.
#[async_trait]
pub trait ResultStore: Probe {
    /// Keeps a task's state: `meta` is the value as Celery writes it. A task that has succeeded
    /// keeps that, whatever comes later; `Ok(false)` then.
    async fn put(&self, job: JobKey<'_>, meta: Bytes) -> Result<bool, StoreError>;

    /// What is kept of tasks, in their order; nothing of those that are another tenant's.
    async fn get(&self, tenant: &str, tasks: &[String]) -> Result<Vec<Option<Bytes>>, StoreError>;

    /// A chord begins: `result` is the results of its header by their ids, as JSON, and `nested`
    /// whether there is a group among them.
    async fn begin_chord(
        &self,
        group: JobKey<'_>,
        result: Bytes,
        nested: bool,
    ) -> Result<(), StoreError>;

    /// How many parts a chord has, told before any of them can end.
    async fn chord_size(&self, group: JobKey<'_>, size: u64) -> Result<(), StoreError>;

    /// Counts a part of a chord, once, however often it is told.
    async fn end_part(&self, part: Part<'_>) -> Result<Counted, StoreError>;

    /// Drops what was kept of a chord that was gone on with.
    async fn end_chord(&self, group: JobKey<'_>, claim: &str) -> Result<(), StoreError>;

    /// Remembers that jobs are revoked: a tenant's, or with `None` those of every tenant.
    async fn revoke(&self, tenant: Option<&str>, tasks: &[String]) -> Result<(), StoreError>;

    /// Returns true if a job is revoked.
    async fn is_revoked(&self, job: JobKey<'_>) -> Result<bool, StoreError>;
}

/// Refuses the id of a group whose keys would be taken for those of another.
fn check_group(group: &str) -> Result<(), StoreError> {
    if lovage_celery::keys::is_ambiguous(group) {
        let group = lovage_core::text::one_line(group, 200);
        return Err(StoreError::Refused(format!(
            "the id of the group `{group}` ends like the name of a chord's key, so that it could \
             be taken for a part of another chord; use another id"
        )));
    }
    Ok(())
}
