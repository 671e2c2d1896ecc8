//! What `lovage new` makes projects of: the folders of `guest-tasks/templates`, which are projects
//! themselves, by the name of [`NAME`].
//!
//! To each comes the contract, in `wit/`. For Rust there is the SDK besides, as it stands in this
//! repository: it is on no registry, and a project has to build where there is no checkout. A copy
//! is preferred to bindings of the project's own, so that tasks in and outside of the repository
//! are written in the same way. It comes with the lock file that it is tested with.

use crate::language::Language;

/// The name that the templates have in place of the project's.
pub const NAME: &str = "my_task";

/// A file of a project: where it goes, and its text.
type File = (&'static str, &'static str);

/// Files that lie in one folder of this repository.
macro_rules! files {
    ($from:literal: $($file:literal $(as $to:literal)?),* $(,)?) => {
        &[$((
            files!(@to $file $($to)?),
            include_str!(concat!("../../../../../", $from, "/", $file)),
        )),*]
    };
    (@to $file:literal) => { $file };
    (@to $file:literal $to:literal) => { $to };
}

/// The contract that a project is built against.
const CONTRACT: &[File] = files!("wit/v1.1":
    "dispatch.wit" as "wit/dispatch.wit",
    "handler.wit" as "wit/handler.wit",
    "progress.wit" as "wit/progress.wit",
    "types.wit" as "wit/types.wit",
    "world.wit" as "wit/world.wit",
);

/// The same where the SDK of Rust looks for it, three folders up from its own.
const CONTRACT_OF_SDK: &[File] = files!("wit/v1.1":
    "dispatch.wit" as "wit/v1.1/dispatch.wit",
    "handler.wit" as "wit/v1.1/handler.wit",
    "progress.wit" as "wit/v1.1/progress.wit",
    "types.wit" as "wit/v1.1/types.wit",
    "world.wit" as "wit/v1.1/world.wit",
);

/// The SDK of Rust.
const SDK: &[File] = files!("guest-tasks":
    "Cargo.lock",
    "rust/sdk/Cargo.toml" as "vendor/lovage/sdk/Cargo.toml",
    "rust/sdk/README.md" as "vendor/lovage/sdk/README.md",
    "rust/sdk/src/bindings.rs" as "vendor/lovage/sdk/src/bindings.rs",
    "rust/sdk/src/context.rs" as "vendor/lovage/sdk/src/context.rs",
    "rust/sdk/src/dispatch.rs" as "vendor/lovage/sdk/src/dispatch.rs",
    "rust/sdk/src/entry.rs" as "vendor/lovage/sdk/src/entry.rs",
    "rust/sdk/src/error.rs" as "vendor/lovage/sdk/src/error.rs",
    "rust/sdk/src/lib.rs" as "vendor/lovage/sdk/src/lib.rs",
    "rust/sdk/src/panic.rs" as "vendor/lovage/sdk/src/panic.rs",
    "rust/sdk/src/payload.rs" as "vendor/lovage/sdk/src/payload.rs",
    "rust/sdk/src/private.rs" as "vendor/lovage/sdk/src/private.rs",
    "rust/sdk/src/progress.rs" as "vendor/lovage/sdk/src/progress.rs",
    "rust/sdk-macros/Cargo.toml" as "vendor/lovage/sdk-macros/Cargo.toml",
    "rust/sdk-macros/src/expand.rs" as "vendor/lovage/sdk-macros/src/expand.rs",
    "rust/sdk-macros/src/lib.rs" as "vendor/lovage/sdk-macros/src/lib.rs",
    "rust/sdk-macros/src/options.rs" as "vendor/lovage/sdk-macros/src/options.rs",
    "rust/sdk-macros/src/signature.rs" as "vendor/lovage/sdk-macros/src/signature.rs",
);

const RUST: &[File] = files!("guest-tasks/templates/rust":
    ".cargo/config.toml",
    "Cargo.toml",
    "README.md",
    "cases.json",
    "gitignore" as ".gitignore",
    "lovage-task.toml",
    "src/lib.rs",
);

const PYTHON: &[File] = files!("guest-tasks/templates/python":
    "README.md",
    "cases.json",
    "gitignore" as ".gitignore",
    "lovage-task.toml",
    "requirements.txt",
    "src/app.py",
    "src/lovage.py",
);

const JS: &[File] = files!("guest-tasks/templates/js":
    "README.md",
    "cases.json",
    "gitignore" as ".gitignore",
    "lovage-task.toml",
    "lovage.js",
    "package.json",
    "task.js",
);

