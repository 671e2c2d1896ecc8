//! The tasks of a component as a table, and the two calls of the contract over it.
//!
//! `#[task]` turns a function into an [`Entry`], `export!` lists the entries. They are constants
//! with function pointers: nothing is registered, collected or built when an instance starts, and
//! the code that makes schemas is reached from [`describe`] alone.

use crate::bindings::exports::lovage::task::handler::{
    Invocation, Output as WitOutput, TaskError as WitError, TaskSpec,
};
use crate::{Context, Raw, TaskError, panic};

/// One task of a component.
pub struct Entry {
    /// The name that jobs ask for.
    pub name: &'static str,
    /// The function's documentation.
    pub description: &'static str,
    /// Advice for the host: how many attempts a job gets.
    pub max_attempts: Option<u32>,
    /// Advice for the host: milliseconds of wall time for one attempt.
    pub timeout_ms: Option<u64>,
    /// Makes the schema of the payload.
    pub input_schema: fn() -> Option<String>,
    /// Makes the schema of the output.
    pub output_schema: fn() -> Option<String>,
    /// Reads the payload, calls the function, writes its result.
    pub run: fn(Vec<u8>, &Context) -> Result<Raw, TaskError>,
}

/// What `#[task]` implements, on a type that has the function's name.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a task",
    label = "no task",
    note = "`export!` takes the names of functions that are marked with `#[task]`"
)]
pub trait Task {
    /// The task's place in the table.
    const ENTRY: Entry;
}

/// Names the type inside of a task's `Result`, whatever alias it was written with.
pub trait TaskResult {
    /// What the task gives back when all goes well.
    type Value;

    /// The result with its error as a [`TaskError`].
    fn into_result(self) -> Result<Self::Value, TaskError>;
}

impl<T, E: Into<TaskError>> TaskResult for Result<T, E> {
    type Value = T;

    fn into_result(self) -> Result<T, TaskError> {
        self.map_err(Into::into)
    }
}

/// Stops the build when two entries have one name.
///
/// # Panics
///
/// In the compiler, which is what stops the build.
#[allow(
    clippy::panic,
    clippy::indexing_slicing,
    reason = "runs in the compiler, where a panic is the error message, and knows no iterators"
)]
pub const fn assert_names_differ(entries: &[Entry]) {
    let mut i = 0;
    while i < entries.len() {
        let mut j = i + 1;
        while j < entries.len() {
            assert!(
                !same(entries[i].name.as_bytes(), entries[j].name.as_bytes()),
                "two tasks in `export!` have the same name"
            );
            j += 1;
        }
        i += 1;
    }
}

#[allow(
    clippy::indexing_slicing,
    reason = "constant evaluation knows no iterators; the length is checked first"
)]
const fn same(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    let mut i = 0;
    while i < a.len() {
        if a[i] != b[i] {
            return false;
        }
        i += 1;
    }
    true
}

/// `describe` of the contract.
pub fn describe(entries: &[Entry]) -> Vec<TaskSpec> {
    panic::install_hook();
    entries
        .iter()
        .map(|entry| TaskSpec {
            name: entry.name.to_owned(),
            description: entry.description.to_owned(),
            input_schema: (entry.input_schema)(),
            output_schema: (entry.output_schema)(),
            max_attempts: entry.max_attempts,
            timeout: entry.timeout_ms,
        })
        .collect()
}

/// `run` of the contract.
pub fn run(entries: &[Entry], invocation: Invocation) -> Result<WitOutput, WitError> {
    panic::install_hook();
    let Some(entry) = entries.iter().find(|entry| entry.name == invocation.task) else {
        return Err(unknown_task(entries, &invocation.task).into());
    };
    let ctx = Context {
        id: invocation.id,
        task: invocation.task,
        tenant: invocation.tenant,
        attempt: invocation.attempt,
        max_attempts: invocation.max_attempts,
        deadline: invocation.deadline,
        root_id: invocation.root_id,
        parent_id: invocation.parent_id,
        headers: invocation.headers,
        content_type: invocation.content_type,
    };
    match (entry.run)(invocation.payload, &ctx) {
        Ok(raw) => Ok(raw.into()),
        Err(error) => Err(error.into()),
    }
}

/// A host that went by `describe` never asks for it.
#[cold]
fn unknown_task(entries: &[Entry], name: &str) -> TaskError {
    let names: Vec<_> = entries.iter().map(|entry| entry.name).collect();
    TaskError::fail("UnknownTask", format!("no task `{name}` here, only {}", names.join(", ")))
}
