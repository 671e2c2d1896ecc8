//! What compiling a component may take, which the program bounds by doing it in a child.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::guests::component_from_text;

/// A component with a function of so many additions, which serves the task `t`.
fn additions(dir: &Path, count: usize) -> std::path::PathBuf {
    let mut sum = String::new();
    for number in 0..count {
        // Each uses what came before, so that nothing can be left out.
        let _ = write!(sum, "(local.get 0) (i32.const {number}) i32.xor local.get 0 i32.add ");
        sum.push_str("local.tee 0 drop ");
    }
    let wasm = component_from_text(&format!(
        r#"(module
            (memory (export "memory") 1)
            TASK REALLOC
            (func (export "sum") (param i32) (result i32) {sum} (local.get 0))
            (func (export "lovage:task/handler@1.0.0#run") (param i32) (result i32)
              (i32.const 256)))"#
    ));
    let file = dir.join("additions.wasm");
    std::fs::write(&file, wasm).unwrap();
    file
}

fn inspect(file: &Path, settings: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lovage"));
    command.arg("inspect").arg(file).current_dir(file.parent().unwrap());
    command.env("LOVAGE__COMPONENTS__CACHE_DIR", file.parent().unwrap().join("cache"));
    command.envs(settings.iter().copied());
    command.output().unwrap()
}

fn problem(output: &Output) -> String {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text} {output:?}");
    text.lines().find(|line| line.starts_with("problem")).unwrap_or_default().to_owned()
}

#[test]
fn a_component_that_is_too_dear_to_compile_is_given_up() {
    let dir = TempDir::new().unwrap();
    // The system counts whole seconds, and a fast machine compiles a third of it in less than one.
    let file = additions(dir.path(), 300_000);
    let refused = inspect(&file, &[("LOVAGE__COMPONENTS__COMPILE_CPU_MS", "500")]);
    let problem = problem(&refused);
    assert!(problem.contains("takes more than 0.5 s of CPU time to compile"), "{problem}");
    assert!(problem.contains("components.compile_cpu_ms"), "{problem}");
}

#[test]
fn a_component_that_takes_too_much_memory_to_compile_is_given_up() {
    let dir = TempDir::new().unwrap();
    let file = additions(dir.path(), 100_000);
    let refused = inspect(&file, &[("LOVAGE__COMPONENTS__COMPILE_MEMORY_BYTES", "134217728")]);
    let problem = problem(&refused);
    assert!(problem.contains("takes more than 128 MiB of memory to compile"), "{problem}");
    assert!(problem.contains("components.compile_memory_bytes"), "{problem}");
}

/// A component with much more native code than it has bytes: conversions to and fro, two bytes each.
fn expands(dir: &Path, conversions: usize) -> std::path::PathBuf {
    let chain = "f64.convert_i64_u i64.trunc_f64_u ".repeat(conversions);
    let wasm = component_from_text(&format!(
        r#"(module
            (memory (export "memory") 1)
            TASK REALLOC
            (func (export "expands") (param i64) (result i64) local.get 0 {chain})
            (func (export "lovage:task/handler@1.0.0#run") (param i32) (result i32)
              (i32.const 256)))"#
    ));
    let file = dir.join("expands.wasm");
    std::fs::write(&file, wasm).unwrap();
    file
}

#[test]
fn a_component_with_too_much_native_code_is_refused() {
    let dir = TempDir::new().unwrap();
    let file = expands(dir.path(), 10_000);
    let refused = inspect(&file, &[("LOVAGE__COMPONENTS__MAX_CODE_BYTES", "500000")]);
    let problem = problem(&refused);
    assert!(problem.contains("of native code, and a component of its size may have"), "{problem}");
    assert!(problem.contains("components.max_code_bytes"), "{problem}");
    // Nothing of it is left in the cache.
    assert_eq!(std::fs::read_dir(dir.path().join("cache")).unwrap().count(), 0);
    assert!(inspect(&file, &[]).status.success(), "within the bounds it is taken");
}

#[test]
fn without_room_in_the_cache_a_component_is_compiled_all_the_same() {
    let dir = TempDir::new().unwrap();
    let file = additions(dir.path(), 10);
    // No directory can be made there, so there is no cache.
    let settings = [("LOVAGE__COMPONENTS__CACHE_DIR", "/proc/lovage")];
    let found = inspect(&file, &settings);
    assert!(found.status.success(), "{found:?}");
}

