//! The way of one message, from its bytes to what becomes of it: decode, look up, run, decide.
//!
//! The worker and the Lambda function share it. It does not touch the broker but to find queues:
//! leases, deletes and retries of publishing are for whoever holds the message.

mod celery;
mod follow;
mod recourse;
mod spent;
mod watch;

use std::{
    num::NonZeroU32,
    sync::Arc,
    time::{Duration, Instant},
};

use self::{
    celery::{CeleryEnd, Trouble},
    follow::Unsent,
    spent::UnlessReported,
};
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span, field::Empty, info_span};

use crate::{
    abandon::UnlessEnded,
    broker::{Broker, BrokerError, Disposal, Fault, KeptResult, Message, Queue},
    celery::Plan,
    config::{Config, UnknownTasks},
    events::{AttemptEnded, AttemptStarted, DeadLettered, JobFinished, JobReleased, ReplyRefused},
    follow_on::FollowOn,
    job::Job,
    message::{NOT_CELERY, decode},
    outcome::{Decision, Failure, Outcome, decide},
    policy::Policies,
    publish,
    registry::{Registry, Task},
    result::JobResult,
    routes::{Routes, Source},
    sandbox::{self, CUT_SHORT, Sandbox},
    settings::{Advice, Settings},
    store::{self, ResultStore},
    tenancy::Tenancy,
    text::one_line,
    usage::{Totals, Usage},
    wanted::{Progress, Wanted},
};

/// How many deliveries beyond its attempts a message gets before it is given up unrun.
///
/// SQS counts deliveries that never ran, such as those given back at a shutdown, so a count over
/// the maximum is no proof of attempts. A count far over it is the mark of a message that takes
/// its worker down.
const GRACE_DELIVERIES: u32 = 10;

/// The same for each attempt on a FIFO queue, where a message is delivered, and counted, each time
/// that one before it in its group is tried: up to nine come before it in a batch of ten.
const GRACE_DELIVERIES_BEHIND: u32 = 10;

/// For how long one delivery of SQS can be hidden, and so how far apart the deliveries are of a
/// message that waits on a FIFO queue.
const LONGEST_HIDING: Duration = Duration::from_hours(12);

/// The header by which a job asks for a version of its component: its digest, `sha256:…`.
pub const VERSION_HEADER: &str = "lovage-version";

/// The kind of the failure of a job whose task no component serves.
const UNKNOWN_TASK: &str = "unknown_task";

/// Runs messages to what becomes of them.
#[derive(Debug)]
pub struct Pipeline {
    config: Arc<Config>,
    registry: Arc<Registry>,
    sandbox: Sandbox,
    policies: Policies,
    totals: Arc<Totals>,
    routes: Arc<Routes>,
    message_bytes: usize,
    keeps_results: bool,
    counts_waits: bool,
    tenancy: Arc<Tenancy>,
    broker: Arc<dyn Broker>,
    store: Option<Arc<dyn ResultStore>>,
    stopping: CancellationToken,
}

/// A message that was decoded, or what is wrong with it.
#[derive(Debug)]
pub struct Decoded {
    job: Job,
    verdict: Result<(), Outcome>,
    /// Whether somebody may ask for the state of a job of Celery's that could not be read.
    refused: bool,
}

impl Decoded {
    fn of(source: &Source, message: &Message) -> Self {
        match decode(message, &source.defaults) {
            Ok(job) => Self { job, verdict: Ok(()), refused: false },
            Err(malformed) => {
                let mut job = Job::new(malformed.id, malformed.task, "");
                job.tenant = malformed.tenant;
                job.reply_to = malformed.reply_to;
                job.attempt = message.attempt;
                let failure = Failure::new(malformed.kind, one_line(&malformed.reason, 1024));
                let refused = malformed.celery;
                Self { job, verdict: Err(Outcome::Rejected(failure)), refused }
            }
        }
    }

    /// Whose quota and rate the job is bound by; nobody's (empty) where it will not run.
    pub fn tenant(&self) -> &str {
        let now = Timestamp::now();
        let runs =
            self.verdict.is_ok() && self.job.due_in(now).is_none() && !self.job.is_expired(now);
        if runs { &self.job.tenant } else { "" }
    }
}

