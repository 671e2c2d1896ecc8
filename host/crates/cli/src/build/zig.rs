//! Zig, without any system below it.

use std::process::Command;

use super::{read, tool};
use crate::project::Project;

pub fn build(project: &Project) -> anyhow::Result<Vec<u8>> {
    let folders = tool::python_folders(project);
    let get = "https://ziglang.org/download, version 0.15 or later, or from PyPI: python3 -m venv \
               .venv && .venv/bin/pip install ziglang, in the project's folder";
    // The package of PyPI has another name for it.
    let zig = tool::find("zig", &folders, get)
        .or_else(|error| tool::find("python-zig", &folders, get).map_err(|_| error))?;
    let output = project.scrap()?.join("zig.wasm");
    let mut command = Command::new(zig);
    command
        .args(["build-exe", "task.zig", "-target", "wasm32-freestanding", "-fno-entry"])
        // A small stack: each attempt's memory is reset by its size.
        .args(["-rdynamic", "-O", "ReleaseSmall", "--stack", "65536"])
        .args(["-femit-bin=build/zig.wasm", "--cache-dir", "build/cache"])
        .current_dir(&project.dir);
    tool::run(&mut command, "zig build-exe")?;
    read(&output)
}
