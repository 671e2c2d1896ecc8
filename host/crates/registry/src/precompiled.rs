//! Code compiled elsewhere: `lovage compile` makes it, and a host without a compiler loads it.
//!
//! A bundle is two files beside each other. `NAME.cwasm` is native code for one kind of machine;
//! `NAME.json` says what it was made from and by what, and which tasks it serves, so that a start
//! need not ask. Native code cannot be checked: it is loaded only from where the operator named it
//! as precompiled, and nobody else can write it; then it is trusted as this program is.

#[cfg(feature = "compiler")]
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use wasmtime::Engine;
use wasmtime::component::Component;

use super::trust::{self, Distrust};
use lovage_policy::Capability;
use lovage_sandbox::{
    CodeSettings, ComponentError, EngineError, Limits, LoadedComponent, Mode, Sandbox, Source,
    TaskSpec, WASMTIME_VERSION, digest,
};

/// The version of the manifest's form.
const FORMAT: u32 = 1;

/// What `NAME.json` holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The version of this form.
    pub format: u32,
    /// The `.wasm` file that the code was made from.
    pub source: String,
    /// Its digest.
    pub digest: String,
    /// Its size in bytes.
    pub size: u64,
    /// The size of the code in bytes, to notice files that do not belong together.
    pub code_size: u64,
    /// The code's own digest, which who signs this signs, too. Files on this machine are not held to
    /// it.
    #[serde(default)]
    pub code_digest: String,
    /// The version of wasmtime that made the code; no other loads it.
    pub wasmtime: String,
    /// The target that it was made for; `native` is the very machine that made it.
    pub target: String,
    /// The settings that the code depends on.
    pub engine: CodeSettings,
    /// True if it needs the engine with the component model's async.
    #[serde(default)]
    pub mode: Mode,
    /// The version of the contract.
    pub contract: String,
    /// What it serves.
    pub tasks: Vec<TaskSpec>,
    /// What it imports that has to be granted.
    #[serde(default)]
    pub capabilities: BTreeSet<Capability>,
}

/// What all forms of the manifest have in common.
#[derive(Deserialize)]
struct Form {
    format: u32,
}

/// Why a bundle is not made or not loaded.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", file.display())]
pub struct BundleError {
    /// The file at fault.
    pub file: PathBuf,
    /// What is wrong with it.
    pub problem: BundleProblem,
}

/// What is wrong with a bundle.
#[derive(Debug, thiserror::Error)]
pub enum BundleProblem {
    /// A file cannot be read or written.
    #[error("{0}")]
    Io(io::Error),
    /// The file has no name to call the bundle by.
    #[error("has no file name")]
    NoName,
    /// The manifest is not what `lovage compile` writes.
    #[error("is no manifest of precompiled code: {0}")]
    BadManifest(String),
    /// Made by another wasmtime.
    #[error(
        "was compiled by wasmtime {theirs}, and this host has {WASMTIME_VERSION}: compile it again with the `lovage compile` of this version"
    )]
    OtherWasmtime {
        /// The version that made it.
        theirs: String,
    },
    /// Made with other settings.
    #[error(
        "was compiled with {theirs:?}, and this host has {ours:?}: compile it with the same engine settings, or set them here"
    )]
    OtherSettings {
        /// Those that it was made with.
        theirs: CodeSettings,
        /// Those of this host.
        ours: CodeSettings,
    },
    /// Code and manifest do not belong together.
    #[error(
        "has {found} bytes, and its manifest speaks of {expected}: the two files are not from one `lovage compile`"
    )]
    OtherCode {
        /// The size of the code.
        found: u64,
        /// The size that the manifest has.
        expected: u64,
    },
    /// Code and manifest do not belong together.
    #[error(
        "has the digest {found}, and its manifest speaks of {}: the two files are not from one \
         `lovage compile` of this version",
        if expected.is_empty() { "none" } else { expected }
    )]
    OtherDigest {
        /// The digest of the code.
        found: String,
        /// The one that the manifest has.
        expected: String,
    },
    /// Others could have written it.
    #[error("{0}")]
    Distrusted(Distrust),
    /// Two components whose bundles would have one name.
    #[error("would be written over by the code of {}: compile them to different directories, or rename one", other.display())]
    SameName {
        /// The other component.
        other: PathBuf,
    },
    /// wasmtime refuses the code.
    #[error("is refused by wasmtime: {0}")]
    Refused(String),
    /// The compiler refuses the settings or the target.
    #[error(transparent)]
    Engine(EngineError),
}

impl BundleProblem {
    fn of(self, file: &Path) -> BundleError {
        BundleError { file: file.to_owned(), problem: self }
    }
}

