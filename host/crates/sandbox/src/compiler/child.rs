//! The process that compiles, from both sides: what it does, and how its parent waits for it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd as _;
use std::process::{Child, ChildStderr, ExitCode, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, Signal, setrlimit};

use super::super::engine::EngineOptions;
use super::{LAST_WORDS, PARENT, Task};
use lovage_platform::paced_write;

/// The child's answer where the component is at fault; its standard error says how.
pub(super) const REFUSED: u8 = 3;

/// The child's answer where there is more code than there may be; its standard error says how much.
pub(super) const TOO_MUCH_CODE: u8 = 4;

/// The child's answer where its code cannot be written; its standard error says why.
pub(super) const NOT_WRITTEN: u8 = 5;

/// How much worse than others the child is treated by the scheduler: a worker that compiles in
/// the background goes on serving.
const NICENESS: i32 = 19;

/// A child that takes no CPU time for so many looks of [`LOOK`] each is stuck. At the lowest
/// priority beside 64 threads that compute it still had 10 ms in each half minute.
const IDLE_LOOKS: u32 = 30;

/// How often its CPU time is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// How often it is asked whether it has ended, at the most and at the least.
const POLLS: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(20));

/// How a child came to its end.
#[derive(Debug)]
pub(super) enum Ended {
    /// By itself, or by somebody else.
    Itself(ExitStatus),
    /// By us, since its time was over.
    Late,
    /// By us, since it did nothing for so long.
    Stalled(Duration),
    /// It could not be talked to.
    Lost(String),
}

/// Gives a child its input and waits for its end; what it said on standard error. It is gone when
/// this returns.
pub(super) fn wait(child: &mut Child, input: [&[u8]; 2], wall: Duration) -> (Ended, Vec<u8>) {
    let (pipe, errors) = (child.stdin.take(), child.stderr.take());
    let deadline = Instant::now().checked_add(wall);
    thread::scope(|scope| {
        let write = move || {
            // It reads all before it writes any. One that is gone says why by its end.
            if let Some(mut pipe) = pipe {
                let _ = input.iter().try_for_each(|part| pipe.write_all(part));
            }
        };
        let writer = thread::Builder::new().spawn_scoped(scope, write);
        let reader = thread::Builder::new().spawn_scoped(scope, move || last_words(errors));
        let ended = match (&writer, &reader) {
            (Ok(_), Ok(_)) => until_ended(child, deadline),
            (Err(error), _) | (_, Err(error)) => {
                Ended::Lost(format!("there is no thread to talk to it: {error}"))
            }
        };
        if !matches!(ended, Ended::Itself(_)) {
            // It may have ended meanwhile. Without it both threads come to their ends.
            let _ = child.kill();
            let _ = child.wait();
        }
        let said = reader.ok().and_then(|reader| reader.join().ok()).unwrap_or_default();
        (ended, said)
    })
}

/// The end of what a child says, which is read to its end whatever it says.
fn last_words(errors: Option<ChildStderr>) -> Vec<u8> {
    let mut kept = Vec::new();
    let Some(mut errors) = errors else { return kept };
    let mut some = [0; 4096];
    while let Ok(read) = errors.read(&mut some) {
        if read == 0 {
            break;
        }
        kept.extend_from_slice(some.get(..read).unwrap_or_default());
        let surplus = kept.len().saturating_sub(4 * LAST_WORDS);
        kept.drain(..surplus);
    }
    kept
}

fn until_ended(child: &mut Child, deadline: Option<Instant>) -> Ended {
    let (mut pause, longest) = POLLS;
    let (mut looked, mut cpu, mut idle) = (Instant::now(), cpu_time(child), 0);
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Ended::Itself(status),
            Ok(None) => {}
            Err(error) => return Ended::Lost(error.to_string()),
        }
        let now = Instant::now();
        if deadline.is_some_and(|deadline| deadline <= now) {
            return Ended::Late;
        }
        if now.duration_since(looked) >= LOOK {
            let before = std::mem::replace(&mut cpu, cpu_time(child));
            looked = now;
            // Looks are counted, not seconds: a machine that was suspended is no idle child.
            idle = if cpu.is_some() && cpu == before { idle + 1 } else { 0 };
            if idle >= IDLE_LOOKS {
                return Ended::Stalled(LOOK * idle);
            }
        }
        thread::sleep(pause);
        pause = (pause * 2).min(longest);
    }
}

/// The CPU time that a process took so far, in the system's ticks; `None` where the system does not
/// tell (`proc_pid_stat(5)`).
fn cpu_time(child: &Child) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).ok()?;
    // After the name, which may hold anything: state is the first field, utime the twelfth.
    let fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11).take(2);
    fields.map(|ticks| ticks.parse::<u64>().ok()).sum()
}

/// The child: one component from standard input, its code to standard output.
pub fn main() -> ExitCode {
    if !stay_with_parent() {
        return ExitCode::FAILURE;
    }
    let Some((code, allowed)) = compile() else { return ExitCode::FAILURE };
    let say = |text: &str, code: u8| {
        let _ = io::stderr().lock().write_all(text.as_bytes());
        ExitCode::from(code)
    };
    match code {
        Err(reason) => say(&reason, REFUSED),
        Ok(code) if code.len() as u64 > allowed => say(&code.len().to_string(), TOO_MUCH_CODE),
        Ok(code) => match write(&code) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => say(&error.to_string(), NOT_WRITTEN),
        },
    }
}

/// Ends with whoever asked; whether that one is still there.
fn stay_with_parent() -> bool {
    #[cfg(target_os = "linux")]
    if rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).is_err() {
        return false;
    }
    // It may have ended before it was bound to us.
    let parent = rustix::process::getppid().map(|it| it.as_raw_nonzero().get().to_string());
    std::env::var(PARENT).ok().is_none_or(|expected| Some(expected) == parent)
}

/// Compiles what standard input has; the code, or why there is none, and the most bytes of it.
fn compile() -> Option<(Result<Vec<u8>, String>, u64)> {
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
    let code = match options.compiler(task.target.as_deref(), task.mode) {
        Ok(engine) => engine.precompile_component(wasm).map_err(|error| format!("{error:#}")),
        Err(error) => Err(error.to_string()),
    };
    Some((code, task.code_bytes))
}

/// Writes the code, and has it on the disk: a crash of the machine could leave a file with holes
/// under a good name, which wasmtime does not notice.
fn write(code: &[u8]) -> io::Result<()> {
    let mut output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    paced_write::write_all(&mut output, code)
}

/// Bounds what this process may take, and takes from it what it does not need.
fn confine(task: &Task) -> io::Result<()> {
    let limit = |resource, current: u64, maximum: u64| {
        setrlimit(resource, Rlimit { current: Some(current), maximum: Some(maximum) })
    };
    // Where memory is short this one goes, and not who serves jobs. A convenience.
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    // A refusal to be treated worse would be odd, and is no reason not to go on.
    let _ = rustix::process::nice(NICENESS);
    limit(Resource::Cpu, task.cpu_s, task.cpu_s.saturating_add(1))?;
    limit(Resource::Data, task.memory_bytes, task.memory_bytes)?;
    limit(Resource::Core, 0, 0)?;
    // Of each file; the only one that it can write to is its standard output.
    limit(Resource::Fsize, task.code_bytes, task.code_bytes)?;
    Ok(())
}
