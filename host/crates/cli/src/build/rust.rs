//! Rust, by cargo.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, bail};
use serde::Deserialize;

use super::{read, tool};
use crate::project::Project;

/// What components are built for.
const TARGET: &str = "wasm32-wasip2";

/// What cargo says of what it made, a line each.
#[derive(Deserialize)]
struct Message {
    reason: String,
    manifest_path: Option<PathBuf>,
    #[serde(default)]
    filenames: Vec<PathBuf>,
}

pub fn build(project: &Project) -> anyhow::Result<Vec<u8>> {
    let cargo = tool::find("cargo", &[], "https://rustup.rs")?;
    need_target(project)?;
    let what = "cargo build --release";
    let output = Command::new(cargo)
        .args(["build", "--release", "--target", TARGET])
        .args(["--message-format", "json-render-diagnostics"])
        .current_dir(&project.dir)
        // They would replace the flags in the project's `.cargo/config.toml`, and the small stack
        // with them.
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start `{what}`"))?;
    if !output.status.success() {
        bail!("`{what}` failed ({}); what it said is above", output.status);
    }
    let manifest =
        project.dir.join("Cargo.toml").canonicalize().context("cannot find Cargo.toml")?;
    match made(&output.stdout, &manifest) {
        Some(file) => read(&file),
        None => bail!(
            "`{what}` made no .wasm file of {}; it needs [lib] crate-type = [\"cdylib\"]",
            manifest.display()
        ),
    }
}

/// The file that cargo made of the package with this manifest.
fn made(messages: &[u8], manifest: &Path) -> Option<PathBuf> {
    messages
        .split(|byte| *byte == b'\n')
        .filter_map(|line| serde_json::from_slice::<Message>(line).ok())
        .filter(|message| message.reason == "compiler-artifact")
        .filter(|message| message.manifest_path.as_deref() == Some(manifest))
        .flat_map(|message| message.filenames)
        .find(|file| file.extension().is_some_and(|it| it == "wasm"))
}

/// Fails where the compiler has no library for components.
fn need_target(project: &Project) -> anyhow::Result<()> {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc)
        .args(["--print", "target-libdir", "--target", TARGET])
        .current_dir(&project.dir)
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start `rustc`, which comes with https://rustup.rs")?;
    let folder = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() || !Path::new(folder.trim()).is_dir() {
        bail!("the target {TARGET} is missing; to get it: rustup target add {TARGET}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_that_of_the_project_and_of_no_dependency() {
        let messages = concat!(
            r#"{"reason":"compiler-artifact","manifest_path":"/d/Cargo.toml","filenames":["/t/d.wasm"]}"#,
            "\nno JSON at all\n",
            r#"{"reason":"compiler-artifact","manifest_path":"/p/Cargo.toml","filenames":["/t/p.d","/t/p.wasm"]}"#,
            "\n{\"reason\":\"build-finished\",\"success\":true}\n"
        );
        let found = |manifest: &str| made(messages.as_bytes(), Path::new(manifest));
        assert_eq!(found("/p/Cargo.toml"), Some(PathBuf::from("/t/p.wasm")));
        assert_eq!(found("/q/Cargo.toml"), None);
    }
}
