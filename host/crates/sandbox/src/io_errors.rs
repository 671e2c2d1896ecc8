//! What guests are told of errors of streams, in place of what wasmtime-wasi tells them.
//!
//! Its text of an error is what the host's developers would see: with a stack trace of the host,
//! where `RUST_BACKTRACE` is set in its environment. And for the body of a response it has no code,
//! so that a guest could not tell what is worth another attempt.

use wasmtime::component::{Linker, Resource};
use wasmtime_wasi_http::p2::bindings::http::types::ErrorCode;

use super::egress::code_of;
use super::state::State;
use lovage_core::text::one_line;

/// The most bytes of a text that a guest is told.
const TEXT_BYTES: usize = 1000;

/// Puts both in the place of wasmtime-wasi's own. A test holds the names to what is there.
pub(super) fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    linker.instance("wasi:io/error@0.2.12")?.func_wrap(
        "[method]error.to-debug-string",
        |mut store, (error,): (Resource<wasmtime::Error>,)| {
            let (_, table) = store.data_mut().called().egress();
            Ok((shown(table.get(&error)?),))
        },
    )?;
    linker.instance("wasi:http/types@0.2.12")?.func_wrap(
        "http-error-code",
        |mut store, (error,): (Resource<wasmtime::Error>,)| {
            let (_, table) = store.data_mut().called().egress();
            let error = table.get(&error)?;
            let code = error.downcast_ref::<ErrorCode>().cloned();
            Ok((code.or_else(|| error.downcast_ref().map(code_of)),))
        },
    )?;
    linker.allow_shadowing(false);
    Ok(())
}

/// An error and its causes, on one line; where it came about is for nobody else.
fn shown(error: &wasmtime::Error) -> String {
    one_line(&format!("{error:#}"), TEXT_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_told_with_its_causes_on_one_line_and_no_more() {
        let error = wasmtime::Error::msg("in\nner").context("outer");
        assert_eq!(shown(&error), "outer: in\\nner");
        assert!(shown(&wasmtime::Error::msg("x".repeat(5000))).len() <= TEXT_BYTES);
    }

    /// Under another name they would stand beside wasmtime-wasi's, and serve nobody.
    #[test]
    fn both_are_in_the_place_of_others() {
        let mut linker = Linker::<State>::new(&wasmtime::Engine::default());
        wasmtime_wasi::p2::add_to_linker_async(&mut linker).unwrap();
        wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker).unwrap();
        for (instance, function) in [
            ("wasi:io/error@0.2.12", "[method]error.to-debug-string"),
            ("wasi:http/types@0.2.12", "http-error-code"),
        ] {
            let mut instance = linker.instance(instance).unwrap();
            // A name cannot be defined twice.
            let twice = instance.func_wrap(function, |_, (): ()| Ok(()));
            assert!(twice.is_err(), "{function} is not there");
        }
    }
}
