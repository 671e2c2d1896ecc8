//! Another way for what cannot be published and will not be by trying again.

use jiff::Timestamp;

use super::Pipeline;
use crate::{
    broker::{Disposal, Fault, Message, attribute},
    events::ReplyRefused,
    message::decode,
    outcome::{Failure, Status},
    publish,
    result::JobResult,
    routes::Source,
    settings::{Advice, Settings},
};

impl Pipeline {
    /// What is done instead, where what follows from a job cannot be published and trying again
    /// will not help; `None` where nothing is better than to put the message back.
    ///
    /// A result that is refused for what it is becomes the failure that says so. One that was to
    /// go to a reply queue that is gone, or not ours to send to, goes where results go that name
    /// none: whoever asked for it there has left, or never could have it. Where results go nowhere,
    /// the message becomes a dead letter.
    pub async fn instead(
        &self,
        source: &Source,
        message: &Message,
        disposal: &Disposal,
    ) -> Option<Disposal> {
        let Disposal::Finish { result, sends } = disposal else { return None };
        let (first, rest) = sends.split_first()?;
        // A dead letter is the message itself, whole or not at all.
        if first.message.attributes.contains_key(attribute::DEAD_LETTER) {
            return None;
        }
        let job = decode(message, &source.defaults);
        let (id, tenant, task, reply_to) = match &job {
            Ok(job) => (&job.id, &job.tenant, &job.task, &job.reply_to),
            Err(malformed) => {
                (&malformed.id, &malformed.tenant, &malformed.task, &malformed.reply_to)
            }
        };
        // By itself: several queues are involved, and the error does not tell which it was.
        let mut sends = rest.to_vec();
        let Err(error) = self.routes.send(first).await else {
            return Some(Disposal::Finish { result: result.clone(), sends });
        };
        if matches!(error.fault, Fault::Unavailable | Fault::Stale) {
            return None;
        }
        let shrinks = matches!(error.fault, Fault::Invalid | Fault::TooLarge);
        if shrinks && let Some(refused) = publish::refused(first, &error) {
            sends.insert(0, refused);
            return Some(Disposal::Finish { result: result.clone(), sends });
        }
        // What is left is a reply queue that is gone or not ours to send to.
        let reply_to = reply_to.as_ref()?;
        let settings = Settings::of_task(&self.config, task, Advice::default());
        let results = match &settings.results {
            Some(name) => Some(self.routes.queue(name).await.ok()?),
            None => source.results.clone(),
        };
        let letters = source.dead_letters.as_ref();
        if results.iter().chain(letters).any(|own| own.address == first.to) {
            return None;
        }
        self.routes.forget(reply_to).await;
        ReplyRefused { queue: &source.name, error: &error }.emit();
        if let Some(results) = results {
            sends.insert(0, publish::redirected(first, message, id, tenant, &results));
        } else if let (Some(letters), []) = (letters, rest) {
            let lost = JobResult {
                id: id.clone(),
                task: task.clone(),
                tenant: tenant.clone(),
                status: Status::Failed,
                value: Err(Failure::new("reply_to", error.to_string())),
                attempt: message.attempt,
                queued_at: message.sent_at,
                started_at: None,
                finished_at: Timestamp::now(),
                component: None,
                usage: None,
            };
            let limit = self.message_bytes;
            sends.push(publish::dead_letter(message, &source.queue, letters, &lost, limit));
        }
        Some(Disposal::Finish { result: result.clone(), sends })
    }
}
