//! Lovage tasks in Rust: a task is a plain function over serde types.
//!
//! ```ignore
//! use lovage_task::{TaskError, Value, task};
//!
//! /// Says hello.
//! #[task(max_attempts = 5, timeout_ms = 10_000)]
//! fn greet(name: String) -> Result<Value, TaskError> {
//!     if name.is_empty() {
//!         return Err(TaskError::reject("a name has at least one letter"));
//!     }
//!     Ok(lovage_task::json!({ "greeting": format!("hello, {name}") }))
//! }
//!
//! lovage_task::export!(greet);
//! ```
//!
//! A crate with `crate-type = ["cdylib"]`, built for `wasm32-wasip2`, is then a component that
//! the Lovage host runs. `docs/writing-a-task.md` in the repository is the guide.
//!
//! # What a task takes
//!
//! Nothing, a payload, a [`&Context`](Context), or both. The payload is any type that is
//! `Deserialize + JsonSchema`, read as JSON, or [`Raw`] for the bytes as they were sent. A
//! payload that does not fit is rejected with the path to the place and what is taken there; never
//! with values of the payload, since reasons are logged.
//!
//! # What a task gives back
//!
//! Any type that is `Serialize + JsonSchema`, or [`Raw`], or a `Result` of one of them. The error
//! of that `Result` is a [`TaskError`], or any `std::error::Error`, which fails the job. The
//! attribute goes by the name: an alias of `Result` has to be called `Result`, too.
//!
//! # What it costs
//!
//! An attempt runs on a fresh instance, so what a guest sets up is paid for every time. The SDK
//! therefore sets nothing up: no environment, no hash seeds, no schemas (those are made only when
//! the host asks what the component serves).

#[doc(hidden)]
#[path = "private.rs"]
pub mod __private;
#[doc(hidden)]
pub mod bindings;
mod context;
mod dispatch;
mod entry;
mod error;
mod panic;
mod payload;
mod progress;

// The generated code and the macros name this crate by its public name, from the inside too.
extern crate self as lovage_task;

pub use context::Context;
pub use dispatch::DispatchError;
#[cfg(not(target_family = "wasm"))]
pub use dispatch::native;
pub use error::TaskError;
pub use lovage_task_macros::task;
pub use payload::{Input, Output, Raw};
pub use progress::Revocation;
pub use schemars;
pub use serde;
pub use serde_json::{self, Value, json};

/// Makes the component serve the given [`task`]s: once in a crate, with every task of it.
///
/// A task that is missing here is a compile error, and so are two tasks of one name.
///
/// ```ignore
/// lovage_task::export!(greet, reports::monthly);
/// ```
#[macro_export]
macro_rules! export {
    () => {
        ::core::compile_error!("a component serves at least one task: export!(name_of_the_function)");
    };
    ($($task:path),+ $(,)?) => {
        const _: () = {
            const ENTRIES: &[$crate::__private::Entry] =
                &[$(<$task as $crate::__private::Task>::ENTRY),+];
            const { $crate::__private::assert_names_differ(ENTRIES) };
            $crate::__export_entries!(ENTRIES);
        };
    };
}

/// The exports themselves exist on wasm only: their names are no symbols of a native linker, and
/// a crate of tasks has to build natively for its unit tests.
#[doc(hidden)]
#[cfg(target_family = "wasm")]
#[macro_export]
macro_rules! __export_entries {
    ($entries:ident) => {
        struct Handler;

        impl $crate::__private::Guest for Handler {
            fn describe() -> $crate::__private::Vec<$crate::__private::TaskSpec> {
                $crate::__private::describe($entries)
            }

            fn run(
                invocation: $crate::__private::Invocation,
            ) -> ::core::result::Result<
                $crate::__private::WitOutput,
                $crate::__private::WitError,
            > {
                $crate::__private::run($entries, invocation)
            }
        }

        $crate::__private::bindings::__export_handler!(
            Handler with_types_in $crate::__private::bindings
        );
    };
}

/// See the one for wasm: natively there is nothing to export.
#[doc(hidden)]
#[cfg(not(target_family = "wasm"))]
#[macro_export]
macro_rules! __export_entries {
    ($entries:ident) => {};
}
