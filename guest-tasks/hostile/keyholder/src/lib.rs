//! Uses a secret in a request, and tells what it has in its hands: a placeholder, where the secret
//! is not for guests to see.
#![allow(dead_code, reason = "not all of the client is used")]

#[path = "../../../granted/fetch/src/client.rs"]
mod client;

use client::{Request, fetch};
use lovage_task::{TaskError, Value, json, task};
use schemars::JsonSchema;
use serde::Deserialize;

/// `wasi:config/store` as Rust.
#[allow(missing_docs, unsafe_code, clippy::pedantic, reason = "generated code")]
mod bindings {
    wit_bindgen::generate!({ path: "../settings/wit", world: "reader", generate_all });
}

#[derive(Deserialize, JsonSchema)]
struct Ask {
    /// Where to send `api_key` as a header.
    url: String,
}

/// Sends the secret `api_key` in the header `x-api-key`.
#[task]
fn keyholder(ask: Ask) -> Result<Value, TaskError> {
    let held = bindings::wasi::config::store::get("api_key")
        .map_err(|error| TaskError::fail("config", format!("{error:?}")))?
        .ok_or_else(|| TaskError::fail("config", "there is no `api_key`"))?;
    let response = fetch(&Request {
        method: "GET".to_owned(),
        url: ask.url,
        headers: vec![("x-api-key".to_owned(), held.clone())],
        body: Vec::new(),
    })?;
    Ok(json!({ "held": held, "answer": String::from_utf8_lossy(&response.body) }))
}

lovage_task::export!(keyholder);
