//! Compiling, in a process of its own.
//!
//! What it costs to compile a component is bounded by its size and shape only roughly: there are
//! functions over which an optimising compiler takes minutes. A thread that compiles cannot be
//! stopped, and memory that it took cannot be taken away. So the program calls itself for it: the
//! child has a budget of CPU time and of memory that the system enforces, runs at a low priority,
//! has no environment and may write no file; and whatever a component does to the compiler, it
//! does to the child.
//!
//! Only a program that answers to [`COMMAND`] can do that, so it has to say so
//! ([`compile_in_children`]). Elsewhere, in the tests and where the library is built in, it is
//! compiled in the process, with no bound but those of `shape`.

use std::io::{self, Read, Write};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, setrlimit};
use serde::{Deserialize, Serialize};
use wasmparser::{Parser, Payload};
use wasmtime::Engine;
use wasmtime::component::Component;

use super::engine::{CodeSettings, EngineOptions, Mode};
use super::error::Problem;
use crate::text::printable;

/// The argument that makes the program a compiler: a task from standard input, code to standard
/// output.
pub const COMMAND: &str = "compile-standard-input";

/// The child's answer where the component is at fault; its standard output says how.
const REFUSED: u8 = 3;

/// How much worse than others the child is treated by the scheduler: a worker that compiles in
/// the background goes on serving.
const NICENESS: i32 = 19;

/// The most that is kept of what a child says as it dies, in bytes.
const LAST_WORDS: usize = 2048;

/// What a child says that has no more memory: by Rust, by the system, and where there is none for
/// the stack of a thread.
const OUT_OF_MEMORY: [&str; 3] =
    ["memory allocation of", "Cannot allocate memory", "ThreadPoolBuildError"];

/// What compiling one component may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompileLimits {
    /// CPU time, of all threads together; in whole seconds. 5 minutes: Python's 18 MiB take half a
    /// minute.
    pub cpu: Duration,
    /// Memory in bytes. 4 GiB.
    pub memory_bytes: u64,
}

impl Default for CompileLimits {
    fn default() -> Self {
        Self { cpu: Duration::from_mins(5), memory_bytes: 4 << 30 }
    }
}

/// Who waits for what is compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Haste {
    /// Somebody does, and nobody for anything else.
    Wanted,
    /// Nobody, while others wait for jobs: half of the processors are left to those, since a low
    /// priority alone does not keep a compiler from their caches, or from a processor for some
    /// milliseconds.
    Beside,
}

