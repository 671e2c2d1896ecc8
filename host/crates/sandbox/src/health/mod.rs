//! Health of this host: memory pressure, and faults that are the host's own.
//!
//! A host that is short of memory, address space, file descriptors or disk must not use up the
//! attempts of the jobs that it happens to receive. So:
//!
//! - A worker runs a [`SelfTest`] at its start and does not start on a host that fails it.
//! - An attempt that the host could not carry out ends as
//!   `Outcome::HostFault`. The self-test then decides: on a
//!   host that fails it, the message goes back, no attempt is spent, and the worker takes no more
//!   jobs until the test passes again. On a host that passes it, the job asks for more than this
//!   host has, and the attempt counts as crashed; else one such job would go round for ever.
//! - Above [`MemoryGuard`]'s threshold a worker runs one job at a time, so that the system has no
//!   reason to kill the process with the jobs of all tenants in it.

mod memory;
mod self_test;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

pub use self::{
    memory::{MemoryGuard, MemoryUse},
    self_test::{HostFault, SelfTest},
};
use crate::Sandbox;
use lovage_config::Config;
use lovage_core::{
    backoff::Backoff,
    events::{HostFaulty, HostRecovered, MemoryPressure},
    outcome::{Failure, Outcome},
};

/// The interval between two looks at a host that cannot take jobs now.
const POLL: Duration = Duration::from_millis(100);

/// The delays between self-tests of a host that failed one.
const RETEST: Backoff = Backoff { base: Duration::from_millis(500), cap: Duration::from_secs(10) };

/// Health of this host, shared by all that run jobs on it. Clones are the same.
#[derive(Debug, Clone)]
pub struct Health(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    test: SelfTest,
    memory: Option<MemoryGuard>,
    faulty: AtomicBool,
    pressed: AtomicBool,
    running: AtomicUsize,
}