/// Why `lovage compile` makes no bundle.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The component is at fault.
    #[error(transparent)]
    Component(#[from] ComponentError),
    /// The target, the settings or the disk are.
    #[error(transparent)]
    Bundle(#[from] BundleError),
}

/// The two files of a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    /// The native code.
    pub code: PathBuf,
    /// The manifest.
    pub manifest: PathBuf,
}

impl Bundle {
    /// The bundle of which one file is named.
    pub fn beside(file: &Path) -> Self {
        Self { code: file.with_extension("cwasm"), manifest: file.with_extension("json") }
    }
}

/// Checks that no two components' bundles have one name, which is that of the file: the second
/// would be written over the first.
#[cfg(feature = "compiler")]
pub fn check_names(wasm_files: &[PathBuf]) -> Result<(), BundleError> {
    let mut seen = BTreeMap::new();
    for file in wasm_files {
        if let Some(other) = seen.insert(file.file_stem(), file) {
            return Err(BundleProblem::SameName { other: file.clone() }.of(other));
        }
    }
    Ok(())
}

/// Compiles a component to a bundle in a directory, which is made where it is not there.
///
/// `target` is a triple such as `x86_64-unknown-linux-gnu`, and means that target's baseline:
/// the code runs on every processor of it. Without one the code is for this machine, and may be
/// refused on one with an older processor. The component is loaded once, to check it and to ask
/// it what it serves.
#[cfg(feature = "compiler")]
pub async fn compile(
    sandbox: &Sandbox,
    wasm_file: &Path,
    target: Option<&str>,
    dir: &Path,
    limits: &Limits,
) -> Result<(Bundle, Manifest), CompileError> {
    use lovage_sandbox::{
        Problem,
        compiler::{self, Urgency},
    };

    let name = wasm_file.display().to_string();
    let component_problem = |problem: Problem| problem.of(&name);
    let wasm = sandbox.read(wasm_file).map_err(component_problem)?;
    sandbox.check_bytes(&wasm).map_err(component_problem)?;
    let file_name = wasm_file.file_name().ok_or_else(|| BundleProblem::NoName.of(wasm_file))?;
    sandbox
        .options()
        .compiler(target, Mode::Plain)
        .map_err(|error| BundleProblem::Engine(error).of(wasm_file))?;
    let not_written =
        |error: io::Error| component_problem(Problem::CodeNotWritten { reason: error.to_string() });
    let unnamed = compiler::anonymous_file().map_err(not_written)?;
    let mode = compiler::code(sandbox.options(), target, &wasm, Urgency::Cancellation, &unnamed)
        .map_err(component_problem)?;
    let code = compiler::read(&unnamed, u64::MAX).map_err(not_written)?;
    let engine = sandbox.engine_of(mode).map_err(component_problem)?;

    // Code for this kind of machine runs here, too; for another kind it is compiled once more,
    // for this one, to ask the component what it serves.
    let component = match compiler::map_sealed(engine, &unnamed) {
        Ok(component) => component,
        Err(_) => sandbox.compile(&wasm).map_err(component_problem)?,
    };
    let source = Source::of(&name, &wasm);
    let loaded = sandbox.load(source, component, None, limits).await?;

    let manifest = Manifest {
        format: FORMAT,
        source: file_name.to_string_lossy().into_owned(),
        digest: loaded.source.digest,
        size: loaded.source.size,
        code_size: code.len() as u64,
        code_digest: digest(&code),
        wasmtime: WASMTIME_VERSION.to_owned(),
        target: target.unwrap_or("native").to_owned(),
        engine: sandbox.options().code_settings(),
        mode,
        contract: loaded.contract.to_owned(),
        capabilities: loaded.imports.iter().filter_map(|import| import.needs).collect(),
        tasks: loaded.tasks,
    };
    let bundle = Bundle::beside(&dir.join(file_name));
    let json = serde_json::to_string_pretty(&manifest)
        .map_err(|error| BundleProblem::BadManifest(error.to_string()).of(&bundle.manifest))?;
    make_dir(dir).map_err(|error| BundleProblem::Io(error).of(dir))?;
    write(dir, &bundle.code, &code)?;
    write(dir, &bundle.manifest, json.as_bytes())?;
    Ok((bundle, manifest))
}

/// Makes a directory that `load` trusts, however generous the user's umask is.
#[cfg(feature = "compiler")]
fn make_dir(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new().recursive(true).mode(0o755).create(dir)
}

/// Writes beside, then renames, so that nobody loads half of a file.
#[cfg(feature = "compiler")]
fn write(dir: &Path, file: &Path, bytes: &[u8]) -> Result<(), BundleError> {
    use std::io::Write as _;
    use std::os::unix::fs::PermissionsExt as _;

    let write = || {
        // Readable by all, as a file of a deployment is; `tempfile` makes it private.
        let mut unfinished = tempfile::Builder::new()
            .permissions(std::fs::Permissions::from_mode(0o644))
            .tempfile_in(dir)?;
        unfinished.write_all(bytes)?;
        unfinished.as_file().sync_all()?;
        unfinished.persist(file)?;
        Ok(())
    };
    write().map_err(|error| BundleProblem::Io(error).of(file))
}

