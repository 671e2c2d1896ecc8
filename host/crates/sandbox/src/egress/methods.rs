//! The method of a request, bounded in length.
//!
//! A request whose method has a name of its own keeps it, and wasmtime takes one of any length. All else
//! of a request is bounded: its path, its scheme, and its headers.

use wasmtime::component::{Linker, Resource};
use wasmtime_wasi_http::p2::bindings::http::types as p2;
use wasmtime_wasi_http::p2::types::HostOutgoingRequest;
use wasmtime_wasi_http::p3;
use wasmtime_wasi_http::p3::bindings::http::types as p3_types;

use super::super::engine::Mode;
use crate::state::State;
use crate::table_memory::MOST_A_CALL;

/// The longest name of a method. The longest that is registered with IANA has 17 bytes.
const METHOD_BYTES: usize = 64;

/// Puts ours in the place of wasmtime-wasi-http's own. A test holds the names to what is there.
pub(crate) fn add_to_linker(linker: &mut Linker<State>, mode: Mode) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    let mut types = linker.instance("wasi:http/types@0.2.12")?;
    types.func_wrap(
        "[method]outgoing-request.set-method",
        |mut store, (request, method): (Resource<HostOutgoingRequest>, p2::Method)| {
            use p2::HostOutgoingRequest as _;
            if matches!(&method, p2::Method::Other(name) if name.len() > METHOD_BYTES) {
                return Ok((Err(()),));
            }
            let mut http = wasmtime_wasi_http::WasiHttpView::http(store.data_mut());
            Ok((http.set_method(request, method)?,))
        },
    )?;
    types.func_wrap(
        "[method]outgoing-request.set-authority",
        |mut store, (request, authority): (Resource<HostOutgoingRequest>, Option<String>)| {
            use p2::HostOutgoingRequest as _;
            if authority.as_ref().is_some_and(|authority| authority.len() > MOST_A_CALL) {
                return Ok((Err(()),));
            }
            let mut http = wasmtime_wasi_http::WasiHttpView::http(store.data_mut());
            Ok((http.set_authority(request, authority)?,))
        },
    )?;
    if mode == Mode::Concurrent {
        let mut types = linker.instance("wasi:http/types@0.3.0")?;
        types.func_wrap(
            "[method]request.set-method",
            |mut store, (request, method): (Resource<p3::Request>, p3_types::Method)| {
                use p3_types::HostRequest as _;
                if matches!(&method, p3_types::Method::Other(name) if name.len() > METHOD_BYTES) {
                    return Ok((Err(()),));
                }
                let mut http = wasmtime_wasi_http::WasiHttpView::http(store.data_mut());
                Ok((http.set_method(request, method)?,))
            },
        )?;
        types.func_wrap(
            "[method]request.set-authority",
            |mut store, (request, authority): (Resource<p3::Request>, Option<String>)| {
                use p3_types::HostRequest as _;
                if authority.as_ref().is_some_and(|authority| authority.len() > MOST_A_CALL) {
                    return Ok((Err(()),));
                }
                let mut http = wasmtime_wasi_http::WasiHttpView::http(store.data_mut());
                Ok((http.set_authority(request, authority)?,))
            },
        )?;
    }
    linker.allow_shadowing(false);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Under another name they would stand beside wasmtime-wasi-http's, and serve nobody.
    #[test]
    fn they_are_in_the_place_of_others() {
        let mut config = wasmtime::Config::new();
        config.wasm_component_model_async(true);
        let engine = wasmtime::Engine::new(&config).unwrap();
        let mut linker = Linker::<State>::new(&engine);
        wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker).unwrap();
        p3::add_to_linker(&mut linker).unwrap();
        for (instance, function) in [
            ("wasi:http/types@0.2.12", "[method]outgoing-request.set-method"),
            ("wasi:http/types@0.2.12", "[method]outgoing-request.set-authority"),
            ("wasi:http/types@0.3.0", "[method]request.set-method"),
            ("wasi:http/types@0.3.0", "[method]request.set-authority"),
        ] {
            let mut instance = linker.instance(instance).unwrap();
            // A name cannot be defined twice.
            let twice = instance.func_wrap(function, |_, (): ()| Ok(()));
            assert!(twice.is_err(), "{function} is not there");
        }
    }
}
