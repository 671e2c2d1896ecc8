//! Events of the host itself.

use metrics::{counter, gauge};
use tracing::{debug, error, info, warn};

use crate::health::{HostFault, MemoryUse};

/// The host failed its self-test after an attempt that it could not carry out. No jobs are taken
/// until it passes.
pub struct HostFaulty<'a> {
    /// What it lacks.
    pub fault: &'a HostFault,
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
pub struct MemoryPressure {
    /// True where it is short from now on.
    pub high: bool,
    /// What is used of what.
    pub used: Option<MemoryUse>,
}

impl MemoryPressure {
    /// Logs and counts.
    pub fn emit(self) {
        let (used, limit, what) = match &self.used {
            Some(it) => (it.used, it.limit, it.what.as_str()),
            None => (0, 0, ""),
        };
        if self.high {
            warn!(
                used_bytes = used,
                limit_bytes = limit,
                limit = what,
                "memory is short: running one job at a time (`worker.memory_high_percent` is the threshold)"
            );
            counter!("lovage_memory_pressure_total").increment(1);
        } else {
            info!(used_bytes = used, limit_bytes = limit, "memory is no longer short");
        }
        gauge!("lovage_memory_pressure").set(if self.high { 1.0 } else { 0.0 });
    }
}
