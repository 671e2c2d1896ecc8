//! Another way for what is refused for good, by the kind of the send that was refused.
//!
//! | refused | what is done instead |
//! | --- | --- |
//! | result, for what it is | the failure that says so, to the same queue; then a dead letter |
//! | result, by a queue that its sender named | the queue for results that name none; without one, a dead letter |
//! | result, by the operator's own queue | nothing: it waits until the operator has mended that |
//! | follow-on job, task of Celery's | the job has failed: its result says so, and it is a dead letter |
//! | state for a client of Celery's | a failure that says so; then none, and a dead letter where no store has it |
//! | dead letter | the same without its reason; then it waits |

use jiff::Timestamp;

use super::{Finished, Pipeline, finished::Letter};
use crate::{
    message::{DecodedJob, decode},
    publish,
    routes::{self, Source},
    settings::{Advice, Settings},
};
use lovage_celery::Exception;
use lovage_core::{
    broker::{BrokerError, Disposal, Fault, KeptResult, Message, Send, SendKind, attribute},
    events::{NextStepRefused, ReplyRefused},
    job::Job,
    outcome::{Failure, Status},
    result::JobResult,
    text::one_line,
};

/// How long the reason of a failure may be, in bytes.
const REASON_BYTES: usize = 1024;

/// A settlement of which one send was refused.
struct Refused<'a> {
    source: &'a Source,
    message: &'a Message,
    /// The job, as far as it can be read.
    job: DecodedJob,
    error: &'a BrokerError,
    /// What else is to be sent.
    rest: Vec<Send>,
    result: Option<KeptResult>,
}

impl Refused<'_> {
    fn finish(self) -> Disposal {
        Disposal::Finish { result: self.result, sends: self.rest }
    }

    /// Adds the dead letter, where there is none yet. It says why the job has failed.
    fn give_up(&mut self, failure: &Failure, limit: usize) -> Letter {
        let to = self.source.dead_letters.as_ref();
        if let Some(letters) = to
            && !self.rest.iter().any(|send| send.kind == SendKind::DeadLetter)
        {
            let lost = JobResult {
                id: self.job.id.clone(),
                task: self.job.task.clone(),
                tenant: self.job.tenant.clone(),
                status: Status::Failed,
                value: Err(failure.clone()),
                attempt: self.message.attempt,
                queued_at: self.message.sent_at,
                started_at: None,
                finished_at: Timestamp::now(),
                component: None,
                usage: None,
            };
            let from = &self.source.queue;
            self.rest.push(publish::dead_letter(self.message, from, letters, &lost, limit));
        }
        Letter { to: to.map(|to| to.name.clone()) }
    }
}

impl Pipeline {
    /// What is done in place of `disposal`, where its send at `at` was refused and trying again will
    /// not help; `None` where nothing is better than to wait.
    pub async fn instead(
        &self,
        source: &Source,
        message: &Message,
        disposal: &Disposal,
        at: usize,
        error: &BrokerError,
        finished: &mut Option<Box<Finished>>,
    ) -> Option<Disposal> {
        let Disposal::Finish { result, sends } = disposal else { return None };
        let mut rest = sends.clone();
        if at >= rest.len() {
            return None;
        }
        let send = rest.remove(at);
        let job = decode(message, &source.defaults).unwrap_or_else(|malformed| {
            let mut job = Job::new(malformed.id, malformed.task, "");
            job.tenant = malformed.tenant;
            job.reply_to = malformed.reply_to;
            DecodedJob::from(job)
        });
        let mut refused = Refused { source, message, job, error, rest, result: result.clone() };
        match send.kind {
            SendKind::Result | SendKind::Reply => self.other_result(refused, send, finished).await,
            SendKind::FollowOn | SendKind::CeleryTask => {
                let failure = self.fail(&mut refused, &send).await?;
                let letter = refused.give_up(&failure, self.message_bytes);
                NextStepRefused { queue: &source.name, reason: &failure.message }.emit();
                if let Some(finished) = finished {
                    finished.fails(failure, letter);
                }
                Some(refused.finish())
            }
            SendKind::CeleryState => Some(self.other_state(refused, &send, finished)),
            SendKind::DeadLetter => {
                let mut letter = send;
                if !matches!(error.fault, Fault::Invalid | Fault::TooLarge) {
                    return None;
                }
                // The message itself has to get through whole, or not at all.
                letter.message.attributes.remove(attribute::DEAD_LETTER)?;
                refused.rest.insert(0, letter);
                Some(refused.finish())
            }
            SendKind::Copy => None,
        }
    }

