//! Lovage: a task runtime whose tasks are WebAssembly components.
//!
//! Data flows one way: a [`broker`] delivers a message, [`message`] decodes it to a [`job`], a
//! [`sandbox`] runs the job to an [`outcome`], and a result is published before the message is
//! deleted. `docs/design.md` tells the whole way and why it is so.

pub mod broker;
pub mod config;
pub mod job;
pub mod message;
pub mod outcome;
pub mod registry;
pub mod result;
pub mod retry;
pub mod sandbox;
pub mod usage;
