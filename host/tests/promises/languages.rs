//! What `docs/languages.md` promises: in each language from nothing to a task that runs, by the
//! commands that stand there. Then what no sample shows: that each language's layer says and reads
//! all that the contract has, by a task that does (`fixtures/languages`).
//!
//! `make test-languages` runs these alone, and installs compilers for C before; the other tools are
//! installed by the document's own commands. A tool that is missing makes its test fail.

use std::{
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::Value;

macro_rules! languages {
    ($($name:ident $heading:literal),* $(,)?) => {
        $(#[test]
        fn $name() {
            from_nothing_to_a_task(stringify!($name), $heading);
        })*

        #[test]
        fn every_language_of_the_document_is_tried() {
            let document = read("docs/languages.md");
            let headings = document.lines().filter_map(|line| line.strip_prefix("## "));
            let shown: Vec<_> = headings.filter(|heading| !heading.contains('.')).collect();
            assert_eq!(shown, [$($heading),*]);
        }
    };
}

languages! {
    rust "Rust",
    python "Python",
    js "JavaScript",
    ts "TypeScript",
    c "C",
    go "Go",
    zig "Zig",
    assemblyscript "AssemblyScript",
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn read(name: &str) -> String {
    std::fs::read_to_string(root().join(name)).unwrap()
}

/// The commands below a heading.
fn commands(document: &str, heading: &str) -> String {
    let begin = format!("\n## {heading}\n");
    let (_, section) = document.split_once(&begin).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let blocks: String =
        section.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(!blocks.is_empty(), "no commands for {heading}");
    blocks
}

/// A shell in a folder, with `lovage` on its path.
fn shell(folder: &Path, script: &str) -> Output {
    let lovage = Path::new(env!("CARGO_BIN_EXE_lovage")).parent().unwrap();
    let path = std::env::var_os("PATH").unwrap();
    let path: Vec<_> =
        [lovage.to_owned()].into_iter().chain(std::env::split_paths(&path)).collect();
    let mut command = Command::new("sh");
    for (name, _) in std::env::vars() {
        if name.starts_with("LOVAGE") || name == "VIRTUAL_ENV" {
            command.env_remove(name);
        }
    }
    // What guests here are built from need not be built again.
    let target = std::env::var_os("LOVAGE_GUEST_TARGET_DIR")
        .map_or_else(|| root().join("guest-tasks/target"), PathBuf::from);
    command
        .args(["-euc", script])
        .current_dir(folder)
        .env("PATH", std::env::join_paths(path).unwrap())
        .env("CARGO_TARGET_DIR", target)
        .env("LOVAGE__COMPONENTS__CACHE_DIR", Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache"))
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// What a script printed; it has to succeed.
fn run(folder: &Path, script: &str) -> String {
    let output = shell(folder, script);
    let stdout = String::from_utf8(output.stdout).unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}\n{stdout}\n{stderr}");
    stdout
}

fn copy(from: &Path, to: &Path) {
    for entry in from.read_dir().unwrap() {
        let from = entry.unwrap().path();
        let to = to.join(from.file_name().unwrap());
        if from.is_dir() {
            copy(&from, &to);
        } else {
            std::fs::copy(from, to).unwrap();
        }
    }
}

fn from_nothing_to_a_task(language: &str, heading: &str) {
    let desk = tempfile::tempdir().unwrap();
    let desk = desk.path();
    let commands = commands(&read("docs/languages.md"), heading);
    let printed = run(desk, &commands);
    let last: f64 = printed.lines().last().unwrap().parse().unwrap();
    assert!((last - 42.0).abs() < f64::EPSILON, "{printed}");
    assert!(printed.contains("\n4 passed, 0 failed\n"), "{printed}");

    // A project whose task does all that there is.
    run(desk, &format!("lovage new probe --lang {language}"));
    let probe = desk.join("probe");
    let fixtures = root().join("host/tests/fixtures/languages");
    copy(&fixtures.join(language), &probe);
    std::fs::copy(fixtures.join("cases.json"), probe.join("cases.json")).unwrap();
    let first = commands.lines().find_map(|line| line.strip_prefix("lovage new ")).unwrap();
    let first = desk.join(first.split(' ').next().unwrap());
    for tools in [".venv", "node_modules"] {
        if first.join(tools).exists() {
            symlink(first.join(tools), probe.join(tools)).unwrap();
        }
    }
    let printed = run(desk, "lovage test probe");
    assert!(printed.ends_with("\n6 passed, 0 failed\n"), "{printed}");
    let text = run(desk, "lovage run probe/probe.wasm --data '\"text\"'");
    assert_eq!(text, "plain äß🌿");
    let inspected = run(desk, "lovage --json inspect probe/probe.wasm");
    let inspected: Value = serde_json::from_str(&inspected).unwrap();
    let [task] = inspected["tasks"].as_array().unwrap().as_slice() else { panic!("{inspected}") };
    assert_eq!((&task["max_attempts"], &task["timeout_ms"]), (&5.into(), &7000.into()), "{task}");

    if language == "ts" {
        // JavaScript's layer is what the compiler makes of TypeScript's.
        let made = std::fs::read_to_string(probe.join("build/lovage.js")).unwrap();
        assert_eq!(made, read("guest-tasks/templates/js/lovage.js"));
    }
}
