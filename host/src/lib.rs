//! Lovage: a task runtime whose tasks are WebAssembly components.
//!
//! Data flows one way: a [`broker`] delivers a message, [`message`] decodes it to a [`job`], a
//! [`sandbox`] runs the job to an [`outcome`], and a result is published before the message is
//! deleted. `docs/design.md` tells the whole way and why it is so.

#![forbid(unsafe_code)]

mod host;

pub use host::{Host, HostBuilder, HostError};
pub use lovage_runtime::worker::Stop;

#[cfg(any(test, fuzzing))]
pub mod fuzz;

pub use lovage_aws as aws;
pub use lovage_celery as celery;
#[cfg(feature = "cli")]
pub use lovage_cli as cli;
#[cfg(feature = "cli")]
pub use lovage_cli::http;
pub use lovage_config as config;
pub use lovage_connect as connect;
pub use lovage_core::{
    backoff, byte_size, cancellation, clock, dependency, events, fair, follow_on, format, group_id,
    job, log_throttle, media_type, outcome, phase, result, sqs_charset, tenant_source, text, usage,
};
pub use lovage_lambda as lambda;
pub use lovage_lambda::dispatch;
pub use lovage_platform::{backtraces, time_slice};
pub use lovage_policy as policy;
pub use lovage_registry as registry;
pub use lovage_registry::signature;
#[cfg(feature = "isolation")]
pub use lovage_runtime::isolation;
pub use lovage_runtime::{
    abort_report, lease, load, message, pipeline, publish, publish_gate, routes, settings, settle,
    supervise, telemetry, tenancy, worker,
};
pub use lovage_sandbox as sandbox;
pub use lovage_sandbox::health;
pub use lovage_services::{keyvalue, redis_client, secrets, store};

/// Where messages come from and results go to: one trait, two brokers.
pub mod broker {
    #[cfg(feature = "local")]
    pub use lovage_broker_local as local;
    pub use lovage_broker_sqs as sqs;
    pub use lovage_core::broker::*;
}
