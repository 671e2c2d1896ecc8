//! From files to components.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use wasmtime::component::Component;

#[cfg(feature = "compiler")]
use super::cache::CompileCache;
use super::precompiled::{self, CompileError};
use super::{RegistryError, Task};
use crate::policy::Policies;
#[cfg(feature = "compiler")]
use crate::sandbox::Bytes;
use crate::sandbox::{Limits, LoadedComponent, Problem, Sandbox, Source, Unchecked, Ungranted};

/// Where components come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A `.wasm` file, or a directory of them (not of those in its sub-directories).
    Wasm(PathBuf),
    /// A bundle of `lovage compile`, or a directory of them. Native code, trusted as this program
    /// is: only where the operator said so in so many words.
    Precompiled(PathBuf),
}

/// How components are loaded.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// Where compiled code is kept; without one it is compiled at every start.
    #[cfg(feature = "compiler")]
    pub cache: Option<CompileCache>,
    /// What `describe` may use.
    pub limits: Limits,
    /// What tasks are granted: a component that imports more is not loaded.
    pub policies: Arc<Policies>,
}

/// The tasks and components of one moment.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    pub(super) tasks: HashMap<String, Arc<Task>>,
    pub(super) components: Vec<Arc<LoadedComponent>>,
}

impl Loaded {
    /// Loads everything. Components of `before` whose file and content are the same are taken
    /// over as they are.
    pub(super) async fn load(
        sandbox: &Sandbox,
        origins: &[Origin],
        options: &LoadOptions,
        before: &[Arc<LoadedComponent>],
    ) -> Result<Self, RegistryError> {
        if origins.is_empty() {
            return Err(RegistryError::NoOrigins);
        }
        let mut loaded = Self::default();
        for origin in origins {
            match origin {
                Origin::Wasm(path) => {
                    for file in files(path, "wasm")? {
                        let component = load_wasm(sandbox, &file, options, before).await?;
                        loaded.add(component, options)?;
                    }
                }
                Origin::Precompiled(path) => {
                    for file in files(path, "cwasm")? {
                        let component = precompiled::load(sandbox, &file, &options.limits)
                            .await
                            .map_err(|error| match error {
                                CompileError::Component(error) => RegistryError::from(error),
                                CompileError::Bundle(error) => RegistryError::from(error),
                            })?;
                        loaded.add(Arc::new(component), options)?;
                    }
                }
            }
        }
        Ok(loaded)
    }

    fn add(
        &mut self,
        component: Arc<LoadedComponent>,
        options: &LoadOptions,
    ) -> Result<(), RegistryError> {
        check_grants(&component, &options.policies)
            .map_err(|problem| problem.of(&component.source.file))?;
        // One component that is named twice, by itself and by its directory, or by another way to
        // the same file, is no conflict.
        if self.components.iter().any(|other| is_same(&other.source, &component.source)) {
            return Ok(());
        }
        for Unchecked { task, reason } in &component.unchecked {
            let file = &component.source.file;
            tracing::warn!(file, task, reason, "payloads are not checked by the task's schema");
        }
        for spec in &component.tasks {
            if let Some(other) = self.tasks.get(&spec.name) {
                return Err(RegistryError::TaskTwice {
                    task: spec.name.clone(),
                    first: other.component.source.file.clone(),
                    second: component.source.file.clone(),
                });
            }
            let task = Task::new(spec.clone(), Arc::clone(&component));
            self.tasks.insert(spec.name.clone(), Arc::new(task));
        }
        self.components.push(component);
        Ok(())
    }
}

/// Checks that each task of a component is granted what the component imports. Told here, at its
/// deployment, and not by each of its jobs.
pub(super) fn check_grants(
    component: &LoadedComponent,
    policies: &Policies,
) -> Result<(), Problem> {
    let needed = component.imports.iter().filter_map(|import| Some((import, import.needs?)));
    let missing: Vec<_> = needed
        .flat_map(|(import, capability)| {
            component.tasks.iter().filter_map(move |task| {
                let granted = policies.of(&task.name, "").allows(capability);
                (!granted).then(|| Ungranted {
                    import: import.name.clone(),
                    task: task.name.clone(),
                    capability,
                })
            })
        })
        .collect();
    if missing.is_empty() { Ok(()) } else { Err(Problem::NotGranted { missing }) }
}