/// Loads a bundle, named by either of its files.
///
/// The operator vouches for the files: what they say is believed, and the code is run. So they
/// must be the operator's: see [`Distrust`].
pub async fn load(
    sandbox: &Sandbox,
    file: &Path,
    limits: &Limits,
) -> Result<LoadedComponent, CompileError> {
    let bundle = Bundle::beside(file);
    for file in [&bundle.manifest, &bundle.code] {
        check_trust(file)?;
    }
    let manifest = read_manifest(&bundle.manifest)?;
    let code = |problem: BundleProblem| problem.of(&bundle.code);
    if manifest.wasmtime != WASMTIME_VERSION {
        return Err(code(BundleProblem::OtherWasmtime { theirs: manifest.wasmtime }).into());
    }
    let ours = sandbox.options().code_settings();
    if manifest.engine != ours {
        return Err(code(BundleProblem::OtherSettings { theirs: manifest.engine, ours }).into());
    }
    let found =
        std::fs::metadata(&bundle.code).map_err(|error| code(BundleProblem::Io(error)))?.len();
    if found != manifest.code_size {
        return Err(code(BundleProblem::OtherCode { found, expected: manifest.code_size }).into());
    }
    let engine = sandbox
        .engine_of(manifest.mode)
        .map_err(|problem| problem.of(bundle.code.display().to_string()))?;
    let component = deserialize_file(engine, &bundle.code)
        .map_err(|error| code(BundleProblem::Refused(format!("{error:#}"))))?;
    let source = Source {
        file: bundle.code.display().to_string(),
        digest: manifest.digest,
        size: manifest.size,
    };
    Ok(sandbox.load(source, component, Some(manifest.tasks), limits).await?)
}

/// What is signed of something that is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// Its digest; of a bundle that of its manifest.
    pub digest: String,
    /// What it asks for.
    pub capabilities: BTreeSet<Capability>,
    /// Its tasks.
    pub tasks: BTreeSet<String>,
}

/// What is signed of a bundle, named by either of its files. That the code is the one which the
/// manifest speaks of is made sure.
pub fn described(file: &Path) -> Result<Described, BundleError> {
    let bundle = Bundle::beside(file);
    let read = |file: &Path| std::fs::read(file).map_err(|error| BundleProblem::Io(error).of(file));
    let json = read(&bundle.manifest)?;
    let manifest = Manifest::parse(&json).map_err(|problem| problem.of(&bundle.manifest))?;
    let found = digest(&read(&bundle.code)?);
    if found != manifest.code_digest {
        let expected = manifest.code_digest;
        return Err(BundleProblem::OtherDigest { found, expected }.of(&bundle.code));
    }
    let tasks = manifest.tasks.into_iter().map(|task| task.name).collect();
    Ok(Described { digest: digest(&json), capabilities: manifest.capabilities, tasks })
}

/// Checks a file, and the directory that it is really in.
fn check_trust(file: &Path) -> Result<(), BundleError> {
    let io = |error| BundleProblem::Io(error).of(file);
    let real = file.canonicalize().map_err(io)?;
    for path in real.parent().into_iter().chain([real.as_path()]) {
        let trusted = trust::check_path(path).map_err(|error| BundleProblem::Io(error).of(path))?;
        trusted.map_err(|why| BundleProblem::Distrusted(why).of(path))?;
    }
    Ok(())
}

fn read_manifest(file: &Path) -> Result<Manifest, BundleError> {
    let problem = |problem: BundleProblem| problem.of(file);
    let json = std::fs::read(file).map_err(|error| problem(BundleProblem::Io(error)))?;
    Manifest::parse(&json).map_err(problem)
}

impl Manifest {
    /// From what `NAME.json` holds.
    pub fn parse(json: &[u8]) -> Result<Self, BundleProblem> {
        let bad = BundleProblem::BadManifest;
        // The form first: a newer one may lack what this one needs.
        let form: Form = serde_json::from_slice(json).map_err(|error| bad(error.to_string()))?;
        if form.format != FORMAT {
            let why = format!("it has form {}, and this host knows form {FORMAT}", form.format);
            return Err(bad(why));
        }
        serde_json::from_slice(json).map_err(|error| bad(error.to_string()))
    }
}

fn deserialize_file(engine: &Engine, file: &Path) -> wasmtime::Result<Component> {
    // SAFETY: the operator named this very file, or its directory, as precompiled code to be
    // trusted. Its manifest speaks of the same wasmtime and of a file of this size.
    #[allow(unsafe_code)]
    unsafe {
        Component::deserialize_file(engine, file)
    }
}
