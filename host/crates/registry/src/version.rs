//! One version of a component as it is served, and how its jobs fare.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;

use super::Task;
use lovage_sandbox::LoadedComponent;

/// A component that serves its tasks, from when, and what became of its jobs.
#[derive(Debug)]
pub struct Version {
    /// The component.
    pub component: Arc<LoadedComponent>,
    /// Since when it is served here.
    pub since: Timestamp,
    /// What became of its jobs since then.
    pub tally: Arc<Tally>,
    pub(super) tasks: Vec<Arc<Task>>,
    /// Its file, whatever links lead there; `None` where it is none.
    pub(super) file: Option<PathBuf>,
}

impl Version {
    pub(super) fn new(component: Arc<LoadedComponent>) -> Self {
        let tally = Arc::<Tally>::default();
        let task = |spec: &lovage_sandbox::TaskSpec| {
            Arc::new(Task::new(spec.clone(), Arc::clone(&component), Arc::clone(&tally)))
        };
        let tasks = component.tasks.iter().map(task).collect();
        let file = real_path(&component.source.file);
        Self { component, since: Timestamp::now(), tally, tasks, file }
    }

    /// Its digest, `sha256:` and 64 hexadecimal digits.
    pub fn digest(&self) -> &str {
        &self.component.source.digest
    }
}

/// Where a file really is.
pub(super) fn real_path(file: &str) -> Option<PathBuf> {
    std::fs::canonicalize(file).ok()
}

/// Each power of two of microseconds is parted into so many buckets.
const PARTS: usize = 4;

/// Up to 2^36 µs, nineteen hours.
const BUCKETS: usize = 36 * PARTS;

/// Attempts of a version: how many there were, and how many failed. Of the first attempts of jobs also how long
/// they took: a job that fails at each of its attempts says the same thing each time.
#[derive(Debug)]
pub struct Tally {
    calls: AtomicU64,
    failures: AtomicU64,
    firsts: AtomicU64,
    first_failures: AtomicU64,
    walls: [AtomicU64; BUCKETS],
}

impl Default for Tally {
    fn default() -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            calls: zero(),
            failures: zero(),
            firsts: zero(),
            first_failures: zero(),
            walls: std::array::from_fn(|_| zero()),
        }
    }
}

impl Tally {
    /// Counts an attempt, the first of its job or a later one.
    pub fn record(&self, failed: bool, wall: Duration, attempt: u32) {
        self.failures.fetch_add(u64::from(failed), Ordering::Relaxed);
        self.calls.fetch_add(1, Ordering::Relaxed);
        if attempt > 1 {
            return;
        }
        if let Some(bucket) = self.walls.get(bucket_of(wall)) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        self.first_failures.fetch_add(u64::from(failed), Ordering::Relaxed);
        self.firsts.fetch_add(1, Ordering::Relaxed);
    }

    /// What was counted so far of first attempts.
    pub fn now(&self) -> Counts {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let failures = read(&self.first_failures);
        Counts {
            // Another thread may be between the two.
            calls: read(&self.firsts).max(failures),
            failures,
            walls: self.walls.iter().map(read).collect(),
        }
    }

    /// How many attempts there were, and how many of them failed.
    pub fn calls(&self) -> (u64, u64) {
        (self.calls.load(Ordering::Relaxed), self.failures.load(Ordering::Relaxed))
    }
}

/// What a [`Tally`] held of jobs' first attempts at one time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// How many jobs.
    pub calls: u64,
    /// How many of them failed at their first attempt.
    pub failures: u64,
    walls: Vec<u64>,
}

impl Counts {
    /// So many jobs that did not fail, and took no time that is known.
    pub(super) fn of_calls(calls: u64) -> Self {
        Self { calls, ..Self::default() }
    }

    /// What was counted after `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        self.with(before, u64::saturating_sub)
    }

    /// Both together.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        self.with(other, u64::saturating_add)
    }

    fn with(&self, other: &Self, each: impl Fn(u64, u64) -> u64) -> Self {
        let at = |walls: &[u64], i: usize| walls.get(i).copied().unwrap_or(0);
        let buckets = 0..self.walls.len().max(other.walls.len());
        Self {
            calls: each(self.calls, other.calls),
            failures: each(self.failures, other.failures),
            walls: buckets.map(|i| each(at(&self.walls, i), at(&other.walls, i))).collect(),
        }
    }

    /// How long half of the attempts took at most, within a quarter; `None` where there were none.
    pub fn median(&self) -> Option<Duration> {
        let all: u64 = self.walls.iter().sum();
        let rank = all.div_ceil(2);
        let mut seen = 0;
        let bucket = self.walls.iter().position(|count| {
            seen += count;
            rank > 0 && seen >= rank
        })?;
        Some(upper_end(bucket))
    }

    /// How many attempts took longer than `limit`, by at least a quarter.
    pub fn above(&self, limit: Duration) -> u64 {
        self.walls.iter().skip(bucket_of(limit) + 1).sum()
    }
}

fn bucket_of(wall: Duration) -> usize {
    let micros = u64::try_from(wall.as_micros()).unwrap_or(u64::MAX).max(1);
    let power = micros.ilog2() as usize;
    // The two binary digits after the first.
    let part = if power >= 2 { (micros >> (power - 2)) & 3 } else { (micros << (2 - power)) & 3 };
    (power * PARTS + part as usize).min(BUCKETS - 1)
}

fn upper_end(bucket: usize) -> Duration {
    let (power, part) = (bucket / PARTS, bucket % PARTS);
    Duration::from_secs_f64((1_u64 << power) as f64 * (1.0 + (part + 1) as f64 / 4.0) / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_told_within_a_quarter() {
        for micros in [1_u64, 3, 50, 777, 12_345, 9_999_999] {
            let tally = Tally::default();
            for _ in 0..100 {
                tally.record(false, Duration::from_micros(micros), 1);
            }
            let told = tally.now().median().unwrap().as_secs_f64() * 1e6;
            let ratio = told / micros as f64;
            assert!(
                (1.0..=2.0).contains(&ratio) && (micros < 4 || ratio <= 1.26),
                "{micros} {told}"
            );
        }
        let tally = Tally::default();
        for n in 0..100 {
            tally.record(n % 10 == 0, Duration::from_millis(if n < 90 { 1 } else { 100 }), 1);
        }
        let counts = tally.now();
        assert_eq!((counts.calls, counts.failures), (100, 10));
        assert!(counts.median().unwrap() < Duration::from_millis(2));
        assert_eq!(counts.above(Duration::from_millis(50)), 10);
        assert_eq!(counts.above(Duration::from_hours(1000)), 0);
        assert_eq!(Counts::default().median(), None);
    }

    #[test]
    fn what_was_counted_before_is_left_out() {
        let tally = Tally::default();
        tally.record(true, Duration::from_hours(100), 1);
        let before = tally.now();
        tally.record(false, Duration::from_micros(10), 1);
        let after = tally.now().since(&before);
        assert_eq!((after.calls, after.failures), (1, 0));
        assert!(after.median().unwrap() < Duration::from_micros(20));
        assert_eq!(after.plus(&before), tally.now());
    }
}
