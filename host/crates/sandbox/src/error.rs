//! What can go wrong before a job runs: with the engine, or with a component.
//!
//! What goes wrong while a job runs is no error but an [`Outcome`](lovage_core::outcome::Outcome).

use std::fmt::Write as _;
use std::io;

use super::bindings::SERVED;
use super::engine::Allocator;
use super::limits::Limit;
use super::typed::NoTask;
use lovage_core::byte_size::ByteSize;
use lovage_core::text::{one_line, printable};
use lovage_policy::Capability;

/// Why there is no engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// `slots` is 0.
    #[error("the sandbox has no slots: there must be at least 1")]
    NoSlots,
    /// `tick` is 0.
    #[error("the sandbox's clock does not tick: its period must be more than 0")]
    NoTick,
    /// wasmtime refuses the settings, or the machine does.
    #[error("cannot set up the sandbox ({allocator:?}): {reason}; a pool reserves address space for every job at once: a smaller `worker.concurrency` or `sandbox.memory_reservation_bytes` needs less", allocator = .allocator)]
    Refused {
        /// With which allocator.
        allocator: Allocator,
        /// In wasmtime's words.
        reason: String,
    },
    /// There is no compiler for the target.
    #[error("cannot compile for `{target}`: {reason}")]
    Target {
        /// The target that was asked for.
        target: String,
        /// In wasmtime's words.
        reason: String,
    },
    /// No thread for the clock.
    #[error("cannot start the sandbox's clock: {0}")]
    Ticker(io::Error),
    /// WASI does not fit wasmtime: a mistake of this build.
    #[error("cannot link WASI: {0}")]
    Wasi(String),
}

/// Why a component does not load.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {problem}")]
pub struct ComponentError {
    /// The file, as it was named.
    pub file: String,
    /// What is wrong with it.
    pub problem: Problem,
}

