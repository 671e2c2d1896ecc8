//! What it takes to run a job: the component that serves its task, what its tenant may run, settings.

use std::sync::Arc;

use jiff::Timestamp;

use super::Pipeline;
use crate::{
    message::DecodedJob,
    settings::{Advice, Settings},
};
use lovage_core::{
    outcome::{Failure, Outcome},
    text::one_line,
};
use lovage_registry::Task;

/// The header by which a job asks for a version of its component: its digest, `sha256:…`.
pub const VERSION_HEADER: &str = "lovage-version";

/// The kind of the failure of a job whose task no component serves.
pub(super) const UNKNOWN_TASK: &str = "unknown_task";

/// A job with all that it takes to run it.
pub(super) struct Ready {
    pub task: Arc<Task>,
    pub settings: Settings,
}

impl Pipeline {
    /// All that it takes to run a job, or why it cannot be run.
    pub(super) async fn ready(&self, job: &DecodedJob, now: Timestamp) -> Result<Ready, Outcome> {
        if job.is_expired(now) {
            return Err(Outcome::Expired);
        }
        self.admit(job).map_err(Outcome::Rejected)?;
        let task = self.registry.choose(&job.task, &job.id).ok_or_else(|| {
            let hint = self
                .registry
                .nearest(&job.task)
                .map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
            let name = one_line(&job.task, 200);
            let message = format!("no component serves the task `{name}`{hint}");
            Outcome::Rejected(Failure::new(UNKNOWN_TASK, message))
        })?;
        let task = match self.wanted_version(job) {
            Some(digest) => self.registry.pinned(&job.task, digest).await.ok_or_else(|| {
                let digest = one_line(digest, 100);
                Outcome::Rejected(Failure::new(
                    "unknown_version",
                    format!(
                        "the version {digest} is not one of those that this worker may serve; \
                         `lovage tasks versions` shows them"
                    ),
                ))
            })?,
            None => task,
        };
        let advice = Advice::from(&task.spec);
        let mut settings = Settings::of_task(&self.config, &job.task, advice);
        if job.celery.is_some() && self.store.is_some() && !self.sets_output_bytes(&job.task) {
            // The default is what a queue takes. A result store takes more.
            let most = self.config.celery.max_body_bytes.get();
            let most = usize::try_from(most).unwrap_or(usize::MAX);
            settings.limits.output_bytes = settings.limits.output_bytes.max(most);
        }
        let settings = settings.for_tenant(&self.config, &job.tenant).for_job(job);
        Ok(Ready { task, settings })
    }

    /// Returns true if the configuration bounds the output of a task.
    fn sets_output_bytes(&self, task: &str) -> bool {
        let own = self.config.tasks.get(task).and_then(|task| task.limits().output_bytes);
        own.or(self.config.defaults.limits().output_bytes).is_some()
    }

    /// The version that a job asks for, where jobs may.
    fn wanted_version<'a>(&self, job: &'a DecodedJob) -> Option<&'a str> {
        if !self.config.components.pins {
            return None;
        }
        let header = job.headers.iter().find(|(name, _)| name == VERSION_HEADER);
        header.map(|(_, digest)| digest.as_str())
    }

    /// Returns true if the job's tenant may run the job's task.
    fn admit(&self, job: &DecodedJob) -> Result<(), Failure> {
        if self.config.tenants.is_empty() || job.tenant.is_empty() {
            return Ok(());
        }
        let Some(tenant) = self.config.tenants.get(&job.tenant) else {
            return Err(Failure::new(
                "unknown_tenant",
                format!("tenant `{}` is not in the configuration", one_line(&job.tenant, 200)),
            ));
        };
        if tenant.tasks.as_ref().is_none_or(|tasks| tasks.contains(&job.task)) {
            return Ok(());
        }
        Err(Failure::new(
            "task_not_allowed",
            format!(
                "tenant `{}` may not run the task `{}`; tenants.NAME.tasks allows it",
                one_line(&job.tenant, 200),
                one_line(&job.task, 200)
            ),
        ))
    }
}
