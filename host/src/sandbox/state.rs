//! What a store holds while it lives: for one attempt, and for nothing else.
//!
//! Nothing is inherited. There are no environment variables, no arguments, no files, no sockets,
//! and standard input is empty. Clocks and random numbers work; output is kept as a short tail.

use std::time::Instant;

use wasmtime::component::{Linker, ResourceTable};
use wasmtime::{Engine, Store, UpdateDeadline};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use super::limits::{Limiter, Limits, RANDOM_BYTES};
use super::stdio::Stream;

/// A store's data.
pub struct State {
    wasi: WasiCtx,
    table: ResourceTable,
    pub(super) limiter: Limiter,
    pub(super) stdout: Stream,
    pub(super) stderr: Stream,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("limiter", &self.limiter).finish_non_exhaustive()
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

/// The guest was still computing at its deadline.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the deadline has passed")]
pub(super) struct DeadlinePassed;

impl State {
    fn new(limits: &Limits) -> Self {
        let stdout = Stream::new(limits.stdio_bytes);
        let stderr = Stream::new(limits.stdio_bytes);
        let mut wasi = WasiCtx::builder();
        // The builder's defaults grant nothing; said again where it matters most.
        wasi.stdout(stdout.clone())
            .stderr(stderr.clone())
            .allow_tcp(false)
            .allow_udp(false)
            .allow_ip_name_lookup(false)
            .max_random_size(RANDOM_BYTES);
        let mut table = ResourceTable::new();
        table.set_max_capacity(limits.handles);
        Self { wasi: wasi.build(), table, limiter: Limiter::new(*limits), stdout, stderr }
    }

    /// A fresh store, whose guest stops at the deadline even if it never waits for anything.
    pub(super) fn store(engine: &Engine, limits: &Limits, deadline: Instant) -> Store<Self> {
        let mut store = Store::new(engine, Self::new(limits));
        store.limiter(|state| &mut state.limiter);
        store.set_hostcall_fuel(limits.hostcall_bytes());
        store.set_max_component_handles(limits.handles);
        if let Some(table) = store.concurrent_resource_table() {
            table.set_max_capacity(limits.handles);
        }
        // At every tick a guest that computes lets others run. It yields in tokio's way, which
        // looks at timers and sockets before it goes on: a plain wake-up would let guests that
        // spin keep the executor from them for dozens of ticks.
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(move |_| {
            if Instant::now() >= deadline {
                return Err(wasmtime::Error::new(DeadlinePassed));
            }
            Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now())))
        });
        store
    }
}

/// All that a guest may import: WASI 0.2 and 0.3.
pub(super) fn linker(engine: &Engine) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    wasmtime_wasi::p3::add_to_linker(&mut linker)?;
    Ok(linker)
}

/// The interfaces that [`linker`] offers, by package and series: `wasi:io/poll@0.2.3` is served by
/// any 0.2, since minor versions of WASI only add. Interfaces of nothing but types need nobody to
/// offer them. A test holds this list to the linker.
pub const OFFERED: &[(&str, &[u64], &[&str])] = &[
    (
        "wasi:cli",
        &[2, 3],
        &[
            "environment",
            "exit",
            "stdin",
            "stdout",
            "stderr",
            "terminal-input",
            "terminal-output",
            "terminal-stdin",
            "terminal-stdout",
            "terminal-stderr",
        ],
    ),
    ("wasi:clocks", &[2, 3], &["monotonic-clock"]),
    ("wasi:clocks", &[2], &["wall-clock"]),
    ("wasi:clocks", &[3], &["system-clock"]),
    ("wasi:filesystem", &[2, 3], &["types", "preopens"]),
    ("wasi:io", &[2], &["error", "poll", "streams"]),
    ("wasi:random", &[2, 3], &["random", "insecure", "insecure-seed"]),
    ("wasi:sockets", &[2, 3], &["ip-name-lookup"]),
    (
        "wasi:sockets",
        &[2],
        &["network", "instance-network", "tcp", "tcp-create-socket", "udp", "udp-create-socket"],
    ),
    ("wasi:sockets", &[3], &["types"]),
];

/// Whether an interface that a component imports is offered.
pub fn is_offered(import: &str) -> bool {
    let parse = || {
        let (name, version) = import.split_once('@')?;
        let (package, interface) = name.split_once('/')?;
        let series: u64 =
            version.strip_prefix("0.")?.split_once('.').and_then(|(minor, patch)| {
                // Nothing is compatible with a pre-release but itself.
                let released = patch.bytes().all(|b| b.is_ascii_digit());
                released.then(|| minor.parse().ok()).flatten()
            })?;
        Some(OFFERED.iter().any(|(offered, all_series, interfaces)| {
            *offered == package && all_series.contains(&series) && interfaces.contains(&interface)
        }))
    };
    parse().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offers_the_releases_of_wasi_and_nothing_else() {
        for import in [
            "wasi:cli/stdout@0.2.0",
            "wasi:cli/stdout@0.2.99",
            "wasi:sockets/types@0.3.0",
            "wasi:io/poll@0.2.3",
        ] {
            assert!(is_offered(import), "{import}");
        }
        for import in [
            "wasi:cli/stdout",
            "wasi:cli/stdout@0.1.0",
            "wasi:cli/stdout@1.2.0",
            "wasi:cli/stdout@0.3.0-rc-2025",
            "wasi:io/poll@0.3.0",
            "wasi:http/types@0.2.0",
            "wasi:cli/run@0.2.0",
            "mine",
        ] {
            assert!(!is_offered(import), "{import}");
        }
    }

    /// The list is written by hand; here it is held to what is linked.
    #[test]
    fn what_is_said_to_be_offered_is_linked() {
        let engine = Engine::default();
        let mut linker = linker(&engine).unwrap();
        for (package, all_series, interfaces) in OFFERED {
            for series in *all_series {
                let version = if *series == 2 { "0.2.12" } else { "0.3.0" };
                for interface in *interfaces {
                    let name = format!("{package}/{interface}@{version}");
                    assert!(is_offered(&name));
                    // A name cannot be defined twice.
                    let twice = linker.root().func_wrap(&name, |_, (): ()| Ok(()));
                    assert!(twice.is_err(), "{name} is not linked");
                }
            }
        }
    }
}