/// Whether two sources are one: the same content, or the same file, which may have been replaced
/// in between.
fn is_same(one: &Source, other: &Source) -> bool {
    let file = |source: &Source| std::fs::canonicalize(&source.file).ok();
    one.digest == other.digest || file(one).is_some_and(|one| Some(one) == file(other))
}

/// The file itself, or the files of a directory with that ending, in the order of their names.
fn files(path: &Path, ending: &'static str) -> Result<Vec<PathBuf>, RegistryError> {
    let unreadable = |error| RegistryError::Unreadable { path: path.to_owned(), error };
    if !std::fs::metadata(path).map_err(unreadable)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(unreadable)? {
        let file = entry.map_err(unreadable)?.path();
        if file.extension().is_some_and(|found| found == ending) && file.is_file() {
            files.push(file);
        }
    }
    if files.is_empty() {
        return Err(RegistryError::Empty {
            path: path.to_owned(),
            what: if ending == "wasm" { "`.wasm`" } else { "`.cwasm`" },
        });
    }
    files.sort();
    Ok(files)
}

/// Reads a component's file.
pub(super) fn read(sandbox: &Sandbox, file: &Path) -> Result<Vec<u8>, RegistryError> {
    sandbox.read(file).map_err(|problem| match problem {
        Problem::Unreadable(error) => RegistryError::Unreadable { path: file.to_owned(), error },
        problem => problem.of(file.display().to_string()).into(),
    })
}

async fn load_wasm(
    sandbox: &Sandbox,
    file: &Path,
    options: &LoadOptions,
    before: &[Arc<LoadedComponent>],
) -> Result<Arc<LoadedComponent>, RegistryError> {
    let wasm = read(sandbox, file)?;
    let source = Source::of(file.display().to_string(), &wasm);
    if let Some(same) = before.iter().find(|component| component.source == source) {
        return Ok(Arc::clone(same));
    }
    let component = compile_in_background(sandbox, options, &source, wasm)
        .await?
        .map_err(|problem| problem.of(&source.file))?;
    let loaded = sandbox.load(source, component, None, &options.limits).await?;
    tracing::info!(
        file = loaded.source.file,
        digest = loaded.source.digest,
        contract = loaded.contract,
        tasks = loaded.tasks.len(),
        "component loaded"
    );
    Ok(Arc::new(loaded))
}

/// Says that a component is being compiled: with a large one that takes long enough to wonder.
#[cfg(feature = "compiler")]
pub(super) fn announce(source: &Source) {
    let path = Path::new(&source.file);
    let file = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    let size = Bytes(source.size).to_string();
    // A target of its own, so that a command can show this and nothing else.
    tracing::info!(target: "lovage::compile", %file, size, "compiling");
}

/// Compiles on a thread for blocking work: a large component takes the CPU for seconds, while the
/// executor goes on serving the version before.
pub(super) async fn compile_in_background(
    sandbox: &Sandbox,
    options: &LoadOptions,
    source: &Source,
    wasm: Vec<u8>,
) -> Result<Result<Component, Problem>, RegistryError> {
    let sandbox = sandbox.clone();
    let path = PathBuf::from(&source.file);
    #[cfg(feature = "compiler")]
    let compile = {
        let cache = options.cache.clone();
        let source = source.clone();
        move || {
            if let Some(cache) = &cache {
                return cache.compile(&sandbox, &source, &wasm);
            }
            announce(&source);
            sandbox.compile(&wasm)
        }
    };
    #[cfg(not(feature = "compiler"))]
    let compile = {
        let _ = options;
        move || sandbox.compile(&wasm)
    };
    tokio::task::spawn_blocking(compile)
        .await
        .map_err(|error| RegistryError::Compiler { path, reason: error.to_string() })
}
