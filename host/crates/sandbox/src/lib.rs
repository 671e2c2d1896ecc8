//! The sandbox: where tasks run, each attempt in a place of its own.
//!
//! What it promises:
//!
//! - Every attempt has a fresh instance with fresh memory. Nothing of one job reaches the next.
//! - A guest has nothing that was not granted: clocks, random numbers, and a short tail of its
//!   output. See [`state`](self).
//! - A guest ends at its deadline, whether it computes or waits, and when it has used its CPU
//!   time. It stalls nobody meanwhile, and tenants whose guests compute share the CPU by weight.
//! - A guest cannot make the host use memory without bound, and the reason of every refusal is
//!   told.
//!
//! ```text
//! options → engine → linker ┐
//!   .wasm → compiled ───────┴→ LoadedComponent (checked, linked, described)
//!                                  job, plan ┴→ attempt → Report
//! ```

pub mod health;

mod attempt;
mod bindings;
mod calls;
#[cfg_attr(
    not(feature = "compiler"),
    allow(dead_code, reason = "what was compiled ahead is always held")
)]
mod code;
#[cfg(feature = "compiler")]
mod compile_turns;
#[cfg(feature = "compiler")]
pub mod compiler;
mod component;
mod config;
mod cpu;
mod cpu_executor;
mod crash;
mod deterministic;
mod dispatch;
mod egress;
mod engine;
mod engine_set;
mod error;
mod failure;
mod guest_log;
mod host_interface;
mod host_memory;
mod io_errors;
#[cfg(feature = "isolation")]
mod isolated;
mod keyvalue;
mod limiter;
mod limits;
mod memory_budget;
#[cfg(feature = "compiler")]
mod metadata;
mod no_files;
mod notes;
mod output;
mod payload_check;
mod pool_wait;
mod prewarm;
mod read;
mod scratch;
mod services;
#[cfg(feature = "compiler")]
mod shape;
mod shares;
mod spec;
mod state;
mod stdio;
mod table_memory;
mod ticker;
mod typed;
mod waits;
mod wasi;

use std::sync::Arc;
#[cfg(feature = "compiler")]
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{Semaphore, SemaphorePermit};
use wasmtime::Engine;

pub use self::attempt::{CUT_SHORT, Plan, Report};
pub use self::bindings::{HANDLER, SERVED};
pub use self::code::Reload;
pub use self::component::{Import, Kind, LoadedComponent, Source, digest, hexadecimal};
pub use self::component::{contract_of, exports_of, imports_of};
pub use self::config::{GivenConfig, Placeholder, SECRET_UNAVAILABLE};
pub use self::cpu::Meter;
pub use self::egress::{Network, Resolve};
pub use self::engine::{Allocator, CodeSettings, EngineOptions, Mode, WASMTIME_VERSION};
pub use self::error::Retry;
pub use self::error::{ComponentError, EngineError, Problem, Ungranted};
pub use self::failure::{DETAIL_BYTES, KIND_BYTES, MESSAGE_BYTES};
pub use self::host_interface::{Caller, HostFunction, HostInterface};
pub use self::limits::{Limit, Limits, Refusal};
#[cfg(feature = "compiler")]
pub use self::metadata::ComponentMetadata;
pub use self::payload_check::Unchecked;
pub use self::scratch::ScratchError;
pub use self::services::Services;
#[cfg(feature = "compiler")]
#[doc(hidden)]
pub use self::shape::check as check_shape;
pub use self::spec::TaskSpec;
pub use self::state::{OFFERED, Offer, Offered, Versions, offer};
pub use self::stdio::Tail;
pub use self::typed::{CONTRACT as TYPED, INVALID_PAYLOAD, NoTask};
#[cfg(feature = "isolation")]
pub use self::{
    compiler::own_program,
    guest_log::{forward_guest_lines, log_guest_line},
    scratch::ChildHome,
};
pub use wasmtime::component::Val;

use self::code::CodeCache;
use self::cpu_executor::CpuExecutor;
use self::engine_set::{EngineSet, EngineSets};
use self::memory_budget::MemoryBudget;
use self::prewarm::Prewarmed;
use self::scratch::Scratches;

/// An engine with all that attempts share. Clones are the same sandbox.
#[derive(Clone)]
pub struct Sandbox(Arc<Inner>);

struct Inner {
    engine_sets: EngineSets,
    cpu_executor: CpuExecutor,
    code_cache: CodeCache,
    prewarmed: Prewarmed,
    /// True if jobs are run, beside which components are compiled.
    #[cfg(feature = "compiler")]
    serves: AtomicBool,
    options: EngineOptions,
    services: Services,
    scratches: Scratches,
    /// The pool has room for so many; whoever has no permit would meet an error there.
    slots: Semaphore,
    spare: Semaphore,
    budget: Option<MemoryBudget>,
}

impl std::fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sandbox")
            .field("options", &self.0.options)
            .field("allocator", &self.allocator())
            .finish_non_exhaustive()
    }
}

impl Sandbox {
    /// A sandbox in which no grant leads anywhere.
    pub fn new(options: EngineOptions) -> Result<Self, EngineError> {
        Self::with(options, Services::default())
    }

