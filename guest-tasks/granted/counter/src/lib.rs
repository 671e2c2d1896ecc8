//! Counts by key: the example of the grant `keyvalue`.
//!
//! ```toml
//! [tasks.counter.grants]
//! keyvalue = ["counters"]
//! ```

use lovage_task::{TaskError, task};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The interfaces of `wasi:keyvalue` as Rust.
#[allow(missing_docs, unsafe_code, clippy::pedantic, reason = "generated code")]
mod bindings {
    wit_bindgen::generate!({
        path: "../../../host/crates/sandbox/wit/keyvalue-draft2",
        world: "imports",
        generate_all,
    });
}

use bindings::wasi::keyvalue::{
    atomics,
    store::{self, Error},
};

/// The bucket, which has to be granted.
const BUCKET: &str = "counters";

/// What to count.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Event {
    /// What is counted, such as a page's name.
    key: String,
    /// How much is added.
    #[serde(default = "one")]
    by: i64,
}

fn one() -> i64 {
    1
}

#[derive(Serialize, JsonSchema)]
struct Count {
    key: String,
    count: i64,
}

/// Adds to the count of a key, and gives back what it is then. Delivery is at least once: a job
/// that is run again counts again.
#[task]
fn counter(event: Event) -> Result<Count, TaskError> {
    let bucket = store::open(BUCKET).map_err(failed)?;
    let count = atomics::increment(&bucket, &event.key, event.by).map_err(failed)?;
    Ok(Count { key: event.key, count })
}

/// What was not granted will not be at the next attempt either; all else may pass.
fn failed(error: Error) -> TaskError {
    match error {
        Error::NoSuchStore | Error::AccessDenied => TaskError::fail(
            "access_denied",
            format!("the bucket `{BUCKET}` is not granted: tasks.counter.grants.keyvalue names it"),
        ),
        Error::Other(why) => TaskError::retry(why),
    }
}

lovage_task::export!(counter);
