//! Deleting what a guest left, however it is nested.
//!
//! A guest may put a directory into a directory a hundred thousand times over. Going down there
//! would take a stack frame or a file descriptor a level; so directories are moved up to the top
//! first, and nothing is ever deeper than two levels. Links are deleted, and never followed.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, openat, renameat, statat, unlinkat};
use rustix::io::Errno;

/// Deletes a directory with all that is in it. Nothing being there is fine.
pub(super) fn tree(path: &Path) -> io::Result<()> {
    let root = match open(CWD, path) {
        Ok(root) => root,
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let mut moved = 0;
    loop {
        let entries = entries(&root)?;
        if entries.is_empty() {
            match unlinkat(CWD, path, AtFlags::REMOVEDIR) {
                // What a call that was under way has made meanwhile.
                Err(Errno::NOTEMPTY) => continue,
                Err(Errno::NOENT) | Ok(()) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        for (name, is_directory) in entries {
            if is_directory {
                empty(&root, &name, &mut moved)?;
                gone(unlinkat(&root, &*name, AtFlags::REMOVEDIR))?;
            } else {
                gone(unlinkat(&root, &*name, AtFlags::empty()))?;
            }
        }
    }
}

/// Empties a directory: its files are deleted, its directories moved to `root`.
fn empty(root: &OwnedFd, name: &CString, moved: &mut u64) -> io::Result<()> {
    let directory = match open(root, name) {
        Err(Errno::NOENT) => return Ok(()),
        opened => opened?,
    };
    for (name, is_directory) in entries(&directory)? {
        if !is_directory {
            gone(unlinkat(&directory, &*name, AtFlags::empty()))?;
            continue;
        }
        loop {
            *moved += 1;
            let free = format!(".lovage-{moved}");
            match renameat(&directory, &*name, root, free.as_str()) {
                // The guest has chosen that name for something.
                Err(Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR) => {}
                renamed => break gone(renamed)?,
            }
        }
    }
    Ok(())
}

/// Somebody else may have been faster; and a directory that is not empty yet has another turn.
fn gone(done: Result<(), Errno>) -> io::Result<()> {
    match done {
        Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn open(directory: impl AsFd, name: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(directory, name, flags, Mode::empty())
}

/// Names in a directory, and which of them are directories.
fn entries(directory: &OwnedFd) -> io::Result<Vec<(CString, bool)>> {
    let mut entries = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let kind = match entry.file_type() {
            // Not every file system says so.
            FileType::Unknown => match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(error.into()),
            },
            kind => kind,
        };
        entries.push((name.to_owned(), kind == FileType::Directory));
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_tree_of_any_depth_goes_and_what_links_lead_to_stays() {
        let around = tempfile::tempdir().unwrap();
        let (root, kept) = (around.path().join("root"), around.path().join("kept"));
        fs::create_dir(&root).unwrap();
        fs::create_dir(&kept).unwrap();
        fs::write(kept.join("file"), "kept").unwrap();
        symlink(&kept, root.join("link")).unwrap();
        // Names that the way up wants for itself.
        fs::write(root.join(".lovage-1"), "").unwrap();
        fs::create_dir(root.join(".lovage-2")).unwrap();
        fs::write(root.join(".lovage-2/full"), "").unwrap();
        // More levels than many processes may have file descriptors, each with a long name.
        let name = "d".repeat(200);
        let mut inner = open(CWD, &root).unwrap();
        for _ in 0..2_000 {
            rustix::fs::mkdirat(&inner, &name, Mode::RWXU).unwrap();
            inner = open(&inner, &name).unwrap();
            rustix::fs::symlinkat(&kept, &inner, "link").unwrap();
        }
        tree(&root).unwrap();
        assert!(!root.exists());
        assert_eq!(fs::read(kept.join("file")).unwrap(), b"kept");
        tree(&root).unwrap();
    }
}
