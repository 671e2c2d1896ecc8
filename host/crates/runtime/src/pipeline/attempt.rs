//! One attempt at a job: what comes before its guest runs, and what is made of how that ended.

use std::{num::NonZeroU32, sync::Arc};

use jiff::Timestamp;
use tracing::Span;

use super::{
    End, Ended, Pipeline, Run, celery, mapped::Calls, ready::Ready, usage_guard::UsageGuard,
};
use crate::{message::DecodedJob, routes::Source};
use lovage_celery::Plan;
use lovage_core::{
    broker::Message,
    cancellation::{Cancellation, Progress},
    events::{AttemptEnded, AttemptStarted},
    outcome::{Failure, Outcome},
};
use lovage_sandbox::{self as sandbox, CUT_SHORT, LoadedComponent, Meter, Report};

/// How many deliveries beyond its attempts a message gets before it is given up unrun.
///
/// SQS counts deliveries that never ran, such as those given back at a shutdown, so a count over
/// the maximum is no proof of attempts. A count far over it is the mark of a message that takes
/// its worker down.
const GRACE_DELIVERIES: u32 = 10;

/// The same for each attempt on a FIFO queue, where a message is delivered, and counted, each time
/// that one before it in its group is tried: up to nine come before it in a batch of ten.
const GRACE_DELIVERIES_BEHIND: u32 = 10;

/// The same where workers leave messages to each other: about how often one is left in its first
/// minutes. After that it is less than once a minute.
const GRACE_DELIVERIES_LEFT: u32 = 20;

impl Pipeline {
    /// Finds the job's component and runs it, or says why that cannot be.
    pub(super) async fn attempt(
        &self,
        source: &Source,
        message: &Message,
        job: &DecodedJob,
        now: Timestamp,
        end: Option<End>,
    ) -> Ended {
        if let Some(after) = self.held_up(job, None) {
            return self.unrun(job, Outcome::Snooze { after });
        }
        if let Some(request) = &job.celery
            && request.task.starts_with("celery.")
            && !job.is_expired(now)
            && let Err(failure) = self.check_tree(job, request)
        {
            return self.unrun(job, Outcome::Failed(failure));
        }
        if let Some(request) = &job.celery
            && let Some(ended) = self.end_built_in(source, job, request, now).await
        {
            return ended;
        }
        let Ready { task, settings } = match self.ready(job, now).await {
            Ok(ready) => ready,
            Err(outcome) => return self.unrun(job, outcome),
        };
        let mut job = job.clone();
        let mut mapped = None;
        if job.celery.is_some() {
            self.left.take_turn(&source.name);
        }
        if let Some(request) = job.celery.clone() {
            let fit = self.check_workflow(&request);
            let fit = fit.and_then(|()| self.check_tree(&job, &request));
            match fit.and_then(|()| self.calls(&task, &request)) {
                Ok(Calls::One(payload)) => job.job_mut().payload = payload,
                Ok(Calls::Each(items)) => mapped = Some(items),
                Err(failure) if failure.kind == celery::NO_RESULT_BACKEND => {
                    return self.unrun(&job, Outcome::Rejected(failure));
                }
                Err(failure) => return self.unrun(&job, Outcome::Failed(failure)),
            }
        }
        let behind = if source.queue.fifo { GRACE_DELIVERIES_BEHIND } else { 0 };
        let grace = settings.max_attempts.saturating_mul(behind).saturating_add(GRACE_DELIVERIES);
        // A message that others left is delivered again and again before it comes here.
        let grace = if self.may_leave(source) {
            let sent = message.sent_at.map(|sent| now.duration_since(sent).as_secs());
            let minutes = u32::try_from(sent.unwrap_or_default() / 60).unwrap_or_default();
            grace.saturating_add(GRACE_DELIVERIES_LEFT).saturating_add(minutes)
        } else {
            grace
        };
        if job.attempt > settings.max_attempts.saturating_add(grace) {
            let failure = Failure::new(
                "attempts_exhausted",
                format!(
                    "delivered {} times without coming to an end, with at most {} attempts; its \
                     workers may have crashed",
                    job.attempt, settings.max_attempts
                ),
            );
            let outcome = Outcome::Crashed(failure);
            let follow_ons = Vec::new();
            return Ended { outcome, settings, run: None, follow_ons, celery: Plan::default() };
        }
        if self.is_revoked(&job).await {
            return self.unrun(&job, Outcome::Revoked);
        }
        let ready = Ready { task, settings };
        match mapped {
            None => self.run_call(source, job, ready, now, end).await,
            Some(items) => self.run_each(source, &job, ready, items, now, end).await,
        }
    }

