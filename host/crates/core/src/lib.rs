//! The domain of Lovage: jobs, outcomes, results, and the [`Broker`](broker::Broker) trait.
//!
//! A message is decoded to a [`job`]; an attempt ends with an [`outcome`]; a [`result`] is made of
//! both. Nothing here knows of AWS, SQLite, wasmtime, Celery or HTTP, and nothing here does I/O.

#![forbid(unsafe_code)]

pub mod backoff;
pub mod broker;
pub mod byte_size;
pub mod cancellation;
pub mod clock;
pub mod dependency;
pub mod events;
pub mod fair;
pub mod follow_on;
pub mod format;
pub mod group_id;
pub mod job;
pub mod log_throttle;
pub mod media_type;
pub mod outcome;
pub mod phase;
pub mod result;
pub mod sqs_charset;
pub mod tenant_source;
pub mod text;
pub mod usage;
