//! `wasi:filesystem` 0.3: nothing behind it.
//!
//! A scratch directory is had by way of WASI 0.2, where what is written is counted. Here there are
//! no directories. And a descriptor is a type of its own: with wasmtime-wasi's, which is the same
//! for both versions, a component that is made for it could hand a descriptor of 0.2 to functions of 0.3,
//! where nobody counts.

use wasmtime::component::{Linker, Resource, ResourceType};

use super::state::State;

/// What no guest ever holds.
struct Nothing;

const METHODS: [&str; 4] =
    ["read-via-stream", "write-via-stream", "append-via-stream", "read-directory"];

const ASYNC_METHODS: [&str; 21] = [
    "advise",
    "create-directory-at",
    "get-flags",
    "get-type",
    "is-same-object",
    "link-at",
    "metadata-hash",
    "metadata-hash-at",
    "open-at",
    "readlink-at",
    "remove-directory-at",
    "rename-at",
    "set-size",
    "set-times",
    "set-times-at",
    "stat",
    "stat-at",
    "symlink-at",
    "sync",
    "sync-data",
    "unlink-file-at",
];

/// Links it.
pub(super) fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    let mut types = linker.instance("wasi:filesystem/types@0.3.0")?;
    types.resource("descriptor", ResourceType::host::<Nothing>(), |_, _| Ok(()))?;
    for method in METHODS {
        types.func_new(&format!("[method]descriptor.{method}"), |_, _, _, _| Err(no_files()))?;
    }
    for method in ASYNC_METHODS {
        types.func_new_concurrent(&format!("[method]descriptor.{method}"), |_, _, _, _| {
            Box::pin(async { Err(no_files()) })
        })?;
    }
    linker.instance("wasi:filesystem/preopens@0.3.0")?.func_wrap(
        "get-directories",
        |mut store, (): ()| {
            store.data_mut().calls.count();
            Ok((Vec::<(Resource<Nothing>, String)>::new(),))
        },
    )
}

fn no_files() -> wasmtime::Error {
    wasmtime::Error::msg("there are no files in WASI 0.3")
}
