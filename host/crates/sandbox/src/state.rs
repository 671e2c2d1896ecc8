//! What a store holds while it lives: for one attempt, and for nothing else.
//!
//! Nothing is inherited. There are no environment variables, no arguments, no files, no sockets,
//! and standard input is empty. Clocks and random numbers work, or look as if they did for a task
//! that is deterministic; output is kept as a short tail, and logged where that is wanted. There is
//! an empty directory where that is granted.

// Over 500 lines: a store's data and what it offers are read together.

use std::sync::Arc;
use std::time::Instant;

use wasmtime::component::{Linker, ResourceTable};
use wasmtime::{Engine, Store, UpdateDeadline};
use wasmtime_wasi::{WasiCtxView, WasiView};
use wasmtime_wasi_config::WasiConfig;

use super::Sandbox;
use super::bindings::v1_1;
use super::calls::HostCalls;
use super::config::{ConfigValues, Placeholder};
use super::egress::{self, Egress};
use super::engine::Mode;
use super::engine_set::EngineSet;
use super::guest_log::{GuestLog, Which};
use super::keyvalue::{self, Access};
use super::limiter::Limiter;
use super::limits::Limits;
use super::notes::Notes;
use super::scratch::{self, Quota, ScratchDir};
use super::services::Services;
use super::stdio::Stream;
use super::wasi::Wasi;
use super::{io_errors, no_files, table_memory, waits};
use lovage_core::cancellation::{self, Cancellation, Progress, Revocation};
use lovage_core::follow_on::FollowOn;
use lovage_core::job::Job;
use lovage_core::text::one_line;
use lovage_core::usage::Usage;
use lovage_policy::{Capability, Grants, HttpRules};

/// What a store is made for.
pub(super) struct Scene {
    /// What the guest may use.
    pub limits: Limits,
    /// When it stops, even if it never waits for anything.
    pub deadline: Instant,
    /// What it may use beyond its memory and time.
    pub grants: Arc<Grants>,
    /// The job, where there is one: `describe` has none.
    pub job: Option<Arc<Job>>,
    /// Whether the attempt is still wanted, and how far it is.
    pub cancellation: Cancellation,
    /// What it reads by `wasi:config/store`.
    pub config: ConfigValues,
    /// Its scratch directory, where that is granted.
    pub scratch: Option<ScratchDir>,
    /// True if what it writes to standard output and error is logged.
    pub log_guests: bool,
}

/// A store's data.
pub struct State {
    wasi: Wasi,
    /// Before the table, so that connections have ended when the bodies in there do.
    pub(super) egress: Egress,
    table: ResourceTable,
    pub(super) limiter: Limiter,
    pub(super) grants: Arc<Grants>,
    pub(super) job: Option<Arc<Job>>,
    pub(super) cancellation: Cancellation,
    deadline: Instant,
    /// When the soft limit of its time is.
    soft: Option<Instant>,
    /// Jobs that the guest asked for.
    pub(super) follow_ons: Vec<FollowOn>,
    pub(super) stdout: Stream,
    pub(super) stderr: Stream,
    /// What it reads by `wasi:config/store`; placeholders are for requests to replace.
    pub(super) config: ConfigValues,
    pub(super) keyvalue: Access,
    /// Whoever links functions counts their calls.
    pub(super) calls: HostCalls,
    /// What the guest was refused, for the detail of its failure.
    pub(super) notes: Notes,
    /// Bytes of follow-on jobs.
    pub(super) bytes_out: u64,
    pub(super) scratch: Option<Quota>,
    // Last, so that nothing is open in it when it is deleted.
    _directory: Option<ScratchDir>,
}

impl Scene {
    /// For who has no job yet, and so is granted nothing.
    pub(super) fn of_nobody(limits: Limits, deadline: Instant) -> Self {
        Self {
            limits,
            deadline,
            grants: Arc::default(),
            job: None,
            cancellation: Cancellation::default(),
            config: ConfigValues::default(),
            scratch: None,
            log_guests: false,
        }
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("limiter", &self.limiter).finish_non_exhaustive()
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        // Every call of what wasmtime-wasi links comes through here, and WASI 0.3 may come twice.
        self.calls.count();
        let Self { wasi, table, stdout, stderr, grants, job, .. } = self;
        WasiCtxView { ctx: wasi.get((stdout, stderr), grants, job.as_deref()), table }
    }
}

/// The guest was still computing at its deadline.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the deadline has passed")]
pub(super) struct DeadlinePassed;

