//! Compiled code kept on disk, so that a component is compiled once and not at every start.
//!
//! Native code that is loaded is trusted like this program itself, and wasmtime cannot check it:
//! whoever can write to the directory can run anything here. So only a directory is used that
//! nobody but this user can write to, and it is held open, so that nobody swaps it afterwards.
//! Files are named by the component's digest and by a digest of all that the code depends on
//! (wasmtime's version, its settings, the processor): what does not fit is not found.
//!
//! Beside the code of a component is what was found out about it when it was loaded first, so that
//! a worker that serves many need not load all to know which tasks are whose.
//!
//! A cache is a convenience. Whatever goes wrong with it is told in one warning, and components
//! are compiled as if there were none.

use std::ffi::CStr;
use std::fs::File;
use std::hash::{Hash as _, Hasher};
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{self as sys, AtFlags, OFlags};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use wasmtime::Engine;
use wasmtime::component::Component;

use super::load::announce;
use super::trust::{self, Besides, Distrust};
use lovage_platform::paced_write;
use lovage_sandbox::{ComponentMetadata, Limits, Mode, Problem, Sandbox, Source, compiler};

/// How many bytes a cache holds unless somebody says otherwise: 2 GiB.
pub const DEFAULT_MAX_BYTES: u64 = 2 << 30;

/// The most bytes of what is kept of what a component says of itself.
const MAX_FACTS: u64 = 1 << 20;

/// Files that are being written begin like this, which no digest does.
const UNFINISHED: &str = ".unfinished-";

/// Unfinished files are swept away when they are older than this many seconds: whoever wrote
/// them is gone.
const UNFINISHED_SECONDS: i64 = 60 * 60;

/// Why a directory is not used as a cache.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// Neither `XDG_CACHE_HOME` nor `HOME` is set.
    #[error("no place for the compile cache: neither XDG_CACHE_HOME nor HOME is set")]
    NoPlace,
    /// It cannot be made, opened or read.
    #[error("{}: {error}", dir.display())]
    Io {
        /// The directory.
        dir: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Others could put code there.
    #[error("{}: {why}", dir.display())]
    Distrusted {
        /// The directory.
        dir: PathBuf,
        /// Why.
        why: Distrust,
    },
}

/// A directory of compiled code. Clones are the same cache.
#[derive(Debug, Clone)]
pub struct CompileCache(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    dir: OwnedFd,
    max_bytes: u64,
}

impl CompileCache {
    /// `$XDG_CACHE_HOME/lovage`, or `~/.cache/lovage`
    /// (<https://specifications.freedesktop.org/basedir-spec/latest/>).
    pub fn default_dir() -> Result<PathBuf, CacheError> {
        let set = |name| std::env::var_os(name).map(PathBuf::from);
        // The specification has relative paths ignored.
        let absolute = |path: &PathBuf| path.is_absolute();
        set("XDG_CACHE_HOME")
            .filter(absolute)
            .or_else(|| set("HOME").filter(absolute).map(|home| home.join(".cache")))
            .map(|cache| cache.join("lovage"))
            .ok_or(CacheError::NoPlace)
    }

    /// Opens a directory, and makes it where it is not there. At most `max_bytes` of code are
    /// kept: beyond that, what was used least recently goes.
    pub fn open(dir: &Path, max_bytes: u64) -> Result<Self, CacheError> {
        let failed = |error: io::Error| CacheError::Io { dir: dir.to_owned(), error };
        let fd = trust::own_dir(dir)
            .map_err(failed)?
            .map_err(|why| CacheError::Distrusted { dir: dir.to_owned(), why })?;
        Ok(Self(Arc::new(Inner { path: dir.to_owned(), dir: fd, max_bytes })))
    }

