//! What several groups of promises need.

pub mod broker;
#[cfg(feature = "local")]
pub mod local;
