//! What the macros expand to. No part of the SDK's interface: it changes without notice.

pub use std::string::String;
pub use std::vec::Vec;

pub use wit_bindgen;

pub use crate::bindings;
pub use crate::bindings::exports::lovage::task::handler::{
    Guest, Invocation, Output as WitOutput, TaskError as WitError, TaskSpec,
};
pub use crate::entry::{Entry, Task, TaskResult, assert_names_differ, describe, run};
