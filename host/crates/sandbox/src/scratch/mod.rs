//! The scratch directory: an empty folder for one attempt, and for nobody else.
//!
//! What it promises:
//!
//! - A guest sees `/scratch`, empty, and nothing around it: no path and no link leads out.
//! - It writes no more than its limits allow ([`Quota`]).
//! - Afterwards the folder is gone, however the attempt ended. What a process leaves that was
//!   killed goes when the next one starts.
//!
//! A process has one directory of its own among the system's temporary files, which only its user
//! can enter, and each attempt one in there. The process holds a lock on its directory: whoever
//! can take that lock knows that the process is gone. (systemd-tmpfiles, too, leaves alone what
//! somebody has locked.)

mod files;
mod quota;
mod remove;
mod stream;

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{FlockOperation, flock};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

pub(super) use self::files::add_to_linker;
pub(super) use self::quota::Quota;

/// Where a guest finds it.
pub(super) const PATH: &str = "/scratch";

/// How the names of directories begin that are ours.
const PREFIX: &str = "lovage-scratch-";

/// Makes scratch directories.
#[derive(Debug)]
pub(super) struct Scratches {
    /// The process's own directory, once it is needed.
    home: Mutex<Option<Arc<Home>>>,
    /// Directories that are there: a guest must not fill them faster than they are deleted.
    room: Arc<Semaphore>,
    most: usize,
}

/// There is no scratch directory.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot make a scratch directory in {}: {source}; TMPDIR names another place", .at.display()
)]
pub struct ScratchError {
    at: PathBuf,
    source: io::Error,
}

/// A process's directory, with the lock on it.
#[derive(Debug)]
struct Home {
    path: PathBuf,
    _lock: File,
    made: AtomicU64,
}

/// One attempt's directory; deleted in the background when it is dropped.
#[derive(Debug)]
pub(super) struct ScratchDir {
    path: PathBuf,
    home: Arc<Home>,
    room: Option<OwnedSemaphorePermit>,
}

impl Scratches {
    /// With room for so many directories at once, those that are being deleted included.
    pub(super) fn new(room: usize) -> Self {
        let most = room.clamp(1, u32::MAX as usize).min(Semaphore::MAX_PERMITS);
        Self { home: Mutex::default(), room: Arc::new(Semaphore::new(most)), most }
    }

    /// Deletes what processes left that are gone, and makes the directory of this one.
    pub(super) fn prepare(&self) -> Result<(), ScratchError> {
        let temporary = std::env::temp_dir();
        if let Err(error) = sweep(&temporary) {
            tracing::warn!(
                %error, directory = %temporary.display(), "cannot look for old scratch directories"
            );
        }
        self.home(None).map(drop)
    }

    /// A new directory; waits until there is room.
    pub(super) async fn make(&self) -> Result<ScratchDir, ScratchError> {
        // `None` only if the semaphore were closed, which nobody does.
        let room = Arc::clone(&self.room).acquire_owned().await.ok();
        let mut home = self.home(None)?;
        let made = match home.make().await {
            // Somebody has tidied up.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                home = self.home(Some(&home))?;
                home.make().await
            }
            made => made,
        };
        match made {
            Ok(path) => Ok(ScratchDir { path, home, room }),
            Err(source) => Err(ScratchError { at: home.path.clone(), source }),
        }
    }

    /// Waits until what attempts had that are over is deleted, and deletes the process's directory.
    pub(super) async fn close(&self) {
        let all = u32::try_from(self.most).unwrap_or(u32::MAX);
        let _all = self.room.acquire_many(all).await;
        let home = self.home.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(home);
    }

    /// The process's directory; another one than `gone`.
    fn home(&self, gone: Option<&Arc<Home>>) -> Result<Arc<Home>, ScratchError> {
        let mut home = self.home.lock().unwrap_or_else(PoisonError::into_inner);
        match &*home {
            Some(home) if gone.is_none_or(|gone| !Arc::ptr_eq(home, gone)) => Ok(Arc::clone(home)),
            _ => {
                let at = std::env::temp_dir();
                let new = Home::new(&at).map_err(|source| ScratchError { at, source })?;
                Ok(Arc::clone(home.insert(Arc::new(new))))
            }
        }
    }
}

