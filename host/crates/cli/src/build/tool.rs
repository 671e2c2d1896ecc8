//! Programs of others: where they are, and how they are run.

use std::{
    env, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::bail;

use crate::project::Project;

/// The program `name` in the first of `folders` that has it, or on the `PATH`. `get` says how one
/// comes by it.
pub fn find(name: &str, folders: &[PathBuf], get: &str) -> anyhow::Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let all = folders.iter().cloned().chain(env::split_paths(&path));
    if let Some(found) = all.map(|folder| folder.join(name)).find(|file| is_program(file)) {
        // A path of its own, since the program is started in another folder.
        return Ok(std::path::absolute(found)?);
    }
    let mut places: Vec<_> = folders.iter().map(|it| format!("in {}", it.display())).collect();
    places.push("on the PATH".to_owned());
    let places = places.join(", ");
    bail!("`{name}` is missing (looked for {places}); to get it: {get}")
}

fn is_program(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;

    file.metadata().is_ok_and(|it| it.is_file() && it.permissions().mode() & 0o111 != 0)
}

/// Where a project's tools from Python's packages may be: in its own environment, or in the active
/// one.
pub fn python_folders(project: &Project) -> Vec<PathBuf> {
    let active = env::var_os("VIRTUAL_ENV").map(PathBuf::from);
    [Some(project.dir.join(".venv")), active]
        .into_iter()
        .flatten()
        .map(|it| it.join("bin"))
        .collect()
}

/// Where a project's tools from npm are: in its folder or in one around it, as npm has it.
pub fn node_folders(project: &Project) -> anyhow::Result<Vec<PathBuf>> {
    let dir = std::path::absolute(&project.dir)?;
    Ok(dir.ancestors().map(|it| it.join("node_modules/.bin")).filter(|it| it.is_dir()).collect())
}

/// Runs a command to its end, with what it prints on standard error; `what` names it.
pub fn run(command: &mut Command, what: &str) -> anyhow::Result<()> {
    // Standard output is for what this program itself gives.
    let status = command.stdin(Stdio::null()).stdout(io::stderr()).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => bail!("`{what}` failed ({status}); what it said is above"),
        Err(error) => bail!("cannot start `{what}`: {error}"),
    }
}