impl State {
    /// What `wasi:keyvalue` is served with.
    pub(super) fn keyvalue(&mut self) -> keyvalue::View<'_> {
        self.calls.count();
        keyvalue::View {
            table: &mut self.table,
            access: &mut self.keyvalue,
            grants: &self.grants,
            tenant: self.job.as_deref().map_or("", |job| &job.tenant),
            memory: self.limiter.host_memory(),
        }
    }

    fn new(scene: Scene, services: &Services, engine: &Engine) -> wasmtime::Result<Self> {
        let limits = &scene.limits;
        let log = scene.log_guests.then(|| GuestLog::new(limits));
        let stream = |which| Stream::new(limits.stdio_bytes, log.clone().map(|log| (log, which)));
        let (stdout, stderr) = (stream(Which::Stdout), stream(Which::Stderr));
        let notes = Notes::default();
        let mut limiter = Limiter::new(*limits);
        let (mut wasi, mut quota) = (Wasi::default(), None);
        if let Some(directory) = &scene.scratch {
            let (grants, job) = (&scene.grants, scene.job.as_deref());
            wasi = Wasi::with_directory(directory.path(), (&stdout, &stderr), grants, job)?;
            let timeless = grants.deterministic.is_some();
            let memory = limiter.host_memory().clone();
            let tenant = job.map_or("", |job| &job.tenant).into();
            let descriptors = Some((services.network.clone(), tenant));
            quota = Some(Quota::new(limits, timeless, notes.clone(), memory, descriptors));
        }
        let mut table = ResourceTable::new();
        table.set_max_capacity(limits.handles);
        let mut egress = Egress::new(
            Arc::clone(&scene.grants),
            *limits,
            scene.deadline,
            services.network.clone(),
        );
        for Placeholder { text, value, only_for } in &scene.config.placeholders {
            // Checked with the configuration; one that is wrong all the same goes nowhere.
            if let Ok(rules) = HttpRules::parse(only_for, "only_for") {
                egress.placeholders().insert(text.clone(), value.expose().to_owned(), rules);
            }
        }
        Ok(Self {
            wasi,
            table,
            egress,
            limiter,
            keyvalue: Access::new(services, limits),
            config: scene.config,
            grants: scene.grants,
            job: scene.job,
            cancellation: scene.cancellation,
            deadline: scene.deadline,
            soft: limits.soft_timeout.map(|soft| Instant::now() + soft),
            follow_ons: Vec::new(),
            stdout,
            stderr,
            calls: HostCalls::new(limits.host_calls, engine),
            notes,
            bytes_out: 0,
            scratch: quota,
            _directory: scene.scratch,
        })
    }

    /// What was used so far, but for time.
    pub(super) fn usage(&self) -> Usage {
        let (bytes_in, bytes_out) = self.egress.bytes();
        Usage {
            peak_memory_bytes: self.limiter.peak_bytes(),
            memory_byte_ms: self.limiter.byte_ms(),
            host_calls: self.calls.made(),
            bytes_in: bytes_in + self.keyvalue.bytes_in,
            bytes_out: bytes_out + self.keyvalue.bytes_out + self.bytes_out,
            ..Usage::default()
        }
    }

    pub(super) fn egress(&mut self) -> (&mut Egress, &mut ResourceTable) {
        (&mut self.egress, &mut self.table)
    }
}

impl State {
    /// The state as a host function of ours reaches it.
    pub(super) fn called(&mut self) -> &mut Self {
        self.calls.count();
        self
    }

    /// Counts what the entries of the resource table hold; where that is too much, the guest ends.
    pub(super) fn look_at_table(&mut self) {
        let bytes = table_memory::of(&mut self.table);
        if let Err(refusal) = self.limiter.count_table(bytes) {
            self.calls.stop(refusal);
        }
    }

    /// Takes a guest's report of how far it is.
    pub(super) fn report_progress(&self, percent: u8, message: &str) {
        let message = one_line(message, cancellation::MESSAGE_BYTES);
        self.cancellation.report(Progress { percent: percent.min(100), message });
    }

    /// Why the attempt should end; `None` while it is wanted.
    pub(super) fn why_revoked(&self) -> Option<Revocation> {
        self.cancellation.why_revoked(self.soft)
    }
}

impl Sandbox {
    /// A fresh store on an engine.
    pub(super) fn store(
        &self,
        engine_set: &EngineSet,
        scene: Scene,
    ) -> wasmtime::Result<Store<State>> {
        let limits = scene.limits;
        let state = State::new(scene, self.services(), &engine_set.engine)?;
        let mut store = Store::new(&engine_set.engine, state);
        store.limiter(|state| &mut state.limiter);
        bound(&mut store, &limits);
        // At every tick a guest that computes lets others run. It yields in tokio's way, which
        // looks at timers and sockets before it goes on: a plain wake-up would let guests that
        // spin keep the executor from them for dozens of ticks.
        store.epoch_deadline_callback(|context| {
            let state = context.data();
            state.calls.check()?;
            if Instant::now() >= state.deadline {
                return Err(wasmtime::Error::new(DeadlinePassed));
            }
            Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now())))
        });
        Ok(store)
    }

    /// Makes a store in which nothing was asked of the host yet that of a job. Its memory stays.
    pub(super) fn take_over(
        &self,
        store: &mut Store<State>,
        engine_set: &EngineSet,
        scene: Scene,
    ) -> wasmtime::Result<()> {
        let limits = scene.limits;
        let state = State::new(scene, self.services(), &engine_set.engine)?;
        let before = std::mem::replace(store.data_mut(), state);
        store.data_mut().limiter = before.limiter.taken_over(limits);
        bound(store, &limits);
        Ok(())
    }
}

