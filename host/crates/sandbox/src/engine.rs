//! The engine: which settings all components share, and why they are as they are.
//!
//! Two kinds of settings are kept apart. What generated code depends on (reservation and guards,
//! WebAssembly features, epochs) is part of the compile cache's key and of a bundle's manifest,
//! and is the same for both allocators, so that code compiled under one loads under the other.
//! What only matters at run time (slots, what stays resident) may differ between machines.

use std::num::NonZeroUsize;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, ModuleVersionStrategy,
    PoolingAllocationConfig, WasmBacktraceDetails,
};

#[cfg(feature = "compiler")]
use super::compiler::CompileLimits;
use super::error::EngineError;
use super::limits::Limits;

/// The version of wasmtime that is built in. Native code is loaded only if the very same version
/// made it: wasmtime itself would take any patch version of its major version, but code and
/// runtime are tested together, and a security fix may be in the code.
pub const WASMTIME_VERSION: &str = "48.0.8";

/// Instances beyond the slots, for `describe` while components load: a deployment does not wait
/// for a slot, and takes none away.
pub(super) const SPARE_SLOTS: u32 = 2;

/// Stacks a slot without the component model's async: an attempt needs one.
const PLAIN_STACKS: u32 = 2;

/// Stacks of an attempt beside those of its component instances, with the component model's async: one for
/// the call itself, one idle worker of wasmtime's event loop, and the one that a store keeps for reuse.
const SPARE_STACKS: u32 = 3;

/// The most component instances of a component that uses the component model's async. While a call into
/// one waits, it holds a stack, and nothing else can enter that instance (functions that are async
/// without a callback, and threads, are features that are off): so an attempt never holds more
/// stacks than it has component instances, and [`SPARE_STACKS`].
pub(super) const MAX_CONCURRENT_INSTANCES: u32 = 64;

/// The most stacks of a pool. Each is two mappings of the process, of which Linux allows 65,530
/// (`vm.max_map_count`), and a call of the system when the pool is made.
const MAX_STACKS: u32 = 24_576;

/// Where the memory of instances comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Allocator {
    /// Pooling where the address space is there, else on demand.
    #[default]
    Auto,
    /// Slots reserved at start: two to four times as fast. Needs `slots × memories ×
    /// memory_reservation` of address space (not of memory).
    Pooling,
    /// Memory is mapped and unmapped on every attempt.
    OnDemand,
}

/// What of the component model an engine serves. It is part of what generated code depends on.
///
/// Most components need nothing of the component model's async (WASI 0.3, `stream`, `future`,
/// functions that are `async`), and what wasmtime does for it at every call costs more than half
/// as much as all else of a small guest's attempt: so they have an engine without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// All but its async.
    #[default]
    Plain,
    /// All.
    Concurrent,
}

#[cfg(feature = "compiler")]
impl Mode {
    /// Both, the more usual one first.
    pub const ALL: [Self; 2] = [Self::Plain, Self::Concurrent];
}

/// What an engine is made with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineOptions {
    /// The most attempts that run at once; more wait. 16.
    pub slots: u32,
    /// Where the memory of instances comes from.
    pub allocator: Allocator,
    /// Address space reserved for each linear memory, in bytes. At 4 GiB, the default, code needs
    /// no bounds checks; less makes guests slower, and is for systems that limit address space.
    /// Generated code depends on it.
    pub memory_reservation: u64,
    /// Inaccessible bytes on both sides of each linear memory. 32 MiB. Generated code depends on
    /// it.
    pub memory_guard: u64,
    /// The most bytes of one linear memory in the pool, whatever a task's limits allow. 4 GiB;
    /// never more than `memory_reservation`.
    pub max_memory_bytes: u64,
    /// The most elements of one table in the pool; 8 bytes of address space each. 20,000: Python
    /// needs about that many.
    pub table_elements: usize,
    /// Linear memories that one component may have. 4.
    pub memories: u32,
    /// Tables that one component may have. 16.
    pub tables: u32,
    /// Core instances that one component may have. 128.
    pub instances: u32,
    /// Bytes of each linear memory in the pool that are reset by writing to them rather than by
    /// giving pages back, and so stay resident between attempts. 4 MiB.
    pub keep_resident: usize,
    /// The most bytes of one component: what bounds the time and the memory that compiling it takes.
    /// 64 MiB: Python's are 18 MiB.
    pub max_component_bytes: u64,
    /// How many bytes of native code of components are held in memory, where what is dropped can be
    /// had again; what was used least recently goes. 256 MiB.
    pub loaded_bytes: usize,
    /// For how many components an instance is made ahead while nothing runs, which the next job
    /// then need not wait for; those whose jobs came last. Each holds the memory that the component starts
    /// with. 4; none are made with 0.
    pub ready_instances: u32,
    /// What compiling one component may take, where that is bounded.
    #[cfg(feature = "compiler")]
    pub compile: CompileLimits,
    /// How often the clock ticks by which a guest that computes lets others run, and by which its
    /// CPU time is looked at. 1 ms.
    pub tick: Duration,
    /// The bytes of memory that all attempts that run may be allowed together; no bound when `None`.
    pub memory_budget: Option<u64>,
    /// Threads for attempts that take more than a moment of CPU time; as many as there are CPUs
    /// when 0.
    pub threads: usize,
}

