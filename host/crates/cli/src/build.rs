//! `lovage build`

mod assemblyscript;
mod c;
mod go;
mod javascript;
mod python;
mod rust;
mod tool;
mod wrap;
mod zig;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::Context as _;
use clap::Args;

use super::{Global, language::Language, out::say, project::Project};
use lovage_core::byte_size::ByteSize;

/// Build a project's component
#[derive(Debug, Args)]
#[command(after_help = "  lovage build\n  \
    lovage build greet\n\n\
    Finds out the language in lovage-task.toml, calls its tools, and makes NAME.wasm beside that \
    file. What the tools say goes to standard error.")]
pub struct Build {
    /// The project's folder
    #[arg(default_value = ".", hide_default_value = true)]
    dir: PathBuf,
}

impl Build {
    pub(super) fn execute(self, global: &Global) -> anyhow::Result<ExitCode> {
        let component = build(&self.dir)?;
        let size = fs::metadata(&component)?.len();
        if global.json {
            say!("{}", serde_json::json!({ "component": component, "size": size }))?;
        } else {
            say!("{}  {}", component.display(), ByteSize(size))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Builds the project in a folder and gives its component's file: `DIR/NAME.wasm`, which is
/// replaced whole, and only if what it holds has changed.
///
/// What the tools say goes to standard error.
pub fn build(dir: &Path) -> anyhow::Result<PathBuf> {
    let project = Project::open(dir)?;
    let name = &project.settings.name;
    let made = make(&project).with_context(|| format!("cannot build {name}"))?;
    let component = project.component();
    place(&component, &made)?;
    Ok(component)
}

/// Calls a language's tools, and gives a component.
fn make(project: &Project) -> anyhow::Result<Vec<u8>> {
    let wasm = match (&project.settings.build, &project.settings.output) {
        (Some(command), Some(output)) => {
            let mut shell = Command::new("/bin/sh");
            tool::run(shell.args(["-c", command]).current_dir(&project.dir), command)?;
            read(&project.dir.join(output))?
        }
        _ => match project.settings.lang {
            Language::Rust => rust::build(project)?,
            Language::Python => python::build(project)?,
            Language::Js => javascript::build(project, false)?,
            Language::Ts => javascript::build(project, true)?,
            Language::C => c::build(project)?,
            Language::Go => go::build(project)?,
            Language::Zig => zig::build(project)?,
            Language::AssemblyScript => assemblyscript::build(project)?,
        },
    };
    wrap::component(project, wasm)
}

/// Reads what a tool was to make.
fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(file).with_context(|| format!("cannot read {}, which was to be made", file.display()))
}

/// Puts a component in its place; who reads it meanwhile sees the old one or the new one.
fn place(file: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    if fs::read(file).is_ok_and(|there| there == bytes) {
        return Ok(());
    }
    let new = file.with_extension("wasm.new");
    fs::write(&new, bytes).with_context(|| format!("cannot write {}", new.display()))?;
    fs::rename(&new, file).with_context(|| format!("cannot write {}", file.display()))
}
