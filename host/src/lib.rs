//! Lovage: a task runtime whose tasks are WebAssembly components.
//!
//! Data flows one way: a [`broker`] delivers a message, [`message`] decodes it to a [`job`], a
//! [`sandbox`] runs the job to an [`outcome`], and a result is published before the message is
//! deleted. `docs/design.md` tells the whole way and why it is so.

pub mod abandon;
pub mod aws;
pub mod backtraces;
mod bounded_body;
pub mod broker;
pub mod byte_size;
pub mod celery;
#[cfg(feature = "cli")]
pub mod cli;
pub mod clock;
pub mod config;
pub mod connect;
pub mod dependency;
pub mod dispatch;
pub mod events;
pub mod fair;
mod flushes;
pub mod follow_on;
pub mod format;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod group_id;
pub mod health;
pub mod http;
#[cfg(feature = "isolation")]
pub mod isolation;
pub mod job;
pub mod keyvalue;
pub mod lambda;
pub mod lease;
pub mod load;
pub mod media_type;
pub mod message;
pub mod outcome;
mod paced_write;
pub mod phase;
pub mod pipeline;
pub mod policy;
pub mod publish;
pub mod publish_gate;
pub mod quiet;
pub mod redis_client;
pub mod registry;
pub mod result;
pub mod retry;
pub mod routes;
pub mod sandbox;
pub mod secrets;
pub mod settings;
pub mod settle;
pub mod signature;
pub mod sqs_charset;
pub mod store;
pub mod supervise;
pub mod telemetry;
pub mod tenancy;
pub mod tenant_source;
pub mod text;
mod time_slice;
pub mod usage;
pub mod wanted;
pub mod worker;
