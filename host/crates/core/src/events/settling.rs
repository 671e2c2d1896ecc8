//! Events of publishing and settling that keep a worker from going on.

use std::time::Duration;

use metrics::counter;
use tracing::{debug, error, info, warn};

use super::{Chain, ms};
use crate::broker::BrokerError;

/// A settlement that has failed for long failed once more. It is an error in the log now and then
/// ([`SettleFailed`](super::SettleFailed)); in between it is counted.
pub struct SettleFailedAgain<'a> {
    /// The queue's name.
    pub queue: &'a str,
    /// Why.
    pub error: &'a BrokerError,
    /// How often it was tried.
    pub tries: u32,
}

impl SettleFailedAgain<'_> {
    /// Logs and counts.
    pub fn emit(self) {
        debug!(
            queue = self.queue,
            error = %Chain(self.error),
            tries = self.tries,
            "settling a message failed again"
        );
        counter!("lovage_settle_failures_total", "queue" => self.queue.to_owned()).increment(1);
    }
}

/// A queue takes no results now; no jobs are taken whose results go there.
pub struct PublishingBlocked<'a> {
    /// The queue that takes none.
    pub to: &'a str,
    /// Why.
    pub error: &'a BrokerError,
    /// How many results are held for it.
    pub held: usize,
    /// For how long it has been so.
    pub for_how_long: Duration,
}

impl PublishingBlocked<'_> {
    /// Logs and counts.
    pub fn emit(self) {
        error!(
            to = self.to,
            error = %Chain(self.error),
            held = self.held,
            for_ms = ms(self.for_how_long),
            "results cannot be published: they are held, and no more jobs are taken for this queue"
        );
        if self.for_how_long.is_zero() {
            counter!("lovage_publishing_blocked_total", "queue" => self.to.to_owned()).increment(1);
        }
    }
}

/// A queue takes results again, or none are held for it any more.
pub struct PublishingResumed<'a> {
    /// The queue.
    pub to: &'a str,
    /// How long it took none.
    pub after: Duration,
}

impl PublishingResumed<'_> {
    /// Logs and counts.
    pub fn emit(self) {
        info!(
            to = self.to,
            after_ms = ms(self.after),
            "no results are held any more: jobs are taken again"
        );
        counter!("lovage_publishing_resumed_total", "queue" => self.to.to_owned()).increment(1);
    }
}

/// A message came again whose job has run here, and whose result was kept: its guest is not run.
pub struct ResultKept<'a> {
    /// The queue's name.
    pub queue: &'a str,
}

impl ResultKept<'_> {
    /// Logs and counts.
    pub fn emit(self) {
        info!(
            queue = self.queue,
            "the job has run, and its result was kept: it is settled without another run"
        );
        counter!("lovage_kept_results_used_total", "queue" => self.queue.to_owned()).increment(1);
    }
}

/// What follows from a job is refused for good: the job has failed.
pub struct NextStepRefused<'a> {
    /// The queue that the job came from.
    pub queue: &'a str,
    /// Why.
    pub reason: &'a str,
}

impl NextStepRefused<'_> {
    /// Logs and counts.
    pub fn emit(self) {
        warn!(
            queue = self.queue,
            reason = self.reason,
            "what follows from a job cannot be sent: the job has failed"
        );
        counter!("lovage_next_steps_refused_total", "queue" => self.queue.to_owned()).increment(1);
    }
}

/// A long-lived task of the worker panicked; the worker drains and ends with an error.
pub struct TaskPanicked<'a> {
    /// The task.
    pub task: &'a str,
    /// The panic's message.
    pub reason: &'a str,
}

impl TaskPanicked<'_> {
    /// Logs and counts.
    pub fn emit(self) {
        error!(
            task = self.task,
            reason = self.reason,
            "a bug in the host ended a task that the worker needs: the worker drains and ends"
        );
        counter!("lovage_host_panics_total", "queue" => "").increment(1);
    }
}
