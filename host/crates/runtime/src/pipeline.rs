//! The way of one message, from its bytes to what becomes of it: decode, look up, run, decide.
//!
//! The worker and the Lambda function share it. It does not touch the broker but to find queues:
//! leases, deletes and retries of publishing are for whoever holds the message.

// Over 500 lines: the way of one message, step by step.

mod attempt;
mod celery;
mod fallback;
mod finished;
mod follow;
mod kept;
mod leave;
mod mapped;
mod ready;
mod services;
pub mod slot;
mod usage_guard;
mod watch;

use std::{
    sync::{Arc, atomic::AtomicUsize},
    time::{Duration, Instant},
};

use self::{
    celery::{CeleryEnd, Trouble},
    finished::Letter,
    follow::Unsent,
    kept::{Kept, KeptResults, Key},
    leave::LeftToOthers,
    ready::UNKNOWN_TASK,
};
pub use self::{finished::Finished, ready::VERSION_HEADER};
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span, field::Empty, info_span};

use crate::{
    abort_report::AbortReport,
    message::{DecodedJob, NOT_CELERY, decode},
    publish,
    publish_gate::PublishGate,
    routes::{Routes, Source},
    settings::{Advice, Settings},
    tenancy::Tenancy,
};
use lovage_celery::Plan;
use lovage_config::{Config, UnknownTasks};
use lovage_core::{
    broker::{Broker, BrokerError, Disposal, Fault, KeptResult, Message, Queue, SendKind},
    dependency::Dependency,
    events::{JobReleased, ReplyRefused, ResultKept},
    follow_on::{Budget, FollowOn},
    group_id,
    job::Job,
    outcome::{Decision, Failure, Outcome, Status, decide},
    result::JobResult,
    text::one_line,
    usage::{Totals, Usage},
};
use lovage_policy::Policies;
use lovage_registry::Registry;
use lovage_sandbox::{Sandbox, health::Health};
use lovage_services::store::{self, Guarded, ResultStore};

/// For how long one delivery of SQS can be hidden, and so how far apart the deliveries are of a
/// message that waits on a FIFO queue.
const LONGEST_HIDING: Duration = Duration::from_hours(12);

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
    gate: PublishGate,
    kept: KeptResults,
    store_health: Option<Arc<Dependency>>,
    /// How many jobs have ended, and wait without a slot for a store to be back.
    held_results: Arc<AtomicUsize>,
    health: Health,
    #[cfg(feature = "isolation")]
    isolation: Option<crate::isolation::Isolation>,
    stopping: CancellationToken,
    left: LeftToOthers,
}

/// A message that was decoded, or what is wrong with it.
#[derive(Debug)]
pub struct Decoded {
    job: DecodedJob,
    verdict: Result<(), Outcome>,
    /// The task's id of a message of Celery's that could not be read: somebody may ask for its state.
    refused: Option<String>,
}

