//! Writing files without keeping others from the disk.

use std::fs::File;
use std::io::{self, Write as _};

/// How many bytes the disk is given at a time.
const STEP: usize = 64 << 10;

/// Writes bytes, and has them on the disk. Who flushes meanwhile, as a broker does with each commit,
/// waits for a step of it and not for all: a megabyte takes the disk as long as dozens of commits.
pub fn write_all(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    for step in bytes.chunks(STEP) {
        file.write_all(step)?;
        file.sync_data()?;
    }
    file.sync_all()
}
