//! The domain's central type: one piece of work, whatever wire format it came in.
//!
//! Nothing here knows of AWS, wasmtime or HTTP. Messages decode to a [`Job`], a sandbox turns a
//! job into an [`Outcome`](crate::outcome::Outcome), and a result is made of both.

use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;

use crate::{follow_on::Budget, media_type::JSON};

/// The longest job id, tenant or task name that is accepted, in bytes.
pub const MAX_NAME_BYTES: usize = 200;

/// One piece of work, decoded from a message or an event.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Job {
    /// The idempotency key: the same on every attempt and delivery. 1 to 200 bytes.
    pub id: String,
    /// The name of the task to run.
    pub task: String,
    /// The tenant that the job belongs to; empty without tenants.
    pub tenant: String,
    /// 1 on the first attempt.
    pub attempt: u32,
    /// How many attempts this job gets, when the sender says so.
    pub max_attempts: Option<u32>,
    /// Wall time for one attempt, when the sender says so.
    pub timeout: Option<Duration>,
    /// Wall time after which an attempt is asked to end, when the sender says so.
    pub soft_timeout: Option<Duration>,
    /// Media type of `payload`.
    pub content_type: String,
    /// The payload, byte for byte.
    #[serde(skip)]
    pub payload: Bytes,
    /// Not to be run before this time.
    pub eta: Option<Timestamp>,
    /// Not to be run after this time.
    pub expires: Option<Timestamp>,
    /// Where the sender wants the result: a queue's name or URL.
    pub reply_to: Option<String>,
    /// Headers for the guest, trace context included. Names are lower case and may repeat.
    pub headers: Vec<(String, String)>,
    /// The id of the first job of the chain that led here; `None` when it is this one.
    pub root_id: Option<String>,
    /// The id of the job that asked for this one.
    pub parent_id: Option<String>,
    /// How many jobs of that chain were before this one.
    pub depth: u32,
    /// The budget for follow-on jobs from its message; `None` for the first job of a tree.
    pub budget: Option<Budget>,
}

/// The name under which results, progress and revocations are kept: the tenant and the job's id.
/// Senders choose ids, so the id alone does not tell whose job it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct JobKey<'a> {
    /// The tenant; empty where the job has none.
    pub tenant: &'a str,
    /// The job's id.
    pub id: &'a str,
}

impl<'a> JobKey<'a> {
    /// A tenant's job.
    pub const fn new(tenant: &'a str, id: &'a str) -> Self {
        Self { tenant, id }
    }

    /// The same, for whoever keeps it.
    pub fn to_owned(self) -> OwnedJobKey {
        OwnedJobKey { tenant: self.tenant.to_owned(), id: self.id.to_owned() }
    }
}

/// A job without a tenant.
impl<'a> From<&'a str> for JobKey<'a> {
    fn from(id: &'a str) -> Self {
        Self { tenant: "", id }
    }
}

/// A [`JobKey`] that owns its names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct OwnedJobKey {
    /// The tenant; empty where the job has none.
    pub tenant: String,
    /// The job's id.
    pub id: String,
}

impl OwnedJobKey {
    /// The key.
    pub fn as_key(&self) -> JobKey<'_> {
        JobKey::new(&self.tenant, &self.id)
    }
}

impl Job {
    /// The name under which its result is kept.
    pub fn key(&self) -> JobKey<'_> {
        JobKey::new(&self.tenant, &self.id)
    }

    /// A job with nothing but the parts that every job has.
    pub fn new(id: impl Into<String>, task: impl Into<String>, payload: impl Into<Bytes>) -> Self {
        Self {
            id: id.into(),
            task: task.into(),
            tenant: String::new(),
            attempt: 1,
            max_attempts: None,
            timeout: None,
            soft_timeout: None,
            content_type: JSON.to_owned(),
            payload: payload.into(),
            eta: None,
            expires: None,
            reply_to: None,
            headers: Vec::new(),
            root_id: None,
            parent_id: None,
            depth: 0,
            budget: None,
        }
    }

    /// How long to wait before the job may run; `None` when it may run now.
    pub fn due_in(&self, now: Timestamp) -> Option<Duration> {
        let eta = self.eta?;
        Duration::try_from(eta.duration_since(now)).ok().filter(|wait| !wait.is_zero())
    }

    /// How long until the job's time is over; `None` where it has no end.
    pub fn expires_in(&self, now: Timestamp) -> Option<Duration> {
        Some(Duration::try_from(self.expires?.duration_since(now)).unwrap_or_default())
    }

    /// Returns true if the job's time is over.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_due_at_its_eta_and_not_before() {
        let now = Timestamp::from_millisecond(1_000_000).unwrap();
        let mut job = Job::new("a", "echo", "1");
        assert_eq!(job.due_in(now), None);
        job.eta = Some(Timestamp::from_millisecond(1_000_250).unwrap());
        assert_eq!(job.due_in(now), Some(Duration::from_millis(250)));
        assert_eq!(job.due_in(job.eta.unwrap()), None);
    }

    #[test]
    fn a_job_expires_at_the_very_moment_named() {
        let now = Timestamp::from_millisecond(5).unwrap();
        let mut job = Job::new("a", "echo", "1");
        assert!(!job.is_expired(now));
        job.expires = Some(now);
        assert!(job.is_expired(now));
    }
}