impl Decoded {
    fn of(source: &Source, message: &Message) -> Self {
        match decode(message, &source.defaults) {
            Ok(job) => Self { job, verdict: Ok(()), refused: None },
            Err(malformed) => {
                let mut job = Job::new(malformed.id, malformed.task, "");
                job.tenant = malformed.tenant;
                job.reply_to = malformed.reply_to;
                job.attempt = message.attempt;
                let failure = Failure::new(malformed.kind, one_line(&malformed.reason, 1024));
                let refused = malformed.celery;
                let job = DecodedJob::from(job);
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

/// How an attempt ended.
#[derive(Debug)]
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

impl Ended {
    /// How many bytes it holds, about.
    fn bytes(&self) -> usize {
        let output = match &self.outcome {
            Outcome::Done(output) => output.data.len(),
            Outcome::Retry { failure, .. }
            | Outcome::Failed(failure)
            | Outcome::Rejected(failure)
            | Outcome::TimedOut(failure)
            | Outcome::Crashed(failure) => {
                failure.message.len() + failure.detail.as_ref().map_or(0, String::len)
            }
            _ => 0,
        };
        output + self.follow_ons.iter().map(|it| 512 + it.payload.len()).sum::<usize>()
    }
}

/// A job that has ended, of which it cannot be told now what follows.
struct PutBack {
    /// The kind of the failure that the log names.
    kind: &'static str,
    error: BrokerError,
}

/// When a caller has to end, and what comes of an attempt that it cuts short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// When attempts are stopped.
    pub at: Instant,
    /// True if the message had to wait for a place to run. An attempt that then has less time
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
    /// To be told when that is done.
    pub finished: Option<Box<Finished>>,
    /// The message goes back for something that is not its job's affair: a queue or a store that is
    /// away.
    pub troubled: bool,
    /// What can be told of it: the result, or why there is none yet (`None` where nothing went
    /// wrong: the guest asked for another time).
    pub told: Result<JobResult, Option<Failure>>,
}

impl Concluded {
    /// The message goes back.
    pub fn released(after: Duration, spent: bool, why: Option<Failure>) -> Self {
        let disposal = Disposal::Release { after, spent };
        Self { disposal, finished: None, troubled: false, told: Err(why) }
    }
}

/// What is known of a guest that ran.
#[derive(Debug)]
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
        let store = store::open(&config).ok().flatten().map(Guarded::new);
        let (store, store_health) = match store {
            Some((store, health)) => (Some(store as Arc<dyn ResultStore>), Some(health)),
            None => (None, None),
        };
        Self {
            store_health,
            held_results: Arc::default(),
            health: Health::of(&config, &sandbox),
            #[cfg(feature = "isolation")]
            isolation: crate::isolation::Isolation::new(&config, &sandbox),
            policies: Policies::new(&*config),
            tenancy: Tenancy::new(&config),
            totals: Arc::new(Totals::new(config.tenants.keys().cloned())),
            config,
            registry,
            sandbox,
            routes,
            message_bytes: limits.message_bytes,
            keeps_results: limits.keeps_results,
            counts_waits: limits.counts_waits,
            broker,
            store,
            gate: PublishGate::default(),
            kept: KeptResults::default(),
            stopping: CancellationToken::new(),
            left: LeftToOthers::default(),
        }
    }

    /// The pipeline of a worker that tells its guests to end when `stopping` is cancelled.
    #[must_use]
    pub fn until(mut self, stopping: CancellationToken) -> Self {
        self.stopping = stopping;
        self
    }

    /// The pipeline with another result store than the one that the configuration names.
    #[must_use]
    pub fn with_result_store(mut self, store: Arc<dyn ResultStore>) -> Self {
        let (store, health) = Guarded::new(store);
        self.store = Some(store);
        self.store_health = Some(health);
        self
    }

    /// The health of the host that attempts run on.
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// What attempts have cost so far.
    pub fn totals(&self) -> Arc<Totals> {
        Arc::clone(&self.totals)
    }

    /// Runs one message to what becomes of it. Never fails: whatever is wrong is an outcome.
    ///
    /// `end` is when the caller has to end, where it has to: an attempt that needs longer times
    /// out. Dropping the future gives the attempt up.
    pub async fn process(&self, source: &Source, message: &Message, end: Option<End>) -> Concluded {
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
    ) -> Concluded {
        self.run(source, message, decoded, end, Way::Queue).await
    }

    /// Which queues results cannot be published to now.
    pub fn publish_gate(&self) -> &PublishGate {
        &self.gate
    }

    /// Keeps what is left to be done with a message whose lease is lost: its next delivery here is
    /// settled with it, and its guest is not run again.
    pub fn keep(
        &self,
        source: &Source,
        message: &Message,
        disposal: Disposal,
        finished: Option<Box<Finished>>,
    ) {
        let decoded = self.decode(source, message);
        let key = Key::of(&source.queue.address, message);
        self.kept.keep(key, &decoded.job.tenant, Kept::Settlement(disposal, finished));
    }

    /// Keeps what a job came to whose lease is lost before it was settled.
    pub fn keep_unsettled(&self, source: &Source, message: &Message, concluded: Concluded) {
        let Concluded { disposal, finished, .. } = concluded;
        if matches!(disposal, Disposal::Finish { .. }) {
            self.keep(source, message, disposal, finished);
        }
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

    /// What was kept of a message whose job has run here. It is not run again because its end could not
    /// be told.
    fn kept_of(&self, source: &Source, message: &Message, way: Way) -> Option<Kept> {
        if way == Way::Invocation {
            return None;
        }
        let kept = self.kept.take(|| Key::of(&source.queue.address, message))?;
        ResultKept { queue: &source.name }.emit();
        Some(kept)
    }

    #[allow(clippy::too_many_lines, reason = "the way of one message, step by step")]
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
            job.job_mut().attempt = without_waits(&job, message);
        }
        let ended_before = match span.in_scope(|| self.kept_of(source, message, way)) {
            Some(Kept::Settlement(disposal, finished)) => {
                return Concluded { disposal, finished, troubled: false, told: Err(None) };
            }
            Some(Kept::Ended(ended, attempt)) => {
                job.job_mut().attempt = attempt;
                Some(ended)
            }
            None => None,
        };
        // Boxed, since the future would otherwise be held twice in the one below.
        let conclude = Box::pin(async {
            let now = Timestamp::now();
            if decoded.is_ok() && way == Way::Invocation {
                decoded = check_invocation(&job, message, now).map_err(Outcome::Rejected);
            }
            let expired = job.is_expired(now);
            if let (Ok(()), Some(mut wait), None) = (&decoded, job.due_in(now), &ended_before)
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
            let (mut reply, refusal) = match self.reply(source, &job).await {
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
            // Before the guest runs: one whose result has nowhere to go would run for nothing.
            let results =
                match self.own_results(&job, reply.is_some() && job.celery.is_none()).await {
                    Ok(results) => results,
                    Err(error) => return self.put_back(source, "results", &error),
                };
            let blocked = results.as_ref().is_some_and(|it| self.gate.is_blocked(&it.address));
            if blocked && ended_before.is_none() {
                let why = "other results are held for it, and it takes none now";
                let error = BrokerError::new(Fault::Unavailable, why);
                return self.put_back(source, "results", &error);
            }
            let ended = match (ended_before, decoded.and(refusal)) {
                (Some(ended), _) => *ended,
                (None, Ok(())) => self.attempt(source, message, &job, now, end).await,
                (None, Err(outcome)) => self.unrun(&job, outcome),
            };
            let ended = match &ended.outcome {
                Outcome::Rejected(it) if way == Way::Queue => {
                    let is_unknown = it.kind == UNKNOWN_TASK;
                    let unbounded = self.leaves()
                        && (it.kind == NOT_CELERY || (is_unknown && job.celery.is_some()));
                    let left = (is_unknown || unbounded)
                        .then(|| self.leave(source, message, &job, unbounded));
                    match left.flatten() {
                        Some(left) => self.unrun(&job, left),
                        None => ended,
                    }
                }
                _ => ended,
            };
            if let (Some(id), Outcome::Rejected(failure)) = (&refused, &ended.outcome) {
                let to = reply.take();
                let told = self.celery_refused(&job, id, failure, message, to.as_ref()).await;
                if let Err(trouble) = told {
                    return self.troubled(source, trouble);
                }
            }
            let mut unconcluded =
                Unconcluded { pipeline: self, source, message, job: &job, way, ended };
            let ended = &unconcluded.ended;
            match self.conclude(source, message, &job, reply, results, ended, way).await {
                Ok(concluded) => {
                    unconcluded.ended.run = None;
                    concluded
                }
                Err(PutBack { kind, error }) => self.put_back(source, kind, &error),
            }
        });
        async {
            let abort_report = AbortReport::new(&source.name);
            let concluded = conclude.await;
            abort_report.ended();
            concluded
        }
        .instrument(span)
        .await
    }

    /// The queue for results that the task's settings name, where they do and the sender names none. It
    /// was found at the start, unless this is a function, or the task came later.
    async fn own_results(
        &self,
        job: &DecodedJob,
        replies: bool,
    ) -> Result<Option<Queue>, BrokerError> {
        let own = self.config.tasks.get(&job.task).and_then(|task| task.results.as_deref());
        match own.or(self.config.defaults.results.as_deref()) {
            Some(name) if !replies => self.routes.queue(name).await.map(Some),
            _ => Ok(None),
        }
    }

    /// The queue that the sender wants the result on.
    async fn reply(&self, source: &Source, job: &DecodedJob) -> Result<Option<Queue>, BrokerError> {
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

    /// Returns true if what nobody here can do with a queue of Celery's is left to other workers.
    fn leaves(&self) -> bool {
        self.config.celery.unknown_tasks == UnknownTasks::Leave
    }

    /// The end of a delivery of which it cannot be told what follows.
    fn troubled(&self, source: &Source, trouble: Trouble) -> Concluded {
        match trouble {
            Trouble::Transient(error) => self.put_back(source, "result_backend", &error),
            Trouble::Permanent(failure) => self.put_back(
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
        let why = Some(Failure::new(kind, error.to_string()));
        Concluded { troubled: true, ..Concluded::released(after, false, why) }
    }

    /// An end without a guest having been run.
    fn unrun(&self, job: &DecodedJob, outcome: Outcome) -> Ended {
        let settings = Settings::of_task(&self.config, &job.task, Advice::default()).for_job(job);
        Ended { outcome, settings, run: None, follow_ons: Vec::new(), celery: Plan::default() }
    }

    /// What follows from an outcome, by [`decide`]'s table. `results` is the queue for results that the
    /// task's settings name.
    #[expect(clippy::too_many_arguments, reason = "each is one thing that is known of the job")]
    #[allow(clippy::too_many_lines, reason = "the table's rows, one after the other")]
    async fn conclude(
        &self,
        source: &Source,
        message: &Message,
        job: &DecodedJob,
        reply: Option<Queue>,
        results: Option<Queue>,
        ended: &Ended,
        way: Way,
    ) -> Result<Concluded, PutBack> {
        let Ended { outcome, settings, run, follow_ons, celery } = ended;
        let mut outcome = outcome.clone();
        let asks_again = matches!(outcome, Outcome::Retry { .. });
        let mut refused = false;
        // What the guest asked for and what its workflow leads to share the budget.
        let tree = Budget::of(job, settings.limits.tree());
        let shares = 1 + usize::from(job.celery.is_some() && !follow_ons.is_empty());
        let budget = tree.part(shares - 1, shares);
        let prepared = self.prepare(source, message, job, follow_ons, tree.part(0, shares));
        let follow_ons = match prepared.await {
            Ok(sends) => sends,
            Err(Unsent::Permanent(failure)) => {
                outcome = Outcome::Failed(failure);
                refused = true;
                Vec::new()
            }
            Err(Unsent::Transient(error)) => return Err(PutBack { kind: "dispatch", error }),
        };
        let troubled = |error| PutBack { kind: "result_backend", error };
        let decision = decide(outcome, job.attempt, settings.max_attempts, &settings.backoff);
        let exhausted = asks_again && matches!(decision, Decision::Finish { .. });
        let end = CeleryEnd { source, message, job, settings, exhausted, budget };
        let (mut status, mut value, mut dead_letter) = match decision {
            Decision::Release { after, spent, reason } => {
                let again = reason.as_ref().filter(|_| asks_again).map(|it| (after, it));
                match self.celery_again(&end, again, celery).await {
                    Ok(sends) => {
                        let failure =
                            reason.as_ref().map(|it| (it.kind.as_str(), it.message.as_str()));
                        JobReleased { queue: &source.name, after, spent, failure }.emit();
                        let disposal = sends.map_or(Disposal::Release { after, spent }, |sends| {
                            Disposal::Finish { result: None, sends }
                        });
                        let (finished, told) = (None, Err(reason));
                        return Ok(Concluded { disposal, finished, troubled: false, told });
                    }
                    // Its retry cannot be sent.
                    Err(Trouble::Permanent(failure)) => (Status::Failed, Err(failure), true),
                    Err(Trouble::Transient(error)) => return Err(troubled(error)),
                }
            }
            Decision::Finish { status, value, dead_letter } => (status, value, dead_letter),
        };
        let was_done = status == Status::Done;
        let nexts = self.celery_end(&end, &mut status, &mut value, reply.as_ref(), celery).await;
        let nexts = match nexts {
            Ok(nexts) => nexts,
            Err(Trouble::Transient(error)) => return Err(troubled(error)),
            // Not for what has failed already.
            Err(Trouble::Permanent(failure)) => {
                return Err(troubled(BrokerError::new(Fault::Invalid, failure.message)));
            }
        };
        // What cannot be carried on with is for a person to look at.
        dead_letter |= refused || (was_done && status != Status::Done);
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
        // A client of Celery's has its own form of the result on its reply queue. The results queue
        // gets the result as well: others read that one.
        let answers = reply.filter(|_| job.celery.is_none());
        let kind = if answers.is_some() { SendKind::Reply } else { SendKind::Result };
        if let Some(to) = answers.or(results).as_ref().or(source.results.as_ref()) {
            let format = settings.result_format.unwrap_or(source.result_format);
            let bytes = self.message_bytes;
            let mut send = publish::result(&result, kept.as_ref(), message, to, format, bytes);
            send.kind = kind;
            sends.push(send);
        }
        let mut letter = None;
        if dead_letter {
            let to = source.dead_letters.as_ref();
            // Who invokes a function is told, so nothing is lost where no queue is set.
            if to.is_some() || way == Way::Queue {
                letter = Some(Letter { to: to.map(|to| Arc::clone(&to.name)) });
            }
            sends.extend(to.map(|to| {
                publish::dead_letter(message, &source.queue, to, &result, self.message_bytes)
            }));
        }
        sends.extend(follow_ons);
        sends.extend(nexts);
        let finished = Some(Box::new(Finished {
            span: Span::current(),
            queue: Arc::clone(&source.name),
            task: if run.is_some() { job.task.clone() } else { String::new() },
            status,
            failure: result.value.as_ref().err().cloned(),
            usage: run.as_ref().map(|run| run.usage),
            dead_letter: letter,
        }));
        let kept = kept.map(|envelope| KeptResult {
            tenant: result.tenant.clone(),
            job_id: result.id.clone(),
            envelope,
        });
        let disposal = Disposal::Finish { result: kept, sends };
        Ok(Concluded { disposal, finished, troubled: false, told: Ok(result) })
    }

    /// The messages for the jobs that a job leads to. Those of a task of Celery's are sent at once: its
    /// state says that it succeeded before its settlement sends anything.
    async fn prepare(
        &self,
        source: &Source,
        message: &Message,
        job: &DecodedJob,
        follow_ons: &[FollowOn],
        budget: Budget,
    ) -> Result<Vec<lovage_core::broker::Send>, Unsent> {
        let sends = self.follow_ons(source, message, job, follow_ons, budget).await?;
        if job.celery.is_none() {
            return Ok(sends);
        }
        for send in &sends {
            self.send_now(send).await?;
        }
        Ok(Vec::new())
    }
}

/// What a job came to of which it has yet to be told what follows. Where that cannot be, or nobody waits
/// for it any more, since the lease is lost, it is kept for the next delivery.
struct Unconcluded<'a> {
    pipeline: &'a Pipeline,
    source: &'a Source,
    message: &'a Message,
    job: &'a DecodedJob,
    way: Way,
    ended: Ended,
}

impl Drop for Unconcluded<'_> {
    fn drop(&mut self) {
        let Self { pipeline, source, message, job, way, ended } = self;
        // A job that no guest ran for costs nothing to be looked at once more.
        if *way != Way::Queue || ended.run.is_none() {
            return;
        }
        let ended = Ended {
            outcome: std::mem::replace(&mut ended.outcome, Outcome::Abandoned),
            settings: ended.settings.clone(),
            run: ended.run.take(),
            follow_ons: std::mem::take(&mut ended.follow_ons),
            celery: std::mem::take(&mut ended.celery),
        };
        let key = Key::of(&source.queue.address, message);
        pipeline.kept.keep(key, &job.tenant, Kept::Ended(Box::new(ended), job.attempt));
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
        && !group_id::is_of_tenant(tenant, &job.tenant)
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
    use lovage_core::broker::Receipt;

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
