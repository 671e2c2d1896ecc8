//! From files to components.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use wasmtime::component::Component;

use super::supplier::{Directory, Supplier as _};
use super::{Canary, Claims, ComponentUrl, History, RegistryError};
#[cfg(feature = "compiler")]
use super::{cache::CompileCache, lazy_reload};
use crate::signature::{self, Signatures, SignedManifest};
use lovage_config::OnError;
#[cfg(feature = "compiler")]
use lovage_core::byte_size::ByteSize;
use lovage_core::text::component_name;
use lovage_policy::Policies;
use lovage_sandbox::{Limits, LoadedComponent, Problem, Sandbox, Source, Unchecked, Ungranted};

/// Where components come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A `.wasm` file, or a directory of them (not of those in its sub-directories).
    Wasm(PathBuf),
    /// A bundle of `lovage compile`, or a directory of them. Native code, trusted as this program
    /// is: only where the operator said so in so many words.
    Precompiled(PathBuf),
    /// A place that is not on this machine.
    Remote(ComponentUrl),
    /// Bundles of `lovage compile` there, signed by who may sign native code, and the directory in
    /// which they are kept here.
    RemotePrecompiled(ComponentUrl, PathBuf),
}

impl Origin {
    /// Whether a component of that place is one of this origin's, offered now or not.
    pub fn holds(&self, place: &str) -> bool {
        match self {
            Self::Wasm(path) | Self::Precompiled(path) => Directory::new(path).holds(place),
            Self::Remote(url) | Self::RemotePrecompiled(url, _) => match url {
                ComponentUrl::S3 { .. } => place.starts_with(&url.to_string()),
                ComponentUrl::Oci { .. } | ComponentUrl::Https { .. } => place == url.to_string(),
            },
        }
    }
}

/// How components are loaded.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// Where compiled code is kept; without one it is compiled at every start.
    #[cfg(feature = "compiler")]
    pub cache: Option<CompileCache>,
    /// What `describe` may use.
    pub limits: Limits,
    /// What tasks are granted: a component that imports more is not loaded.
    pub policies: Arc<Policies>,
    /// Where the versions that were served are kept.
    pub history: Option<History>,
    /// How new versions are tried; at once they take over where absent.
    pub canary: Option<Canary>,
    /// Who may sign components, and whether one has to.
    pub signatures: Arc<Signatures>,
    /// Which component may serve which task.
    pub claims: Arc<Claims>,
    /// What a start does with what is not served.
    pub on_error: OnError,
}

/// A start is told by who starts something: a command that runs one component has nothing to do
/// without it. A worker's configuration says otherwise.
impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            #[cfg(feature = "compiler")]
            cache: None,
            limits: Limits::default(),
            policies: Arc::default(),
            history: None,
            canary: None,
            signatures: Arc::default(),
            claims: Arc::default(),
            on_error: OnError::Refuse,
        }
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

/// The file itself, or the files of a directory with that ending, in the order of their names.
pub(super) fn files(path: &Path, ending: &'static str) -> Result<Vec<PathBuf>, RegistryError> {
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

/// Makes of bytes a component that is ready to serve: signed where that is wanted, compiled,
/// described, and granted what it imports. Also its signed manifest, where it is signed.
pub(super) async fn prepare(
    sandbox: &Sandbox,
    options: &LoadOptions,
    source: Source,
    wasm: Bytes,
    envelope: Option<&[u8]>,
) -> Result<(Arc<LoadedComponent>, Option<SignedManifest>), RegistryError> {
    let untrusted = |error| RegistryError::Untrusted { file: source.file.clone(), error };
    let (name, digest) = (component_name(&source.file), &source.digest);
    let manifest = options.signatures.verify(envelope, name, digest).map_err(untrusted)?;
    let loaded = loaded(sandbox, options, source, wasm).await?;
    if let Some(manifest) = &manifest {
        check_declared(&loaded, manifest)?;
    }
    check_grants(&loaded, &options.policies).map_err(|problem| problem.of(&loaded.source.file))?;
    tell_unchecked(&loaded);
    tracing::info!(
        file = loaded.source.file,
        digest = loaded.source.digest,
        contract = loaded.contract,
        tasks = loaded.tasks.len(),
        "component loaded"
    );
    Ok((Arc::new(loaded), manifest))
}

/// Checks that a component imports and serves nothing but what it was signed for.
pub(super) fn check_declared(
    component: &LoadedComponent,
    signed: &SignedManifest,
) -> Result<(), RegistryError> {
    let needs = component.imports.iter().filter_map(|import| import.needs);
    let tasks = component.tasks.iter().map(|task| task.name.as_str());
    signature::check_declared(signed, needs, tasks)
        .map_err(|error| RegistryError::Untrusted { file: component.source.file.clone(), error })
}

/// Compiles and describes a component, or takes what is known of it: then its code is loaded when a
/// job needs it.
async fn loaded(
    sandbox: &Sandbox,
    options: &LoadOptions,
    source: Source,
    wasm: Bytes,
) -> Result<LoadedComponent, RegistryError> {
    #[cfg(feature = "compiler")]
    if let (Some(cache), Some(history)) = (&options.cache, &options.history) {
        return lazy_reload::loaded(sandbox, options, (cache, history), source, wasm).await;
    }
    compiled(sandbox, options, source, wasm).await
}

/// Compiles and describes a component.
pub(super) async fn compiled(
    sandbox: &Sandbox,
    options: &LoadOptions,
    source: Source,
    wasm: Bytes,
) -> Result<LoadedComponent, RegistryError> {
    let component = compile_in_background(sandbox, options, &source, wasm)
        .await?
        .map_err(|problem| problem.of(&source.file))?;
    Ok(sandbox.load(source, component, None, &options.limits).await?)
}

/// Says of which tasks the payloads are not held to their schemas.
pub(super) fn tell_unchecked(component: &LoadedComponent) {
    for Unchecked { task, reason } in &component.unchecked {
        let file = &component.source.file;
        tracing::warn!(file, task, reason, "payloads are not checked by the task's schema");
    }
}

/// Says that a component is being compiled: with a large one that takes long enough to wonder.
#[cfg(feature = "compiler")]
pub(super) fn announce(source: &Source) {
    let path = Path::new(&source.file);
    let file = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    let size = ByteSize(source.size).to_string();
    // A target of its own, so that a command can show this and nothing else.
    tracing::info!(target: "lovage::compile", %file, size, "compiling");
}

/// Compiles on a thread for blocking work: a large component takes the CPU for seconds, while the
/// executor goes on serving the version before.
pub(super) async fn compile_in_background(
    sandbox: &Sandbox,
    options: &LoadOptions,
    source: &Source,
    wasm: Bytes,
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
