//! What several groups of promises need.

pub mod broker;
