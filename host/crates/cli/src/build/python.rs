//! Python, by componentize-py.

use std::process::Command;

use super::{read, tool};
use crate::project::Project;

pub fn build(project: &Project) -> anyhow::Result<Vec<u8>> {
    let folders = tool::python_folders(project);
    let componentize = tool::find(
        "componentize-py",
        &folders,
        "python3 -m venv .venv && .venv/bin/pip install 'componentize-py==0.25.*', in the \
         project's folder",
    )?;
    let output = project.scrap()?.join("python.wasm");
    let mut command = Command::new(&componentize);
    command
        .args(["--quiet", "--wit-path", "wit", "--world", &project.settings.world])
        .args(["componentize", "app", "--python-path", "src", "--output", "build/python.wasm"])
        .current_dir(&project.dir)
        // Its own stack says nothing of the project's code.
        .env("RUST_BACKTRACE", "0");
    // The packages of the environment that it is from are the project's.
    if let Some(environment) = componentize.parent().and_then(|bin| bin.parent())
        && environment.join("pyvenv.cfg").is_file()
    {
        command.env("VIRTUAL_ENV", environment);
    }
    tool::run(&mut command, "componentize-py")?;
    read(&output)
}