/// A directory for the scratch directories of another process: named and locked like this process's
/// own, so that it is deleted with this, or by the next process.
#[cfg(feature = "isolation")]
#[derive(Debug)]
pub struct ChildHome(Home);

#[cfg(feature = "isolation")]
impl ChildHome {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0.path
    }
}

#[cfg(feature = "isolation")]
impl Scratches {
    /// A directory for another process.
    #[allow(clippy::unused_self, reason = "as `make` has it")]
    pub(super) fn child_home(&self) -> Result<ChildHome, ScratchError> {
        let at = std::env::temp_dir();
        Home::new(&at).map(ChildHome).map_err(|source| ScratchError { at, source })
    }
}

impl Home {
    fn new(temporary: &Path) -> io::Result<Self> {
        loop {
            let path = tempfile::Builder::new()
                .prefix(PREFIX)
                .permissions(Permissions::from_mode(0o700))
                .tempdir_in(temporary)?
                .keep();
            let lock = File::open(&path);
            // Another process that tidies up may take it for one that was left, before it is
            // locked; then there is another try.
            let is_ours = |lock: &File| {
                let there = fs::symlink_metadata(&path).map(|it| it.ino()).ok();
                flock(lock, FlockOperation::NonBlockingLockExclusive).is_ok()
                    && there.is_some()
                    && there == lock.metadata().map(|it| it.ino()).ok()
            };
            match lock {
                Ok(lock) if is_ours(&lock) => {
                    return Ok(Self { path, _lock: lock, made: AtomicU64::new(0) });
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }

    async fn make(&self) -> io::Result<PathBuf> {
        let path = self.path.join(self.made.fetch_add(1, Ordering::Relaxed).to_string());
        let made = path.clone();
        tokio::task::spawn_blocking(move || fs::create_dir(made)).await??;
        Ok(path)
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // Every attempt's directory holds its home, so that there is nothing left in it, unless the
        // deletion of one has failed or was cut short by the end of the process.
        delete(&self.path);
    }
}

impl ScratchDir {
    /// The directory as the host knows it.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for ScratchDir {
    fn drop(&mut self) {
        let path = std::mem::take(&mut self.path);
        let (home, room) = (Arc::clone(&self.home), self.room.take());
        let delete = move || {
            delete(&path);
            drop((home, room));
        };
        // Deleting a thousand files takes longer than most jobs.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(delete)),
            Err(_) => delete(),
        }
    }
}

fn delete(path: &Path) {
    if let Err(error) = remove::tree(path) {
        tracing::warn!(
            %error, directory = %path.display(),
            "a scratch directory is not deleted yet; the next process that starts tries again"
        );
    }
}

/// Deletes the directories of processes that are gone.
fn sweep(temporary: &Path) -> io::Result<()> {
    let own = rustix::process::getuid().as_raw();
    for entry in fs::read_dir(temporary)? {
        let entry = entry?;
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        let path = entry.path();
        let is_own = fs::symlink_metadata(&path).is_ok_and(|it| it.is_dir() && it.uid() == own);
        // Opened only if it is a directory of ours; in one that others can write, too, nobody but
        // us could have put another in its place.
        let Some(lock) = is_own.then(|| File::open(&path).ok()).flatten() else { continue };
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            delete(&path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_process_left_is_deleted_and_what_another_uses_is_not() {
        let temporary = tempfile::tempdir().unwrap();
        let (used, left) = (Home::new(temporary.path()).unwrap(), temporary.path().join("other"));
        assert_eq!(fs::metadata(&used.path).unwrap().mode() & 0o777, 0o700);
        fs::create_dir(used.path.join("0")).unwrap();
        fs::create_dir(&left).unwrap();
        let killed = temporary.path().join(format!("{PREFIX}killed"));
        fs::create_dir_all(killed.join("7/deep")).unwrap();
        fs::write(killed.join("7/file"), "x").unwrap();
        std::os::unix::fs::symlink(&left, temporary.path().join(format!("{PREFIX}link"))).unwrap();
        sweep(temporary.path()).unwrap();
        assert!(!killed.exists());
        assert!(used.path.join("0").exists() && left.exists());
        let path = used.path.clone();
        drop(used);
        assert!(!path.exists());
    }
}
