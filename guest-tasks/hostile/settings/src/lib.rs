//! Reads its configuration, and gives it back, or tells it where it should not. What a guest may
//! read it may also tell: that is what `only_for` is for.

use lovage_task::{TaskError, Value, json, task};
use schemars::JsonSchema;
use serde::Deserialize;

/// `wasi:config/store` as Rust.
#[allow(missing_docs, unsafe_code, clippy::pedantic, reason = "generated code")]
mod bindings {
    wit_bindgen::generate!({ path: "wit", world: "reader", generate_all });
}

use bindings::wasi::config::store;

/// What to do.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Ask {
    /// Gives back the value of a key.
    Get(String),
    /// Gives back all there is.
    All,
    /// Fails without a word of what it read.
    Fail(String),
}

/// Reads its configuration.
#[task]
fn settings(ask: Ask) -> Result<Value, TaskError> {
    let failed = |error: store::Error| TaskError::fail("config", format!("{error:?}"));
    match ask {
        Ask::Get(key) => Ok(json!(store::get(&key).map_err(failed)?)),
        Ask::All => {
            let mut all = store::get_all().map_err(failed)?;
            all.sort();
            Ok(all.into_iter().map(|(key, value)| (key, json!(value))).collect())
        }
        Ask::Fail(key) => {
            let value = store::get(&key).map_err(failed)?;
            Err(TaskError::fail(
                "told_to",
                format!("it has {} bytes", value.map_or(0, |it| it.len())),
            ))
        }
    }
}

lovage_task::export!(settings);
