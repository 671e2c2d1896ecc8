//! Compiling, in a process of its own.
//!
//! What it costs to compile a component is bounded by its size and shape only roughly: there are
//! functions over which an optimising compiler takes minutes, and two bytes of WebAssembly can
//! become 150 of native code. A thread that compiles cannot be stopped, and memory that it took
//! cannot be taken away. So the program calls itself for it: the child has a budget of CPU time,
//! memory, wall time and output, runs at a low priority, and has no environment. The child writes
//! the code to a file that the parent maps: the parent never holds the code in its own memory.
//!
//! Only a program that answers to [`COMMAND`] can do that, so it has to say so
//! ([`compile_in_children`]). Elsewhere, in the tests and where the library is built in, it is
//! compiled in the process, with no bound but those of `shape` and of the code's size.

mod child;
mod native_code;

use std::fs::File;
use std::io::Write as _;
use std::num::NonZeroUsize;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use wasmparser::{Parser, Payload};

pub use self::child::main;
use self::child::{Ended, NOT_WRITTEN, REFUSED, TOO_MUCH_CODE, wait};
#[cfg(feature = "isolation")]
pub(crate) use self::native_code::from_parent;
pub use self::native_code::{anonymous_file, map, map_sealed, read};
use super::engine::{CodeSettings, EngineOptions, Mode};
use super::error::Problem;
use lovage_core::text::printable;

/// The argument that makes the program a compiler: a task from standard input, code to standard
/// output.
pub const COMMAND: &str = "compile-standard-input";

/// The variable that tells the child who its parent is.
const PARENT: &str = "LOVAGE_COMPILER_PARENT";

/// The most that is kept of what a child says as it dies, in bytes.
const LAST_WORDS: usize = 2048;

/// What a child says that has no more memory: by Rust, by the system, and where there is none for
/// the stack of a thread.
const OUT_OF_MEMORY: [&str; 3] =
    ["memory allocation of", "Cannot allocate memory", "ThreadPoolBuildError"];

/// Small components have more native code than WebAssembly many times over. Up to this size the
/// ratio does not bound it.
const RATIO_FROM: u64 = 16 << 20;

/// What compiling one component may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompileLimits {
    /// CPU time, of all threads together; in whole seconds. 5 minutes: Python's 18 MiB take half a
    /// minute.
    pub cpu: Duration,
    /// Memory in bytes. 4 GiB.
    pub memory_bytes: u64,
    /// Wall time. 10 minutes.
    pub wall: Duration,
    /// Native code in bytes. 256 MiB.
    pub code_bytes: u64,
    /// Native code, as a multiple of the component's size; beyond 16 MiB. 16: what languages'
    /// toolchains make comes to 3 to 6.
    pub code_ratio: u64,
}

impl Default for CompileLimits {
    fn default() -> Self {
        Self {
            cpu: Duration::from_mins(5),
            memory_bytes: 4 << 30,
            wall: Duration::from_mins(10),
            code_bytes: 256 << 20,
            code_ratio: 16,
        }
    }
}

impl CompileLimits {
    /// The most bytes of native code of a component of this size.
    pub(crate) fn code_for(&self, wasm_bytes: usize) -> u64 {
        let by_ratio = (wasm_bytes as u64).saturating_mul(self.code_ratio).max(RATIO_FROM);
        by_ratio.min(self.code_bytes)
    }

    /// Refuses code that is larger than it may be.
    fn check_code(&self, wasm: &[u8], size: u64) -> Result<(), Problem> {
        let allowed = self.code_for(wasm.len());
        if size <= allowed { Ok(()) } else { Err(Problem::CodeTooLarge { size, allowed }) }
    }
}

/// Who waits for what is compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Urgency {
    /// Somebody does, and nobody for anything else.
    Cancellation,
    /// Nobody, while others wait for jobs: half of the processors are left to those, since a low
    /// priority alone does not keep a compiler from their caches, or from a processor for some
    /// milliseconds.
    Beside,
}

impl Urgency {
    fn threads(self) -> usize {
        let all = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        match self {
            Self::Cancellation => all,
            Self::Beside => (all / 2).max(1),
        }
    }
}

/// The program to be called.
static PROGRAM: OnceLock<PathBuf> = OnceLock::new();

/// Says that this program answers to [`COMMAND`]: from now on components are compiled in children.
pub fn compile_in_children() {
    // By this name it is the very program that runs, whatever became of its file in the meantime:
    // code of another version would be refused.
    let program = if cfg!(target_os = "linux") {
        Some(PathBuf::from("/proc/self/exe"))
    } else {
        std::env::current_exe().ok()
    };
    if let Some(program) = program {
        PROGRAM.get_or_init(|| program);
    }
}

