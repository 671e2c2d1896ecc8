//! What an attempt has used that is given up.
//!
//! A lost lease or a worker that has to stop drops an attempt, and there is no report. What it
//! has computed until then was computed all the same: it counts for its tenant, who could have
//! whole leases for nothing otherwise.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::Pipeline;
use crate::message::DecodedJob;
use lovage_core::usage::Usage;
use lovage_sandbox::Meter;

/// Counts what an attempt has used, unless it is told that the attempt has ended.
pub(super) struct UsageGuard<'a> {
    pipeline: &'a Pipeline,
    job: &'a DecodedJob,
    meter: Arc<Meter>,
    began: Instant,
    reported: bool,
}

impl<'a> UsageGuard<'a> {
    /// An attempt at `job` begins, whose CPU time `meter` tells.
    pub(super) fn new(pipeline: &'a Pipeline, job: &'a DecodedJob, meter: Arc<Meter>) -> Self {
        Self { pipeline, job, meter, began: Instant::now(), reported: false }
    }

    /// The attempt has ended, and its report counts.
    pub(super) fn reported(mut self) {
        self.reported = true;
    }
}

impl Drop for UsageGuard<'_> {
    fn drop(&mut self) {
        let cpu = self.meter.spent();
        // One that had no slot yet has used nothing.
        if self.reported || cpu == Duration::ZERO {
            return;
        }
        let usage = Usage { cpu, wall: self.began.elapsed(), ..Usage::default() };
        let Self { pipeline, job, .. } = self;
        pipeline.tenancy.charge(&job.tenant, cpu);
        pipeline.totals.add(&job.task, &job.tenant, usage);
    }
}
