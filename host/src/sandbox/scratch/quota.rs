//! How much of a scratch directory is used up.

use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::sandbox::limits::{Limit, Limits, Refusal};
use crate::sandbox::notes::Notes;

/// What one attempt may still write, make and open. Clones are the same.
///
/// All that is written counts, whether or not it is deleted again; and so does what a file grows
/// by without being written (a larger size, a write beyond its end), since whoever writes into it
/// afterwards takes a whole block of the disk for each byte.
#[derive(Debug, Clone)]
pub(in crate::sandbox) struct Quota(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    bytes: u64,
    files: u64,
    open: usize,
    notes: Notes,
    /// Whether times of files are hidden, since they are not the same at every attempt.
    timeless: bool,
    used: Mutex<Used>,
}

#[derive(Debug, Default)]
struct Used {
    bytes: u64,
    files: u64,
    /// What is open, streams and calls under way included: each holds on to its file.
    open: Vec<Weak<File>>,
}

impl Quota {
    pub(in crate::sandbox) fn new(limits: &Limits, timeless: bool, notes: Notes) -> Self {
        Self(Arc::new(Inner {
            bytes: limits.scratch_bytes,
            files: limits.scratch_files.into(),
            open: limits.scratch_open as usize,
            notes,
            timeless,
            used: Mutex::default(),
        }))
    }

    pub(super) fn timeless(&self) -> bool {
        self.0.timeless
    }

    /// So many bytes are about to be written.
    pub(super) fn write(&self, bytes: u64) -> Result<(), Refusal> {
        let mut used = self.used();
        let asked = used.bytes.saturating_add(bytes);
        if asked > self.0.bytes {
            return Err(self.refuse(Limit::ScratchBytes, asked, self.0.bytes));
        }
        used.bytes = asked;
        Ok(())
    }

    /// So many of them were not.
    pub(super) fn unwritten(&self, bytes: u64) {
        let mut used = self.used();
        used.bytes = used.bytes.saturating_sub(bytes);
    }

    /// A file, a directory or a link is about to be made.
    pub(super) fn make(&self) -> Result<(), Refusal> {
        let mut used = self.used();
        if used.files >= self.0.files {
            return Err(self.refuse(Limit::ScratchFiles, used.files + 1, self.0.files));
        }
        used.files += 1;
        Ok(())
    }

    /// It was not.
    pub(super) fn unmade(&self) {
        let mut used = self.used();
        used.files = used.files.saturating_sub(1);
    }

    /// Something is about to be opened.
    pub(super) fn open(&self) -> Result<(), Refusal> {
        let mut used = self.used();
        if used.open.len() >= self.0.open {
            used.open.retain(|file| file.strong_count() > 0);
        }
        if used.open.len() >= self.0.open {
            let allowed = self.0.open as u64;
            return Err(self.refuse(Limit::ScratchOpen, allowed + 1, allowed));
        }
        Ok(())
    }

    /// It was.
    pub(super) fn opened(&self, file: &Arc<File>) {
        self.used().open.push(Arc::downgrade(file));
    }

    fn refuse(&self, limit: Limit, asked: u64, allowed: u64) -> Refusal {
        let refusal = Refusal { limit, asked, allowed };
        self.0.notes.refused(refusal);
        refusal
    }

    fn used(&self) -> MutexGuard<'_, Used> {
        // Nothing panics half-way through a change.
        self.0.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a write of so many bytes uses up: they, or what the file grows by if that is more.
pub(super) fn cost(file: &File, offset: u64, bytes: u64) -> u64 {
    // Of a file on this machine that is open, this asks no disk.
    let size = file.metadata().map_or(0, |metadata| metadata.len());
    bytes.max(offset.saturating_add(bytes).saturating_sub(size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_counts_is_what_was_written_and_made_and_not_what_is_left() {
        let limits = Limits { scratch_bytes: 10, scratch_files: 2, ..Limits::default() };
        let notes = Notes::default();
        let quota = Quota::new(&limits, false, notes.clone());
        quota.write(6).unwrap();
        quota.write(4).unwrap();
        assert_eq!(quota.write(1).unwrap_err().limit, Limit::ScratchBytes);
        quota.unwritten(1);
        quota.write(1).unwrap();
        quota.write(u64::MAX).unwrap_err();
        quota.make().unwrap();
        quota.make().unwrap();
        assert_eq!(quota.make().unwrap_err().limit, Limit::ScratchFiles);
        assert_eq!(
            notes.text(),
            "refused: wrote more than 10 bytes to its scratch directory (`scratch_bytes` raises it)\n\
             refused: made more than 2 files and directories in its scratch directory \
             (`scratch_files` raises it)\n"
        );
    }

    #[test]
    fn holes_cost_what_they_are_long() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(cost(&file, 0, 5), 5);
        assert_eq!(cost(&file, 1 << 40, 1), (1 << 40) + 1);
        assert_eq!(cost(&file, u64::MAX, 9), u64::MAX);
        file.set_len(100).unwrap();
        assert_eq!(cost(&file, 10, 5), 5);
        assert_eq!(cost(&file, 98, 5), 5);
        assert_eq!(cost(&file, 105, 5), 10);
    }

    #[test]
    fn what_is_open_counts_until_nobody_holds_it() {
        let quota =
            Quota::new(&Limits { scratch_open: 1, ..Limits::default() }, false, Notes::default());
        let file = Arc::new(tempfile::tempfile().unwrap());
        quota.open().unwrap();
        quota.opened(&file);
        let stream = Arc::clone(&file);
        drop(file);
        assert_eq!(quota.open().unwrap_err().limit, Limit::ScratchOpen);
        drop(stream);
        quota.open().unwrap();
    }
}
