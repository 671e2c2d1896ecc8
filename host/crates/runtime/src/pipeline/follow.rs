//! From the jobs that a guest asked for to messages on their way.

use std::time::Duration;

use super::Pipeline;
use crate::{message::DecodedJob, publish, routes::Source};
use lovage_core::{
    broker::{BrokerError, Message, Send, SendKind},
    follow_on::{Budget, FollowOn},
    format::Format,
    outcome::Failure,
};

/// How long to wait before a queue that did not take a message is tried again, for a start.
const AGAIN: Duration = Duration::from_millis(100);

/// Why what follows from a job cannot be sent.
#[derive(Debug)]
pub(super) enum Unsent {
    /// Not now; the job is to be run again later.
    Transient(BrokerError),
    /// Never, and so the job has failed.
    Permanent(Failure),
}

impl Pipeline {
    /// The messages for the jobs that a job leads to.
    pub(super) async fn follow_ons(
        &self,
        source: &Source,
        message: &Message,
        job: &DecodedJob,
        follow_ons: &[FollowOn],
        budget: Budget,
    ) -> Result<Vec<Send>, Unsent> {
        let mut sends = Vec::with_capacity(follow_ons.len());
        let children = follow_ons.len();
        let bytes = follow_ons.iter().map(FollowOn::bytes).sum();
        let left = budget.less(children as u64, bytes).unwrap_or_default();
        for (number, follow_on) in follow_ons.iter().enumerate() {
            let part = left.part(number, children);
            let settings = self.config.tasks.get(&follow_on.task);
            let named = settings.and_then(|task| task.queue.as_ref());
            let to = match named.or(self.config.defaults.queue.as_ref()) {
                None => source.queue.clone(),
                Some(name) => self.routes.queue(name).await.map_err(|error| {
                    if !error.is_refusal() {
                        return Unsent::Transient(error);
                    }
                    let why = format!("the queue for the task `{}`: {error}", follow_on.task);
                    Unsent::Permanent(Failure::new("dispatch", why))
                })?,
            };
            let format = match named.or(self.config.defaults.queue.as_ref()) {
                None => source.defaults.format,
                Some(name) => self.config.queue(name).map(|queue| queue.format).unwrap_or_default(),
            };
            let sent = if format == Format::Celery {
                let task = self.celery_call(source, job, follow_on).map_err(Unsent::Permanent)?;
                let limit = self.message_bytes;
                publish::celery_task(&task, job, part, message, &to, follow_on.delay, limit)
            } else {
                publish::follow_on(job, follow_on, part, message, &to, self.message_bytes)
            };
            let sent = sent.map(|send| Send { kind: SendKind::FollowOn, ..send });
            sends.push(sent.map_err(|bytes| {
                let limit = self.message_bytes;
                Unsent::Permanent(Failure::new(
                    "dispatch_too_large",
                    format!(
                        "a job for the task `{}` makes a message of {bytes} bytes, and queues \
                         take {limit}; send a reference to where the data is, or less of it",
                        follow_on.task
                    ),
                ))
            })?);
        }
        Ok(sends)
    }

    /// Sends a message now rather than with the job's settlement. What may pass is tried as often as
    /// publishing is.
    pub(super) async fn send_now(&self, send: &Send) -> Result<(), Unsent> {
        let most = self.config.worker.publish_attempts.get();
        let mut wait = AGAIN;
        for tries in 1.. {
            match self.routes.send(send).await {
                Ok(()) => break,
                Err(error) if error.is_final() || (error.is_refusal() && tries >= most) => {
                    return Err(Unsent::Permanent(Failure::new("dispatch", error.to_string())));
                }
                Err(error) if tries >= most => return Err(Unsent::Transient(error)),
                Err(_) => tokio::time::sleep(wait).await,
            }
            wait = wait.saturating_mul(2);
        }
        Ok(())
    }
}