/// A job with all that it takes to run it.
struct Ready {
    task: Arc<Task>,
    settings: Settings,
}

/// How an attempt ended.
struct Ended {
    outcome: Outcome,
    settings: Settings,
    /// `None` where no guest ran.
    run: Option<Run>,
    /// Jobs that it leads to.
    follow_ons: Vec<FollowOn>,
    /// What else it leads to, where it was a built-in task of Celery's.
    celery: Plan,
}

/// When a caller has to end, and what comes of an attempt that it cuts short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// When attempts are stopped.
    pub at: Instant,
    /// Whether the message had to wait for a place to run. An attempt that then has less time
    /// than its timeout is nobody's fault, and is not counted.
    pub late: bool,
}

/// How a message came, and so what can become of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// From a queue, where it can be put back.
    Queue,
    /// A function was invoked with it, and its caller is answered.
    Invocation,
}

/// What a message came to.
#[derive(Debug)]
pub struct Concluded {
    /// What becomes of it.
    pub disposal: Disposal,
    /// What can be told of it: the result, or why there is none yet (`None` where nothing went
    /// wrong: the guest asked for another time).
    pub told: Result<JobResult, Option<Failure>>,
}

impl Concluded {
    fn released(after: Duration, spent: bool, why: Option<Failure>) -> Self {
        Self { disposal: Disposal::Release { after, spent }, told: Err(why) }
    }
}

/// What is known of a guest that ran.
struct Run {
    started_at: Timestamp,
    component: String,
    usage: Usage,
}

impl Pipeline {
    /// A pipeline over what a process has loaded.
    pub fn new(
        config: Arc<Config>,
        registry: Arc<Registry>,
        sandbox: Sandbox,
        routes: Arc<Routes>,
        broker: Arc<dyn Broker>,
    ) -> Self {
        let limits = broker.limits();
        // That its URL is one was checked with the configuration.
        let store = store::open(&config.celery).ok().flatten();
        Self {
            policies: Policies::new(Arc::clone(&config)),
            tenancy: Tenancy::new(&config),
            totals: Arc::new(Totals::new(&config)),
            config,
            registry,
            sandbox,
            routes,
            message_bytes: limits.message_bytes,
            keeps_results: limits.keeps_results,
            counts_waits: limits.counts_waits,
            broker,
            store,
            stopping: CancellationToken::new(),
        }
    }

    /// The pipeline of a worker that tells its guests to end when `stopping` is cancelled.
    #[must_use]
    pub fn until(mut self, stopping: CancellationToken) -> Self {
        self.stopping = stopping;
        self
    }

    /// What attempts have cost so far.
    pub fn totals(&self) -> Arc<Totals> {
        Arc::clone(&self.totals)
    }

    /// Runs one message to what becomes of it. Never fails: whatever is wrong is an outcome.
    ///
    /// `end` is when the caller has to end, where it has to: an attempt that needs longer times
    /// out. Dropping the future gives the attempt up.
    pub async fn process(&self, source: &Source, message: &Message, end: Option<End>) -> Disposal {
        self.work(source, message, self.decode(source, message), end).await
    }

    /// Decodes a message: the first half of [`process`](Self::process), for a caller that wants to
    /// know whose it is.
    pub fn decode(&self, source: &Source, message: &Message) -> Decoded {
        Decoded::of(source, message)
    }

    /// The second half.
    pub async fn work(
        &self,
        source: &Source,
        message: &Message,
        decoded: Decoded,
        end: Option<End>,
    ) -> Disposal {
        self.run(source, message, decoded, end, Way::Queue).await.disposal
    }

    /// What tenants have of this process.
    pub fn tenancy(&self) -> &Arc<Tenancy> {
        &self.tenancy
    }

    /// Like [`process`](Self::process), for a message that a function was invoked with: there is
    /// nowhere to put it back to, its group is the tenant that the platform vouches for, and
    /// somebody may wait for the answer.
    pub async fn invoke(
        &self,
        source: &Source,
        message: &Message,
        deadline: Option<Instant>,
    ) -> Concluded {
        let end = deadline.map(|at| End { at, late: false });
        self.run(source, message, self.decode(source, message), end, Way::Invocation).await
    }

