//! Where messages come from and results go to: one trait, two brokers.
//!
//! `lovage-broker-local` is the embedded broker (SQLite); `lovage-broker-sqs` is Amazon SQS. Both promise the same: a
//! message is received under a lease (its visibility timeout), comes again when the lease ends,
//! and is gone once it is settled. `host/tests/promises/conformance.rs` holds both to it.
//!
//! Delivery is at least once. Whatever a job leads to (result, dead letter, follow-on jobs) is
//! sent *before* its message is deleted, never after.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;

pub mod error;
mod turn;

pub use error::{BrokerError, Fault};
pub use turn::Turn;

use crate::{cancellation::Progress, job::JobKey};

/// Names of the message attributes that Lovage reads and writes.
pub mod attribute {
    /// The job's id, where the body does not say it.
    pub const ID: &str = "lovage-id";
    /// The task's name, where the body does not say it.
    pub const TASK: &str = "lovage-task";
    /// The tenant, where the body does not say it.
    pub const TENANT: &str = "lovage-tenant";
    /// Which wire format the body has, over the queue's configuration.
    pub const FORMAT: &str = "lovage-format";
    /// Media type of a raw body, and of a result.
    pub const CONTENT_TYPE: &str = "content-type";
    /// `base64` where a raw body is encoded.
    pub const CONTENT_ENCODING: &str = "content-encoding";
    /// What a copy must remember of the message it stands for ([`Deferral`](super::Deferral)).
    pub const DEFERRED: &str = "lovage-deferred";
    /// Why a message is a dead letter ([`DeadLetter`](super::DeadLetter)), as JSON.
    pub const DEAD_LETTER: &str = "lovage-dead-letter";
    /// The queue that SQS itself moved a dead letter from. Not on the wire: SQS says it beside the
    /// attributes.
    pub const MOVED_FROM: &str = "lovage-moved-from";
    /// Where a job stands in the chain of jobs that led to it
    /// ([`Lineage`](crate::follow_on::Lineage)), as JSON.
    pub const LINEAGE: &str = "lovage-lineage";
    /// How many jobs and bytes may follow from a job
    /// ([`Budget`](crate::follow_on::Budget)), as JSON.
    pub const BUDGET: &str = "lovage-budget";
    /// When the first copy of a message was sent, in milliseconds since the Unix epoch.
    pub const FIRST_SENT: &str = "lovage-first-sent";
    /// Types of other attributes, as a JSON object from name to type; absent where all are of type
    /// `String`. Only in memory, never on the wire: a broker whose attributes have types keeps them
    /// here, so that a message which is copied goes out as it came in.
    pub const TYPES: &str = "lovage-types";
    /// The result's status.
    pub const STATUS: &str = "lovage-status";
    /// The attempt that gave the result.
    pub const ATTEMPT: &str = "lovage-attempt";
    /// The digest of the component that gave the result.
    pub const COMPONENT: &str = "lovage-component";

    /// The prefix of names that are Lovage's own.
    const PREFIX: &str = "lovage-";

    /// Returns true if nobody but Lovage may give a message an attribute of this name. Case does not
    /// matter: a reader may ignore it.
    pub fn is_reserved(name: &str) -> bool {
        let ours = name.get(..PREFIX.len()).is_some_and(|it| it.eq_ignore_ascii_case(PREFIX));
        ours || [CONTENT_TYPE, CONTENT_ENCODING].iter().any(|it| it.eq_ignore_ascii_case(name))
    }
}

/// Attributes of a message, by name. Binary values are held as base64.
pub type Attributes = BTreeMap<String, String>;

/// A queue that has been found to exist, as [`Broker::open`] returns it. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queue {
    /// The name in logs, results and dead letters.
    pub name: Arc<str>,
    /// What the broker needs to address it: the URL on SQS, the name on the local broker.
    pub address: Arc<str>,
    /// True if messages of one group are handed out in order, one batch at a time.
    pub fifo: bool,
    /// The visibility timeout that the queue itself is set to.
    pub visibility_timeout: Duration,
    /// The queue that the broker itself moves exhausted messages to, if it is set to.
    pub redrive_target: Option<Arc<str>>,
}

/// Names one delivery of a message. Valid until the lease ends.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Receipt(pub Arc<str>);

/// A message as the broker delivered it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The broker's own id, the same at each delivery.
    pub id: String,
    /// This delivery.
    pub receipt: Receipt,
    /// The body, byte for byte.
    pub body: Bytes,
    /// The attributes.
    pub attributes: Attributes,
    /// On a FIFO queue the ordering key, else the tenant of SQS's fair queues.
    pub group: Option<String>,
    /// Which attempt this delivery is, counted from 1. Deliveries that spent none (a snooze, a
    /// wait for the eta) are not counted.
    pub attempt: u32,
    /// When it was first sent, where the broker says so.
    pub sent_at: Option<Timestamp>,
    /// Not to be run before this time: set where the wait is longer than the broker can express.
    pub not_before: Option<Timestamp>,
    /// The trace header that SQS carries outside of the attributes (`AWSTraceHeader`).
    pub trace_header: Option<String>,
}

