//! Cancellation and progress of an attempt: what passes between the host and a
//! guest that runs.
//!
//! A guest is told that it should end; it is not made to. What makes it end is its deadline, or
//! the host's own end.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use tokio_util::sync::CancellationToken;

/// The longest message of a progress report, in bytes.
pub const MESSAGE_BYTES: usize = 200;

/// Why an attempt should end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Revocation {
    /// Somebody revoked the job.
    Revoked,
    /// Its soft time limit has passed.
    OutOfTime,
    /// The worker is stopping.
    Stopping,
}

/// How far an attempt is, as its guest says.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Progress {
    /// 0 to 100.
    pub percent: u8,
    /// For a person: one line, at most [`MESSAGE_BYTES`]; may be empty.
    pub message: String,
}

/// One attempt's side of it. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Cancellation(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    revoked: CancellationToken,
    stopping: CancellationToken,
    progress: Mutex<Reported>,
}

#[derive(Debug, Default)]
struct Reported {
    last: Option<Progress>,
    /// True if it was not passed on yet.
    news: bool,
}

impl Cancellation {
    /// For an attempt of a worker that ends it when `stopping` is cancelled.
    pub fn until(stopping: CancellationToken) -> Self {
        Self(Arc::new(Inner { stopping, ..Inner::default() }))
    }

    /// Says that the job is wanted by nobody any more.
    pub fn revoke(&self) {
        self.0.revoked.cancel();
    }

    /// Returns true if somebody revoked the job.
    pub fn is_revoked(&self) -> bool {
        self.0.revoked.is_cancelled()
    }

    /// Waits until the attempt should end. True where that is since the worker stops.
    pub async fn ended(&self) -> bool {
        tokio::select! {
            biased;
            () = self.0.revoked.cancelled() => false,
            () = self.0.stopping.cancelled() => true,
        }
    }

    /// Why the attempt should end; `None` while it is wanted. `soft` is when its soft limit is.
    pub fn why_revoked(&self, soft: Option<Instant>) -> Option<Revocation> {
        if self.0.revoked.is_cancelled() {
            return Some(Revocation::Revoked);
        }
        if self.0.stopping.is_cancelled() {
            return Some(Revocation::Stopping);
        }
        soft.is_some_and(|soft| Instant::now() >= soft).then_some(Revocation::OutOfTime)
    }

    /// Takes a report; the last one counts.
    pub fn report(&self, progress: Progress) {
        let mut reported = self.0.progress.lock().unwrap_or_else(PoisonError::into_inner);
        *reported = Reported { last: Some(progress), news: true };
    }

    /// The last report.
    pub fn progress(&self) -> Option<Progress> {
        self.0.progress.lock().unwrap_or_else(PoisonError::into_inner).last.clone()
    }

    /// The last report, if it was not given out by this before.
    pub fn news(&self) -> Option<Progress> {
        let mut reported = self.0.progress.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut reported.news).then(|| reported.last.clone()).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_revoked_is_told_the_reason_that_matters_most() {
        let stopping = CancellationToken::new();
        let cancellation = Cancellation::until(stopping.clone());
        assert_eq!(cancellation.why_revoked(None), None);
        let past = Some(Instant::now());
        assert_eq!(cancellation.why_revoked(past), Some(Revocation::OutOfTime));
        stopping.cancel();
        assert_eq!(cancellation.why_revoked(past), Some(Revocation::Stopping));
        cancellation.revoke();
        assert_eq!(cancellation.why_revoked(None), Some(Revocation::Revoked));
    }

    #[test]
    fn each_report_is_news_once_and_the_last_one_stays() {
        let cancellation = Cancellation::default();
        assert_eq!((cancellation.news(), cancellation.progress()), (None, None));
        for percent in [10, 20] {
            cancellation.report(Progress { percent, message: String::new() });
        }
        assert_eq!(cancellation.news().map(|it| it.percent), Some(20));
        assert_eq!(cancellation.news(), None);
        assert_eq!(cancellation.progress().map(|it| it.percent), Some(20));
    }
}
