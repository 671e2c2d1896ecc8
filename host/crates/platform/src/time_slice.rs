//! How soon the kernel lets a thread go on that wakes while others compute.
//!
//! Linux gives each thread that runs a slice of time, some milliseconds, and leaves it that before
//! one that wakes comes to its turn, unless the slice of the one that wakes is shorter. From 6.12 on a
//! thread may have a shorter one (<https://docs.kernel.org/scheduler/sched-eevdf.html>; older kernels take no
//! notice). It has no more of the CPU by that, but has its part sooner and in smaller pieces: right for
//! threads that work for some microseconds at a time while somebody waits.

#[cfg(target_os = "linux")]
use std::io;

/// The shortest that Linux gives.
#[cfg(target_os = "linux")]
const SLICE_NS: u64 = 100_000;

#[cfg(target_os = "linux")]
const SCHED_OTHER: u32 = libc::SCHED_OTHER as u32;

/// Gives this thread the shortest slice; threads and processes that it starts have the usual one. Where
/// that cannot be, all goes on as it did.
#[cfg(target_os = "linux")]
pub fn shorten() {
    if let Err(error) = try_shorten() {
        tracing::debug!(%error, "a thread has no shorter slice of time");
    }
}

/// There is nothing like it elsewhere.
#[cfg(not(target_os = "linux"))]
pub(crate) fn shorten() {}

#[cfg(target_os = "linux")]
fn try_shorten() -> io::Result<()> {
    let mut attributes = attributes()?;
    // Any other was the operator's choice, and may have no slices.
    if attributes.sched_policy == SCHED_OTHER {
        attributes.sched_runtime = SLICE_NS;
        attributes.sched_flags |= libc::SCHED_FLAG_RESET_ON_FORK as u64;
        // The kernel reads as much as `size` says, and that is the structure's; 0 is this thread. There is
        // no safe function for it.
        #[allow(unsafe_code)]
        let set = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
        told(set)?;
    }
    Ok(())
}

/// What the kernel's scheduler knows of this thread.
#[cfg(target_os = "linux")]
fn attributes() -> io::Result<libc::sched_attr> {
    let size = size_of::<libc::sched_attr>();
    let mut attributes = libc::sched_attr {
        size: size as u32,
        sched_policy: 0,
        sched_flags: 0,
        sched_nice: 0,
        sched_priority: 0,
        sched_runtime: 0,
        sched_deadline: 0,
        sched_period: 0,
    };
    // The kernel writes no more than `size` bytes, which is what there is.
    #[allow(unsafe_code)]
    let got = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0) };
    told(got)?;
    // A newer kernel may know of more, and says so.
    attributes.size = size as u32;
    Ok(attributes)
}

/// What a system call says of itself.
#[cfg(target_os = "linux")]
fn told(status: libc::c_long) -> io::Result<()> {
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_shorter_slice_is_this_threads_alone_and_changes_nothing_else() {
        let usual = attributes().unwrap();
        try_shorten().unwrap();
        let shorter = attributes().unwrap();
        assert_eq!(
            (shorter.sched_policy, shorter.sched_nice),
            (usual.sched_policy, usual.sched_nice)
        );
        if shorter.sched_runtime == usual.sched_runtime {
            eprintln!("skipped: this kernel has no slices of a thread's own (Linux 6.12 has)");
            return;
        }
        assert_eq!(shorter.sched_runtime, SLICE_NS);
        let another = std::thread::spawn(|| attributes().unwrap().sched_runtime);
        assert_eq!(another.join().unwrap(), usual.sched_runtime);
        // And again, which the flag of the first time must not forbid.
        try_shorten().unwrap();
    }
}
