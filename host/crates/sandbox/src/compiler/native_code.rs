//! Files of native code, which are mapped and not read.

use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::os::fd::{AsFd, AsRawFd as _};
use std::path::PathBuf;

use wasmtime::Engine;
use wasmtime::component::Component;

/// Where the system shows a process its open files.
const DESCRIPTORS: &str = if cfg!(target_os = "linux") { "/proc/self/fd" } else { "/dev/fd" };

/// An empty file that has no name, for code that is not kept.
pub fn anonymous_file() -> io::Result<File> {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{MemfdFlags, memfd_create};
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        if let Ok(file) = memfd_create("lovage-code", flags) {
            return Ok(File::from(file));
        }
    }
    tempfile::tempfile()
}

/// An anonymous file of code as a component. Nobody can write to it any more.
pub fn map_sealed(engine: &Engine, file: &File) -> wasmtime::Result<Component> {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{SealFlags, fcntl_add_seals};
        let all = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
        // A temporary file of a system without such files cannot be sealed. It has no name, and so
        // nobody else can open it either.
        let _ = fcntl_add_seals(file, all);
    }
    map(engine, file)
}

/// A file of code as a component. It is mapped, so that its pages are the system's to drop.
///
/// Callers give files that [`code`](super::code) wrote, or that they opened in a directory that only
/// this user can write to: code is trusted as this program itself. A file is never written to while
/// it is mapped.
pub fn map(engine: &Engine, file: &impl AsFd) -> wasmtime::Result<Component> {
    // By the open file and not by its path, which could be another file by now.
    let path = PathBuf::from(format!("{DESCRIPTORS}/{}", file.as_fd().as_raw_fd()));
    if !path.exists() {
        let file = File::from(file.as_fd().try_clone_to_owned()?);
        let code = read(&file, u64::MAX)?;
        // SAFETY: see above; wasmtime checks that version and settings are the engine's.
        #[allow(unsafe_code)]
        return unsafe { Component::deserialize(engine, code) };
    }
    // SAFETY: see above; wasmtime checks that version and settings are the engine's.
    #[allow(unsafe_code)]
    unsafe {
        Component::deserialize_file(engine, path)
    }
}

/// Code that another process of this program sent, as a component. Trusted as [`map`]'s is: it comes
/// over the socket that this process was started with.
#[cfg(feature = "isolation")]
pub(crate) fn from_parent(engine: &Engine, code: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: see above; wasmtime checks that version and settings are the engine's.
    #[allow(unsafe_code)]
    unsafe {
        Component::deserialize(engine, code)
    }
}

/// All of a file of code, for who has to hold it.
pub fn read(mut file: &File, most: u64) -> io::Result<Vec<u8>> {
    file.rewind()?;
    let mut code = Vec::new();
    file.take(most).read_to_end(&mut code)?;
    Ok(code)
}