    async fn run(
        &self,
        source: &Source,
        message: &Message,
        Decoded { mut job, verdict: mut decoded, refused }: Decoded,
        end: Option<End>,
        way: Way,
    ) -> Concluded {
        let span = info_span!(
            "job",
            id = %one_line(&job.id, 200),
            task = %one_line(&job.task, 200),
            tenant = %one_line(&job.tenant, 200),
            attempt = job.attempt,
            component = Empty,
        );
        if self.counts_waits && source.queue.fifo {
            job.attempt = without_waits(&job, message);
        }
        // An attempt has its own hold on it.
        let job = Arc::new(job);
        // Boxed, since the future would otherwise be held twice in the one below.
        let conclude = Box::pin(async {
            let now = Timestamp::now();
            if decoded.is_ok() && way == Way::Invocation {
                decoded = check_invocation(&job, message, now).map_err(Outcome::Rejected);
            }
            let expired = job.is_expired(now);
            if let (Ok(()), Some(mut wait)) = (&decoded, job.due_in(now))
                && !expired
            {
                // Nobody is to wait for longer than it takes to know.
                if let Some(left) = job.expires_in(now) {
                    wait = wait.min(left);
                }
                JobReleased { queue: &source.name, after: wait, spent: false, failure: None }
                    .emit();
                return Concluded::released(wait, false, None);
            }
            let (reply, refusal) = match self.reply(source, &job).await {
                Ok(reply) => (reply, Ok(())),
                Err(error) if error.fault == Fault::Unavailable => {
                    return self.put_back(source, "reply_to", &error);
                }
                // Permissions are the operator's to mend, and who asked for a result in time has
                // left: neither is the job's fault. The result goes where others go.
                Err(error) if expired || error.fault == Fault::Denied => {
                    ReplyRefused { queue: &source.name, error: &error }.emit();
                    (None, Ok(()))
                }
                Err(error) => {
                    let failure = Failure::new("reply_to", error.to_string());
                    (None, Err(Outcome::Rejected(failure)))
                }
            };
            let ended = match decoded.and(refusal) {
                Ok(()) => self.attempt(source, &job, now, end).await,
                Err(Outcome::Rejected(it)) if it.kind == NOT_CELERY && self.leaves() => {
                    self.unrun(&job, Outcome::Snooze { after: celery::LEFT })
                }
                Err(outcome) => self.unrun(&job, outcome),
            };
            if let (true, Outcome::Rejected(failure)) = (refused, &ended.outcome)
                && let Err(trouble) = self.celery_refused(&job.id, failure).await
            {
                return self.troubled(source, trouble);
            }
            self.conclude(source, message, &job, reply, ended, way).await
        });
        async {
            let unless_ended = UnlessEnded::new(&source.name);
            let concluded = conclude.await;
            unless_ended.ended();
            concluded
        }
        .instrument(span)
        .await
    }

    /// The queue that the sender wants the result on.
    async fn reply(&self, source: &Source, job: &Job) -> Result<Option<Queue>, BrokerError> {
        match &job.reply_to {
            // Each client of Celery's names one, and few take results from it.
            Some(reply_to) if job.celery.is_some() => {
                if !source.allows_reply(reply_to) {
                    return Ok(None);
                }
                let mut found = self.routes.reply(source, reply_to).await;
                // Not every server of SQS may know a queue that was just made.
                if matches!(&found, Err(error) if error.fault == Fault::NotFound) {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    found = self.routes.reply(source, reply_to).await;
                }
                match found {
                    // It has left.
                    Err(error) if error.fault == Fault::NotFound => Ok(None),
                    found => found.map(Some),
                }
            }
            Some(reply_to) => self.routes.reply(source, reply_to).await.map(Some),
            None => Ok(None),
        }
    }

    /// Whether what nobody here can do with a queue of Celery's is left to other workers.
    fn leaves(&self) -> bool {
        self.config.celery.unknown_tasks == UnknownTasks::Leave
    }

    /// The end of a delivery of which it cannot be told what follows.
    fn troubled(&self, source: &Source, trouble: Trouble) -> Concluded {
        match trouble {
            Trouble::Now(error) => self.put_back(source, "result_backend", &error),
            Trouble::For(failure) => self.put_back(
                source,
                "result_backend",
                &BrokerError::new(Fault::Invalid, failure.message),
            ),
        }
    }

