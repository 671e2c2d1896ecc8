//! Events of the host itself.

use std::fmt;

use metrics::{counter, gauge};
use tracing::{debug, error, info, warn};

/// The host failed its self-test after an attempt that it could not carry out. No jobs are taken
/// until it passes.
pub struct HostFaulty<'a> {
    /// What it lacks.
    pub fault: &'a dyn fmt::Display,
}

impl HostFaulty<'_> {
    /// Logs and counts.
    pub fn emit(self) {
        error!(
            fault = %self.fault,
            "this host cannot run jobs now: taking none until it can; no attempts are spent"
        );
        counter!("lovage_host_faults_total").increment(1);
        gauge!("lovage_host_healthy").set(0.0);
    }
}

/// A process for attempts was started, and is confined.
pub struct IsolationStarted<'a> {
    /// How far Landlock holds.
    pub landlock: &'a str,
}

impl IsolationStarted<'_> {
    /// Logs and counts. That the kernel has no Landlock is told once.
    pub fn emit(self) {
        static TOLD: std::sync::Once = std::sync::Once::new();
        debug!(landlock = self.landlock, "process for isolated attempts started");
        if self.landlock != "full" {
            TOLD.call_once(|| {
                warn!(
                    landlock = self.landlock,
                    "this kernel enforces Landlock only in part, or not at all: isolated processes \
                     are confined by seccomp"
                );
            });
        }
        counter!("lovage_isolated_processes_started_total").increment(1);
    }
}

/// The host passes its self-test again.
pub struct HostRecovered;

impl HostRecovered {
    /// Logs and counts.
    pub fn emit(self) {
        info!("this host can run jobs again");
        gauge!("lovage_host_healthy").set(1.0);
    }
}

/// Memory is short, or is so no more.
pub struct MemoryPressure<'a> {
    /// True where it is short from now on.
    pub high: bool,
    /// Bytes in use of the resource that is nearest to its limit.
    pub used_bytes: u64,
    /// That limit, in bytes.
    pub limit_bytes: u64,
    /// The name of the limit.
    pub limit: &'a str,
}

impl MemoryPressure<'_> {
    /// Logs and counts.
    pub fn emit(self) {
        let Self { high, used_bytes, limit_bytes, limit } = self;
        if high {
            warn!(
                used_bytes,
                limit_bytes,
                limit,
                "memory is short: running one job at a time (`worker.memory_high_percent` is the threshold)"
            );
            counter!("lovage_memory_pressure_total").increment(1);
        } else {
            info!(used_bytes, limit_bytes, "memory is no longer short");
        }
        gauge!("lovage_memory_pressure").set(if high { 1.0 } else { 0.0 });
    }
}
