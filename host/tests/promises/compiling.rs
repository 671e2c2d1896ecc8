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