    /// The end of a delivery that found the broker in trouble. That is not the job's fault, and
    /// spends none of its attempts.
    fn put_back(&self, source: &Source, kind: &str, error: &BrokerError) -> Concluded {
        let cap = Duration::from_millis(self.config.worker.error_backoff_cap_ms.get());
        let after = (cap / 2).mul_f64(1.0 + fastrand::f64());
        let failure = Some((kind, error.message.as_str()));
        JobReleased { queue: &source.name, after, spent: false, failure }.emit();
        Concluded::released(after, false, Some(Failure::new(kind, error.to_string())))
    }

    /// An end without a guest having been run.
    fn unrun(&self, job: &Job, outcome: Outcome) -> Ended {
        let settings = Settings::of_task(&self.config, &job.task, Advice::default()).for_job(job);
        Ended { outcome, settings, run: None, follow_ons: Vec::new(), celery: Plan::default() }
    }

    /// Finds the job's component and runs it, or says why that cannot be.
    async fn attempt(
        &self,
        source: &Source,
        job: &Arc<Job>,
        now: Timestamp,
        end: Option<End>,
    ) -> Ended {
        if let Some(request) = &job.celery
            && let Some(ended) = self.end_built_in(source, job, request, now).await
        {
            return ended;
        }
        let Ready { task, settings } = match self.ready(job, now).await {
            Ok(ready) => ready,
            Err(Outcome::Rejected(failure))
                if failure.kind == UNKNOWN_TASK && job.celery.is_some() && self.leaves() =>
            {
                return self.unrun(job, Outcome::Snooze { after: celery::LEFT });
            }
            Err(outcome) => return self.unrun(job, outcome),
        };
        let mut job = Arc::clone(job);
        if let Some(request) = job.celery.clone() {
            match self.check_workflow(&request).and_then(|()| self.arguments(&task, &request)) {
                Ok(payload) => Arc::make_mut(&mut job).payload = payload,
                Err(failure) if failure.kind == celery::NO_RESULT_BACKEND => {
                    return self.unrun(&job, Outcome::Rejected(failure));
                }
                Err(failure) => return self.unrun(&job, Outcome::Failed(failure)),
            }
        }
        let behind = if source.queue.fifo { GRACE_DELIVERIES_BEHIND } else { 0 };
        let grace = settings.max_attempts.saturating_mul(behind).saturating_add(GRACE_DELIVERIES);
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
        if self.is_revoked(&job.id).await {
            return self.unrun(&job, Outcome::Revoked);
        }
        let digest = task.component.source.digest.clone();
        Span::current().record("component", &digest);
        AttemptStarted { queue: &source.name }.emit();
        let deadline = end.map(|end| end.at);
        let grants = self.policies.of(&job.task, &job.tenant);
        let wanted = Wanted::until(self.stopping.clone());
        let tenant = self.config.tenants.get(&job.tenant);
        let plan = sandbox::Plan {
            limits: settings.limits,
            max_attempts: settings.max_attempts,
            deadline,
            grants,
            wanted: wanted.clone(),
            tenant_weight: tenant.and_then(|it| it.weight).map_or(1, NonZeroU32::get),
            log_guests: self.config.log.guests,
            check_payload: settings.check_payload,
        };
        let meter = Arc::default();
        let unless_reported = UnlessReported::new(self, &job, Arc::clone(&meter));
        let report = tokio::select! {
            biased;
            report = self.sandbox.run_metered(&task.component, Arc::clone(&job), &plan, meter) => report,
            never = self.watch(&source.name, &job, &wanted) => match never {},
        };
        unless_reported.reported();
        self.tenancy.charge(&job.tenant, report.usage.cpu);
        let fared_well = matches!(report.outcome, Outcome::Done(_) | Outcome::Snooze { .. });
        self.registry.record(&task, !fared_well, report.usage.wall);
        AttemptEnded {
            queue: &source.name,
            task: &job.task,
            tenant: self.totals.add(&job.task, &job.tenant, report.usage),
            outcome: report.outcome.as_str(),
            usage: report.usage,
        }
        .emit();
        let run = Run { started_at: now, component: digest, usage: report.usage };
        let cut_short = matches!(&report.outcome, Outcome::TimedOut(it) if it.kind == CUT_SHORT);
        let outcome = if cut_short && end.is_some_and(|end| end.late) {
            Outcome::Abandoned
        } else if wanted.is_revoked() && !matches!(report.outcome, Outcome::Done(_)) {
            Outcome::Revoked
        } else {
            told_how_far(report.outcome, &wanted)
        };
        let follow_ons = report.follow_ons;
        Ended { outcome, settings, run: Some(run), follow_ons, celery: Plan::default() }
    }

