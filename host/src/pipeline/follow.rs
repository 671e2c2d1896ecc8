//! From the jobs that a guest asked for to messages on their way.

use super::Pipeline;
use crate::{
    broker::{BrokerError, Fault, Message, Send},
    follow_on::FollowOn,
    job::Job,
    message::Format,
    outcome::Failure,
    publish,
    routes::Source,
};

/// Why follow-on jobs cannot be sent.
pub(super) enum Unsent {
    /// Not now; the job is to be run again later.
    Now(BrokerError),
    /// Never, and so the job has failed.
    For(Failure),
}

impl Pipeline {
    /// The messages for the jobs that a job leads to.
    pub(super) async fn follow_ons(
        &self,
        source: &Source,
        message: &Message,
        job: &Job,
        follow_ons: &[FollowOn],
    ) -> Result<Vec<Send>, Unsent> {
        let mut sends = Vec::with_capacity(follow_ons.len());
        for follow_on in follow_ons {
            let settings = self.config.tasks.get(&follow_on.task);
            let named = settings.and_then(|task| task.queue.as_ref());
            let to = match named.or(self.config.defaults.queue.as_ref()) {
                None => source.queue.clone(),
                Some(name) => self.routes.queue(name).await.map_err(|error| {
                    if error.fault != Fault::NotFound {
                        return Unsent::Now(error);
                    }
                    let why = format!("the queue for the task `{}`: {error}", follow_on.task);
                    Unsent::For(Failure::new("dispatch", why))
                })?,
            };
            let format = match named.or(self.config.defaults.queue.as_ref()) {
                None => source.defaults.format,
                Some(name) => self.config.queue(name).map(|queue| queue.format).unwrap_or_default(),
            };
            let sent = if format == Format::Celery {
                let task = self.celery_call(source, job, follow_on).map_err(Unsent::For)?;
                let limit = self.message_bytes;
                publish::celery_task(&task, job, message, &to, follow_on.delay, limit)
            } else {
                publish::follow_on(job, follow_on, message, &to, self.message_bytes)
            };
            sends.push(sent.map_err(|bytes| {
                let limit = self.message_bytes;
                Unsent::For(Failure::new(
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
}
