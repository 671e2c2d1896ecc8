//! What several groups of promises need.

pub mod broker;
pub mod guarded;
pub mod lambda;
#[cfg(feature = "local")]
pub mod local;
#[allow(dead_code, reason = "some of it serves tests that are built for other features only")]
pub mod ministack;
pub mod namespace;
#[cfg(all(feature = "cli", feature = "compiler", feature = "local"))]
pub mod oci;
#[cfg(all(feature = "cli", feature = "compiler", feature = "local"))]
pub mod proxy;
#[allow(dead_code, reason = "some of it serves tests that are built for other features only")]
pub mod redis;
pub mod runtime_api;
#[cfg(all(feature = "cli", feature = "compiler", feature = "local"))]
pub mod stage;
pub mod stub;
pub mod telemetry;
#[cfg(all(feature = "cli", feature = "compiler", feature = "local"))]
pub mod worker;