    /// Another result, or another place for it.
    async fn other_result(
        &self,
        mut refused: Refused<'_>,
        send: Send,
        finished: &mut Option<Box<Finished>>,
    ) -> Option<Disposal> {
        let Refused { source, message, error, .. } = refused;
        if matches!(error.fault, Fault::Invalid | Fault::TooLarge) {
            if let Some(failure) = publish::refused(&send, error) {
                refused.rest.insert(0, failure);
                return Some(refused.finish());
            }
            // Not even that: the message with its reason is what there is to keep.
            if source.dead_letters.is_some() {
                let why = format!("the result cannot be published: {error}");
                let failure = Failure::new("result_refused", one_line(&why, REASON_BYTES));
                let letter = refused.give_up(&failure, self.message_bytes);
                if let Some(finished) = finished {
                    finished.fails(failure, letter);
                }
                return Some(refused.finish());
            }
        }
        if send.kind != SendKind::Reply {
            return None;
        }
        let reply_to = refused.job.reply_to.as_ref()?;
        self.routes.forget(reply_to).await;
        ReplyRefused { queue: &source.name, error }.emit();
        let settings = Settings::of_task(&self.config, &refused.job.task, Advice::default());
        let results = match &settings.results {
            Some(name) => Some(self.routes.queue(name).await.ok()?),
            None => source.results.clone(),
        };
        if let Some(results) = results {
            let Job { id, tenant, .. } = &*refused.job;
            let redirected = publish::redirected(&send, message, id, tenant, &results);
            refused.rest.insert(0, redirected);
        } else {
            let failure = Failure::new("reply_to", error.to_string());
            refused.give_up(&failure, self.message_bytes);
        }
        Some(refused.finish())
    }

    /// The job has failed, since what follows from it is refused.
    async fn fail(&self, refused: &mut Refused<'_>, send: &Send) -> Option<Failure> {
        let error = refused.error;
        let kind = match error.fault {
            Fault::TooLarge => "dispatch_too_large",
            _ => "dispatch",
        };
        let what = match send.message.attributes.get(attribute::TASK) {
            Some(task) => format!("the job for the task `{}`", one_line(task, 200)),
            None => "the task that comes next".to_owned(),
        };
        let why = format!("{what} cannot be sent: {error}");
        let failure = Failure::new(kind, one_line(&why, REASON_BYTES));
        if send.kind == SendKind::FollowOn {
            // Follow-on jobs are sent only with a success.
            refused.rest.retain(|send| send.kind != SendKind::FollowOn);
        } else {
            let state = refused.rest.iter().find(|send| send.kind == SendKind::CeleryState);
            let reply = state.map(|state| routes::at(&state.to));
            let Refused { source, message, job, .. } = refused;
            let more = self.celery_unsendable(source, message, job, send, reply.as_ref(), &failure);
            let more = more.await.ok()?;
            refused.rest.splice(0..0, more);
        }
        let exception = Exception::of_failure(&failure.kind, &failure.message);
        let Refused { message, job, rest, .. } = refused;
        for send in rest.iter_mut().filter(|send| {
            send.kind == SendKind::CeleryState
                && send.message.attributes.get(publish::CORRELATION_ID) == Some(&job.id)
        }) {
            if let Some(failed) = Self::celery_failed_state(job, message, send, &exception) {
                *send = failed;
            }
        }
        for send in &mut refused.rest {
            if matches!(send.kind, SendKind::Result | SendKind::Reply)
                && let Some(failed) = publish::failed(send, &failure)
            {
                *send = failed;
            }
        }
        if let Some(result) = &mut refused.result
            && let Some(envelope) = publish::failed_envelope(&result.envelope, &failure)
        {
            result.envelope = envelope;
        }
        Some(failure)
    }

    /// Another state for a client of Celery's, or none: who asked for it has left, or may not have it.
    fn other_state(
        &self,
        mut refused: Refused<'_>,
        send: &Send,
        finished: &mut Option<Box<Finished>>,
    ) -> Disposal {
        let Refused { source, error, .. } = refused;
        let Refused { job, message, .. } = &refused;
        if let Some(failure) = Self::celery_state_refused(job, message, send, error) {
            refused.rest.insert(0, failure);
            return refused.finish();
        }
        ReplyRefused { queue: &source.name, error }.emit();
        // Where a store has the state, and where the queue is gone with its client, nothing is lost.
        if self.store.is_none() && error.fault != Fault::NotFound {
            let why = format!("the state cannot be sent to the client: {error}");
            let failure = Failure::new("reply_to", one_line(&why, REASON_BYTES));
            let letter = refused.give_up(&failure, self.message_bytes);
            if let Some(finished) = finished {
                finished.dead_letter = Some(letter);
            }
        }
        refused.finish()
    }
}
