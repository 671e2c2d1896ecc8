//! Celery's side of the world: its task messages, its workflows and its results, as its own
//! clients and workers write and read them.
//!
//! Celery's clients stay as they are: what they send is read here ([`Request`]), what follows from
//! a task's end is worked out here as Celery's workers would ([`workflow`]), and results look as
//! its result backends write them ([`meta`]). Nothing in here talks to anybody: what is to be sent
//! or stored is said as data, and the caller sees to it.
//!
//! The facts are those of Celery 5.6 and 5.7 with kombu 5.6 and 5.7, read in their source; messages
//! of both protocols are read, protocol 2 is written.

#![forbid(unsafe_code)]

pub mod arguments;
pub mod builtins;
mod canvas;
mod compression;
pub mod cost;
mod envelope;
pub mod exception;
mod freeze;
pub mod json;
pub mod keys;
pub mod meta;
mod msgpack;
pub mod names;
mod options;
pub mod publish;
mod python_json;
mod queue_name;
mod repr;
pub mod request;
mod results;
mod retry_message;
pub mod rich;
pub mod signature;
pub mod time;
pub mod traceback;
pub mod workflow;

pub use arguments::{Mapping, payload};
pub use builtins::{Builtin, Mapped};
pub use exception::Exception;
pub use json::{Json, Map};
pub use meta::{Meta, State};
pub use publish::{Ids, Publisher, TaskMessage};
pub use queue_name::sqs_name;
pub use request::{Refusal, Refused, Request};
pub use results::ResultRef;
pub use rich::RichTypes;
pub use signature::{Kind, Signature};
pub use workflow::{ChordPart, Plan, Step};

#[cfg(test)]
mod tests;
