//! What Lovage promises, one test a promise, grouped by whom the promise is about.
//!
//! One test binary, so that the heavy dependencies are linked once, and the local AWS that many
//! promises are tested on is started once. It is installed by `make test-setup`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that meets the unexpected has to fail, loudly and on the spot"
)]
#![allow(clippy::print_stderr, reason = "a test that is skipped says why on standard error")]
#![allow(async_fn_in_trait, reason = "fixtures are only awaited in place, never spawned")]

#[cfg(all(feature = "cli", feature = "compiler"))]
mod authoring;
#[cfg(all(feature = "cli", feature = "compiler"))]
mod celery;
#[cfg(all(feature = "cli", feature = "compiler"))]
mod cli;
mod commands;
#[cfg(feature = "compiler")]
mod compile_cache;
#[cfg(all(feature = "cli", feature = "compiler"))]
mod compiling;
#[cfg(feature = "compiler")]
mod components;
mod conformance;
#[cfg(feature = "compiler")]
mod cpu;
mod determinism;
#[cfg(all(feature = "cli", feature = "compiler", feature = "local"))]
mod dev;
#[cfg(feature = "compiler")]
mod examples;
mod guest_logs;
#[cfg(feature = "compiler")]
mod guests;
#[cfg(feature = "compiler")]
mod host_memory;
#[cfg(all(feature = "cli", feature = "compiler", feature = "local"))]
mod host_panics;
mod hostile;
#[cfg(all(feature = "cli", feature = "compiler", feature = "local", feature = "remote"))]
mod hot_swap;
#[cfg(feature = "compiler")]
mod http_out;
mod keyvalue;
mod lambda;
#[cfg(all(feature = "cli", feature = "compiler"))]
mod languages;
#[cfg(feature = "compiler")]
mod limits;
#[cfg(feature = "local")]
mod local_broker;
#[cfg(feature = "local")]
mod local_model;
#[cfg(feature = "local")]
mod local_power_cut;
#[cfg(feature = "local")]
mod local_processes;
#[cfg(all(feature = "cli", feature = "compiler", feature = "local"))]
mod many_components;
mod metering;
#[cfg(all(feature = "cli", feature = "compiler", feature = "local"))]
mod operator;
#[cfg(all(feature = "cli", feature = "compiler", feature = "local"))]
mod payload_check;
#[cfg(feature = "compiler")]
mod pools;
#[cfg(feature = "compiler")]
mod precompiled;
#[cfg(feature = "compiler")]
mod ready;
#[cfg(feature = "compiler")]
mod registry;
#[cfg(feature = "compiler")]
mod sandbox;
#[cfg(feature = "compiler")]
mod scratch;
mod secrets;
#[cfg(all(feature = "cli", feature = "compiler", feature = "local"))]
mod send;
#[cfg(feature = "compiler")]
mod shipped;
mod sqs_broker;
mod sqs_errors;
mod sqs_requests;
#[cfg(all(feature = "cli", feature = "compiler"))]
mod stores;
#[cfg(all(feature = "cli", feature = "compiler", feature = "local"))]
mod structure;
mod supervision;
mod support;
mod telemetry;
#[cfg(all(feature = "cli", feature = "compiler", feature = "local"))]
mod typed;
#[cfg(feature = "compiler")]
mod wasi_0_3;
#[cfg(feature = "compiler")]
mod wasm;
#[cfg(all(feature = "cli", feature = "compiler", feature = "local"))]
mod worker;
