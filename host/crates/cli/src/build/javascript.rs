//! JavaScript and TypeScript, on QuickJS by componentize-qjs.

use std::process::Command;

use super::{read, tool};
use crate::project::Project;

pub fn build(project: &Project, typed: bool) -> anyhow::Result<Vec<u8>> {
    tool::find("node", &[], "https://nodejs.org, or apt install nodejs npm; version 20 or later")?;
    let folders = tool::node_folders(project)?;
    let npm = "npm install, in the project's folder";
    let output = project.scrap()?.join("quickjs.wasm");
    let source = if typed {
        let tsc = tool::find("tsc", &folders, npm)?;
        tool::run(Command::new(tsc).current_dir(&project.dir), "tsc")?;
        "build/task.js"
    } else {
        "task.js"
    };
    let componentize = tool::find("componentize-qjs", &folders, npm)?;
    let mut command = Command::new(componentize);
    command
        .args(["--wit", "wit", "--world", &project.settings.world, "--js", source])
        // Without what asynchronous exports need, which the contract has none of.
        .args(["--sync", "--minify", "--output", "build/quickjs.wasm"])
        .current_dir(&project.dir);
    tool::run(&mut command, "componentize-qjs")?;
    read(&output)
}