const TS: &[File] = files!("guest-tasks/templates/ts":
    "README.md",
    "cases.json",
    "gitignore" as ".gitignore",
    "lovage-task.toml",
    "lovage.ts",
    "package.json",
    "task.ts",
    "tsconfig.json",
    "wit.d.ts",
);

const C: &[File] = files!("guest-tasks/templates/c":
    "README.md",
    "cases.json",
    "gitignore" as ".gitignore",
    "lovage-task.toml",
    "lovage.c",
    "lovage.h",
    "task.c",
);

const GO: &[File] = files!("guest-tasks/templates/go":
    "README.md",
    "cases.json",
    "gitignore" as ".gitignore",
    "go.mod",
    "lovage-task.toml",
    "lovage/abi.go",
    "lovage/lovage.go",
    "task.go",
);

const ZIG: &[File] = files!("guest-tasks/templates/zig":
    "README.md",
    "cases.json",
    "gitignore" as ".gitignore",
    "lovage-task.toml",
    "lovage.zig",
    "task.zig",
);

const ASSEMBLYSCRIPT: &[File] = files!("guest-tasks/templates/assemblyscript":
    "README.md",
    "asconfig.json",
    "cases.json",
    "gitignore" as ".gitignore",
    "lovage-task.toml",
    "lovage.ts",
    "names.mjs",
    "package.json",
    "task.ts",
);

/// All files of a new project.
pub fn files(lang: Language) -> impl Iterator<Item = &'static File> {
    let (own, shared): (&[File], &[&[File]]) = match lang {
        Language::Rust => (RUST, &[CONTRACT_OF_SDK, SDK]),
        Language::Python => (PYTHON, &[CONTRACT]),
        Language::Js => (JS, &[CONTRACT]),
        Language::Ts => (TS, &[CONTRACT]),
        Language::C => (C, &[CONTRACT]),
        Language::Go => (GO, &[CONTRACT]),
        Language::Zig => (ZIG, &[CONTRACT]),
        Language::AssemblyScript => (ASSEMBLYSCRIPT, &[CONTRACT]),
    };
    own.iter().chain(shared.iter().copied().flatten())
}

/// What has to be done in a new project before it is built, beyond what a machine has once for all.
pub fn set_up(lang: Language) -> Option<&'static str> {
    match lang {
        Language::Python => {
            Some("python3 -m venv .venv && .venv/bin/pip install -r requirements.txt")
        }
        Language::Js | Language::Ts | Language::AssemblyScript => Some("npm install"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeSet,
        path::{Path, PathBuf},
    };

    use clap::ValueEnum as _;

    use super::*;

    fn root() -> &'static Path {
        Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(3).unwrap()
    }

    /// The files below a folder of the repository, without what is made by building there.
    fn sources(folder: &str) -> BTreeSet<PathBuf> {
        let top = root().join(folder);
        let mut folders = vec![top.clone()];
        let mut found = BTreeSet::new();
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).unwrap() {
                let path = entry.unwrap().path();
                let name = path.file_name().unwrap().to_str().unwrap();
                let made = [
                    "build",
                    "target",
                    "node_modules",
                    "package-lock.json",
                    ".venv",
                    "__pycache__",
                    "my_task.wasm",
                ];
                if made.contains(&name) {
                    continue;
                }
                if path.is_dir() {
                    folders.push(path);
                } else {
                    found.insert(path.strip_prefix(&top).unwrap().to_owned());
                }
            }
        }
        assert!(!found.is_empty(), "{folder}");
        found
    }

    #[test]
    fn every_file_of_a_template_gets_into_projects() {
        let folders =
            Language::value_variants().iter().map(|lang| (lang, lang.to_possible_value()));
        for (lang, folder) in folders {
            let folder = format!("guest-tasks/templates/{}", folder.unwrap().get_name());
            let made: BTreeSet<_> = files(*lang).map(|(to, _)| PathBuf::from(to)).collect();
            for file in sources(&folder) {
                let to = if file == Path::new("gitignore") { ".gitignore".into() } else { file };
                assert!(made.contains(&to), "{folder}: {}", to.display());
            }
        }
    }

    #[test]
    fn every_source_of_the_sdk_gets_into_projects_of_rust() {
        let made: BTreeSet<_> = files(Language::Rust).map(|(to, _)| PathBuf::from(to)).collect();
        for krate in ["sdk", "sdk-macros"] {
            for file in sources(&format!("guest-tasks/rust/{krate}")) {
                let to = Path::new("vendor/lovage").join(krate).join(&file);
                assert!(file.starts_with("tests") || made.contains(&to), "{}", to.display());
            }
        }
        for file in sources("wit/v1.1") {
            let to = Path::new("wit/v1.1").join(&file);
            assert!(made.contains(&to), "{}", to.display());
        }
    }
}