/// A message to be sent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outgoing {
    /// The body. SQS takes text only, and not every character: see `lovage_broker_sqs`.
    pub body: Bytes,
    /// The attributes.
    pub attributes: Attributes,
    /// The group; a FIFO queue needs one and the broker makes one up where it is absent.
    pub group: Option<String>,
    /// On FIFO queues: two messages with one id within five minutes are one message.
    pub deduplication_id: Option<String>,
    /// Not to be delivered before this has passed. Any length: brokers split what is too long.
    pub delay: Duration,
    /// The trace header, where the broker can carry one.
    pub trace_header: Option<String>,
}

/// The role of a message that is sent because of another one. What can be done where it cannot be
/// sent depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SendKind {
    /// The job's result, to the operator's own queue for results.
    Result,
    /// The job's result, to the queue that its sender named.
    Reply,
    /// The message itself, given up, with the reason.
    DeadLetter,
    /// A job that the guest asked for.
    FollowOn,
    /// A task of Celery's that comes next: a callback, the rest of a chain, a retry.
    CeleryTask,
    /// The state of a task of Celery's, for a client that reads it off a queue.
    CeleryState,
    /// The message itself, unchanged: it waits longer than the broker can express, or a person
    /// moves it.
    Copy,
}

impl SendKind {
    /// True for work that follows from a job. It is sent before the job's own end is told: a job
    /// whose next step cannot be sent has failed.
    pub const fn is_next_step(self) -> bool {
        matches!(self, Self::FollowOn | Self::CeleryTask)
    }
}

/// A message that is sent because of another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Send {
    /// Its role.
    pub kind: SendKind,
    /// The address of the queue ([`Queue::address`]).
    pub to: Arc<str>,
    /// The message.
    pub message: Outgoing,
}

/// A result that the broker keeps by the job's tenant and id, where it can ([`Broker::result`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptResult {
    /// The job's tenant; empty where it has none.
    pub tenant: String,
    /// The job's id.
    pub job_id: String,
    /// The result in the `envelope` format, as JSON.
    pub envelope: Bytes,
}

/// The fate of one message after its attempt.
#[derive(Debug, Clone)]
pub enum Disposal {
    /// Send what follows from it, and only when all of that was accepted delete it.
    Finish {
        /// The result for the broker to keep.
        result: Option<KeptResult>,
        /// Result, dead letter and follow-on messages.
        sends: Vec<Send>,
    },
    /// Put it back.
    Release {
        /// Not to be delivered before this has passed. Any length.
        after: Duration,
        /// True if the delivery counts as an attempt.
        spent: bool,
    },
}

/// One message, whole, and what becomes of it.
#[derive(Debug, Clone)]
pub struct Settlement {
    /// The message; shared, since it is needed whole to be copied or moved.
    pub message: Arc<Message>,
    /// Its fate.
    pub disposal: Disposal,
}

/// A settlement that was not carried out to its end.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct Unsettled {
    /// Why not.
    pub error: BrokerError,
    /// The send that the error is about: its index among those that are left. `None` where the
    /// error is about the message itself, or about the broker as a whole.
    pub at: Option<usize>,
    /// The rest of the disposal. Settling again with it sends nothing twice:
    /// what was accepted is not in it any more.
    pub left: Box<Disposal>,
}

/// What a copy of a message must remember of the one that it stands for. Travels as the attribute
/// [`attribute::DEFERRED`], as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deferral {
    /// The broker's id of the first copy: the job's id where the sender named none.
    pub message_id: String,
    /// Attempts spent before this copy.
    #[serde(default)]
    pub attempts: u32,
    /// Not to be run before this time, in milliseconds since the Unix epoch.
    #[serde(default)]
    pub not_before_ms: i64,
}

/// Why a message is a dead letter. Travels as the attribute [`attribute::DEAD_LETTER`], as JSON.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DeadLetter {
    /// The queue that it came from, by name.
    pub queue: String,
    /// The result's status.
    pub status: crate::outcome::Status,
    /// The failure's kind.
    pub kind: String,
    /// The failure's message, cut to 1 KiB.
    pub reason: String,
    /// Attempts made.
    pub attempts: u32,
    /// The job's id, as far as it could be read.
    pub job_id: String,
    /// The job's task, as far as it could be read.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub task: String,
    /// The tenant, as far as it could be read.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub tenant: String,
    /// When it was given up.
    pub at: Timestamp,
}

/// How many messages a queue holds. Exact on the local broker, approximate on SQS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Depth {
    /// Ready to be received.
    pub ready: u64,
    /// Waiting for their delay to pass.
    pub delayed: u64,
    /// Under a lease.
    pub in_flight: u64,
}

/// The limits of a broker, so that callers need not know which broker it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The most messages that one receive returns.
    pub receive_batch: usize,
    /// The most settlements that gain from being made together.
    pub settle_batch: usize,
    /// How many settlement calls may usefully be under way at once.
    pub settle_concurrency: usize,
    /// How long a settlement may wait for others to join it: above zero where a call costs money.
    pub settle_linger: Duration,
    /// True if deliveries of a FIFO queue count as attempts that only waited for their time.
    pub counts_waits: bool,
    /// True if a receive keeps to its [`Turn`].
    pub takes_turns: bool,
    /// True if results can be asked for by job id ([`Broker::result`]).
    pub keeps_results: bool,
    /// The largest body with its attributes, in bytes.
    pub message_bytes: usize,
    /// The longest that one delivery can be held, counted from its receipt.
    pub max_lease: Duration,
}

