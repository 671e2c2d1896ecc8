//! From a message to a published result: decoding, attempts, settlement, and the worker.
//!
//! It knows brokers only as [`Broker`](lovage_core::broker::Broker).

#![forbid(unsafe_code)]

pub mod abort_report;
#[cfg(feature = "isolation")]
pub mod isolation;
pub mod lease;
pub mod load;
pub mod message;
pub mod pipeline;
pub mod publish;
pub mod publish_gate;
pub mod routes;
pub mod service;
pub mod settings;
pub mod settle;
pub mod supervise;
pub mod telemetry;
pub mod tenancy;
pub mod worker;
