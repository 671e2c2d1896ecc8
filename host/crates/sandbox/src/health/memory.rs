//! How much memory this process may use, and how much of it is used.
//!
//! The system kills a process that goes over its cgroup's limit, without a word and with the jobs
//! of all tenants. The limits that are looked at, the tightest first reached:
//!
//! - each cgroup of the process, from its own to the root (version 2; `memory.max`, and
//!   `memory.current` without the page cache that is given back under pressure, `inactive_file`);
//! - the cgroup of version 1, where that is mounted;
//! - `RLIMIT_AS` and `RLIMIT_DATA` of the process;
//! - the memory of the machine.
//!
//! Files of the kernel are read, some microseconds each, at most once in [`FRESH`].

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Mutex,
    time::{Duration, Instant},
};

use rustix::process::{Resource, getrlimit};

/// For how long a sample is used again.
const FRESH: Duration = Duration::from_millis(50);

/// The size of a page, in which `/proc/self/statm` counts.
const PAGE_BYTES: u64 = 4096;

/// The use of the resource that is nearest to its limit, in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryUse {
    /// What is used.
    pub used: u64,
    /// What may be used.
    pub limit: u64,
    /// Which limit it is, for a person: a file of the kernel, or the name of a limit.
    pub what: String,
}

impl MemoryUse {
    /// True where more than this part of the limit is used.
    pub fn is_above(&self, threshold: f64) -> bool {
        self.part() > threshold
    }

    fn part(&self) -> f64 {
        if self.limit == 0 { 0.0 } else { self.used as f64 / self.limit as f64 }
    }
}

/// Watches the memory that this process may use.
#[derive(Debug)]
pub struct MemoryGuard {
    threshold: f64,
    groups: Vec<Group>,
    last: Mutex<Option<(Instant, MemoryUse)>>,
}

/// The files of one cgroup.
#[derive(Debug, Clone)]
struct Group {
    limit: PathBuf,
    used: PathBuf,
    stat: PathBuf,
}

impl MemoryGuard {
    /// A guard of this process that takes more than `threshold` (0 to 1) of a limit for pressure.
    pub fn of_this_process(threshold: f64) -> Self {
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        Self { threshold, groups: groups(&own), last: Mutex::new(None) }
    }

    /// The part of a limit above which there is pressure.
    pub fn threshold(&self) -> f64 {
        self.threshold
    }

    /// The use that is nearest to its limit; `None` where the system says nothing.
    pub fn sample(&self) -> Option<MemoryUse> {
        let mut last = self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some((at, sample)) = &*last
            && at.elapsed() < FRESH
        {
            return Some(sample.clone());
        }
        let of_groups = self.groups.iter().filter_map(Group::sample);
        let sample = of_groups
            .chain(of_process())
            .chain(of_machine())
            .max_by(|one, other| one.part().total_cmp(&other.part()))?;
        *last = Some((Instant::now(), sample.clone()));
        Some(sample)
    }

    /// The last sample.
    pub fn last(&self) -> Option<MemoryUse> {
        let last = self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        last.as_ref().map(|(_, sample)| sample.clone())
    }
}

/// The cgroups that a line of `/proc/self/cgroup` names, those above them included.
fn groups(own: &str) -> Vec<Group> {
    let mut groups = Vec::new();
    for line in own.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        let (root, limit, used) = if controllers.is_empty() {
            ("/sys/fs/cgroup", "memory.max", "memory.current")
        } else if controllers.split(',').any(|controller| controller == "memory") {
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes")
        } else {
            continue;
        };
        let inside = Path::new(path.trim_start_matches('/'));
        for above in inside.ancestors() {
            let place = Path::new(root).join(above);
            groups.push(Group {
                limit: place.join(limit),
                used: place.join(used),
                stat: place.join("memory.stat"),
            });
        }
    }
    groups
}

impl Group {
    /// `None` where the group has no limit, or is not to be seen from here.
    fn sample(&self) -> Option<MemoryUse> {
        let limit = number(&self.limit)?;
        let reclaimable = fs::read_to_string(&self.stat)
            .ok()
            .and_then(|stat| field(&stat, "inactive_file"))
            .unwrap_or(0);
        let used = number(&self.used)?.saturating_sub(reclaimable);
        // Version 1 has a huge number for no limit.
        (limit < 1 << 60).then(|| MemoryUse { used, limit, what: self.limit.display().to_string() })
    }
}

/// The limits of the process itself.
fn of_process() -> Vec<MemoryUse> {
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = |column: usize| {
        let pages = statm.split_ascii_whitespace().nth(column)?.parse::<u64>().ok()?;
        Some(pages.saturating_mul(PAGE_BYTES))
    };
    // `statm` counts address space first and data sixth.
    [(Resource::As, 0, "RLIMIT_AS (ulimit -v)"), (Resource::Data, 5, "RLIMIT_DATA (ulimit -d)")]
        .into_iter()
        .filter_map(|(resource, column, what)| {
            let limit = getrlimit(resource).current?;
            Some(MemoryUse { used: pages(column)?, limit, what: what.to_owned() })
        })
        .collect()
}

fn of_machine() -> Option<MemoryUse> {
    let meminfo = fs::read_to_string("/proc/meminfo").ok()?;
    let kib = |name| field(&meminfo, name).map(|kib| kib.saturating_mul(1024));
    let (limit, available) = (kib("MemTotal:")?, kib("MemAvailable:")?);
    let what = "the memory of this machine".to_owned();
    Some(MemoryUse { used: limit.saturating_sub(available), limit, what })
}

fn number(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// The number beside a name, in the kernel's lists.
fn field(list: &str, name: &str) -> Option<u64> {
    let line = list.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_looked_at_with_all_above_it() {
        let found = groups("0::/a/b\n");
        let limits: Vec<_> = found.iter().map(|it| it.limit.display().to_string()).collect();
        assert_eq!(
            limits,
            [
                "/sys/fs/cgroup/a/b/memory.max",
                "/sys/fs/cgroup/a/memory.max",
                "/sys/fs/cgroup/memory.max"
            ]
        );
        let found = groups("9:cpu,cpuacct:/x\n4:memory:/docker/y\n");
        assert_eq!(
            found[0].used,
            Path::new("/sys/fs/cgroup/memory/docker/y/memory.usage_in_bytes")
        );
        assert!(groups("nonsense\n\n::").len() <= 1);
    }

    #[test]
    fn page_cache_that_can_be_given_back_is_no_pressure() {
        let place = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = place.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let group = Group {
            limit: file("memory.max", "1000\n"),
            used: file("memory.current", "900\n"),
            stat: file("memory.stat", "anon 300\ninactive_file 600\nactive_file 0\n"),
        };
        let sample = group.sample().unwrap();
        assert_eq!((sample.used, sample.limit), (300, 1000));
        assert!(!sample.is_above(0.9) && sample.is_above(0.2));
        file("memory.max", "max\n");
        assert_eq!(group.sample(), None);
    }

    #[test]
    fn this_process_has_a_sample() {
        let sample = MemoryGuard::of_this_process(0.9).sample().unwrap();
        assert!(sample.used > 0 && sample.limit >= sample.used, "{sample:?}");
    }
}