    /// Runs the job's guest once.
    pub(super) async fn run_call(
        &self,
        source: &Source,
        job: DecodedJob,
        Ready { task, settings }: Ready,
        now: Timestamp,
        end: Option<End>,
    ) -> Ended {
        let grants = self.policies.of(&job.task, &job.tenant);
        if let Some(after) = self.held_up(&job, Some(&grants)) {
            return self.unrun(&job, Outcome::Snooze { after });
        }
        let outages = self.bucket_outages(&grants);
        let digest = task.component.source.digest.clone();
        Span::current().record("component", &digest);
        AttemptStarted { queue: &source.name }.emit();
        let deadline = end.map(|end| end.at);
        let cancellation = Cancellation::until(self.stopping.clone());
        let tenant = self.config.tenants.get(&job.tenant);
        let plan = sandbox::Plan {
            limits: settings.limits,
            max_attempts: settings.max_attempts,
            deadline,
            grants: Arc::clone(&grants),
            cancellation: cancellation.clone(),
            tenant_weight: tenant.and_then(|it| it.weight).map_or(1, NonZeroU32::get),
            log_guests: self.config.log.guests,
            check_payload: settings.check_payload,
            given_config: None,
        };
        let meter = Arc::default();
        let usage_guard = UsageGuard::new(self, &job, Arc::clone(&meter));
        let running = self.health.begin(deadline).await;
        let mut report = tokio::select! {
            biased;
            report = self.run_guest(&task.component, &job, &plan, meter) => report,
            never = self.watch(&source.name, &job, &cancellation) => match never {},
        };
        drop(running);
        usage_guard.reported();
        if let Outcome::HostFault(failure) = report.outcome {
            report.outcome = self.health.judge(failure).await;
        }
        self.tenancy.charge(&job.tenant, report.usage.cpu);
        let fared_well = matches!(report.outcome, Outcome::Done(_) | Outcome::Snooze { .. });
        if !fared_well {
            self.buckets_settled(&grants).await;
        }
        // Its buckets were away while it ran: that it failed is not its fault.
        let bereft = !fared_well && self.bucket_outages(&grants) != outages;
        // Nor does what the host could not carry out say anything of a version.
        if !bereft && !matches!(report.outcome, Outcome::HostFault(_)) {
            self.registry.record(&task, !fared_well, report.usage.wall, job.attempt);
        }
        self.totals.add(&job.task, &job.tenant, report.usage);
        AttemptEnded {
            queue: &source.name,
            task: &job.task,
            outcome: report.outcome.as_str(),
            usage: report.usage,
        }
        .emit();
        let run = Run { started_at: now, component: digest, usage: report.usage };
        let cut_short = matches!(&report.outcome, Outcome::TimedOut(it) if it.kind == CUT_SHORT);
        let too_late = cut_short && end.is_some_and(|end| end.late);
        let outcome = if too_late || (bereft && !cancellation.is_revoked()) {
            Outcome::Abandoned
        } else if cancellation.is_revoked() && !matches!(report.outcome, Outcome::Done(_)) {
            Outcome::Revoked
        } else {
            told_how_far(report.outcome, &cancellation)
        };
        let follow_ons = report.follow_ons;
        Ended { outcome, settings, run: Some(run), follow_ons, celery: Plan::default() }
    }

    /// Makes the attempt: in this process, or in one of its own.
    async fn run_guest(
        &self,
        component: &Arc<LoadedComponent>,
        job: &DecodedJob,
        plan: &sandbox::Plan,
        meter: Arc<Meter>,
    ) -> Report {
        #[cfg(feature = "isolation")]
        if let Some(isolation) = self.isolation.as_ref().filter(|it| it.applies(job)) {
            let (sandbox, config, meter) = (&self.sandbox, &*self.config, &*meter);
            let isolated = crate::isolation::Isolated {
                sandbox,
                component,
                job: &job.job,
                plan,
                config,
                meter,
            };
            return isolation.run(isolated).await;
        }
        self.sandbox.run_metered(component, Arc::clone(&job.job), plan, meter).await
    }

    /// Returns true if somebody has revoked a job. Who cannot be asked is no reason not to run it.
    pub(super) async fn is_revoked(&self, job: &DecodedJob) -> bool {
        if self.keeps_results && self.broker.is_revoked(job.key()).await.unwrap_or(false) {
            return true;
        }
        match &self.store {
            Some(store) => store.is_revoked(job.store_key()).await.unwrap_or(false),
            None => false,
        }
    }
}

/// Adds how far it was to the failure of an attempt that did not get to its end.
fn told_how_far(outcome: Outcome, cancellation: &Cancellation) -> Outcome {
    let told = |mut failure: Failure| {
        if let Some(Progress { percent, message }) = cancellation.progress() {
            let detail = failure.detail.take().unwrap_or_default();
            let space = if message.is_empty() { "" } else { " " };
            failure.detail = Some(format!("progress: {percent}%{space}{message}\n{detail}"));
        }
        failure
    };
    match outcome {
        Outcome::TimedOut(failure) => Outcome::TimedOut(told(failure)),
        Outcome::Crashed(failure) => Outcome::Crashed(told(failure)),
        other => other,
    }
}
