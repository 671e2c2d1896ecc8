//! AssemblyScript, by asc.

use std::process::Command;

use super::{read, tool};
use crate::project::Project;

pub fn build(project: &Project) -> anyhow::Result<Vec<u8>> {
    tool::find("node", &[], "https://nodejs.org, or apt install nodejs npm; version 20 or later")?;
    let folders = tool::node_folders(project)?;
    let asc = tool::find("asc", &folders, "npm install, in the project's folder")?;
    let output = project.scrap()?.join("assemblyscript.wasm");
    let mut command = Command::new(asc);
    command
        .args(["task.ts", "--config", "asconfig.json", "--outFile", "build/assemblyscript.wasm"])
        .current_dir(&project.dir);
    tool::run(&mut command, "asc")?;
    read(&output)
}