    /// Whether somebody has revoked a job. Who cannot be asked is no reason not to run it.
    async fn is_revoked(&self, id: &str) -> bool {
        if self.keeps_results && self.broker.is_revoked(id).await.unwrap_or(false) {
            return true;
        }
        match &self.store {
            Some(store) => store.is_revoked(id).await.unwrap_or(false),
            None => false,
        }
    }

    async fn ready(&self, job: &Job, now: Timestamp) -> Result<Ready, Outcome> {
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
        let settings = Settings::of_task(&self.config, &job.task, advice)
            .for_tenant(&self.config, &job.tenant)
            .for_job(job);
        Ok(Ready { task, settings })
    }

    /// The version that a job asks for, where jobs may.
    fn wanted_version<'a>(&self, job: &'a Job) -> Option<&'a str> {
        if !self.config.components.pins {
            return None;
        }
        let header = job.headers.iter().find(|(name, _)| name == VERSION_HEADER);
        header.map(|(_, digest)| digest.as_str())
    }

    /// Whether the job's tenant may run the job's task.
    fn admit(&self, job: &Job) -> Result<(), Failure> {
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

    /// What follows from an outcome, by [`decide`]'s table.
    async fn conclude(
        &self,
        source: &Source,
        message: &Message,
        job: &Job,
        reply: Option<Queue>,
        ended: Ended,
        way: Way,
    ) -> Concluded {
        let Ended { mut outcome, settings, run, follow_ons, celery } = ended;
        let asks_again = matches!(outcome, Outcome::Retry { .. });
        let follow_ons = match self.follow_ons(source, message, job, &follow_ons).await {
            Ok(sends) => sends,
            Err(Unsent::For(failure)) => {
                outcome = Outcome::Failed(failure);
                Vec::new()
            }
            Err(Unsent::Now(error)) => return self.put_back(source, "dispatch", &error),
        };
        let decision = decide(outcome, job.attempt, settings.max_attempts, &settings.backoff);
        let (mut status, mut value, dead_letter) = match decision {
            Decision::Release { after, spent, reason } => {
                let failure = reason.as_ref().map(|it| (it.kind.as_str(), it.message.as_str()));
                JobReleased { queue: &source.name, after, spent, failure }.emit();
                let again = reason.as_ref().filter(|_| asks_again).map(|it| (after, it));
                let end = CeleryEnd { source, message, job, settings: &settings };
                return match self.celery_again(&end, again, celery).await {
                    Ok(Some(sends)) => Concluded {
                        disposal: Disposal::Finish { result: None, sends },
                        told: Err(reason),
                    },
                    Ok(None) => Concluded::released(after, spent, reason),
                    Err(trouble) => self.troubled(source, trouble),
                };
            }
            Decision::Finish { status, value, dead_letter } => (status, value, dead_letter),
        };
        let end = CeleryEnd { source, message, job, settings: &settings };
        let nexts =
            match self.celery_end(&end, &mut status, &mut value, reply.as_ref(), celery).await {
                Ok(nexts) => nexts,
                Err(trouble) => return self.troubled(source, trouble),
            };
        JobFinished {
            queue: &source.name,
            task: if run.is_some() { &job.task } else { "" },
            status,
            failure: value.as_ref().err().map(|it| (it.kind.as_str(), it.message.as_str())),
            usage: run.as_ref().map(|run| run.usage),
        }
        .emit();
        let result = JobResult {
            id: job.id.clone(),
            task: job.task.clone(),
            tenant: job.tenant.clone(),
            status,
            value,
            attempt: job.attempt,
            queued_at: message.sent_at,
            started_at: run.as_ref().map(|run| run.started_at),
            finished_at: Timestamp::now(),
            component: run.as_ref().map(|run| run.component.clone()),
            usage: run.as_ref().map(|run| run.usage),
        };
        let kept = self.keeps_results.then(|| result.envelope());
        let mut sends = Vec::with_capacity(2 + follow_ons.len());
        let to = match (&reply, &settings.results) {
            (Some(reply), _) => Some(reply.clone()),
            // It was found at the start, unless its task came later.
            (None, Some(name)) => match self.routes.queue(name).await {
                Ok(queue) => Some(queue),
                Err(error) => return self.put_back(source, "results", &error),
            },
            (None, None) => source.results.clone(),
        };
        if reply.is_some() && job.celery.is_some() {
            // It has what its client reads.
        } else if let Some(to) = to {
            let format = settings.result_format.unwrap_or(source.result_format);
            let bytes = self.message_bytes;
            sends.push(publish::result(&result, kept.as_ref(), message, &to, format, bytes));
        }
        if dead_letter {
            let reason = result.value.as_ref().err().map_or("", |failure| &failure.message);
            let to = source.dead_letters.as_ref();
            // Who invokes a function is told, so nothing is lost where no queue is set.
            if to.is_some() || way == Way::Queue {
                DeadLettered { queue: &source.name, to: to.map(|to| &*to.name), reason }.emit();
            }
            sends.extend(to.map(|to| {
                publish::dead_letter(message, &source.queue, to, &result, self.message_bytes)
            }));
        }
        sends.extend(follow_ons);
        sends.extend(nexts);
        let kept = kept.map(|envelope| KeptResult { job_id: result.id.clone(), envelope });
        Concluded { disposal: Disposal::Finish { result: kept, sends }, told: Ok(result) }
    }
}