    /// Opens a directory, the default one when none is named; without a cache where that fails,
    /// and with a warning that says why.
    pub fn open_or_warn(dir: Option<&Path>, max_bytes: u64) -> Option<Self> {
        let opened = match dir {
            Some(dir) => Self::open(dir, max_bytes),
            None => Self::default_dir().and_then(|dir| Self::open(&dir, max_bytes)),
        };
        match opened {
            Ok(cache) => Some(cache),
            Err(error) => {
                tracing::warn!(%error, "no compile cache; components are compiled at every start");
                None
            }
        }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// The component from the cache, or compiled and then cached. Takes the CPU for seconds where
    /// a component is large and not cached.
    pub(crate) fn compile(
        &self,
        sandbox: &Sandbox,
        source: &Source,
        wasm: &[u8],
    ) -> Result<Component, Problem> {
        if let Some(component) = self.cached(sandbox, &source.digest)? {
            tracing::debug!(file = source.file, "compiled code found in the cache");
            return Ok(component);
        }
        sandbox.check_bytes(wasm)?;
        announce(source);
        match self.compile_into(sandbox, source, wasm) {
            Ok(component) => return Ok(component),
            Err(Problem::CodeNotWritten { reason }) => tracing::warn!(
                cache = %self.path().display(),
                error = reason,
                file = source.file,
                "compiled code cannot be cached, and is compiled again at the next start"
            ),
            Err(problem) => return Err(problem),
        }
        sandbox.compile(wasm)
    }

    /// Compiles a component into a file of the cache.
    fn compile_into(
        &self,
        sandbox: &Sandbox,
        source: &Source,
        wasm: &[u8],
    ) -> Result<Component, Problem> {
        let not_written = |error: io::Error| Problem::CodeNotWritten { reason: error.to_string() };
        let unfinished = self.unfinished().map_err(not_written)?;
        let urgency = sandbox.urgency();
        let mode = compiler::code(sandbox.options(), None, wasm, urgency, &unfinished.file)?;
        let name = file_name(sandbox, &source.digest, mode);
        unfinished.persist(&name).map_err(not_written)?;
        if let Err(error) = self.prune(&name) {
            tracing::warn!(cache = %self.path().display(), %error, "old code stays in the cache");
        }
        let found = self.get(sandbox, mode, &name)?;
        // Such as where nothing of the file system may be run.
        found.ok_or_else(|| not_written(io::Error::other("it cannot be run from there")))
    }

    /// The component from the cache; `None` where it is not there.
    pub(super) fn cached(
        &self,
        sandbox: &Sandbox,
        digest: &str,
    ) -> Result<Option<Component>, Problem> {
        for mode in Mode::ALL {
            let found = self.get(sandbox, mode, &file_name(sandbox, digest, mode))?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// What was found out about a component, under the same limits, whose code is cached.
    pub(super) fn metadata(
        &self,
        sandbox: &Sandbox,
        digest: &str,
        limits: &Limits,
    ) -> Option<ComponentMetadata> {
        let name = self.name_of(sandbox, digest)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = sys::openat(&self.0.dir, facts_name(&name), flags, sys::Mode::empty()).ok()?;
        trust_file(&file).ok()?;
        let mut json = Vec::new();
        File::from(file).take(MAX_FACTS).read_to_end(&mut json).ok()?;
        let known: Known = serde_json::from_slice(&json).ok()?;
        (known.under == under(limits)).then_some(known.metadata)
    }

    /// The file of a component's code, if there is one.
    fn name_of(&self, sandbox: &Sandbox, digest: &str) -> Option<String> {
        let there =
            |name: &String| sys::statat(&self.0.dir, name, AtFlags::SYMLINK_NOFOLLOW).is_ok();
        Mode::ALL.into_iter().map(|mode| file_name(sandbox, digest, mode)).find(there)
    }

    /// Keeps what was found out about a component. A convenience: nothing is told where that fails.
    pub(super) fn keep_facts(
        &self,
        sandbox: &Sandbox,
        digest: &str,
        limits: &Limits,
        metadata: ComponentMetadata,
    ) {
        let Some(name) = self.name_of(sandbox, digest) else { return };
        let Ok(json) = serde_json::to_vec(&Known { under: under(limits), metadata }) else {
            return;
        };
        if json.len() as u64 <= MAX_FACTS
            && let Err(error) = self.write(&facts_name(&name), &json)
        {
            tracing::debug!(%error, "what is known of a component is not kept");
        }
    }

    /// What is cached under a name, if it is there, is ours, and fits the engine. Code that the
    /// sandbox has no room for is the one that is not worth compiling again.
    fn get(&self, sandbox: &Sandbox, mode: Mode, name: &str) -> Result<Option<Component>, Problem> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let Ok(file) = sys::openat(&self.0.dir, name, flags, sys::Mode::empty()) else {
            return Ok(None);
        };
        match Self::load(sandbox.engine_of(mode)?, &file) {
            Ok(component) => {
                // When it was last used; see `prune`. No reason to fail.
                let now = sys::Timespec { tv_sec: 0, tv_nsec: sys::UTIME_NOW };
                let _ = sys::futimens(
                    &file,
                    &sys::Timestamps { last_access: now, last_modification: now },
                );
                Ok(Some(component))
            }
            Err(error) => {
                let problem = Problem::not_taken(&error);
                if matches!(problem, Problem::NoRoom { .. }) {
                    return Err(problem);
                }
                tracing::warn!(
                    cache = %self.path().display(),
                    name,
                    error = format!("{error:#}"),
                    "cached code is refused; it is compiled anew"
                );
                Ok(None)
            }
        }
    }

    fn load(engine: &Engine, file: &OwnedFd) -> wasmtime::Result<Component> {
        trust_file(file)?;
        // The file was written by this program, into a directory that only this user can write to,
        // under a name made of what the code depends on; both are checked here and at `open`. It is
        // only ever replaced by renaming, never written to while it is mapped.
        compiler::map(engine, file)
    }

    /// Writes beside, then renames: a reader sees a whole file or none, whoever else writes.
    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut unfinished = self.unfinished()?;
        // Flushed, or a crash of the machine could leave a file with holes under a good name.
        paced_write::write_all(&mut unfinished.file, bytes)?;
        unfinished.persist(name)
    }

    /// A new file that has no name of its own yet.
    fn unfinished(&self) -> io::Result<Unfinished<'_>> {
        let dir = &self.0.dir;
        let name = format!("{UNFINISHED}{}", uuid::Uuid::new_v4());
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = sys::openat(dir, &name, flags, sys::Mode::RUSR | sys::Mode::WUSR)?;
        Ok(Unfinished { dir, file: File::from(file), name: Some(name) })
    }

