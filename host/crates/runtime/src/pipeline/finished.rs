//! The end of a job, told when its message is settled.
//!
//! A job whose settlement fails may be put back, come again and end once more, and a settlement that is
//! refused may change how the job ended. So its end is logged and counted when it is certain, and once.

use std::sync::Arc;

use tracing::Span;

use lovage_core::{
    events::{DeadLettered, JobFinished},
    outcome::{Failure, Status},
    usage::Usage,
};

/// What is to be told of a job that has ended.
#[derive(Debug, Clone)]
pub struct Finished {
    pub(super) span: Span,
    pub(super) queue: Arc<str>,
    /// Empty where no guest ran.
    pub(super) task: String,
    pub(super) status: Status,
    pub(super) failure: Option<Failure>,
    pub(super) usage: Option<Usage>,
    pub(super) dead_letter: Option<Letter>,
}

/// A dead letter that a job ended with.
#[derive(Debug, Clone)]
pub(super) struct Letter {
    /// Where it goes; `None` where dead letters are discarded.
    pub to: Option<Arc<str>>,
}

impl Finished {
    /// Logs and counts the end of the job.
    pub fn tell(&self) {
        let Self { span, queue, task, status, failure, usage, dead_letter } = self;
        span.in_scope(|| {
            let failure = failure.as_ref();
            JobFinished {
                queue,
                task,
                status: *status,
                failure: failure.map(|it| (it.kind.as_str(), it.message.as_str())),
                usage: *usage,
            }
            .emit();
            if let Some(Letter { to }) = dead_letter {
                let reason = failure.map_or("", |failure| &failure.message);
                DeadLettered { queue, to: to.as_deref(), reason }.emit();
            }
        });
    }

    /// The job has failed, since what follows from it cannot be sent.
    pub(super) fn fails(&mut self, failure: Failure, dead_letter: Letter) {
        self.status = Status::Failed;
        self.failure = Some(failure);
        self.dead_letter = Some(dead_letter);
    }
}
