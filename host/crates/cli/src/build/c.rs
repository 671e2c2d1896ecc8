//! C, by clang, with bindings that are made here.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, bail};
use wit_bindgen_core::Files;

use super::{read, tool, wrap};
use crate::project::Project;

/// How one comes by all that C needs.
const GET: &str = "apt install clang lld wasi-libc libclang-rt-dev-wasm32, or set WASI_SDK_PATH to \
                   a WASI SDK";

pub fn build(project: &Project) -> anyhow::Result<Vec<u8>> {
    let sdk = env::var_os("WASI_SDK_PATH").map(|it| PathBuf::from(it).join("bin"));
    let folders: Vec<_> = sdk.into_iter().collect();
    let clang = tool::find("clang", &folders, GET)?;
    if folders.is_empty() {
        tool::find("wasm-ld", &[], GET)?;
    }
    need(&clang, "-print-file-name=crt1-reactor.o", "C's library for wasm32-wasi")?;
    need(&clang, "-print-libgcc-file-name", "clang's run time for wasm32")?;

    let scrap = project.scrap()?;
    let bindings = bindings(project, &scrap)?;
    let sources = sources(&project.dir)?;
    let output = scrap.join("c.wasm");
    let mut command = Command::new(clang);
    command
        .args(["--target=wasm32-wasi", "-mexec-model=reactor", "-std=c17", "-O2", "-Wall"])
        // A small stack, since each attempt's memory is reset by its size, and below everything
        // else, so that running over its end traps.
        .args(["-Wl,-z,stack-size=65536", "-Wl,--stack-first", "-Wl,--strip-debug"])
        .args(["-I", "build", "-o", "build/c.wasm"])
        .args(sources)
        .args(bindings)
        .current_dir(&project.dir);
    tool::run(&mut command, "clang")?;
    read(&output)
}

/// Fails where what clang would use of this kind is not there: it then names no whole path.
fn need(clang: &Path, question: &str, what: &str) -> anyhow::Result<()> {
    let output = Command::new(clang)
        .args(["--target=wasm32-wasi", question])
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start `clang`")?;
    let file = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    if file.is_file() {
        return Ok(());
    }
    bail!("{what} is missing ({}); to get it: {GET}", file.display())
}

/// Makes the bindings; gives those of their files that go to the compiler, in the project's folder.
fn bindings(project: &Project, scrap: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let (mut resolve, world) = wrap::world(project)?;
    let mut files = Files::default();
    let mut generator = wit_bindgen_c::Opts {
        // The same names whatever the world's.
        rename_world: Some("lovage_task".to_owned()),
        ..wit_bindgen_c::Opts::default()
    }
    .build();
    generator.generate(&mut resolve, world, &mut files)?;
    let mut compiled = Vec::new();
    for (name, bytes) in files.iter() {
        let file = scrap.join(name);
        std::fs::write(&file, bytes).with_context(|| format!("cannot write {}", file.display()))?;
        if Path::new(name).extension().is_none_or(|it| it != "h") {
            compiled.push(Path::new("build").join(name));
        }
    }
    Ok(compiled)
}

/// The project's own files: `*.c` in its folder and in `src`.
fn sources(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for folder in ["", "src"] {
        let Ok(entries) = dir.join(folder).read_dir() else { continue };
        for entry in entries {
            let name = PathBuf::from(entry?.file_name());
            if name.extension().is_some_and(|it| it == "c") {
                found.push(Path::new(folder).join(name));
            }
        }
    }
    if found.is_empty() {
        bail!("there is no .c file in {} or its src", dir.display());
    }
    found.sort();
    Ok(found)
}
