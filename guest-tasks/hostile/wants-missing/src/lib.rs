//! A task that imports an interface no host offers: it cannot be linked, and so never runs.
#![cfg(target_family = "wasm")]
#![allow(missing_docs, unsafe_code, clippy::pedantic, reason = "generated code")]

wit_bindgen::generate!({
    path: ["../../../wit/v1", "wit"],
    world: "lovage-test:missing/wishful",
    generate_all,
});

use exports::lovage::task::handler::{Guest, Invocation, Output, TaskError, TaskSpec};

struct Handler;

impl Guest for Handler {
    fn describe() -> Vec<TaskSpec> {
        vec![TaskSpec {
            name: "wants_missing".to_owned(),
            description: "Asks someone who is not there.".to_owned(),
            input_schema: None,
            output_schema: None,
            max_attempts: None,
            timeout: None,
        }]
    }

    fn run(invocation: Invocation) -> Result<Output, TaskError> {
        Ok(Output {
            content_type: "text/plain".to_owned(),
            data: lovage_test::missing::thing::ask(&invocation.id).into_bytes(),
        })
    }
}

export!(Handler);