/// Holds a store to an attempt's limits, from now on.
fn bound(store: &mut Store<State>, limits: &Limits) {
    store.set_hostcall_fuel(limits.hostcall_bytes());
    store.set_max_component_handles(limits.handles);
    if let Some(table) = store.concurrent_resource_table() {
        table.set_max_capacity(limits.handles);
    }
    store.set_epoch_deadline(1);
}

/// All that a guest may import, granted or not: a component that imports what its tasks are not
/// granted is not loaded, and what a tenant is not granted is refused when it is used.
pub(super) fn linker(engine: &Engine, mode: Mode) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    v1_1::add_to_linker(&mut linker)?;
    wasmtime_wasi_config::add_to_linker(&mut linker, |state: &mut State| {
        state.calls.count();
        WasiConfig::from(&state.config.variables)
    })?;
    keyvalue::add_to_linker(&mut linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
    if mode == Mode::Concurrent {
        wasmtime_wasi_http::p3::add_to_linker(&mut linker)?;
        wasmtime_wasi::p3::cli::add_to_linker(&mut linker)?;
        wasmtime_wasi::p3::clocks::add_to_linker(&mut linker)?;
        wasmtime_wasi::p3::random::add_to_linker(&mut linker)?;
        wasmtime_wasi::p3::sockets::add_to_linker(&mut linker)?;
        no_files::add_to_linker(&mut linker)?;
        waits::add_to_linker(&mut linker)?;
    }
    io_errors::add_to_linker(&mut linker)?;
    egress::add_to_linker(&mut linker, mode)?;
    scratch::add_to_linker(&mut linker)?;
    Ok(linker)
}

/// Interfaces that are offered, and on what terms.
#[derive(Debug, Clone, Copy)]
pub struct Offered {
    /// The package, without its version.
    pub package: &'static str,
    /// Its versions.
    pub versions: Versions,
    /// The interfaces.
    pub interfaces: &'static [&'static str],
    /// On what terms.
    pub offer: Offer,
}

/// Versions of a package that one implementation serves.
#[derive(Debug, Clone, Copy)]
pub enum Versions {
    /// Any release `0.N.x`: minor versions of WASI only add.
    Wasi(u64),
    /// Any release `MAJOR.N.x` with N up to that minor version.
    UpTo(u64, u64),
    /// This one, a pre-release, with which nothing else is compatible.
    Exactly(&'static str),
}

/// On what terms an interface is offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    /// To everybody; there is nothing behind it that could be granted.
    Always,
    /// To tasks that are granted the capability.
    Granted(Capability),
}

impl Offer {
    /// What has to be granted; `None` where everybody has it.
    pub fn needs(self) -> Option<Capability> {
        match self {
            Self::Always => None,
            Self::Granted(capability) => Some(capability),
        }
    }
}

const fn always(
    package: &'static str,
    versions: Versions,
    interfaces: &'static [&'static str],
) -> Offered {
    Offered { package, versions, interfaces, offer: Offer::Always }
}

const fn granted(
    package: &'static str,
    versions: Versions,
    interfaces: &'static [&'static str],
    capability: Capability,
) -> Offered {
    Offered { package, versions, interfaces, offer: Offer::Granted(capability) }
}

const CLI: &[&str] = &[
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
];
const KEYVALUE: &[&str] = &["store", "atomics", "batch"];
const RANDOM: &[&str] = &["random", "insecure", "insecure-seed"];

