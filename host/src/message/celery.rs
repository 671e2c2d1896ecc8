//! Celery's format: a task message as its clients send it to SQS, of protocol 2 or 1.
//!
//! The payload is made of the arguments when the job's task is known, since its schema has a say in
//! it: until then a job has none.

use std::{mem::take, sync::Arc};

use super::Defaults;
use crate::{
    broker::Message,
    celery::{Request, names},
    job::Job,
};

/// Fills a job from a message of Celery's. On an error the job holds what could be read before it;
/// the error is a failure's kind, and the reason.
pub(crate) fn decode(
    job: &mut Job,
    message: &Message,
    defaults: &Defaults,
) -> Result<(), (&'static str, String)> {
    let request =
        match Request::parse(&message.body, defaults.celery_body_bytes.max(message.body.len())) {
            Ok(request) => request,
            Err(refused) => {
                job.id = refused.id.unwrap_or_else(|| take(&mut job.id));
                if let Some(task) = refused.task {
                    names::task(&task, &defaults.celery_tasks).clone_into(&mut job.task);
                }
                job.reply_to = refused.reply_to.filter(|_| !refused.ignore_result);
                return Err((refused.refusal.kind(), refused.reason));
            }
        };
    job.id.clone_from(&request.id);
    names::task(&request.task, &defaults.celery_tasks).clone_into(&mut job.task);
    // Deliveries that came to no end count on top of what Celery counts.
    job.attempt = message.attempt.saturating_add(request.retries);
    job.eta = request.eta;
    job.expires = request.expires_at(message.sent_at);
    job.timeout = request.time_limit;
    job.soft_timeout = request.soft_time_limit;
    job.reply_to.clone_from(&request.reply_to);
    job.root_id = request.root_id.clone().filter(|root| *root != request.id);
    job.parent_id.clone_from(&request.parent_id);
    for (name, value) in request.custom_headers() {
        // Text as it is, and what else there is as JSON.
        let text = value.as_string().unwrap_or_else(|| value.text().to_owned());
        job.headers.push((name.to_ascii_lowercase(), text));
    }
    job.payload = "".into();
    job.celery = Some(Arc::new(request));
    Ok(())
}