/// The program to be called, where it is one that answers.
#[cfg(feature = "isolation")]
pub fn own_program() -> std::io::Result<&'static std::path::Path> {
    let missing = || std::io::Error::other("this program starts no processes of its own");
    PROGRAM.get().map(PathBuf::as_path).ok_or_else(missing)
}

/// What a child is asked, in one line of JSON before the component.
#[derive(Debug, Serialize, Deserialize)]
struct Task {
    settings: CodeSettings,
    mode: Mode,
    target: Option<String>,
    cpu_s: u64,
    memory_bytes: u64,
    code_bytes: u64,
}

/// Writes the code of a component into an empty file, and gives the mode that it needs. The code is
/// for this machine, or for any of `target` (see [`EngineOptions::compiler`], which the caller has
/// tried). The caller has checked that the component may be compiled, too.
pub fn code(
    options: &EngineOptions,
    target: Option<&str>,
    wasm: &[u8],
    urgency: Urgency,
    into: &File,
) -> Result<Mode, Problem> {
    let of_mode = |mode| {
        super::shape::check_stacks(options, mode, wasm)?;
        code_of_mode(options, target, wasm, mode, urgency, into).map(|()| mode)
    };
    if imports_wasi_0_3(wasm) {
        return of_mode(Mode::Concurrent);
    }
    match of_mode(Mode::Plain) {
        // Whether it needs more tells the compiler, before it has done any work.
        Err(Problem::Invalid(_)) => of_mode(Mode::Concurrent),
        done => done,
    }
}

/// Whether a component imports what only the concurrent engine serves, though it may itself need
/// nothing of the kind.
fn imports_wasi_0_3(wasm: &[u8]) -> bool {
    let mut depth = 0_usize;
    for payload in Parser::new(0).parse_all(wasm) {
        match payload {
            Ok(Payload::Version { .. }) => depth += 1,
            Ok(Payload::End(_)) => depth = depth.saturating_sub(1),
            Ok(Payload::ComponentImportSection(imports)) if depth == 1 => {
                let mut names = imports.into_iter().flatten().map(|import| import.name.name);
                if names.any(|name| name.starts_with("wasi:") && name.contains("@0.3.")) {
                    return true;
                }
            }
            Ok(_) => {}
            // The compiler has the words for it.
            Err(_) => return false,
        }
    }
    false
}

fn code_of_mode(
    options: &EngineOptions,
    target: Option<&str>,
    wasm: &[u8],
    mode: Mode,
    urgency: Urgency,
    into: &File,
) -> Result<(), Problem> {
    let _turn = super::compile_turns::wait();
    let limits = options.compile;
    let Some(program) = PROGRAM.get() else {
        let engine = options
            .compiler(target, mode)
            .map_err(|error| Problem::CompilerDied { reason: error.to_string() })?;
        let code = engine.precompile_component(wasm).map_err(|error| Problem::not_taken(&error))?;
        limits.check_code(wasm, code.len() as u64)?;
        let mut into = into;
        return into.write_all(&code).map_err(|error| not_written(&error.to_string()));
    };
    let allowed = limits.code_for(wasm.len());
    let task = Task {
        settings: options.code_settings(),
        mode,
        target: target.map(str::to_owned),
        cpu_s: limits.cpu.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX),
        memory_bytes: limits.memory_bytes,
        code_bytes: allowed,
    };
    let mut task = serde_json::to_vec(&task).unwrap_or_default();
    task.push(b'\n');
    let output = into.try_clone().map_err(|error| killed(&error.to_string()))?;
    let mut command = Command::new(program);
    // Signals of a terminal are for the worker, which then ends its child.
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let child = command
        .arg(COMMAND)
        .env_clear()
        .env(PARENT, std::process::id().to_string())
        // Its allocator would take a gibibyte at once otherwise, which counts.
        .env("MIMALLOC_ARENA_EAGER_COMMIT", "0")
        .env("RAYON_NUM_THREADS", urgency.threads().to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::from(output))
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.map_err(|error| killed(&format!("it does not start: {error}")))?;
    let (ended, said) = wait(&mut child, [&task, wasm], limits.wall);
    let status = match ended {
        Ended::Itself(status) => status,
        Ended::Late => return Err(Problem::CompileTime { allowed: limits.wall }),
        Ended::Stalled(after) => {
            return Err(killed(&format!("it took no CPU time for {after:?}, and was ended")));
        }
        Ended::Lost(reason) => return Err(killed(&reason)),
    };
    let words = String::from_utf8_lossy(&said);
    match status.code() {
        Some(0) => {
            let size = into.metadata().map_or(0, |found| found.len());
            limits.check_code(wasm, size)
        }
        Some(code) if code == i32::from(REFUSED) => Err(Problem::of_words(words.into_owned())),
        Some(code) if code == i32::from(TOO_MUCH_CODE) => {
            let size = words.trim().parse().unwrap_or(allowed.saturating_add(1));
            Err(Problem::CodeTooLarge { size, allowed })
        }
        Some(code) if code == i32::from(NOT_WRITTEN) => Err(not_written(&words)),
        _ => Err(end(status, &words, limits, allowed)),
    }
}