/// What is wrong with a component.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The file does not open.
    #[error("cannot be read: {0}")]
    Unreadable(io::Error),
    /// No WebAssembly at all.
    #[error("is not WebAssembly: it does not begin with `\\0asm`")]
    NotWasm,
    /// WebAssembly as text.
    #[error("is WebAssembly text; make a binary of it first (`wasm-tools parse`)")]
    Text,
    /// A core module.
    #[error(
        "is a core WebAssembly module, not a component: build it for a target that makes \
         components (Rust: `cargo build --target wasm32-wasip2`), or wrap it with \
         `wasm-tools component new`"
    )]
    CoreModule,
    /// Native code where WebAssembly was expected.
    #[error(
        "is precompiled native code, which is not loaded as a component: a directory of \
         precompiled code is trusted code, and has to be named as such"
    )]
    Precompiled,
    /// More bytes than a component may have.
    #[error(
        "has {}, and a component may have {} (`components.max_bytes` raises it)",
        ByteSize(*.size), ByteSize(*.allowed)
    )]
    TooLarge {
        /// How many it has; at least.
        size: u64,
        /// How many it may have.
        allowed: u64,
    },
    /// To compile it could take memory and time without bound.
    #[error("is not compiled, since that could take time and memory without bound: {reason}")]
    Costly {
        /// What would.
        reason: String,
    },
    /// It does not compile.
    #[error("is no valid component: {}", shown(.0))]
    Invalid(String),
    /// To compile it takes more CPU time than it may.
    #[error(
        "takes more than {} s of CPU time to compile, and is given up \
         (`components.compile_cpu_ms` raises it)", .allowed.as_secs_f64()
    )]
    CompileCpu {
        /// How much it may take.
        allowed: std::time::Duration,
    },
    /// To compile it takes more memory than it may.
    #[error(
        "takes more than {} of memory to compile, and is given up \
         (`components.compile_memory_bytes` raises it)", ByteSize(*.allowed)
    )]
    CompileMemory {
        /// How much it may take, in bytes.
        allowed: u64,
    },
    /// To compile it takes more wall time than it may.
    #[error(
        "takes more than {} s to compile, and is given up for now \
         (`components.compile_timeout_ms` raises it)", .allowed.as_secs_f64()
    )]
    CompileTime {
        /// How much it may take.
        allowed: std::time::Duration,
    },
    /// Its native code is larger than it may be.
    #[error(
        "has {} of native code, and a component of its size may have {} \
         (`components.max_code_bytes` and `components.max_code_ratio` raise it)",
        ByteSize(*.size), ByteSize(*.allowed)
    )]
    CodeTooLarge {
        /// How much it has, in bytes.
        size: u64,
        /// How much it may have.
        allowed: u64,
    },
    /// Its native code cannot be written to a file.
    #[error("was not compiled: its native code cannot be written: {reason}")]
    CodeNotWritten {
        /// Why.
        reason: String,
    },
    /// The process that compiled it was ended, or could not be begun: not by the component.
    #[error("was not compiled: the compiler was ended from outside: {}", shown(.reason))]
    CompilerKilled {
        /// How.
        reason: String,
    },
    /// The process that compiled it came to an end of its own.
    #[error("was not compiled, since the compiler died of it: {}", shown(.reason))]
    CompilerDied {
        /// How.
        reason: String,
    },
    /// The pool's slots are too small for it.
    #[error("needs more than a sandbox has room for: {}", shown(.reason))]
    NoRoom {
        /// In wasmtime's words.
        reason: String,
    },
    /// It needs the engine for the component model's async.
    #[error("needs an engine with the component model's async, and none can be made: {reason}")]
    NoEngine {
        /// Why.
        reason: String,
    },
    /// It was loaded before, and cannot be loaded again.
    #[error("was loaded before, and cannot be loaded again: {reason}")]
    NotHadAgain {
        /// Why.
        reason: String,
    },
    /// This build cannot compile.
    #[error(
        "cannot be compiled, since this build has no compiler: precompile it with \
         `lovage compile`"
    )]
    NoCompiler,
    /// It exports no version of the handler, and no function that could be a task.
    #[error(
        "does not export `lovage:task/handler`, and no function that could be a task instead, so it \
         serves no tasks; it exports {}{}",
        list(.exports), no_tasks(.others)
    )]
    NoHandler {
        /// What it exports.
        exports: Vec<String>,
        /// Its functions, with why they are no tasks.
        others: Vec<NoTask>,
    },
    /// Its functions' types come to more than there may be.
    #[error("exports functions that are not looked at: {reason}")]
    LargeTypes {
        /// Of what there is too much.
        reason: String,
    },
    /// Two of its functions would be one task.
    #[error(
        "exports two functions that would both be the task `{}`: `{}` and `{}`; rename one",
        one_line(.task, SHOWN_NAME_BYTES),
        one_line(.first, SHOWN_NAME_BYTES),
        one_line(.second, SHOWN_NAME_BYTES)
    )]
    SameTask {
        /// The task.
        task: String,
        /// The one function.
        first: String,
        /// The other.
        second: String,
    },
    /// It exports the handler in versions that this host does not know.
    #[error(
        "exports `lovage:task/handler` in version {}, and this host serves version {}",
        shown(&.found.join(", ")), SERVED.join(", ")
    )]
    UnservedVersion {
        /// The versions that it exports.
        found: Vec<String>,
    },
    /// It exports the handler with other types.
    #[error("exports a handler that does not fit the contract: {}", shown(.reason))]
    WrongTypes {
        /// What does not fit.
        reason: String,
    },
    /// It imports what nobody offers.
    #[error("imports what this host does not offer: {}", list(.imports))]
    MissingImports {
        /// All of them.
        imports: Vec<String>,
    },
    /// It imports what its tasks are not granted.
    #[error("imports what its tasks are not granted: {}", ungranted(.missing))]
    NotGranted {
        /// All of it.
        missing: Vec<Ungranted>,
    },
    /// It imports an offered interface in another shape.
    #[error("imports an interface in a shape that this host does not offer: {}", shown(.reason))]
    WrongImport {
        /// In wasmtime's words.
        reason: String,
    },
    /// It needs more memories or tables than there may be.
    #[error("needs {needs} {what}, and a sandbox has room for {allowed}{}", .limit.hint())]
    NeedsTooMuch {
        /// How many.
        needs: u64,
        /// Of what.
        what: &'static str,
        /// How many there may be.
        allowed: u64,
        /// By which limit.
        limit: Limit,
    },
    /// It is made of more core instances than there may be.
    #[error(
        "needs more than {allowed} core instances, and a sandbox has room for {allowed}{}",
        Limit::Instances.hint()
    )]
    TooManyInstances {
        /// How many there may be.
        allowed: usize,
    },
    /// It is made of more component instances than an attempt has stacks for.
    #[error(
        "uses the component model's async and is composed of {needs} component instances, and \
         {allowed} are allowed: each may hold a stack while it waits"
    )]
    TooManyComponents {
        /// How many it has.
        needs: u64,
        /// How many there may be.
        allowed: u32,
    },
    /// `describe` did not answer.
    #[error("does not say which tasks it serves: `describe` {reason}")]
    Describe {
        /// How it ended.
        reason: String,
    },
    /// It does not start.
    #[error("cannot be started: it {reason}")]
    Start {
        /// How it ended.
        reason: String,
    },
    /// `describe` gave an empty list.
    #[error("serves no task: `describe` gave an empty list")]
    NoTasks,
    /// A name that the contract does not allow.
    #[error(
        "serves a task named \"{}\", and a task's name is 1 to 200 characters of \
         a-z A-Z 0-9 _ . : / -",
        one_line(.name, SHOWN_NAME_BYTES)
    )]
    BadTaskName {
        /// The name.
        name: String,
    },
    /// Two tasks of one name.
    #[error("serves two tasks named `{name}`")]
    TaskTwice {
        /// The name.
        name: String,
    },
    /// A task whose description breaks the contract.
    #[error("describes the task `{name}` wrongly: {reason}")]
    BadTask {
        /// The task.
        name: String,
        /// What is wrong.
        reason: String,
    },
}

