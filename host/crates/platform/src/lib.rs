//! What Lovage needs of the operating system.
//!
//! It knows nothing of jobs. All that is here works on Linux, and does nothing or less elsewhere.

pub mod backtraces;
pub mod flushes;
pub mod paced_write;
pub mod time_slice;
