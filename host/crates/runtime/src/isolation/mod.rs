//! Attempts in processes of their own, for tenants or tasks that are not to share one.
//!
//! The sandbox is WebAssembly: one bug in its compiler or runtime, and a guest reads the memory of
//! all tenants. With `[isolation] processes = n` the attempts of the chosen tenants and tasks run in
//! child processes, which this program starts from itself. What a child promises:
//!
//! - It runs one attempt at a time, and in its life those of one tenant only. What crashes it, or
//!   has the system kill it, ends that one attempt.
//! - It has nothing of the worker's: no environment, no descriptor but the socket to its parent, no
//!   queue, store or secret. Values that an attempt was granted come with the attempt; buckets are
//!   reached through the parent, which checks each call's grant again.
//! - It is confined by seccomp and, where the kernel has it, Landlock: no new program,
//!   no file but the scratch directory, and no socket unless the attempt is granted HTTP.
//! - It is ended at the attempt's deadline, when the attempt is given up, and with its parent. It
//!   may have the memory that its attempt may, and a fixed amount beside it.
//!
//! What it costs is in docs/performance.md.

mod buckets;
mod child;
mod confine;
mod pool;
mod protocol;

pub use self::{
    child::{COMMAND, main},
    pool::{Isolated, Isolation},
};
