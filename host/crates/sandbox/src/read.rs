//! Reading a component's file: a plain file, and no larger than may be compiled.
//!
//! Whoever may put a file where components are looked for may put anything there: a pipe that
//! nobody writes to, a device without an end, a hundred gigabytes. None of them may hold the host
//! up or fill its memory.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use rustix::fs::{Mode, OFlags, open};

use super::Sandbox;
use super::error::Problem;

impl Sandbox {
    /// The bytes of a component's file. Symbolic links are followed.
    pub fn read(&self, file: &Path) -> Result<Vec<u8>, Problem> {
        let unreadable = Problem::Unreadable;
        // Without blocking, since to open a pipe is to wait for somebody at its other end.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file: File = open(file, flags, Mode::empty())
            .map_err(|error| unreadable(io::Error::from(error)))?
            .into();
        let found = file.metadata().map_err(unreadable)?;
        if !found.is_file() {
            let kind = if found.is_dir() { "is a directory" } else { "is no regular file" };
            return Err(unreadable(io::Error::other(kind)));
        }
        let allowed = self.options().max_component_bytes;
        self.check_size(found.len())?;
        // All at once, and a byte for the end: a buffer that grows is copied over and over.
        let mut bytes = Vec::with_capacity(usize::try_from(found.len() + 1).unwrap_or(0));
        // It may grow while it is read; so the size above is no bound.
        file.take(allowed.saturating_add(1)).read_to_end(&mut bytes).map_err(unreadable)?;
        self.check_size(bytes.len() as u64)?;
        Ok(bytes)
    }

    /// Refuses what is larger than a component may be.
    pub(super) fn check_size(&self, size: u64) -> Result<(), Problem> {
        let allowed = self.options().max_component_bytes;
        if size <= allowed { Ok(()) } else { Err(Problem::TooLarge { size, allowed }) }
    }
}
