//! Events of what jobs need beside the broker: stores, and clocks.

use std::time::Duration;

use metrics::{counter, gauge};
use tracing::{debug, info, warn};

use super::{REASON_BYTES, ms};
use crate::text::one_line;

/// A service that jobs need cannot be reached, or refuses everybody.
pub struct DependencyDown<'a> {
    /// Its name: that of its section in the configuration.
    pub name: &'static str,
    /// Why; neither user nor password is in it.
    pub reason: &'a str,
}

impl DependencyDown<'_> {
    /// Logs and counts.
    pub fn emit(self) {
        warn!(
            dependency = self.name,
            reason = %one_line(self.reason, REASON_BYTES),
            "a dependency is down: jobs that need it are not run until it is back"
        );
        gauge!("lovage_dependency_up", "dependency" => self.name).set(0.0);
        counter!("lovage_dependency_down_total", "dependency" => self.name).increment(1);
    }
}

/// A service that jobs need does what it is to do.
pub struct DependencyUp {
    /// Its name: that of its section in the configuration.
    pub name: &'static str,
    /// How long it was down; `None` where this is the first answer.
    pub outage: Option<Duration>,
}

impl DependencyUp {
    /// Logs and counts.
    pub fn emit(self) {
        if let Some(outage) = self.outage {
            info!(dependency = self.name, outage_ms = ms(outage), "a dependency is back");
        } else {
            debug!(dependency = self.name, "a dependency answers");
        }
        gauge!("lovage_dependency_up", "dependency" => self.name).set(1.0);
    }
}

/// A job was not let near what is kept for another tenant's job of the same id.
pub struct OtherTenantsKey<'a> {
    /// What it was about: a result, or a chord.
    pub what: &'static str,
    /// The id, as the message said it.
    pub id: &'a str,
}

impl OtherTenantsKey<'_> {
    /// Logs and counts.
    pub fn emit(self) {
        warn!(
            what = self.what,
            id = %one_line(self.id, 200),
            "the result store has this id for another tenant: nothing is read or stored under it; \
             `{{tenant}}:` in celery.result_key_prefix gives each tenant keys of its own"
        );
        counter!("lovage_store_conflicts_total", "what" => self.what).increment(1);
    }
}

/// The wall clock of this machine was set.
pub struct ClockJumped {
    /// By how much: ahead where it is positive.
    pub by_ms: i64,
}

impl ClockJumped {
    /// Logs and counts.
    pub fn emit(self) {
        warn!(
            by_ms = self.by_ms,
            "the wall clock jumped: times of messages (`eta`, `expires`) are judged by it; leases \
             and delays are not"
        );
        counter!("lovage_clock_jumps_total").increment(1);
    }
}

/// The clock of the embedded broker's file is not the wall clock's.
pub struct ClockDiffers {
    /// How far the file's clock is ahead.
    pub ahead_ms: i64,
}

impl ClockDiffers {
    /// Logs and counts.
    pub fn emit(self) {
        warn!(
            ahead_ms = self.ahead_ms,
            "the clock of the broker's file differs from the wall clock, which was set since the \
             machine started or differs between processes; leases and delays keep to the file's"
        );
        counter!("lovage_clock_differences_total").increment(1);
    }
}
