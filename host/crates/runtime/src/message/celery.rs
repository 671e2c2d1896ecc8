//! Celery's format: a task message as its clients send it to SQS, of protocol 2 or 1.
//!
//! The payload is made of the arguments when the job's task is known, since its schema has a say in
//! it: until then a job has none.

use std::mem::take;

use super::{Defaults, check_name};
use lovage_celery::{Ids, Request, builtins::Mapped, names};
use lovage_core::{broker::Message, job::Job};

/// What is wrong with a message.
pub(crate) struct Wrong {
    /// The failure's kind.
    pub kind: &'static str,
    /// What is wrong.
    pub reason: String,
    /// The task's id as its client knows it.
    pub task_id: Option<String>,
}

/// The job's id for a task's. Celery takes any text; one that is too long for an id here, or holds
/// control characters, is replaced by a UUID that is made of it. The result store keeps the task's own.
fn job_id(task_id: &str) -> String {
    if check_name("id", task_id).is_ok() {
        return task_id.to_owned();
    }
    Ids::of(format!("task id {task_id}")).next_id()
}

/// Fills a job from a message of Celery's. On an error the job holds what could be read before it.
pub(crate) fn decode(
    job: &mut Job,
    message: &Message,
    defaults: &Defaults,
) -> Result<Request, Wrong> {
    let request =
        match Request::parse(&message.body, defaults.celery_body_bytes.max(message.body.len())) {
            Ok(request) => request,
            Err(refused) => {
                job.id = refused.id.as_deref().map_or_else(|| take(&mut job.id), job_id);
                if let Some(task) = refused.task {
                    names::task(&task, &defaults.celery_tasks).clone_into(&mut job.task);
                }
                job.reply_to = refused.reply_to.filter(|_| !refused.ignore_result);
                let kind = refused.refusal.kind();
                let task_id = refused.id.filter(|_| kind != super::NOT_CELERY);
                return Err(Wrong { kind, reason: refused.reason, task_id });
            }
        };
    job.id = job_id(&request.id);
    // A map runs another task, once for each item.
    let mapped = match Mapped::task_of(&request) {
        None => None,
        Some(Ok(task)) => Some(task),
        Some(Err(reason)) => {
            let task_id = Some(request.id);
            return Err(Wrong { kind: super::INVALID, reason, task_id });
        }
    };
    let task = mapped.as_deref().unwrap_or(&request.task);
    names::task(task, &defaults.celery_tasks).clone_into(&mut job.task);
    // Deliveries that came to no end count on top of what Celery counts.
    job.attempt = message.attempt.saturating_add(request.retries);
    job.eta = request.eta;
    job.expires = request.expires_at(message.sent_at);
    job.timeout = request.time_limit;
    job.soft_timeout = request.soft_time_limit;
    job.reply_to.clone_from(&request.reply_to);
    let root = request.root_id.as_deref().filter(|root| *root != request.id);
    job.root_id = root.map(job_id);
    job.parent_id = request.parent_id.as_deref().map(job_id);
    for (name, value) in request.custom_headers() {
        // Text as it is, and what else there is as JSON.
        let text = value.as_string().unwrap_or_else(|| value.text().to_owned());
        job.headers.push((name.to_ascii_lowercase(), text));
    }
    job.payload = "".into();
    Ok(request)
}