/// One job that runs. Dropped at its end.
#[derive(Debug)]
pub struct Running(Arc<Inner>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Health {
    /// The health of a host that runs jobs in a sandbox: whether it can make what each attempt
    /// starts with, and write where jobs need to.
    pub fn of(config: &Config, sandbox: &Sandbox) -> Self {
        let mut test = SelfTest::default().with_sandbox(sandbox.clone());
        let grants = config.tasks.values().map(|task| &task.grants);
        if grants.chain([&config.defaults.grants]).any(|grants| grants.scratch == Some(true)) {
            test = test.with_directory(&std::env::temp_dir());
        }
        let percent = config.worker.memory_high_percent;
        let guard = || MemoryGuard::of_this_process(f64::from(percent) / 100.0);
        Self::new(test, (percent > 0).then(guard))
    }

    /// The health of a host that passes `test`. Without a guard, memory is not looked at.
    pub fn new(test: SelfTest, memory: Option<MemoryGuard>) -> Self {
        Self(Arc::new(Inner {
            test,
            memory,
            faulty: AtomicBool::new(false),
            pressed: AtomicBool::new(false),
            running: AtomicUsize::new(0),
        }))
    }

    /// Runs the self-test.
    ///
    /// # Errors
    ///
    /// What this host lacks, and what to do about it.
    pub async fn check(&self) -> Result<(), HostFault> {
        self.0.test.clone().run().await
    }

    /// Counts a job as running until the guard is dropped. Waits while memory is short and another
    /// job runs, and no longer than `until`: a caller that has to end then has to try.
    pub async fn begin(&self, until: Option<Instant>) -> Running {
        loop {
            let (order, running) = (Ordering::Relaxed, &self.0.running);
            if !self.is_pressed() || until.is_some_and(|until| Instant::now() >= until) {
                running.fetch_add(1, order);
                break;
            }
            if running.compare_exchange(0, 1, order, order).is_ok() {
                break;
            }
            tokio::time::sleep(POLL).await;
        }
        Running(Arc::clone(&self.0))
    }

    /// True while the host failed its last self-test.
    pub fn is_faulty(&self) -> bool {
        self.0.faulty.load(Ordering::Relaxed)
    }

    /// Waits until another job may be taken: the host passes its self-test, and it has memory or
    /// nothing runs on it. Costs a look at the clock where all is well. May be dropped.
    pub async fn admit(&self) {
        while self.is_faulty() || self.is_short_of_memory() {
            tokio::time::sleep(POLL).await;
        }
    }

    /// True where another job would bring the process nearer to its end. With nothing running one
    /// job is always admitted: the memory may be somebody else's, and waiting would not free it.
    fn is_short_of_memory(&self) -> bool {
        self.is_pressed() && self.0.running.load(Ordering::Relaxed) > 0
    }

    /// True where memory is short.
    fn is_pressed(&self) -> bool {
        let Some(memory) = &self.0.memory else { return false };
        let high = memory.sample().is_some_and(|used| used.is_above(memory.threshold()));
        let was = self.0.pressed.swap(high, Ordering::Relaxed);
        if high != was {
            let last = memory.last();
            let (used_bytes, limit_bytes, limit) = match &last {
                Some(it) => (it.used, it.limit, it.what.as_str()),
                None => (0, 0, ""),
            };
            MemoryPressure { high, used_bytes, limit_bytes, limit }.emit();
        }
        high
    }

    /// Decides what an attempt that the host could not carry out comes to. See the
    /// [module](self).
    pub async fn judge(&self, failure: Failure) -> Outcome {
        match self.check().await {
            Ok(()) => Outcome::Crashed(failure),
            Err(fault) => {
                self.suspend(&fault);
                Outcome::HostFault(failure)
            }
        }
    }

    /// Takes no more jobs until the self-test passes.
    fn suspend(&self, fault: &HostFault) {
        if self.0.faulty.swap(true, Ordering::Relaxed) {
            return;
        }
        HostFaulty { fault }.emit();
        let health = self.clone();
        tokio::spawn(async move {
            for tries in 1.. {
                tokio::time::sleep(RETEST.bound(tries).max(RETEST.base)).await;
                if health.check().await.is_ok() {
                    break;
                }
            }
            health.0.faulty.store(false, Ordering::Relaxed);
            HostRecovered.emit();
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_fault_on_a_healthy_host_is_the_jobs_own_and_counts() {
        let health = Health::new(SelfTest::default(), None);
        let outcome = health.judge(Failure::new("sandbox", "no memory")).await;
        assert!(matches!(outcome, Outcome::Crashed(_)), "{outcome:?}");
        assert!(!health.is_faulty());
    }

    #[tokio::test]
    async fn a_faulty_host_spends_no_attempt_and_takes_no_job_until_it_recovers() {
        let place = tempfile::tempdir().unwrap();
        let missing = place.path().join("away");
        let health = Health::new(SelfTest::default().with_directory(&missing), None);
        let outcome = health.judge(Failure::new("scratch", "disk full")).await;
        assert!(matches!(outcome, Outcome::HostFault(_)), "{outcome:?}");
        assert!(health.is_faulty());
        assert!(tokio::time::timeout(Duration::from_millis(300), health.admit()).await.is_err());
        std::fs::create_dir(&missing).unwrap();
        tokio::time::timeout(Duration::from_mins(1), health.admit()).await.unwrap();
    }

    #[tokio::test]
    async fn under_memory_pressure_jobs_run_one_at_a_time() {
        // Any process is above a threshold of nothing.
        let guard = MemoryGuard::of_this_process(0.0);
        let health = Health::new(SelfTest::default(), Some(guard));
        health.admit().await;
        let running = health.begin(None).await;
        let admitted = tokio::time::timeout(Duration::from_millis(300), health.admit()).await;
        assert!(admitted.is_err(), "a second job was admitted");
        let begun = tokio::time::timeout(Duration::from_millis(300), health.begin(None)).await;
        assert!(begun.is_err(), "a second job began");
        drop(running);
        tokio::time::timeout(Duration::from_secs(5), health.admit()).await.unwrap();
    }
}
