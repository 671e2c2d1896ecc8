//! The `#[task]` attribute of `lovage-task`, which documents it.

mod expand;
mod options;
mod signature;

use proc_macro::TokenStream;
use syn::{ItemFn, parse_macro_input};

/// Makes a task of a plain function; `lovage_task::export!` then serves it.
///
/// - The name that jobs ask for is the function's; `name = "…"` gives another one.
/// - The function's documentation becomes the task's description.
/// - `max_attempts = 5` and `timeout_ms = 10_000` advise the host, whose operator has the last
///   word.
///
/// The function takes nothing, a payload, a `&Context`, or both, and gives back a value or a
/// `Result`.
#[proc_macro_attribute]
pub fn task(options: TokenStream, item: TokenStream) -> TokenStream {
    let options = parse_macro_input!(options as options::Options);
    let function = parse_macro_input!(item as ItemFn);
    expand::task(&options, &function)
        .unwrap_or_else(|error| {
            // The function stays, so that its callers add no errors of their own.
            let error = error.into_compile_error();
            quote::quote! { #error #function }
        })
        .into()
}
