//! Declares two tasks of one name.
//!
//! Without the SDK, which refuses to build such a thing.
#![cfg(target_family = "wasm")]
#![allow(missing_docs, unsafe_code, clippy::pedantic, reason = "generated code")]

wit_bindgen::generate!({ path: "../../../wit/v1", world: "task" });

use exports::lovage::task::handler::{Guest, Invocation, Output, TaskError, TaskSpec};

struct Handler;

impl Guest for Handler {
    fn describe() -> Vec<TaskSpec> {
        ["the first", "the second"]
            .map(|description| TaskSpec {
                name: "twice".to_owned(),
                description: description.to_owned(),
                input_schema: None,
                output_schema: None,
                max_attempts: None,
                timeout: None,
            })
            .to_vec()
    }

    fn run(invocation: Invocation) -> Result<Output, TaskError> {
        Ok(Output { content_type: invocation.content_type, data: invocation.payload })
    }
}

export!(Handler);
