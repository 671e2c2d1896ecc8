//! Waiting by WASI 0.3: wasmtime-wasi's, with its calls counted.
//!
//! wasmtime-wasi waits without a look at the store's data, which is where calls of the host are
//! counted. A guest that waits for no time, for ever, would make any number of them.

use std::time::Duration;

use wasmtime::component::Linker;

use super::state::State;

/// Puts it in the place of wasmtime-wasi's own. (Its `wait-until` counts: it reads the clock.)
pub(super) fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    linker.instance("wasi:clocks/monotonic-clock@0.3.0")?.func_wrap_concurrent(
        "wait-for",
        |accessor, (nanos,): (u64,)| {
            Box::pin(async move {
                accessor.with(|mut access| access.data_mut().calls.count());
                if nanos > 0 {
                    tokio::time::sleep(Duration::from_nanos(nanos)).await;
                }
                Ok(())
            })
        },
    )?;
    linker.allow_shadowing(false);
    Ok(())
}
