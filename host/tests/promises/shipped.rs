//! What ships beside the program: documents that are true, guests that are small, and a contract
//! that does not change.

use std::path::{Path, PathBuf};
use std::process::Command;

use lovage::config::Config;
use lovage::outcome::Outcome;

use crate::guests::{file, load, run, sandbox};
use crate::wasm::initial_pages;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn read(name: &str) -> String {
    let path = root().join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The texts of a document's code blocks in this language.
fn fenced(document: &str, language: &str) -> Vec<String> {
    let open = format!("```{language}\n");
    let blocks = document.split(&open).skip(1);
    blocks.map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

/// The texts of code blocks that are indented and begin as TOML does.
fn indented_toml(document: &str) -> Vec<String> {
    let mut blocks: Vec<String> = Vec::new();
    let mut inside = false;
    let mut fence = false;
    for line in document.lines() {
        fence ^= line.starts_with("```");
        match line.strip_prefix("    ") {
            Some(code) if !fence && (inside || code.starts_with('[')) => {
                if !inside {
                    blocks.push(String::new());
                }
                inside = true;
                blocks.last_mut().unwrap().extend([code, "\n"]);
            }
            // A blank line does not end a block.
            _ => inside &= line.is_empty(),
        }
    }
    blocks
}

/// The documents that show what goes into `lovage.toml`.
const OPERATORS: [&str; 6] = [
    "README.md",
    "docs/operating.md",
    "docs/capabilities.md",
    "docs/lambda.md",
    "docs/design.md",
    "docs/from-celery.md",
];

#[test]
fn configurations_in_documents_are_taken() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("lovage.toml");
    let mut found = Vec::new();
    for name in OPERATORS {
        let document = read(name);
        for block in fenced(&document, "toml").into_iter().chain(indented_toml(&document)) {
            std::fs::write(&path, &block).unwrap();
            let config = Config::load(Some(&path), []);
            config.unwrap_or_else(|error| panic!("in {name}: {error}\n{block}"));
            found.push(name);
        }
    }
    let shown = |name: &str| found.iter().filter(|found| **found == name).count();
    let counts = OPERATORS.map(|name| (name, shown(name)));
    assert_eq!(counts.map(|it| it.1), [1, 3, 5, 1, 0, 2], "configurations shown: {counts:?}");
}

#[test]
fn variables_in_documents_are_taken() {
    let mut found = 0;
    for name in OPERATORS {
        let document = read(name);
        let words = document.split(|c: char| c.is_whitespace() || "`,.;()".contains(c));
        for (variable, value) in words.filter_map(|word| word.split_once('=')) {
            if !variable.starts_with("LOVAGE__") {
                continue;
            }
            let set = [(variable.to_owned(), value.to_owned())];
            Config::load(None, set).unwrap_or_else(|error| panic!("in {name}: {error}"));
            found += 1;
        }
    }
    assert!(found >= 5, "only {found} variables were found");
}

#[test]
fn the_example_of_writing_a_task_is_the_guest_that_is_built() {
    let document = read("docs/writing-a-task.md");
    let code = fenced(&document, "rust").remove(0);
    assert_eq!(code, read("guest-tasks/rust/greet/src/lib.rs"));
    // Guests here have the settings that authors get.
    let toml = |name: &str| -> toml::Table { read(name).parse().unwrap() };
    let cargo_config = toml("guest-tasks/templates/rust/.cargo/config.toml");
    assert_eq!(cargo_config, toml("guest-tasks/.cargo/config.toml"));
    let manifest = toml("guest-tasks/templates/rust/Cargo.toml");
    let ours = toml("guest-tasks/rust/greet/Cargo.toml");
    let names = |table: &toml::Table| -> Vec<String> {
        table["dependencies"].as_table().unwrap().keys().cloned().collect()
    };
    assert_eq!(names(&manifest), names(&ours));
    let workspace = toml("guest-tasks/Cargo.toml");
    for (name, wanted) in manifest["workspace"]["dependencies"].as_table().unwrap() {
        assert_eq!(*wanted, workspace["workspace"]["dependencies"][name], "{name}");
    }
    assert_eq!(manifest["lib"], ours["lib"]);
}

#[tokio::test]
async fn the_example_of_writing_a_task_answers_as_the_document_says() {
    let document = read("docs/writing-a-task.md");
    let console = fenced(&document, "console").remove(0);
    let mut lines = console.lines().skip_while(|line| !line.starts_with("$ lovage run "));
    let data = lines.next().unwrap().split('\'').nth(1).unwrap();
    let sandbox = sandbox();
    let greet = load(&sandbox, "greet").await;
    let report = run(&sandbox, &greet, "greet", data, |_| {}).await;
    match report.outcome {
        Outcome::Done(output) => assert_eq!(output.data, lines.next().unwrap().as_bytes()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn guests_are_built_with_the_small_stack() {
    // Rust's own stack of 1 MiB would take 16 pages alone.
    for entry in std::fs::read_dir(file("echo").parent().unwrap()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|ending| ending == "wasm") {
            let pages = initial_pages(&std::fs::read(&path).unwrap());
            assert!((1..8).contains(&pages), "{} begins with {pages} pages", path.display());
        }
    }
}

/// The contract's versions.
const VERSIONS: [&str; 2] = ["wit/v1", "wit/v1.1"];

/// The contract and the target that checks it, where they can be changed.
struct Contract(tempfile::TempDir);

impl Contract {
    fn copy() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut released = Vec::new();
        for version in VERSIONS {
            std::fs::create_dir_all(directory.path().join(version)).unwrap();
            released.extend(files(&root().join(version)));
        }
        let all = [root().join("Makefile"), root().join("wit/released.sha256")];
        for path in all.into_iter().chain(released) {
            let name = path.strip_prefix(root()).unwrap();
            std::fs::copy(&path, directory.path().join(name)).unwrap();
        }
        Self(directory)
    }

    /// Whether the check passes, and what it says.
    fn check(&self) -> (bool, String) {
        let mut make = Command::new("make");
        // `make test` runs this test; its flags are not for another make.
        for name in ["MAKEFLAGS", "MFLAGS", "MAKELEVEL"] {
            make.env_remove(name);
        }
        let output = make.arg("check-wit").current_dir(self.0.path()).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(said).unwrap())
    }
}

fn files(directory: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn a_released_file_of_the_contract_cannot_change_unseen() {
    let contract = Contract::copy();
    let (passes, said) = contract.check();
    assert!(passes, "{said}");
    let of_version = |version| files(&contract.0.path().join(version));
    for path in VERSIONS.into_iter().flat_map(of_version) {
        let name = path.file_name().unwrap().to_str().unwrap();
        let version = path.parent().unwrap().file_name().unwrap().to_str().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("{text}// One line more.\n")).unwrap();
        let (passes, said) = contract.check();
        assert!(!passes && said.contains(&format!("{version}/{name}: FAILED")), "{name}: {said}");
        std::fs::remove_file(&path).unwrap();
        let (passes, said) = contract.check();
        assert!(!passes && said.contains(name), "{name} is gone: {said}");
        std::fs::write(&path, text).unwrap();
    }
    assert!(contract.check().0, "all is as it was");
}