    /// Sets up an engine, its clock, and what guests may import.
    pub fn with(options: EngineOptions, services: Services) -> Result<Self, EngineError> {
        let engine_sets = EngineSets::new(&options, &services.interfaces)?;
        // Where one attempt runs at once there is nobody whom it could keep waiting.
        let threads = if options.slots > 1 { options.cpu_executor_threads() } else { 0 };
        Ok(Self(Arc::new(Inner {
            engine_sets,
            cpu_executor: CpuExecutor::new(threads, options.tick),
            code_cache: CodeCache::new(options.loaded_bytes),
            prewarmed: Prewarmed::new(options.ready_instances),
            #[cfg(feature = "compiler")]
            serves: AtomicBool::new(false),
            services,
            // Each slot may use one while its last one is being deleted.
            scratches: Scratches::new((options.slots as usize).saturating_mul(2)),
            slots: Semaphore::new(options.slots as usize),
            spare: Semaphore::new(engine::SPARE_SLOTS as usize),
            budget: options.memory_budget.map(MemoryBudget::new),
            options,
        })))
    }

    /// What it was made with.
    pub fn options(&self) -> &EngineOptions {
        &self.0.options
    }

    /// The allocator that it came to.
    pub fn allocator(&self) -> Allocator {
        self.0.engine_sets.plain().allocator
    }

    /// Makes what each attempt starts with, a linear memory, and drops it. Blocks for some
    /// microseconds. The pool has its memory already, so only an engine without one is asked.
    ///
    /// # Errors
    ///
    /// Why the host cannot make one.
    pub fn probe(&self) -> Result<(), String> {
        let engine_set = self.0.engine_sets.plain();
        if engine_set.allocator == Allocator::Pooling {
            return Ok(());
        }
        let mut store = wasmtime::Store::new(&engine_set.engine, ());
        let one_page = wasmtime::MemoryType::new(1, None);
        let made = wasmtime::Memory::new(&mut store, one_page);
        made.map(drop).map_err(|error| format!("{error:#}"))
    }

    /// How many attempts could begin at once, now.
    pub fn free_slots(&self) -> usize {
        self.0.slots.available_permits()
    }

    /// From now on jobs are run: what is compiled has to leave room for them.
    #[cfg(feature = "compiler")]
    pub fn begin_to_serve(&self) {
        self.0.serves.store(true, Ordering::Relaxed);
    }

    #[cfg(feature = "compiler")]
    /// How urgent compiling is at the moment.
    pub fn urgency(&self) -> compiler::Urgency {
        if self.0.serves.load(Ordering::Relaxed) {
            compiler::Urgency::Beside
        } else {
            compiler::Urgency::Cancellation
        }
    }

    /// The engine of most components.
    #[cfg(feature = "compiler")]
    pub fn engine(&self) -> &Engine {
        &self.0.engine_sets.plain().engine
    }

    /// The engine of components of a mode.
    pub fn engine_of(&self, mode: Mode) -> Result<&Engine, Problem> {
        let engine_set = self.0.engine_sets.of(mode, &self.0.options, &self.0.services.interfaces);
        engine_set
            .map(|engine_set| &engine_set.engine)
            .map_err(|reason| Problem::NoEngine { reason })
    }

    fn engine_set(&self, engine: &Engine) -> &EngineSet {
        self.0.engine_sets.of_engine(engine)
    }

    /// Returns true if the embedding program serves an interface.
    fn serves_interface(&self, name: &str) -> bool {
        self.0.services.interfaces.iter().any(|interface| interface.name() == name)
    }

    fn services(&self) -> &Services {
        &self.0.services
    }

    /// Where buckets are kept; `None` where nobody is granted any.
    pub fn keyvalue(&self) -> Option<&lovage_services::keyvalue::KeyValue> {
        self.0.services.keyvalue.as_ref()
    }

    fn scratches(&self) -> &Scratches {
        &self.0.scratches
    }

    /// Gets ready for attempts that are granted a scratch directory: what processes left that were
    /// killed is deleted, and that there can be one is made sure of. Blocks.
    pub fn prepare_scratch(&self) -> Result<(), ScratchError> {
        self.scratches().prepare()
    }

    /// Waits until the scratch directories of attempts that are over are deleted. For the end of a
    /// process, which would cut that short: then the next one that starts has to do it.
    pub async fn close_scratch(&self) {
        self.scratches().close().await;
    }

    fn cpu_executor(&self) -> &CpuExecutor {
        &self.0.cpu_executor
    }

    fn code_cache(&self) -> &CodeCache {
        &self.0.code_cache
    }

    fn prewarmed(&self) -> &Prewarmed {
        &self.0.prewarmed
    }

    /// `None` only if the semaphore were closed, which nobody does.
    async fn slot(&self) -> Option<SemaphorePermit<'_>> {
        self.0.slots.acquire().await.ok()
    }

    /// Waits until an attempt's memory fits in beside that of all others.
    async fn memory(&self, bytes: u64) -> Option<SemaphorePermit<'_>> {
        self.0.budget.as_ref()?.take(bytes).await
    }

    async fn spare_slot(&self) -> Option<SemaphorePermit<'_>> {
        self.0.spare.acquire().await.ok()
    }
}
