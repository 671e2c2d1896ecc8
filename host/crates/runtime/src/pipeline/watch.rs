//! What is done while a guest runs: its progress is passed on, and somebody's wish that it end is
//! passed to it.

use std::{convert::Infallible, time::Duration};

use super::Pipeline;
use crate::message::DecodedJob;
use lovage_core::{broker::Fault, cancellation::Cancellation, events::JobProgress};

/// How often: a guest may report a million times a second.
const EVERY: Duration = Duration::from_secs(1);

impl Pipeline {
    /// Looks after a running attempt until it is dropped. The first time is after a moment, so that
    /// jobs that are done by then cost nothing more.
    pub(super) async fn watch(
        &self,
        queue: &str,
        job: &DecodedJob,
        cancellation: &Cancellation,
    ) -> Infallible {
        let mut keeps = self.keeps_results;
        loop {
            tokio::time::sleep(EVERY).await;
            if let Some(progress) = cancellation.news() {
                JobProgress { queue, progress: &progress }.emit();
                if keeps && let Err(error) = self.broker.report_progress(job.key(), &progress).await
                {
                    tracing::debug!(%error, "progress was not stored");
                    keeps = error.fault != Fault::Unsupported;
                }
                if let Some(request) = &job.celery {
                    self.celery_progress(job, request, &progress).await;
                }
            }
            if self.is_revoked(job).await {
                cancellation.revoke();
            }
        }
    }
}