impl Default for EngineOptions {
    fn default() -> Self {
        let limits = Limits::default();
        Self {
            slots: 16,
            allocator: Allocator::Auto,
            memory_reservation: 4 << 30,
            memory_guard: 32 << 20,
            max_memory_bytes: 4 << 30,
            table_elements: limits.table_elements,
            memories: limits.memories as u32,
            tables: limits.tables as u32,
            instances: limits.instances as u32,
            keep_resident: 4 << 20,
            max_component_bytes: 64 << 20,
            loaded_bytes: 256 << 20,
            ready_instances: 4,
            #[cfg(feature = "compiler")]
            compile: CompileLimits::default(),
            tick: Duration::from_millis(1),
            memory_budget: None,
            threads: 0,
        }
    }
}

/// The settings that generated code depends on and that an operator can change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CodeSettings {
    /// [`EngineOptions::memory_reservation`].
    pub memory_reservation: u64,
    /// [`EngineOptions::memory_guard`].
    pub memory_guard: u64,
}

impl EngineOptions {
    /// The settings that generated code depends on.
    pub fn code_settings(&self) -> CodeSettings {
        CodeSettings {
            memory_reservation: self.memory_reservation,
            memory_guard: self.memory_guard,
        }
    }

    /// How many threads long attempts have.
    pub(super) fn cpu_executor_threads(&self) -> usize {
        match self.threads {
            0 => std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
            threads => threads,
        }
    }

    /// Makes the engine, and says which allocator it came to.
    pub(super) fn build(&self, mode: Mode) -> Result<(Engine, Allocator), EngineError> {
        if self.slots == 0 {
            return Err(EngineError::NoSlots);
        }
        if self.tick.is_zero() {
            return Err(EngineError::NoTick);
        }
        let engine = |allocator| {
            Engine::new(&self.config(allocator, mode))
                .map_err(|error| EngineError::Refused { allocator, reason: format!("{error:#}") })
        };
        if self.allocator == Allocator::OnDemand {
            return Ok((engine(Allocator::OnDemand)?, Allocator::OnDemand));
        }
        match engine(Allocator::Pooling) {
            Ok(engine) => Ok((engine, Allocator::Pooling)),
            Err(error) if self.allocator == Allocator::Auto => {
                tracing::warn!(
                    %error,
                    slots = self.slots,
                    memory_reservation = self.memory_reservation,
                    "no pool of instances; every attempt maps its own memory, which is slower. \
                     A smaller `worker.concurrency` or `sandbox.memory_reservation_bytes` needs less address \
                     space"
                );
                Ok((engine(Allocator::OnDemand)?, Allocator::OnDemand))
            }
            Err(error) => Err(error),
        }
    }

    /// An engine that only compiles, for the machine or for another target such as
    /// `x86_64-unknown-linux-gnu`: a named target means that target's baseline, without what the
    /// processor of this machine has beyond it.
    #[cfg(feature = "compiler")]
    pub fn compiler(&self, target: Option<&str>, mode: Mode) -> Result<Engine, EngineError> {
        let mut config = self.config(Allocator::OnDemand, mode);
        if let Some(target) = target {
            config.target(target).map_err(|error| EngineError::Target {
                target: target.to_owned(),
                reason: format!("{error:#}"),
            })?;
        }
        Engine::new(&config).map_err(|error| match target {
            Some(target) => {
                EngineError::Target { target: target.to_owned(), reason: format!("{error:#}") }
            }
            None => EngineError::Refused {
                allocator: Allocator::OnDemand,
                reason: format!("{error:#}"),
            },
        })
    }

    fn config(&self, allocator: Allocator, mode: Mode) -> Config {
        let mut config = Config::new();
        config
            .epoch_interruption(true)
            .memory_reservation(self.memory_reservation)
            .memory_guard_size(self.memory_guard)
            .memory_init_cow(true)
            // Explicit, since the default asks an environment variable, and it is part of what
            // makes code compatible.
            .wasm_backtrace_details(WasmBacktraceDetails::Disable)
            // A guest may use several memories; all of them count (see `limits`). Threads and
            // shared memories are not compiled in: `run` is free of data races by construction.
            .wasm_multi_memory(true);
        match mode {
            Mode::Plain => config.concurrency_support(false),
            // With many stacks an attempt, what a guest leaves on them would stay in memory for ever:
            // they are given back after each use. A plain attempt has one, of at most 512 KiB.
            Mode::Concurrent => config.wasm_component_model_async(true).async_stack_zeroing(true),
        };
        // Fails for versions of 256 bytes and more.
        let version = ModuleVersionStrategy::Custom(WASMTIME_VERSION.to_owned());
        if let Err(error) = config.module_version(version) {
            tracing::error!(%error, "wasmtime refuses its own version");
        }
        config.allocation_strategy(match allocator {
            Allocator::OnDemand => InstanceAllocationStrategy::OnDemand,
            Allocator::Auto | Allocator::Pooling => self.pool(mode).into(),
        });
        config
    }

