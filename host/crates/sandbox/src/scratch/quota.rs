//! How much of a scratch directory is used up.

use std::collections::HashMap;
use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use crate::egress::Network;
use crate::host_memory::{Charge, HostMemory};
use crate::limits::{Limit, Limits, Refusal};
use crate::notes::Notes;
use crate::shares::Share;

/// What one attempt may still write, make and open. Clones are the same.
///
/// All that is written counts, whether or not it is deleted again; and so does what a file grows
/// by without being written (a larger size, a write beyond its end), since whoever writes into it
/// afterwards takes a whole block of the disk for each byte.
#[derive(Debug, Clone)]
pub(crate) struct Quota(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    bytes: u64,
    files: u64,
    open: usize,
    notes: Notes,
    memory: HostMemory,
    /// Where file descriptors are had, and for which tenant; `None` in tests.
    descriptors: Option<(Network, Arc<str>)>,
    /// True if times of files are hidden, since they are not the same at every attempt.
    timeless: bool,
    used: Mutex<Used>,
}

#[derive(Debug, Default)]
struct Used {
    bytes: u64,
    files: u64,
    /// Bytes of all names that files were given, so that no directory has more.
    names: u64,
    /// Streams of files, and listings of directories.
    streams: usize,
    /// Listings, by their handles.
    listings: HashMap<u32, OpenStream>,
    /// What is open, streams and calls under way included: each holds on to its file. With its share of
    /// the process's file descriptors.
    open: Vec<(Weak<File>, Option<Share>)>,
}

impl Quota {
    pub(crate) fn new(
        limits: &Limits,
        timeless: bool,
        notes: Notes,
        memory: HostMemory,
        descriptors: Option<(Network, Arc<str>)>,
    ) -> Self {
        Self(Arc::new(Inner {
            memory,
            descriptors,
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

    /// A file is about to have a name of so many bytes.
    pub(super) fn name(&self, bytes: usize) {
        let mut used = self.used();
        used.names = used.names.saturating_add(bytes as u64);
    }

    /// Counts bytes that the host holds for the guest.
    pub(super) fn charge(&self, bytes: u64) -> Result<Charge, Refusal> {
        self.0.memory.charge(bytes).inspect_err(|refusal| self.0.notes.refused(*refusal))
    }

    /// A stream is about to be opened, for which so many bytes may be held. As many may be open as two for
    /// each file: each may have a call under way on a thread of the host's.
    pub(super) fn stream(&self, bytes: u64) -> Result<OpenStream, Refusal> {
        let charge = self.charge(bytes)?;
        let allowed = self.0.open.saturating_mul(2);
        let mut used = self.used();
        if used.streams >= allowed {
            drop(used);
            let allowed = allowed as u64;
            return Err(self.refuse(Limit::ScratchOpen, allowed + 1, allowed));
        }
        used.streams += 1;
        Ok(OpenStream { quota: self.clone(), charge })
    }

    /// A directory is about to be listed. The whole listing is held while its handle is open.
    pub(super) fn list(&self) -> Result<OpenStream, Refusal> {
        let bytes = {
            let used = self.used();
            let most = used.files.saturating_mul(ENTRY_BYTES + MAX_NAME_BYTES);
            used.files.saturating_mul(ENTRY_BYTES).saturating_add(used.names).min(most)
        };
        self.stream(bytes)
    }

    /// It was listed, by this handle.
    pub(super) fn listed(&self, handle: u32, listing: OpenStream) {
        let before = self.used().listings.insert(handle, listing);
        drop(before);
    }

    /// The handle of a listing is dropped.
    pub(super) fn unlisted(&self, handle: u32) {
        let listing = self.used().listings.remove(&handle);
        drop(listing);
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
        // What is closed gives back its share.
        used.open.retain(|(file, _)| file.strong_count() > 0);
        if used.open.len() >= self.0.open {
            let allowed = self.0.open as u64;
            return Err(self.refuse(Limit::ScratchOpen, allowed + 1, allowed));
        }
        Ok(())
    }

    /// Waits for a file descriptor, which tenants share; `None` if there is none in time.
    pub(super) async fn descriptor(&self) -> Option<Option<Share>> {
        let Some((network, tenant)) = &self.0.descriptors else { return Some(None) };
        tokio::time::timeout(PATIENCE, network.descriptor(tenant)).await.ok().map(Some)
    }

    /// It was.
    pub(super) fn opened(&self, file: &Arc<File>, share: Option<Share>) {
        self.used().open.push((Arc::downgrade(file), share));
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

/// How long a file that is to be opened waits for a descriptor.
const PATIENCE: Duration = Duration::from_secs(10);

/// An entry of a listing beside its name: the record, and what the allocator takes for it.
const ENTRY_BYTES: u64 = 96;

/// The longest name of a file.
const MAX_NAME_BYTES: u64 = 255;

/// A stream or listing that is open, with what is held for it.
#[derive(Debug)]
pub(super) struct OpenStream {
    quota: Quota,
    charge: Charge,
}

impl OpenStream {
    /// So many bytes are held for it now.
    pub(super) fn holds(&mut self, bytes: u64) -> Result<(), Refusal> {
        self.charge.resize(bytes).inspect_err(|refusal| self.quota.0.notes.refused(*refusal))
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        let mut used = self.quota.used();
        used.streams = used.streams.saturating_sub(1);
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
        let quota = Quota::new(&limits, false, notes.clone(), HostMemory::new(0, 0), None);
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
    fn listings_and_streams_count_as_memory_and_are_bounded_in_number() {
        let limits = Limits { scratch_open: 2, ..Limits::default() };
        let memory = HostMemory::new(10_000, 0);
        let quota = Quota::new(&limits, false, Notes::default(), memory.clone(), None);
        for _ in 0..10 {
            quota.make().unwrap();
            quota.name(200);
        }
        for handle in 0..3 {
            quota.listed(handle, quota.list().unwrap());
        }
        assert_eq!(memory.used(), 3 * 10 * (200 + ENTRY_BYTES));
        // Memory has no room for another one.
        assert_eq!(quota.list().unwrap_err().limit, Limit::Memory);
        quota.unlisted(1);
        let mut stream = quota.stream(10).unwrap();
        stream.holds(20).unwrap();
        assert_eq!(quota.stream(10).map(drop), Ok(()));
        let _other = quota.stream(10).unwrap();
        assert_eq!(quota.stream(10).unwrap_err().limit, Limit::ScratchOpen);
        for handle in 0..3 {
            quota.unlisted(handle);
        }
        assert_eq!(memory.used(), 30);
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
        let limits = Limits { scratch_open: 1, ..Limits::default() };
        let quota = Quota::new(&limits, false, Notes::default(), HostMemory::new(0, 0), None);
        let file = Arc::new(tempfile::tempfile().unwrap());
        quota.open().unwrap();
        quota.opened(&file, None);
        let stream = Arc::clone(&file);
        drop(file);
        assert_eq!(quota.open().unwrap_err().limit, Limit::ScratchOpen);
        drop(stream);
        quota.open().unwrap();
    }
}
