//! A job together with what only its wire format says of it.

use std::{ops::Deref, sync::Arc};

use lovage_celery::Request;
use lovage_core::job::{Job, JobKey};

/// A job as its message describes it. It reads as a [`Job`]; the domain's own type knows no wire
/// format, so what only Celery's clients say stands beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodedJob {
    /// The job. An attempt shares it.
    pub job: Arc<Job>,
    /// The request of a client of Celery's; `None` in other formats.
    pub celery: Option<Arc<Request>>,
}

impl DecodedJob {
    /// The job, to be changed.
    pub fn job_mut(&mut self) -> &mut Job {
        Arc::make_mut(&mut self.job)
    }

    /// The name under which its state is kept in Celery's result store: there it is the task's own
    /// id.
    pub fn store_key(&self) -> JobKey<'_> {
        let id = self.celery.as_ref().map_or(&self.job.id, |request| &request.id);
        JobKey::new(&self.job.tenant, id)
    }
}

impl Deref for DecodedJob {
    type Target = Job;

    fn deref(&self) -> &Job {
        &self.job
    }
}

impl From<Job> for DecodedJob {
    fn from(job: Job) -> Self {
        Self { job: Arc::new(job), celery: None }
    }
}