    /// Instances that there may be at once.
    fn places(&self) -> u32 {
        self.slots.saturating_add(SPARE_SLOTS).saturating_add(self.ready_instances)
    }

    /// Stacks that one attempt may hold: there are as many in the pool for each slot, so nobody's attempt
    /// takes those of another.
    fn stacks_each(&self, mode: Mode) -> u32 {
        match mode {
            Mode::Plain => PLAIN_STACKS,
            Mode::Concurrent => (MAX_STACKS / self.places().max(1))
                .clamp(SPARE_STACKS + 1, MAX_CONCURRENT_INSTANCES + SPARE_STACKS),
        }
    }

    /// Component instances that one component of a mode may have; `None` where they need no stacks.
    #[cfg(feature = "compiler")]
    pub(super) fn component_instances(&self, mode: Mode) -> Option<u32> {
        match mode {
            Mode::Plain => None,
            Mode::Concurrent => Some(self.stacks_each(mode).saturating_sub(SPARE_STACKS)),
        }
    }

    /// Every count is a slot's share times the slots, so an attempt that has a slot finds all that it needs.
    fn pool(&self, mode: Mode) -> PoolingAllocationConfig {
        let slots = self.places();
        let each = |count: u32| slots.saturating_mul(count);
        let mut pool = PoolingAllocationConfig::new();
        pool.total_component_instances(slots)
            .total_core_instances(each(self.instances))
            .total_memories(each(self.memories))
            .total_tables(each(self.tables))
            .total_stacks(each(self.stacks_each(mode)))
            .max_core_instances_per_component(self.instances)
            .max_memories_per_component(self.memories)
            .max_tables_per_component(self.tables)
            .max_memories_per_module(self.memories)
            .max_tables_per_module(self.tables)
            // Bounds on allocations, not allocations: big components have much of both.
            .max_component_instance_size(16 << 20)
            .max_core_instance_size(4 << 20)
            .table_elements(self.table_elements)
            .max_memory_size(self.max_memory_bytes.min(self.memory_reservation) as usize)
            // What is written to with `memset` costs less than pages that are given back and
            // faulted in again. docs/performance.md has the measurements.
            .linear_memory_keep_resident(self.keep_resident)
            .table_keep_resident(64 << 10)
            .async_stack_keep_resident(16 << 10)
            // Each attempt gives back its own memory, where it ran. In batches it would be whoever
            // ends next: a quick job's thread, for all that some hoarder had, for tens of
            // milliseconds.
            .decommit_batch_size(1)
            // Off, and to stay off: wasmtime 48 looks for pages that are written *and present*,
            // so a dirty page that was swapped out is not reset, and the next instance reads it
            // (https://github.com/bytecodealliance/wasmtime/pull/14357).
            .pagemap_scan(Enabled::No);
        pool
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_wasmtime_is_the_one_that_is_built_in() {
        let lock = include_str!("../../../../Cargo.lock");
        let entry = format!("name = \"wasmtime\"\nversion = \"{WASMTIME_VERSION}\"");
        assert!(lock.contains(&entry), "{entry} is not in Cargo.lock");
    }

    #[test]
    fn a_slot_has_as_many_stacks_as_a_component_may_hold_at_any_concurrency() {
        for slots in [1, 16, 300, 1_000, 100_000] {
            let options = EngineOptions { slots, ..EngineOptions::default() };
            let each = options.stacks_each(Mode::Concurrent);
            let instances = options.component_instances(Mode::Concurrent).unwrap();
            assert_eq!(each, instances + SPARE_STACKS, "{slots}");
            assert!((1..=MAX_CONCURRENT_INSTANCES).contains(&instances), "{slots}");
        }
        let options = EngineOptions::default();
        assert_eq!(options.component_instances(Mode::Concurrent), Some(64));
    }

    #[test]
    fn an_engine_without_slots_is_refused() {
        let options = EngineOptions { slots: 0, ..EngineOptions::default() };
        assert!(matches!(options.build(Mode::Plain), Err(EngineError::NoSlots)));
    }

    #[test]
    fn where_address_space_is_short_instances_are_made_on_demand() {
        let mut options = EngineOptions { slots: 1_000_000, ..EngineOptions::default() };
        let (_, allocator) = options.build(Mode::Plain).unwrap();
        assert_eq!(allocator, Allocator::OnDemand);
        options.allocator = Allocator::Pooling;
        let error = options.build(Mode::Concurrent).unwrap_err().to_string();
        assert!(error.contains("pool"), "{error}");
    }
}