/// The compilers of a worker, by their process numbers.
#[cfg(target_os = "linux")]
fn compilers(worker: u32) -> Vec<rustix::process::Pid> {
    let children = |entry: std::fs::DirEntry| {
        let path = entry.path();
        let id: i32 = path.file_name()?.to_str()?.parse().ok()?;
        let arguments = std::fs::read_to_string(path.join("cmdline")).ok()?;
        let stat = std::fs::read_to_string(path.join("stat")).ok()?;
        let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.to_owned();
        let is_it = arguments.contains("compile-standard-input") && parent == worker.to_string();
        rustix::process::Pid::from_raw(id).filter(|_| is_it)
    };
    std::fs::read_dir("/proc").unwrap().flatten().filter_map(children).collect()
}

#[cfg(all(target_os = "linux", feature = "local"))]
mod of_a_worker {
    use rustix::process::{Signal, kill_process};

    use super::{additions, compilers};
    use crate::support::stage::{Kind, Setup, Stage, guest};
    use crate::support::worker::{Worker, until};

    struct Shop {
        stage: Stage,
        tasks: tempfile::TempDir,
    }

    impl Shop {
        async fn open(config: &str) -> Self {
            let stage = Stage::set(Kind::Local, Setup::default()).await;
            let tasks = tempfile::tempdir().unwrap();
            stage.configure(&format!(
                "components.paths = ['{}']\ncomponents.cache_dir = 'cache'\n{config}",
                tasks.path().display()
            ));
            std::fs::copy(guest("echo.wasm"), tasks.path().join("echo.wasm")).unwrap();
            Self { stage, tasks }
        }

        /// Ships a component that takes long to compile, and waits for its compiler.
        async fn ship(&self, worker: &Worker) -> rustix::process::Pid {
            let apart = tempfile::tempdir().unwrap();
            let file = additions(apart.path(), 100_000);
            let beside = self.tasks.path().join(".additions");
            std::fs::copy(file, &beside).unwrap();
            std::fs::rename(beside, self.tasks.path().join("additions.wasm")).unwrap();
            let id = worker.id();
            until("it is compiled", async || compilers(id).into_iter().next()).await
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn a_compiler_that_was_killed_is_tried_again() {
        let shop = Shop::open("").await;
        let worker = shop.stage.worker().await;
        let compiler = shop.ship(&worker).await;
        kill_process(compiler, Signal::KILL).unwrap();
        worker.says("the compiler was ended from outside").await;
        // By itself, without a touch of its file.
        let id = worker.id();
        let again = until("it is compiled again", async || {
            compilers(id).into_iter().find(|it| *it != compiler)
        })
        .await;
        // Now it is left alone, and what it made is taken: it fails for what it answers.
        until("the compiler has ended", async || (!compilers(id).contains(&again)).then_some(()))
            .await;
        worker.stop().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn a_compiler_that_hangs_is_ended_and_holds_up_no_other_update() {
        let shop = Shop::open("components.compile_timeout_ms = 25000\n").await;
        let worker = shop.stage.worker().await;
        let compiler = shop.ship(&worker).await;
        kill_process(compiler, Signal::STOP).unwrap();
        std::fs::copy(guest("sleep.wasm"), shop.tasks.path().join("sleep.wasm")).unwrap();
        worker.says("takes more than 25 s to compile").await;
        worker.says("sleep.wasm").await;
        let id = worker.id();
        until("it is gone", async || (!compilers(id).contains(&compiler)).then_some(())).await;
        worker.stop().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn a_compiler_ends_with_its_worker() {
        let shop = Shop::open("").await;
        let worker = shop.stage.worker().await;
        let compiler = shop.ship(&worker).await;
        kill_process(compiler, Signal::STOP).unwrap();
        worker.kill();
        let path = format!("/proc/{}/cmdline", compiler.as_raw_nonzero());
        until("it is gone", async || {
            // What is left of a process that nobody waits for has no arguments.
            std::fs::read(&path).map_or(true, |text| text.is_empty()).then_some(())
        })
        .await;
    }
}

#[test]
fn what_a_child_compiled_is_what_is_loaded_and_cached() {
    let dir = TempDir::new().unwrap();
    let file = additions(dir.path(), 10);
    for _ in 0..2 {
        let found = inspect(&file, &[]);
        assert!(found.status.success(), "{found:?}");
    }
    let cached = std::fs::read_dir(dir.path().join("cache")).unwrap().count();
    assert_eq!(cached, 1);
}

#[test]
fn what_is_no_component_is_told_as_ever() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("broken.wasm");
    std::fs::write(&file, b"\0asm\x0d\0\x01\0\x01\x04\0asm").unwrap();
    let problem = problem(&inspect(&file, &[]));
    assert!(problem.contains("is no valid component"), "{problem}");
}
