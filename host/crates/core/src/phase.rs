//! The phase that a worker is in, for its log, its metrics and its health address.

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use metrics::gauge;

/// A worker's phases, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Components load, and the broker is looked for. It may be away for long.
    Starting,
    /// Jobs are taken.
    Running,
    /// No more jobs are taken.
    Stopping,
}

impl Phase {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Starting, Self::Running, Self::Stopping];

    /// Its name in metrics and answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "stopping",
        }
    }
}

/// The phase of this worker.
#[derive(Debug, Default)]
pub struct Current(AtomicU8);

impl Current {
    /// The phase.
    pub fn get(&self) -> Phase {
        match self.0.load(Relaxed) {
            0 => Phase::Starting,
            1 => Phase::Running,
            _ => Phase::Stopping,
        }
    }

    /// Goes to a phase, and sets the gauge `lovage_worker_state`, which is 1 for it and 0 for the others.
    pub fn set(&self, phase: Phase) {
        self.0.store(phase as u8, Relaxed);
        for other in Phase::ALL {
            gauge!("lovage_worker_state", "state" => other.as_str())
                .set(f64::from(u8::from(other == phase)));
        }
    }
}
