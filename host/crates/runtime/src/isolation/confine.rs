//! What a child gives up before it looks at a component: seccomp and Landlock.
//!
//! seccomp allows the calls that WebAssembly, its memory, threads and one socket need. What else is
//! called fails with `ENOSYS`, which libraries take for an old kernel and cope with. Landlock (Linux
//! 5.13 and later) shuts the file system but for the scratch directory, and TCP (6.7) and signals
//! to others (6.12) where the attempts have no network.

use std::{collections::BTreeMap, io, path::Path};

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, CompatLevel, Compatible as _, Ruleset, RulesetAttr as _,
    RulesetCreatedAttr as _, RulesetStatus, Scope, path_beneath_rules,
};
use rustix::process::{Resource, Rlimit, setrlimit};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, apply_filter,
};

/// How much worse than the worker its children are treated by the scheduler, as its own threads for
/// long attempts are.
const NICENESS: i32 = 10;

/// File descriptors of a child: its socket, its runtime's, and a scratch directory's.
const DESCRIPTORS: u64 = 256;

/// The newest rules of Landlock that are asked for; an older kernel has fewer.
const LANDLOCK: ABI = ABI::V6;

/// What a child needs beyond computing.
#[derive(Debug, Clone, Copy)]
pub struct Needs<'a> {
    /// The most bytes of memory that it may write to.
    pub memory_bytes: u64,
    /// True where it makes HTTP requests.
    pub network: bool,
    /// Where it makes and deletes files.
    pub scratch: Option<&'a Path>,
}

/// Confines this process for good, all threads that it will have included. To be called while it
/// has one thread. Says how far Landlock holds.
///
/// # Errors
///
/// Where this system refuses seccomp or the limits: then nothing may be run.
pub fn confine(needs: &Needs<'_>) -> io::Result<&'static str> {
    let limit = |resource, most: u64| {
        setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })
    };
    #[cfg(target_os = "linux")]
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    // A refusal to be treated worse would be odd, and is no reason not to go on.
    let _ = rustix::process::nice(NICENESS);
    limit(Resource::Core, 0)?;
    limit(Resource::Data, needs.memory_bytes)?;
    limit(Resource::Nofile, DESCRIPTORS)?;
    if needs.scratch.is_none() {
        limit(Resource::Fsize, 0)?;
    }
    let landlock = landlock(needs).map_err(io::Error::other)?;
    let filter = filter(needs).map_err(io::Error::other)?;
    apply_filter(&filter).map_err(io::Error::other)?;
    Ok(landlock)
}

fn landlock(needs: &Needs<'_>) -> Result<&'static str, landlock::RulesetError> {
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(LANDLOCK))?
        .scope(Scope::from_all(LANDLOCK))?;
    if !needs.network {
        rules = rules.handle_access(AccessNet::from_all(LANDLOCK))?;
    }
    let mut rules = rules.create()?;
    if let Some(scratch) = needs.scratch {
        rules = rules.add_rules(path_beneath_rules([scratch], AccessFs::from_all(LANDLOCK)))?;
    }
    if needs.network {
        // Names are resolved by the C library, and certificates are the system's.
        let places = ["/etc", "/usr", "/lib", "/lib64", "/run/systemd/resolve"];
        rules = rules.add_rules(path_beneath_rules(places, AccessFs::from_read(LANDLOCK)))?;
    }
    Ok(match rules.restrict_self()?.ruleset {
        RulesetStatus::FullyEnforced => "full",
        RulesetStatus::PartiallyEnforced => "partial",
        RulesetStatus::NotEnforced => "none",
    })
}

/// Calls that every child makes.
const ALWAYS: &[i64] = &[
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_close,
    libc::SYS_fstat,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_mremap,
    libc::SYS_brk,
    libc::SYS_futex,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_gettimeofday,
    libc::SYS_getrandom,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_restart_syscall,
    libc::SYS_sigaltstack,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_eventfd2,
    libc::SYS_ppoll,
    libc::SYS_recvfrom,
    libc::SYS_sendto,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_shutdown,
    libc::SYS_getsockopt,
    libc::SYS_fcntl,
    libc::SYS_ioctl,
    libc::SYS_dup,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_membarrier,
    libc::SYS_uname,
    libc::SYS_getrusage,
];

#[cfg(target_arch = "x86_64")]
const ALWAYS_HERE: &[i64] = &[libc::SYS_epoll_wait, libc::SYS_poll];
#[cfg(not(target_arch = "x86_64"))]
const ALWAYS_HERE: &[i64] = &[];

/// Calls on files, which Landlock keeps to where they belong.
const FILES: &[i64] = &[
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_lseek,
    libc::SYS_pread64,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_readlinkat,
    libc::SYS_getdents64,
    libc::SYS_fadvise64,
];

/// Calls that change files.
const FILES_WRITE: &[i64] = &[
    libc::SYS_pwrite64,
    libc::SYS_pwritev2,
    libc::SYS_pwritev,
    libc::SYS_preadv,
    libc::SYS_preadv2,
    libc::SYS_mkdirat,
    libc::SYS_unlinkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_symlinkat,
    libc::SYS_linkat,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_utimensat,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_flock,
    libc::SYS_fstatfs,
];

#[cfg(target_arch = "x86_64")]
const FILES_HERE: &[i64] =
    &[libc::SYS_open, libc::SYS_stat, libc::SYS_lstat, libc::SYS_access, libc::SYS_readlink];
#[cfg(not(target_arch = "x86_64"))]
const FILES_HERE: &[i64] = &[];

