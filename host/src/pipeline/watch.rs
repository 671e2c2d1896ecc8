//! What is done while a guest runs: its progress is passed on, and somebody's wish that it end is
//! passed to it.

use std::{convert::Infallible, sync::Arc, time::Duration};

use crate::{
    broker::{Broker, Fault},
    events::JobProgress,
    job::Job,
    wanted::Wanted,
};

/// How often: a guest may report a million times a second.
const EVERY: Duration = Duration::from_secs(1);

/// Looks after a running attempt until it is dropped. The first time is after a moment, so that
/// jobs that are done by then cost nothing more.
pub(super) async fn watch(
    broker: &Arc<dyn Broker>,
    queue: &str,
    job: &Job,
    wanted: &Wanted,
) -> Infallible {
    let mut keeps = broker.limits().keeps_results;
    loop {
        tokio::time::sleep(EVERY).await;
        if let Some(progress) = wanted.news() {
            JobProgress { queue, progress: &progress }.emit();
            if keeps && let Err(error) = broker.report_progress(&job.id, &progress).await {
                tracing::debug!(%error, "progress was not stored");
                keeps = error.fault != Fault::Unsupported;
            }
        }
        if keeps && broker.is_revoked(&job.id).await.unwrap_or(false) {
            wanted.revoke();
        }
    }
}