/// A broker. All calls may be made concurrently.
#[async_trait]
pub trait Broker: std::fmt::Debug + std::marker::Send + Sync {
    /// `local` or `sqs`.
    fn kind(&self) -> &'static str;

    /// The limits of this broker.
    fn limits(&self) -> Limits;

    /// Finds a queue by name (or URL, on SQS). [`Fault::NotFound`] when there is none.
    async fn open(&self, name: &str) -> Result<Queue, BrokerError>;

    /// Waits until the broker is lost for good: nothing that is tried again can succeed. Says why.
    /// Never ends where only an outage can come up.
    async fn lost(&self) -> BrokerError {
        std::future::pending().await
    }

    /// Receives 0 to `max` messages (capped by [`Limits::receive_batch`]), each leased for
    /// `visibility`. Waits up to `wait` for the first, without busy polling. Safe to drop while it
    /// waits: a message that was leased for a dropped call comes again at the end of its lease.
    ///
    /// `turn` says of which groups, on queues that are not FIFO, where the broker can choose
    /// ([`Limits::takes_turns`]).
    async fn receive(
        &self,
        queue: &Queue,
        max: usize,
        wait: Duration,
        visibility: Duration,
        turn: &Turn,
    ) -> Result<Vec<Message>, BrokerError>;

    /// Makes receives that wait return at once, empty-handed, where that can be done without the
    /// risk of losing sight of a message that is just being delivered.
    fn interrupt(&self) {}

    /// Renews leases: each ends `visibility` from now. One answer a receipt, in order.
    /// [`Fault::Stale`] where the lease is lost.
    async fn extend(
        &self,
        queue: &Queue,
        receipts: &[Receipt],
        visibility: Duration,
    ) -> Vec<Result<(), BrokerError>>;

    /// Carries out what becomes of messages; any number. One answer each, in order. A message
    /// whose answer is an error is still there (or its lease was lost: [`Fault::Stale`]); what is
    /// left to be done with it is in the answer.
    async fn settle(&self, queue: &Queue, settlements: &[Settlement])
    -> Vec<Result<(), Unsettled>>;

    /// Sends messages; any number. The broker's id for each, or why it was not taken, in order.
    async fn send(&self, queue: &Queue, messages: &[Outgoing]) -> Vec<Result<String, BrokerError>>;

    /// How many messages there are.
    async fn depth(&self, queue: &Queue) -> Result<Depth, BrokerError>;

    /// Up to `max` messages, for a person to look at: they stay where they are. On SQS each is
    /// hidden for a moment and counted as received once more.
    async fn browse(&self, queue: &Queue, max: usize) -> Result<Vec<Message>, BrokerError>;

    /// Keeps how far a job is, for [`progress`](Self::progress), until its result is kept.
    /// [`Fault::Unsupported`] where the broker keeps no results either.
    async fn report_progress(
        &self,
        job: JobKey<'_>,
        progress: &Progress,
    ) -> Result<(), BrokerError> {
        let _ = (job, progress);
        Err(self.keeps_nothing())
    }

    /// How far a job was when that was last heard.
    async fn progress(&self, job: JobKey<'_>) -> Result<Option<Progress>, BrokerError> {
        let _ = job;
        Err(self.keeps_nothing())
    }

    /// Revokes a job: one that has yet to run is not run, one that runs is told so. `tenant` is
    /// whose job it is; `None` revokes the id for every tenant. The job need not exist: a
    /// revocation is kept for as long as results are. [`Fault::Unsupported`] where the broker
    /// cannot keep it.
    async fn revoke(&self, tenant: Option<&str>, job_id: &str) -> Result<(), BrokerError> {
        let _ = (tenant, job_id);
        Err(self.keeps_nothing())
    }

    /// Returns true if a job was revoked. Cheap where none is; what another process said may take
    /// a second to be seen.
    async fn is_revoked(&self, job: JobKey<'_>) -> Result<bool, BrokerError> {
        let _ = job;
        Ok(false)
    }

    /// The tenants that something is kept for under a job's id, for an operator who knows the id
    /// alone; the empty name stands for jobs without a tenant.
    async fn tenants_of(&self, job_id: &str) -> Result<Vec<String>, BrokerError> {
        let _ = job_id;
        Ok(Vec::new())
    }

    /// The error of a broker that keeps nothing by the job's id.
    fn keeps_nothing(&self) -> BrokerError {
        BrokerError::new(
            Fault::Unsupported,
            format!("the broker `{}` keeps nothing by a job's id", self.kind()),
        )
    }

    /// The result kept for a job, once there is one; waits up to `wait` for it.
    /// [`Fault::Unsupported`] where the broker keeps none.
    async fn result(&self, job: JobKey<'_>, wait: Duration) -> Result<Option<Bytes>, BrokerError>;
}