/// Adds how far it was to the failure of an attempt that did not get to its end.
fn told_how_far(outcome: Outcome, wanted: &Wanted) -> Outcome {
    let told = |mut failure: Failure| {
        if let Some(Progress { percent, message }) = wanted.progress() {
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

/// The attempt that this is, without the deliveries that did nothing but wait for the job's eta.
fn without_waits(job: &Job, message: &Message) -> u32 {
    let (Some(eta), Some(sent)) = (job.eta, message.sent_at) else { return job.attempt };
    let waited = Duration::try_from(eta.duration_since(sent)).unwrap_or_default();
    let hops = waited.as_secs().div_ceil(LONGEST_HIDING.as_secs());
    job.attempt.saturating_sub(u32::try_from(hops).unwrap_or(u32::MAX)).max(1)
}

/// What holds for a job that a function is invoked with, beyond what holds for every job.
fn check_invocation(job: &Job, message: &Message, now: Timestamp) -> Result<(), Failure> {
    // The group is the tenant that this instance is set apart for, and no other's data may come in.
    if let Some(tenant) = &message.group
        && *tenant != job.tenant
    {
        return Err(Failure::new(
            "tenant_mismatch",
            format!(
                "the job is for tenant `{}`, and the function was invoked for another one",
                one_line(&job.tenant, 200)
            ),
        ));
    }
    if job.due_in(now).is_some() && !job.is_expired(now) {
        return Err(Failure::new(
            "not_due",
            "the job's `eta` is in the future, and a job that a function is invoked with runs at \
             once: send it to a queue, or leave `eta` out",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::broker::Receipt;

    #[test]
    fn waiting_for_an_eta_on_a_fifo_queue_is_no_attempt() {
        let sent = Timestamp::from_second(1_000_000).unwrap();
        let message = Message {
            id: "m".to_owned(),
            receipt: Receipt("r".into()),
            body: "".into(),
            attributes: BTreeMap::new(),
            group: Some("g".to_owned()),
            attempt: 8,
            sent_at: Some(sent),
            not_before: None,
            trace_header: None,
        };
        let mut job = Job::new("a", "echo", "1");
        job.attempt = message.attempt;
        assert_eq!(without_waits(&job, &message), 8);
        // Three days are six times twelve hours; the seventh delivery is the first attempt.
        job.eta = Some(sent + Duration::from_hours(72));
        assert_eq!(without_waits(&job, &message), 2);
        job.eta = Some(sent + Duration::from_hours(10_000));
        assert_eq!(without_waits(&job, &message), 1);
        job.eta = sent.checked_sub(Duration::from_secs(5)).ok();
        assert_eq!(without_waits(&job, &message), 8);
    }
}
