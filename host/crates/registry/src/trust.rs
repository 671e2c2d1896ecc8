//! Whose native code is run: only that of whom this program is run by, or of the superuser.
//!
//! wasmtime cannot check native code, so whoever can write a file of it can have this program do
//! anything.

use std::io;
use std::path::Path;

use rustix::fd::OwnedFd;
use rustix::fs::{self as sys, Mode, OFlags, StatVfsMountFlags};

/// Why a file or a directory of native code is not trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Distrust {
    /// Somebody else's.
    #[error(
        "belongs to user {owner}, and this is user {us}: whoever owns it can have this program run \
         any code; `chown` it"
    )]
    NotOurs {
        /// Its owner.
        owner: u32,
        /// Who we are.
        us: u32,
    },
    /// Everybody's.
    #[error(
        "others can write to it (mode {mode:o}), and so can have this program run any code: \
         `chmod go-w` it"
    )]
    OthersCanWrite {
        /// Its permission bits.
        mode: u32,
    },
}

/// Whose files are trusted besides our own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Besides {
    /// Nobody's.
    Nobody,
    /// The superuser's, who could have us run anything anyway.
    Root,
}

/// Checks who owns something, and who can write to it.
pub(super) fn check(stat: &sys::Stat, besides: Besides) -> Result<(), Distrust> {
    let (owner, us) = (stat.st_uid, rustix::process::geteuid().as_raw());
    if owner != us && !(owner == 0 && besides == Besides::Root) {
        return Err(Distrust::NotOurs { owner, us });
    }
    let mode = Mode::from_raw_mode(stat.st_mode);
    if mode.intersects(Mode::WGRP | Mode::WOTH) {
        return Err(Distrust::OthersCanWrite { mode: mode.as_raw_mode() });
    }
    Ok(())
}

/// Opens a directory of our own, made where it is not there.
pub(super) fn own_dir(dir: &Path) -> io::Result<Result<OwnedFd, Distrust>> {
    use std::os::unix::fs::DirBuilderExt as _;

    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = sys::open(dir, flags, Mode::empty())?;
    let trusted = check(&sys::fstat(&fd)?, Besides::Nobody);
    Ok(trusted.map(|()| fd))
}

/// Checks a path, our own or the superuser's. What is mounted read-only, as a Lambda function's
/// files are, nobody can write to, whoever owns it.
pub(super) fn check_path(path: &Path) -> io::Result<Result<(), Distrust>> {
    if sys::statvfs(path)?.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Ok(Ok(()));
    }
    Ok(check(&sys::stat(path)?, Besides::Root))
}