    /// Drops what was used least recently until the rest fits; never what was just written.
    fn prune(&self, keep: &str) -> io::Result<()> {
        let dir = &self.0.dir;
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime).tv_sec;
        let mut files = Vec::new();
        let mut total = 0_u64;
        for entry in sys::Dir::read_from(dir)? {
            let entry = entry?;
            let name: &CStr = entry.file_name();
            let Ok(stat) = sys::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) else {
                continue; // Somebody else was faster.
            };
            let bytes = name.to_bytes();
            if bytes.starts_with(UNFINISHED.as_bytes()) {
                if now.saturating_sub(stat.st_mtime) > UNFINISHED_SECONDS {
                    let _ = sys::unlinkat(dir, name, AtFlags::empty());
                }
            } else if bytes.ends_with(b".cwasm") {
                let size = u64::try_from(stat.st_size).unwrap_or(0);
                total = total.saturating_add(size);
                if bytes != keep.as_bytes() {
                    files.push((stat.st_mtime, stat.st_mtime_nsec, size, name.to_owned()));
                }
            }
        }
        files.sort();
        for (_, _, size, name) in files {
            if total <= self.0.max_bytes {
                break;
            }
            // A process that has it mapped keeps it.
            match sys::unlinkat(dir, name.as_c_str(), AtFlags::empty()) {
                // Somebody else was faster.
                Ok(()) | Err(rustix::io::Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
            let metadata = facts_name(&name.to_string_lossy());
            let _ = sys::unlinkat(dir, metadata, AtFlags::empty());
            total = total.saturating_sub(size);
        }
        Ok(())
    }
}

/// A file that is being written; gone if it is not persisted.
struct Unfinished<'a> {
    dir: &'a OwnedFd,
    file: File,
    name: Option<String>,
}

impl Unfinished<'_> {
    /// Gives it its name. What was written is on the disk.
    fn persist(mut self, to: &str) -> io::Result<()> {
        if let Some(name) = &self.name {
            sys::renameat(self.dir, name, self.dir, to)?;
        }
        self.name = None;
        Ok(())
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            let _ = sys::unlinkat(self.dir, name, AtFlags::empty());
        }
    }
}

/// What was found out about a component, and under which limits.
#[derive(Serialize, Deserialize)]
struct Known {
    under: String,
    metadata: ComponentMetadata,
}

/// All but the code that what is found out depends on.
fn under(limits: &Limits) -> String {
    format!("lovage {}, {limits:?}", env!("CARGO_PKG_VERSION"))
}

/// The file beside one of code that holds what is known of its component.
fn facts_name(code: &str) -> String {
    code.trim_end_matches("cwasm").to_owned() + "json"
}

fn trust_file(file: &OwnedFd) -> wasmtime::Result<()> {
    let stat = sys::fstat(file)?;
    let regular = sys::FileType::from_raw_mode(stat.st_mode) == sys::FileType::RegularFile;
    wasmtime::ensure!(
        regular && trust::check(&stat, Besides::Nobody).is_ok(),
        "it is not a file that only this user can write to"
    );
    Ok(())
}

/// The component's digest, and a digest of all that the code depends on besides.
fn file_name(sandbox: &Sandbox, digest: &str, mode: Mode) -> String {
    let digest = digest.strip_prefix("sha256:").unwrap_or(digest);
    let mut hasher = Sha256Hasher(Sha256::new());
    sandbox.engine().precompile_compatibility_hash().hash(&mut hasher);
    let all: [u8; 32] = hasher.0.finalize().into();
    let half = u128::from_be_bytes(std::array::from_fn(|i| all.get(i).copied().unwrap_or(0)));
    // Of the other engine, which may not be made yet, no more than this is different.
    let mode = if mode == Mode::Concurrent { "-concurrent" } else { "" };
    format!("{digest}-{half:032x}{mode}.cwasm")
}

/// `std`'s hasher is not promised to give the same in the next version of Rust, nor to be long
/// enough to never give the same for two settings.
struct Sha256Hasher(Sha256);

impl Hasher for Sha256Hasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        0 // Nobody asks: see `file_name`.
    }
}