/// The interfaces that the host offers. Interfaces of nothing but types need nobody to offer
/// them. A test holds this list to the linker.
pub const OFFERED: &[Offered] = &[
    always("wasi:cli", Versions::Wasi(2), CLI),
    always("wasi:cli", Versions::Wasi(3), CLI),
    always("wasi:clocks", Versions::Wasi(2), &["monotonic-clock", "wall-clock"]),
    always("wasi:clocks", Versions::Wasi(3), &["monotonic-clock", "system-clock"]),
    always("wasi:filesystem", Versions::Wasi(2), &["types", "preopens"]),
    always("wasi:filesystem", Versions::Wasi(3), &["types", "preopens"]),
    always("wasi:io", Versions::Wasi(2), &["error", "poll", "streams"]),
    always("wasi:random", Versions::Wasi(2), RANDOM),
    always("wasi:random", Versions::Wasi(3), RANDOM),
    always(
        "wasi:sockets",
        Versions::Wasi(2),
        &[
            "ip-name-lookup",
            "network",
            "instance-network",
            "tcp",
            "tcp-create-socket",
            "udp",
            "udp-create-socket",
        ],
    ),
    always("wasi:sockets", Versions::Wasi(3), &["ip-name-lookup", "types"]),
    granted("wasi:config", Versions::Exactly("0.2.0-rc.1"), &["store"], Capability::Config),
    granted("wasi:keyvalue", Versions::Exactly("0.2.0-draft2"), KEYVALUE, Capability::Keyvalue),
    granted("wasi:keyvalue", Versions::Exactly("0.2.0-draft"), KEYVALUE, Capability::Keyvalue),
    granted("wasi:http", Versions::Wasi(2), &["outgoing-handler", "types"], Capability::Http),
    granted("wasi:http", Versions::Wasi(3), &["client", "types"], Capability::Http),
    always("lovage:task", Versions::UpTo(1, 1), &["progress"]),
    granted("lovage:task", Versions::UpTo(1, 1), &["dispatch"], Capability::Dispatch),
];

/// On what terms an interface that a component imports is offered; `None` where it is not.
pub fn offer(import: &str) -> Option<Offer> {
    let (name, version) = import.split_once('@')?;
    let (package, interface) = name.split_once('/')?;
    OFFERED
        .iter()
        .find(|offered| {
            offered.package == package
                && offered.interfaces.contains(&interface)
                && offered.versions.serve(version)
        })
        .map(|offered| offered.offer)
}

impl Versions {
    fn serve(self, version: &str) -> bool {
        let release = || {
            let mut parts = version.split('.').map(|part| {
                part.bytes().all(|b| b.is_ascii_digit()).then(|| part.parse::<u64>().ok()).flatten()
            });
            match (parts.next(), parts.next(), parts.next(), parts.next()) {
                (Some(Some(major)), Some(Some(minor)), Some(Some(_)), None) => Some((major, minor)),
                _ => None,
            }
        };
        match self {
            Self::Wasi(series) => release() == Some((0, series)),
            Self::UpTo(major, most) => {
                release().is_some_and(|(found, minor)| found == major && minor <= most)
            }
            Self::Exactly(only) => version == only,
        }
    }

    /// One of them.
    #[cfg(test)]
    fn example(self) -> String {
        match self {
            Self::Wasi(2) => "0.2.12".to_owned(),
            Self::Wasi(series) => format!("0.{series}.0"),
            Self::UpTo(major, minor) => format!("{major}.{minor}.0"),
            Self::Exactly(only) => only.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::EngineOptions;

    #[test]
    fn offers_the_releases_of_wasi_and_nothing_else() {
        for import in [
            "wasi:cli/stdout@0.2.0",
            "wasi:cli/stdout@0.2.99",
            "wasi:sockets/types@0.3.0",
            "wasi:io/poll@0.2.3",
        ] {
            assert_eq!(offer(import), Some(Offer::Always), "{import}");
        }
        for import in [
            "wasi:cli/stdout",
            "wasi:cli/stdout@0.1.0",
            "wasi:cli/stdout@1.2.0",
            "wasi:cli/stdout@0.3.0-rc-2025",
            "wasi:io/poll@0.3.0",
            "wasi:http/incoming-handler@0.2.0",
            "wasi:http/handler@0.3.0",
            "wasi:cli/run@0.2.0",
            "mine",
        ] {
            assert_eq!(offer(import), None, "{import}");
        }
    }

    /// The list is written by hand; here it is held to what is linked.
    #[test]
    fn what_is_said_to_be_offered_is_linked() {
        let engine = |mode| EngineOptions::default().build(mode).unwrap().0;
        let [mut plain, mut concurrent] =
            Mode::ALL.map(|mode| linker(&engine(mode), mode).unwrap());
        for offered in OFFERED {
            for interface in offered.interfaces {
                let name =
                    format!("{}/{interface}@{}", offered.package, offered.versions.example());
                assert_eq!(offer(&name), Some(offered.offer));
                // A name cannot be defined twice.
                let define =
                    |linker: &mut Linker<State>| linker.root().func_wrap(&name, |_, (): ()| Ok(()));
                assert!(define(&mut concurrent).is_err(), "{name} is not linked");
                let is_plain = !name.contains("@0.3.");
                assert_eq!(define(&mut plain).is_err(), is_plain, "{name}");
            }
        }
    }
}
