//! Who watches a file, as far as others need to know: whether there is anybody at all.
//!
//! Each of them has a lock on a byte of it that they share. The lock is that of the file as it was opened, so
//! that a process may watch several times, and the system takes it back with whoever had it.

use std::{fs::File, io};

/// That byte. Nobody reads or writes it.
#[cfg(target_os = "linux")]
const WATCHED: i64 = 64;

/// Is one of them from now on, for as long as `file` is open.
#[cfg(target_os = "linux")]
pub fn join(file: &File) -> io::Result<()> {
    at_watched(file, libc::F_OFD_SETLK, libc::F_RDLCK).map(drop)
}

/// Returns true if there are any but who has opened `file`; so it is where that cannot be told.
#[cfg(target_os = "linux")]
pub fn others(file: &File) -> bool {
    // Whose lock would be in the way of one that is not shared.
    let found = at_watched(file, libc::F_OFD_GETLK, libc::F_WRLCK);
    !found.is_ok_and(|kind| kind == libc::F_UNLCK)
}

/// Takes a lock of this kind, or asks what would be in its way: a kind, too.
#[cfg(target_os = "linux")]
fn at_watched(file: &File, command: i32, kind: i32) -> io::Result<i32> {
    use std::os::fd::AsRawFd as _;

    let mut lock = libc::flock {
        l_type: kind as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: WATCHED,
        l_len: 1,
        l_pid: 0,
    };
    // The descriptor is open, and the kernel reads and writes one structure of this type, which is
    // there until it has. rustix has no function for such locks.
    #[allow(unsafe_code)]
    let failed = unsafe { libc::fcntl(file.as_raw_fd(), command, &raw mut lock) } != 0;
    if failed { Err(io::Error::last_os_error()) } else { Ok(lock.l_type.into()) }
}

/// Elsewhere it cannot be told who does.
#[cfg(not(target_os = "linux"))]
pub fn join(_: &File) -> io::Result<()> {
    Ok(())
}

/// Elsewhere it cannot be told: so there may be.
#[cfg(not(target_os = "linux"))]
pub fn others(_: &File) -> bool {
    true
}
