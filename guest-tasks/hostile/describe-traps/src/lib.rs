//! Traps when it is asked what it serves. Would run, if it were ever let to.
//!
//! Without the SDK, which makes `describe` itself.
#![cfg(target_family = "wasm")]
#![allow(
    missing_docs,
    unsafe_code,
    clippy::pedantic,
    clippy::panic,
    reason = "generated code; and to trap is what it is for"
)]

wit_bindgen::generate!({ path: "../../../wit/v1", world: "task" });

use exports::lovage::task::handler::{Guest, Invocation, Output, TaskError, TaskSpec};

struct Handler;

impl Guest for Handler {
    fn describe() -> Vec<TaskSpec> {
        panic!("describe traps")
    }

    fn run(invocation: Invocation) -> Result<Output, TaskError> {
        Ok(Output { content_type: invocation.content_type, data: invocation.payload })
    }
}

export!(Handler);