impl Problem {
    /// Why wasmtime takes no component from some bytes: they are none, or the pool has no room.
    #[cfg(feature = "compiler")]
    pub fn not_taken(error: &wasmtime::Error) -> Self {
        Self::of_words(format!("{error:#}"))
    }

    /// The same, of what wasmtime said.
    #[cfg(feature = "compiler")]
    pub(super) fn of_words(reason: String) -> Self {
        // wasmtime has no type for it; a test holds it to these words.
        if reason.contains("pooling allocator") {
            let hint = pool_limit(&reason).map_or_else(String::new, Limit::hint);
            Self::NoRoom { reason: reason + &hint }
        } else {
            Self::Invalid(reason)
        }
    }

    /// Returns true if the same component may load another time.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Unreadable(_)
            | Self::CompilerKilled { .. }
            | Self::CodeNotWritten { .. }
            | Self::NoEngine { .. }
            | Self::NotHadAgain { .. } => Retry::Always,
            // The machine may have been too busy, or short of memory.
            Self::CompileTime { .. }
            | Self::CompileMemory { .. }
            | Self::Describe { .. }
            | Self::Start { .. } => Retry::Few,
            _ => Retry::Never,
        }
    }

    /// The problem of that file.
    pub fn of(self, file: impl Into<String>) -> ComponentError {
        ComponentError { file: file.into(), problem: self }
    }
}

/// True if something that failed is tried again without a change of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// It fails again: the reason is in it.
    Never,
    /// The reason may be in it, or in the machine: a few times.
    Few,
    /// The reason is not in it: until it succeeds.
    Always,
}

/// An import that a task is not granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ungranted {
    /// The import, with its version.
    pub import: String,
    /// The task.
    pub task: String,
    /// What would have to be granted.
    pub capability: Capability,
}

fn ungranted(missing: &[Ungranted]) -> String {
    let each = |Ungranted { import, task, capability }: &Ungranted| {
        format!("`{import}` for the task `{task}` (tasks.{task}.grants.{})", capability.key())
    };
    missing.iter().map(each).collect::<Vec<_>>().join(", ")
}

/// The limit by which the pool is sized that has no room. wasmtime tells it in words only; tests
/// hold it to them.
#[cfg(feature = "compiler")]
fn pool_limit(reason: &str) -> Option<Limit> {
    [
        ("memories count", Limit::Memories),
        ("tables count", Limit::Tables),
        ("element size", Limit::TableElements),
        ("core module instances", Limit::Instances),
        ("memory index", Limit::Memory),
    ]
    .into_iter()
    .find_map(|(words, limit)| reason.contains(words).then_some(limit))
}

/// The most bytes of what is quoted from a component, and of one name.
const SHOWN_BYTES: usize = 4 << 10;
const SHOWN_NAME_BYTES: usize = 200;

/// A reason that may quote the component, fit to be shown.
fn shown(reason: &str) -> String {
    printable(reason, SHOWN_BYTES)
}

/// Why functions are no tasks: of some of them.
fn no_tasks(others: &[NoTask]) -> String {
    const SHOWN: usize = 5;
    let each = others.iter().take(SHOWN).map(|NoTask { function, reason }| {
        format!("; `{}` is no task, since {reason}", one_line(function, SHOWN_NAME_BYTES))
    });
    let mut text: String = each.collect();
    if others.len() > SHOWN {
        // Writing to a string cannot fail.
        let _ = write!(text, "; and {} more", others.len() - SHOWN);
    }
    text
}

/// Names for people: as many as have room, and how many more there are.
fn list(names: &[String]) -> String {
    if names.is_empty() {
        return "nothing".to_owned();
    }
    let mut text = String::new();
    for (at, name) in names.iter().enumerate() {
        let name = format!("`{}`", one_line(name, SHOWN_NAME_BYTES));
        if text.len() + name.len() > SHOWN_BYTES {
            // Writing to a string cannot fail.
            let _ = write!(text, " and {} more", names.len() - at);
            break;
        }
        if at > 0 {
            text.push_str(", ");
        }
        text.push_str(&name);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn however_many_names_there_are_few_are_shown_and_the_rest_is_counted() {
        let names: Vec<_> = (0..1000).map(|n| format!("test:a/{n}-{}", "x".repeat(900))).collect();
        let text = list(&names);
        assert!(text.len() < SHOWN_BYTES + 100, "{}", text.len());
        assert!(text.starts_with("`test:a/0-x"), "{text}");
        assert!(text.ends_with(" more"), "{text}");
        assert_eq!(list(&["a".to_owned(), "b\u{1b}".to_owned()]), "`a`, `b\\u{1b}`");
        assert_eq!(list(&[]), "nothing");
    }
}
