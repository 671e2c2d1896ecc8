//! The self-test of a host: whether it has what any attempt takes.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use crate::Sandbox;

/// Memory that is asked for and given back, in bytes: more than a small attempt takes.
const MEMORY_BYTES: usize = 16 << 20;

/// File descriptors that are opened and closed: what a few attempts with scratch directories,
/// connections and a compiler take.
const DESCRIPTORS: usize = 32;

/// Bytes that are written to each directory, and deleted: more than a file system still has room
/// for when it is all but full.
const DISK_BYTES: usize = 256 << 10;

/// The longest that a test may take. A disk that does not answer for so long is a fault, too.
const TIMEOUT: Duration = Duration::from_secs(30);

/// What a host lacks.
#[derive(Debug, thiserror::Error)]
pub enum HostFault {
    /// No memory, or no address space.
    #[error(
        "this host has no {} MiB of memory to give; raise the container's or the unit's memory \
         limit or `ulimit -v`, or lower worker.concurrency", MEMORY_BYTES >> 20
    )]
    Memory,
    /// No thread can be started.
    #[error("this host starts no thread ({0}); raise `ulimit -u` or the container's pids limit")]
    Thread(io::Error),
    /// Too few file descriptors.
    #[error(
        "this process may open no {DESCRIPTORS} more files ({0}); raise `ulimit -n` \
         (LimitNOFILE= of systemd)"
    )]
    Descriptors(io::Error),
    /// A directory that jobs need cannot be written to.
    #[error("{} cannot be written to ({error}); free space there, or name another place", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// The sandbox cannot make what each attempt starts with.
    #[error("no instance can be made ({0}); {hint}", hint = ADDRESS_SPACE)]
    Instance(String),
    /// The test did not end.
    #[error("the self-test of this host did not end within {TIMEOUT:?}; a disk may not answer")]
    Stuck,
}

const ADDRESS_SPACE: &str = "raise `ulimit -v`, or lower worker.concurrency or \
                             sandbox.memory_reservation_bytes";

/// Which resources a host is tested for. Takes some milliseconds, bounded by `TIMEOUT`; holds
/// at most `MEMORY_BYTES`, `DESCRIPTORS` and `DISK_BYTES` at a time.
#[derive(Debug, Clone, Default)]
pub struct SelfTest {
    directories: Vec<PathBuf>,
    sandbox: Option<Sandbox>,
}

impl SelfTest {
    /// Tests that a file can be written to a directory as well.
    #[must_use]
    pub fn with_directory(mut self, path: &Path) -> Self {
        self.directories.push(path.to_owned());
        self
    }

    /// Tests that a sandbox can make a memory as well.
    #[must_use]
    pub fn with_sandbox(mut self, sandbox: Sandbox) -> Self {
        self.sandbox = Some(sandbox);
        self
    }

    /// Runs the test, on a thread of its own.
    ///
    /// # Errors
    ///
    /// The first thing that this host lacks.
    pub async fn run(self) -> Result<(), HostFault> {
        let (done, told) = tokio::sync::oneshot::channel();
        thread::Builder::new()
            .name("self-test".to_owned())
            .spawn(move || {
                // Nobody waits for it any more where this fails.
                let _ = done.send(self.run_blocking());
            })
            .map_err(HostFault::Thread)?;
        match tokio::time::timeout(TIMEOUT, told).await {
            Ok(Ok(tested)) => tested,
            Ok(Err(_)) | Err(_) => Err(HostFault::Stuck),
        }
    }

    fn run_blocking(&self) -> Result<(), HostFault> {
        descriptors().map_err(HostFault::Descriptors)?;
        let mut memory = Vec::<u8>::new();
        memory.try_reserve_exact(MEMORY_BYTES).map_err(|_| HostFault::Memory)?;
        drop(memory);
        if let Some(sandbox) = &self.sandbox {
            sandbox.probe().map_err(HostFault::Instance)?;
        }
        for path in &self.directories {
            write(path).map_err(|error| HostFault::Directory { path: path.clone(), error })?;
        }
        Ok(())
    }
}

fn descriptors() -> io::Result<()> {
    let open = |_| fs::File::open("/dev/null");
    (0..DESCRIPTORS).map(open).collect::<io::Result<Vec<_>>>().map(drop)
}

fn write(directory: &Path) -> io::Result<()> {
    // Deleted when it is closed, whatever happens.
    let mut file = tempfile::tempfile_in(directory)?;
    file.write_all(&vec![0; DISK_BYTES])?;
    file.sync_data()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_host_that_has_what_jobs_need_passes() {
        let place = tempfile::tempdir().unwrap();
        SelfTest::default().with_directory(place.path()).run().await.unwrap();
    }

    #[tokio::test]
    async fn a_directory_that_cannot_be_written_to_is_named() {
        let place = tempfile::tempdir().unwrap();
        let missing = place.path().join("missing");
        let fault = SelfTest::default().with_directory(&missing).run().await.unwrap_err();
        assert!(fault.to_string().contains("missing cannot be written to"), "{fault}");
    }
}
