//! `lovage-task.toml`: what makes a folder a project that Lovage can build and test.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{Misuse, language::Language};

/// The file's name.
pub const FILE: &str = "lovage-task.toml";

/// The longest name of a project.
const MAX_NAME: usize = 64;

/// What a name cannot be, since it is the name of a function and of a package in some language.
/// Sorted.
#[rustfmt::skip]
const TAKEN: &[&str] = &[
    "abstract", "alignas", "alignof", "alloc", "allowzero", "and", "any", "app", "as", "asm",
    "assemblyscript", "assert", "async", "auto", "await", "become", "bool", "boolean", "box",
    "break", "build", "callconv", "case", "catch", "chan", "char", "class", "comptime", "const",
    "constructor", "continue", "core", "crate", "debugger", "declare", "def", "default", "defer",
    "del", "delete", "do", "double", "dyn", "elif", "else", "enum", "errdefer", "error", "except",
    "export", "extends", "extern", "fallthrough", "false", "final", "finally", "float", "fn", "for",
    "from", "func", "function", "gen", "global", "go", "goto", "handler", "if", "impl",
    "implements", "import", "in", "init", "inline", "instanceof", "int", "interface", "is",
    "lambda", "let", "long", "loop", "lovage", "lovage_task", "macro", "main", "map", "match",
    "mod", "move", "mut", "namespace", "new", "noalias", "nonlocal", "not", "null", "number",
    "object", "of", "opaque", "or", "orelse", "override", "package", "packed", "pass", "priv",
    "private", "proc_macro", "protected", "pub", "public", "raise", "range", "ref", "register",
    "restrict", "resume", "return", "schemars", "select", "self", "serde", "short", "signed",
    "sizeof", "static", "std", "string", "struct", "super", "suspend", "switch", "symbol", "target",
    "task", "test", "this", "throw", "trait", "true", "try", "type", "typedef", "typeof",
    "typescript", "undefined", "union", "unreachable", "unsafe", "unsigned", "unsized", "use",
    "var", "virtual", "void", "volatile", "where", "while", "wit", "wit_world", "with", "yield",
];

/// A folder with its `lovage-task.toml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Project {
    /// The folder, as it was named.
    pub dir: PathBuf,
    /// What the file says.
    pub settings: Settings,
}

/// The fields of `lovage-task.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The project's name: its component is NAME.wasm.
    pub name: String,
    /// What it is written in.
    pub lang: Language,
    /// The world of `wit/` that the component targets.
    #[serde(default = "default_world")]
    pub world: String,
    /// A command for the shell, run in the folder in place of what Lovage would do.
    pub build: Option<String>,
    /// The file that `build` makes: a component, or a core module to make one of.
    pub output: Option<PathBuf>,
}

fn default_world() -> String {
    "task".to_owned()
}

impl Project {
    /// Reads the project in a folder.
    pub fn open(dir: &Path) -> anyhow::Result<Self> {
        let file = dir.join(FILE);
        let text = std::fs::read_to_string(&file).map_err(|error| {
            if error.kind() == std::io::ErrorKind::NotFound {
                Misuse(format!(
                    "{} is no project: it has no {FILE}; `lovage new NAME --lang LANGUAGE` makes \
                     one",
                    dir.display()
                ))
            } else {
                Misuse(format!("cannot read {}: {error}", file.display()))
            }
        })?;
        let settings: Settings = toml::from_str(&text)
            .map_err(|error| Misuse(format!("cannot read {}: {error}", file.display())))?;
        let wrong = |what: String| Misuse(format!("{}: {what}", file.display()));
        check_name(&settings.name).map_err(wrong)?;
        if settings.build.is_some() != settings.output.is_some() {
            let what = "`build` and `output` go together: a command, and the file that it makes";
            return Err(wrong(what.to_owned()).into());
        }
        Ok(Self { dir: dir.to_owned(), settings })
    }

    /// The component that a build makes.
    pub fn component(&self) -> PathBuf {
        self.dir.join(format!("{}.wasm", self.settings.name))
    }

    /// The folder with the contract.
    pub fn wit(&self) -> PathBuf {
        self.dir.join("wit")
    }

    /// The folder for what is made on the way.
    pub fn scrap(&self) -> anyhow::Result<PathBuf> {
        let scrap = self.dir.join("build");
        std::fs::create_dir_all(&scrap)
            .map_err(|error| anyhow::anyhow!("cannot make {}: {error}", scrap.display()))?;
        Ok(scrap)
    }
}

/// Whether this can be a project's name: it becomes the name of a file, of a package, of a function
/// and of the task, in every language.
pub fn check_name(name: &str) -> Result<(), String> {
    let begins = name.starts_with(|c: char| c.is_ascii_lowercase());
    let goes_on = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if !begins || !goes_on || name.len() > MAX_NAME {
        let shown = lovage_core::text::one_line(name, MAX_NAME);
        return Err(format!(
            "`{shown}` cannot be a name: use at most {MAX_NAME} of a-z, 0-9 and _, a letter first, \
             as in resize_image"
        ));
    }
    if TAKEN.binary_search(&name).is_ok() {
        return Err(format!(
            "`{name}` cannot be a name: it means something else in one of the languages; use \
             another, such as {name}_task"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_fit_for_every_language() {
        assert!(TAKEN.is_sorted());
        for good in ["a", "greet", "resize_image", "v2"] {
            assert_eq!(check_name(good), Ok(()), "{good}");
        }
        for bad in ["", "2d", "_a", "my-task", "Greet", "a b", "ä", "../a", "fn", "def", "test"] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
        assert!(check_name(&"a".repeat(65)).is_err());
    }
}