/// What became of a child that did not answer.
fn end(status: ExitStatus, words: &str, limits: CompileLimits, allowed: u64) -> Problem {
    let signal = status.signal();
    let is = |some: &[Signal]| some.iter().any(|it| signal == Some(it.as_raw()));
    if is(&[Signal::XCPU]) {
        return Problem::CompileCpu { allowed: limits.cpu };
    }
    if is(&[Signal::XFSZ]) {
        return Problem::CodeTooLarge { size: allowed.saturating_add(1), allowed };
    }
    if OUT_OF_MEMORY.iter().any(|of_it| words.contains(of_it)) {
        return Problem::CompileMemory { allowed: limits.memory_bytes };
    }
    let last = words.len().saturating_sub(LAST_WORDS);
    let last = words.get(words.ceil_char_boundary(last)..).unwrap_or_default();
    let reason = format!("{status}: {}", printable(last.trim(), LAST_WORDS));
    // What a compiler does to itself over a component it does again. Other signals come from
    // outside: the system that is short of memory, or an operator.
    let of_itself = is(&[Signal::SEGV, Signal::ABORT, Signal::ILL, Signal::FPE, Signal::TRAP]);
    if of_itself || status.code() == Some(PANICKED) {
        Problem::CompilerDied { reason }
    } else {
        Problem::CompilerKilled { reason }
    }
}

/// The exit code of a Rust program that panicked.
const PANICKED: i32 = 101;

fn killed(reason: &str) -> Problem {
    Problem::CompilerKilled { reason: reason.to_owned() }
}

fn not_written(reason: &str) -> Problem {
    Problem::CodeNotWritten { reason: printable(reason.trim(), LAST_WORDS) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended_by(signal: Signal) -> ExitStatus {
        ExitStatus::from_raw(signal.as_raw())
    }

    #[test]
    fn a_compiler_that_was_killed_condemns_nothing_and_one_that_crashed_does() {
        let limits = CompileLimits::default();
        for signal in [Signal::KILL, Signal::TERM, Signal::INT, Signal::HUP, Signal::BUS] {
            let problem = end(ended_by(signal), "", limits, 1);
            assert!(matches!(problem, Problem::CompilerKilled { .. }), "{problem}");
        }
        for signal in [Signal::SEGV, Signal::ABORT, Signal::ILL] {
            let problem = end(ended_by(signal), "", limits, 1);
            assert!(matches!(problem, Problem::CompilerDied { .. }), "{problem}");
        }
        let problem = end(ended_by(Signal::XCPU), "", limits, 1);
        assert!(matches!(problem, Problem::CompileCpu { .. }), "{problem}");
        let problem = end(ended_by(Signal::ABORT), "memory allocation of 8 bytes", limits, 1);
        assert!(matches!(problem, Problem::CompileMemory { .. }), "{problem}");
        // Exit code 101.
        let problem = end(ExitStatus::from_raw(PANICKED << 8), "panicked", limits, 1);
        assert!(matches!(problem, Problem::CompilerDied { .. }), "{problem}");
    }

    #[test]
    fn code_is_bounded_by_a_number_and_by_a_multiple_of_the_component() {
        let limits = CompileLimits::default();
        assert_eq!(limits.code_for(1000), 16 << 20);
        assert_eq!(limits.code_for(4 << 20), 64 << 20);
        assert_eq!(limits.code_for(60 << 20), 256 << 20);
        let tight = CompileLimits { code_bytes: 1 << 20, ..limits };
        assert_eq!(tight.code_for(1000), 1 << 20);
        let absurd = CompileLimits { code_ratio: u64::MAX, code_bytes: u64::MAX, ..limits };
        assert_eq!(absurd.code_for(1000), u64::MAX);
    }
}
