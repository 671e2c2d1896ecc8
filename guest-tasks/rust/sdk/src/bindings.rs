//! The contract as Rust types, made by wit-bindgen from the repository's own `wit` directory.
//!
//! They stay private to the SDK: an author meets [`Context`](crate::Context),
//! [`Raw`](crate::Raw) and [`TaskError`](crate::TaskError), so that a later version of the
//! contract need not break a task.

#![allow(
    missing_docs,
    unsafe_code,
    clippy::pedantic,
    reason = "generated code; what it means is documented in wit/v1.1"
)]

wit_bindgen::generate!({
    path: "../../../wit/v1.1",
    world: "dispatching-task",
    pub_export_macro: true,
    export_macro_name: "__export_handler",
    default_bindings_module: "lovage_task::__private::bindings",
    runtime_path: "lovage_task::__private::wit_bindgen::rt",
});