#[cfg(target_arch = "x86_64")]
const FILES_WRITE_HERE: &[i64] =
    &[libc::SYS_mkdir, libc::SYS_unlink, libc::SYS_rmdir, libc::SYS_rename, libc::SYS_chmod];
#[cfg(not(target_arch = "x86_64"))]
const FILES_WRITE_HERE: &[i64] = &[];

/// Calls on sockets beyond the one to the parent.
const NETWORK: &[i64] = &[
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_setsockopt,
    libc::SYS_sendmmsg,
    libc::SYS_recvmmsg,
    libc::SYS_socketpair,
];

fn filter(needs: &Needs<'_>) -> Result<BpfProgram, seccompiler::Error> {
    let mut allowed: Vec<&[i64]> = vec![ALWAYS, ALWAYS_HERE];
    if needs.network || needs.scratch.is_some() {
        allowed.extend([FILES, FILES_HERE]);
    }
    if needs.scratch.is_some() {
        allowed.extend([FILES_WRITE, FILES_WRITE_HERE]);
    }
    if needs.network {
        allowed.push(NETWORK);
    }
    let calls = allowed.into_iter().flatten().map(|call| (*call, Vec::new()));
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = calls.collect();
    let argument = |index, op, value| {
        SeccompCondition::new(index, SeccompCmpArgLen::Dword, op, value)
            .and_then(|condition| SeccompRule::new(vec![condition]))
    };
    // A thread, and no process. `clone3` hides its flags, so it fails, and the C library asks by this.
    let thread = libc::CLONE_THREAD.cast_unsigned().into();
    let thread = argument(0, SeccompCmpOp::MaskedEq(thread), thread)?;
    rules.insert(libc::SYS_clone, vec![thread]);
    // A name for a thread.
    let name = argument(0, SeccompCmpOp::Eq, libc::PR_SET_NAME.cast_unsigned().into())?;
    rules.insert(libc::SYS_prctl, vec![name]);
    // To itself only, as `abort` does.
    let own = std::process::id().into();
    rules.insert(libc::SYS_tgkill, vec![argument(0, SeccompCmpOp::Eq, own)?]);
    // To ask for limits, not to set them.
    let ask = SeccompCondition::new(2, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, 0)?;
    rules.insert(libc::SYS_prlimit64, vec![SeccompRule::new(vec![ask])?]);
    if needs.network {
        let families = [libc::AF_INET, libc::AF_INET6];
        let families =
            families.map(|family| argument(0, SeccompCmpOp::Eq, u64::from(family.cast_unsigned())));
        rules.insert(libc::SYS_socket, families.into_iter().collect::<Result<_, _>>()?);
    }
    let absent = SeccompAction::Errno(libc::ENOSYS.cast_unsigned());
    let architecture = std::env::consts::ARCH.try_into()?;
    let filter = SeccompFilter::new(rules, absent, SeccompAction::Allow, architecture)?;
    Ok(filter.try_into()?)
}

#[cfg(test)]
mod tests {
    use std::{fs, net::TcpListener, process::Command, thread};

    use super::*;

    /// Tells this test binary, started once more, to confine itself and to try what it may.
    const ROLE: &str = "LOVAGE_TEST_CONFINED";

    fn in_a_process_of_its_own(role: &str) {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "isolation::confine::tests::plays_the_confined", "--nocapture"])
            .env(ROLE, role)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("confined as promised"), "{said}{errors}");
    }

    /// Nothing by itself: what the confined process of the tests below does.
    #[test]
    fn plays_the_confined() {
        let Ok(role) = std::env::var(ROLE) else { return };
        let directory = tempfile::tempdir().unwrap();
        let inside = directory.path().join("scratch");
        fs::create_dir(&inside).unwrap();
        let outside = directory.path().join("outside");
        fs::write(&outside, "secret").unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let parent = rustix::process::getppid().unwrap();
        let (network, scratch) = (role == "network", role == "scratch");
        let needs =
            Needs { memory_bytes: 1 << 30, network, scratch: scratch.then_some(inside.as_path()) };
        let landlock = confine(&needs).unwrap();

        // Computing goes on: memory, threads, time, random numbers.
        let sum = thread::spawn(|| (0..1000_u64).sum::<u64>()).join().unwrap();
        assert_eq!(sum, 499_500);
        assert_eq!(vec![1_u8; 64 << 20].len(), 64 << 20);
        thread::sleep(std::time::Duration::from_millis(1));
        // Nothing else does.
        assert!(Command::new("/bin/true").spawn().is_err(), "it started a program");
        assert!(std::os::unix::net::UnixStream::pair().is_err() || network, "it made sockets");
        assert!(std::os::unix::net::UnixStream::connect("/run/x").is_err());
        assert!(rustix::process::test_kill_process(parent).is_err(), "it could signal others");
        assert_eq!(std::net::TcpStream::connect(address).is_ok(), network);
        let held = landlock != "none";
        if held || !(network || scratch) {
            assert!(fs::read(&outside).is_err(), "it read a file");
            assert!(fs::write(directory.path().join("new"), "x").is_err(), "it wrote a file");
        }
        assert_eq!(fs::write(inside.join("file"), "x").is_ok(), scratch);
        println!("confined as promised; landlock: {landlock}");
        // The harness could not write its report.
        std::process::exit(0);
    }

    #[test]
    fn a_child_computes_and_reaches_nothing() {
        in_a_process_of_its_own("plain");
    }

    #[test]
    fn a_child_with_a_scratch_directory_reaches_no_other() {
        in_a_process_of_its_own("scratch");
    }

    #[test]
    fn a_child_with_a_network_reaches_no_files() {
        in_a_process_of_its_own("network");
    }
}
