//! `lovage new`

mod templates;

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;
use clap::Args;

use super::{Global, Misuse, language::Language, out::say, project};

/// Make a project for a task
#[derive(Debug, Args)]
#[command(after_help = "  lovage new greet --lang python\n  \
    lovage build greet\n  \
    lovage test greet\n  \
    lovage run greet/greet.wasm --data 21\n\n\
    The project's README.md says what the language needs.")]
pub struct New {
    /// The project's folder; its last part is the task's name
    path: PathBuf,
    /// What the task is written in
    #[arg(long, value_enum, value_name = "LANGUAGE")]
    lang: Language,
}

impl New {
    pub(super) fn execute(self, global: &Global) -> anyhow::Result<ExitCode> {
        let name = self.path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        project::check_name(name).map_err(Misuse)?;
        create(&self.path, name, self.lang)?;
        let path = self.path.display();
        if global.json {
            say!("{}", serde_json::json!({ "project": self.path, "name": name }))?;
        } else {
            say!("{path}: a task in {}; next:\n", self.lang)?;
            if let Some(setup) = templates::set_up(self.lang) {
                say!("  (cd {path} && {setup})")?;
            }
            say!("  lovage build {path}\n  lovage test {path}")?;
            say!("  lovage run {path}/{name}.wasm --data 21")?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Makes the project's folder, which must not be there.
fn create(path: &Path, name: &str, lang: Language) -> anyhow::Result<()> {
    // Made before anything is in it: what is there already is never written to.
    fs::create_dir(path).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => anyhow::Error::from(Misuse(format!(
            "{} is there already, and nothing is overwritten: use another name, or take it away",
            path.display()
        ))),
        io::ErrorKind::NotFound => Misuse(format!(
            "cannot make {}: the folder that it would be in is not there",
            path.display()
        ))
        .into(),
        _ => anyhow::anyhow!("cannot make {}: {error}", path.display()),
    })?;
    for (file, text) in templates::files(lang) {
        let file = path.join(file);
        let folder = file.parent().unwrap_or(path);
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        fs::write(&file, text.replace(templates::NAME, name))
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}
