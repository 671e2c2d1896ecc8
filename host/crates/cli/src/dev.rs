//! `lovage dev`

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Args;
use notify::{EventKind, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;

use super::{Misuse, build, project::Project, signals, worker};
use lovage_config::{BrokerKind, Config};
use lovage_runtime::worker::Stop;

/// How long after a change one waits for more of them: editors write several files.
const QUIET: Duration = Duration::from_millis(150);

/// Folders of what tools make or fetch: changes in there are no changes of the task.
const MADE: &[&str] =
    &["target", "node_modules", ".venv", "venv", "build", "dist", "zig-out", "gen", "__pycache__"];

/// Build a task, serve it, and do both again whenever a file is saved
#[derive(Debug, Args)]
#[command(after_help = "In one terminal, in the project of `lovage new`:\n  \
    lovage dev\n\n\
    In another, in the same directory:\n  \
    lovage send process_data --data 21 --wait\n\n\
    Serves from the embedded broker of the configuration, or lovage.db in the working directory. \
    Every save builds; what is built takes over in the running worker, and what does not build or \
    load leaves the version before it there. Ends with Ctrl-C.")]
pub struct Dev {
    /// The project
    #[arg(default_value = ".", value_name = "DIR")]
    dir: PathBuf,
}

impl Dev {
    /// Puts what development needs over the configuration.
    pub(super) fn amend(&self, config: &mut Config) -> anyhow::Result<()> {
        if config.broker.kind != BrokerKind::Local {
            return Err(Misuse(
                "`lovage dev` serves from the embedded broker; the configuration has another one \
                 (broker.kind)"
                    .to_owned(),
            )
            .into());
        }
        config.components.paths = vec![Project::open(&self.dir)?.component()];
        config.components.watch = Some(true);
        config.log.guests = true;
        Ok(())
    }

    pub(super) async fn execute(self, config: Config) -> anyhow::Result<ExitCode> {
        let stop = Stop::default();
        let asked = signals::watch(stop.clone())?;
        let (saved, mut saves) = mpsc::unbounded_channel();
        let dir = std::path::absolute(&self.dir)?;
        let root = dir.clone();
        let mut watcher =
            notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
                let Ok(event) = event else { return };
                let changes = !matches!(event.kind, EventKind::Access(_));
                if changes && event.paths.iter().any(|path| is_source(&root, path)) {
                    let _ = saved.send(());
                }
            })?;
        watcher.watch(&dir, RecursiveMode::Recursive)?;
        // Until it builds once there is nothing to serve.
        while !make(&self.dir).await {
            if !next_save(&mut saves, &stop).await {
                return Ok(ExitCode::SUCCESS);
            }
        }
        let serve = worker::serve(config, stop.clone(), asked);
        let rebuild = async {
            while next_save(&mut saves, &stop).await {
                make(&self.dir).await;
            }
        };
        let (served, ()) = tokio::join!(
            async {
                let served = serve.await;
                stop.drain.cancel();
                served
            },
            rebuild
        );
        served
    }
}

/// Waits for a save and the end of those that follow at once; `false` when it is time to stop.
async fn next_save(saves: &mut mpsc::UnboundedReceiver<()>, stop: &Stop) -> bool {
    tokio::select! {
        () = stop.drain.cancelled() => return false,
        save = saves.recv() => if save.is_none() { return false },
    }
    while let Ok(Some(())) = tokio::time::timeout(QUIET, saves.recv()).await {}
    true
}

/// Builds, and says how that went; whether it went well.
async fn make(dir: &Path) -> bool {
    let begin = Instant::now();
    let dir = dir.to_owned();
    let built = tokio::task::spawn_blocking(move || build::build(&dir)).await;
    let took = begin.elapsed();
    match built {
        Ok(Ok(file)) => {
            tracing::info!(file = %file.display(), ?took, "built");
            true
        }
        Ok(Err(error)) => {
            tracing::error!(error = format!("{error:#}"), "does not build; save to try again");
            false
        }
        Err(panic) => {
            tracing::error!(%panic, "the build failed");
            false
        }
    }
}

/// Whether a file is written by people: not what a build makes of it, nor the broker's.
fn is_source(root: &Path, path: &Path) -> bool {
    let Ok(inside) = path.strip_prefix(root) else { return false };
    let parts: Vec<&str> = inside.iter().filter_map(|part| part.to_str()).collect();
    let Some((file, folders)) = parts.split_last() else { return false };
    let made = |folder: &&str| MADE.contains(folder) || folder.starts_with('.');
    !folders.iter().any(made)
        && !MADE.contains(file)
        && !file.starts_with('.')
        && ![".wasm", ".new", ".sig", ".lock", "~"].iter().any(|end| file.ends_with(end))
        && !file.contains(".db")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_does_not_follow_from_a_build() {
        let is = |path: &str| is_source(Path::new("/p"), &Path::new("/p").join(path));
        for path in ["src/lib.rs", "task.py", "wit/deps/x.wit", "package.json", "Cargo.toml"] {
            assert!(is(path), "{path}");
        }
        for path in [
            "target/debug/x.rs",
            "node_modules/a/b.js",
            "mail.wasm",
            "lovage.db-wal",
            ".git/HEAD",
            ".venv/x.py",
            "Cargo.lock",
            "src/.lib.rs.swp",
            "lovage.db-queue",
        ] {
            assert!(!is(path), "{path}");
        }
        assert!(!is_source(Path::new("/p"), Path::new("/q/a.rs")));
    }
}