impl Haste {
    fn threads(self) -> usize {
        let all = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        match self {
            Self::Wanted => all,
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

/// What a child is asked, in one line of JSON before the component.
#[derive(Debug, Serialize, Deserialize)]
struct Task {
    settings: CodeSettings,
    mode: Mode,
    target: Option<String>,
    cpu_s: u64,
    memory_bytes: u64,
}

/// The code of a component, and the mode it needs, for this machine or for any of `target` (see
/// [`EngineOptions::compiler`], which the caller has tried). The caller has checked that it may be
/// compiled, too.
pub(crate) fn code(
    options: &EngineOptions,
    target: Option<&str>,
    wasm: &[u8],
    haste: Haste,
) -> Result<(Mode, Vec<u8>), Problem> {
    let of_mode = |mode| {
        super::shape::check_stacks(options, mode, wasm)?;
        code_of_mode(options, target, wasm, mode, haste).map(|code| (mode, code))
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
    haste: Haste,
) -> Result<Vec<u8>, Problem> {
    let _turn = super::compile_turns::wait();
    let Some(program) = PROGRAM.get() else {
        let engine = options.compiler(target, mode).map_err(|error| died(&error.to_string()))?;
        return engine.precompile_component(wasm).map_err(|error| Problem::not_taken(&error));
    };
    let limits = options.compile;
    let task = Task {
        settings: options.code_settings(),
        mode,
        target: target.map(str::to_owned),
        cpu_s: limits.cpu.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX),
        memory_bytes: limits.memory_bytes,
    };
    let mut task = serde_json::to_vec(&task).unwrap_or_default();
    task.push(b'\n');
    let child = Command::new(program)
        .arg(COMMAND)
        .env_clear()
        // Its allocator would take a gibibyte at once otherwise, which counts.
        .env("MIMALLOC_ARENA_EAGER_COMMIT", "0")
        .env("RAYON_NUM_THREADS", haste.threads().to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.map_err(|error| died(&format!("it does not start: {error}")))?;
    if let Some(mut input) = child.stdin.take() {
        // It reads all before it writes any. One that is gone says why by its end.
        let _ = input.write_all(&task).and_then(|()| input.write_all(wasm));
    }
    let ended = child.wait_with_output().map_err(|error| died(&error.to_string()))?;
    match ended.status.code() {
        Some(0) => Ok(ended.stdout),
        Some(code) if code == i32::from(REFUSED) => {
            Err(Problem::of_words(String::from_utf8_lossy(&ended.stdout).into_owned()))
        }
        _ => Err(end(ended.status, &ended.stderr, limits)),
    }
}

/// What became of a child that did not answer.
fn end(status: ExitStatus, stderr: &[u8], limits: CompileLimits) -> Problem {
    use std::os::unix::process::ExitStatusExt as _;

    let words = String::from_utf8_lossy(stderr);
    let signal = status.signal();
    if signal == Some(rustix::process::Signal::XCPU.as_raw()) {
        return Problem::CompileCpu { allowed: limits.cpu };
    }
    if OUT_OF_MEMORY.iter().any(|of_it| words.contains(of_it)) {
        return Problem::CompileMemory { allowed: limits.memory_bytes };
    }
    let last = words.len().saturating_sub(LAST_WORDS);
    let last = words.get(words.ceil_char_boundary(last)..).unwrap_or_default();
    died(&format!("{status}: {}", printable(last.trim(), LAST_WORDS)))
}

fn died(reason: &str) -> Problem {
    Problem::CompilerDied { reason: reason.to_owned() }
}

/// The child: one component from standard input, its code to standard output.
pub fn main() -> ExitCode {
    let answer = (|| {
        let mut input = Vec::new();
        io::stdin().lock().read_to_end(&mut input).ok()?;
        let line = input.iter().position(|byte| *byte == b'\n')?;
        let (task, wasm) = input.split_at_checked(line + 1)?;
        let task: Task = serde_json::from_slice(task).ok()?;
        confine(&task).ok()?;
        let options = EngineOptions {
            memory_reservation: task.settings.memory_reservation,
            memory_guard: task.settings.memory_guard,
            ..EngineOptions::default()
        };
        let answer = match options.compiler(task.target.as_deref(), task.mode) {
            Ok(engine) => engine.precompile_component(wasm).map_err(|error| format!("{error:#}")),
            Err(error) => Err(error.to_string()),
        };
        Some(answer)
    })();
    let (said, code) = match answer {
        Some(Ok(code)) => (code, ExitCode::SUCCESS),
        Some(Err(reason)) => (reason.into_bytes(), ExitCode::from(REFUSED)),
        None => return ExitCode::FAILURE,
    };
    let mut output = io::stdout().lock();
    match output.write_all(&said).and_then(|()| output.flush()) {
        Ok(()) => code,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Bounds what this process may take, and takes from it what it does not need.
fn confine(task: &Task) -> io::Result<()> {
    let limit = |resource, current: u64, maximum: u64| {
        setrlimit(resource, Rlimit { current: Some(current), maximum: Some(maximum) })
    };
    // Who asked is not to be outlived by what it asked for.
    #[cfg(target_os = "linux")]
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    // A refusal to be treated worse would be odd, and is no reason not to go on.
    let _ = rustix::process::nice(NICENESS);
    limit(Resource::Cpu, task.cpu_s, task.cpu_s.saturating_add(1))?;
    limit(Resource::Data, task.memory_bytes, task.memory_bytes)?;
    limit(Resource::Core, 0, 0)?;
    // Of files only: not of pipes.
    limit(Resource::Fsize, 0, 0)?;
    Ok(())
}

/// Native code as a component.
///
/// Callers give what [`code`] gave them, or what they read from a place that only this user can
/// write to: code is trusted as this program itself.
pub(crate) fn component(engine: &Engine, code: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: see above; wasmtime checks that version and settings are the engine's.
    #[allow(unsafe_code)]
    unsafe {
        Component::deserialize(engine, code)
    }
}
