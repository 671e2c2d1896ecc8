//! What else follows from a job that a client of Celery's sent: its state in the result store, the
//! tasks that come after it, its part of a chord.
//!
//! The domain says what, as steps ([`lovage_celery::workflow`]); here they are carried out. States
//! are stored, and parts of chords counted, before anything is sent, and all of it before the
//! message is deleted: when a worker dies in between, the job runs once more, and what it leads to
//! has the same ids as before.

// Over 500 lines: what follows from a task of Celery's is one flow over shared state.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use jiff::Timestamp;

use super::{Ended, Pipeline, follow::Unsent, ready::UNKNOWN_TASK, slot};
use crate::{
    message::DecodedJob,
    publish,
    routes::{self, Source, matches_pattern},
    settings::{Advice, Settings},
};
use lovage_celery::{
    self as celery, Builtin, Exception, Json, Mapped, Meta, Plan, Request, Signature, State, Step,
    TaskMessage,
    builtins::{self, Unlocked},
    cost::Cost,
    meta,
    publish::{Ids, Parent, Publisher},
    workflow::{self, ChordPart, Storing},
};
use lovage_core::{
    broker::{BrokerError, Fault, Message, Queue, Send},
    cancellation::Progress,
    events::OtherTenantsKey,
    follow_on::{Budget, FollowOn},
    job::JobKey,
    media_type::{JSON, is_json},
    outcome::{Failure, Outcome, Output, Status},
};
use lovage_registry::Task;
use lovage_sandbox::INVALID_PAYLOAD;
use lovage_services::store::{Complete, Counted, Part, ResultStore, StoreError};

/// Who sends, as Celery's workers say of themselves.
const ORIGIN: &str = "lovage";

/// How long to wait before a chord is looked at again whose store did not answer.
const LEFT: Duration = Duration::from_secs(10);

/// The kind of the failure of a part of a chord where there is no store to count it in.
pub(super) const NO_RESULT_BACKEND: &str = "no_result_backend";

/// What a client of the `sqs` backend raises for a result that its queue has no room for: a class of
/// clients/python.
const RESULT_TOO_LARGE: &str = "lovage_celery.errors.ResultTooLarge";

/// The kind of a guest's word that its payload is not what it takes.
const REJECTED: &str = "rejected";

/// How long to wait before it is looked whether somebody has gone on with a chord.
const BUSY: Duration = Duration::from_millis(500);

/// How long to wait before a store that did not answer is asked again, for a start.
const AGAIN: Duration = Duration::from_millis(100);

/// The longest such wait.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A job that is at its end, or at that of an attempt.
pub(super) struct CeleryEnd<'a> {
    pub(super) source: &'a Source,
    pub(super) message: &'a Message,
    pub(super) job: &'a DecodedJob,
    pub(super) settings: &'a Settings,
    /// True if the guest asked for another attempt and there is none left.
    pub(super) exhausted: bool,
    /// What may follow from it that its workflow does not say.
    pub(super) budget: Budget,
}

/// Why it cannot be told what follows.
#[derive(Debug)]
pub(super) enum Trouble {
    /// Not now: the message is put back.
    Transient(BrokerError),
    /// Never, and so the job has failed.
    Permanent(Failure),
}

impl From<Unsent> for Trouble {
    fn from(unsent: Unsent) -> Self {
        match unsent {
            Unsent::Transient(error) => Self::Transient(error),
            Unsent::Permanent(failure) => Self::Permanent(failure),
        }
    }
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Away(reason) => {
                Self::Transient(BrokerError::new(Fault::Unavailable, reason))
            }
            StoreError::Refused(_) | StoreError::OtherTenants => {
                Self::Permanent(Failure::new("result_backend", error.to_string()))
            }
        }
    }
}

/// The answer of a store, or nothing where the id is another tenant's: that is told, and is no
/// reason to run the job again.
fn unless_others<T: Default>(
    answer: Result<T, StoreError>,
    what: &'static str,
    id: &str,
) -> Result<T, StoreError> {
    if matches!(answer, Err(StoreError::OtherTenants)) {
        OtherTenantsKey { what, id }.emit();
        return Ok(T::default());
    }
    answer
}

/// What a built-in task of Celery's comes to.
pub(super) struct BuiltIn {
    pub(super) outcome: Outcome,
    /// What there is to do beside what follows from every job.
    pub(super) plan: Plan,
}

impl Pipeline {
    /// The payload of a task whose arguments are Celery's.
    pub(super) fn arguments(
        &self,
        task: &Task,
        args: &[Json],
        kwargs: &celery::Map,
    ) -> Result<Bytes, Failure> {
        let (mapping, rich) = self.config.celery_arguments(&task.spec.name);
        celery::payload(args, kwargs, task.shape(), mapping, rich)
            .map(Bytes::from)
            .map_err(|reason| Failure::new("TypeError", reason))
    }

    /// Returns true if a job's part of a workflow can be kept track of.
    pub(super) fn check_workflow(&self, request: &Request) -> Result<(), Failure> {
        if request.chord.is_some() && self.store.is_none() {
            return Err(Failure::new(
                NO_RESULT_BACKEND,
                "the task is part of a chord, which takes a store that counts its parts: set \
                 celery.result_backend to the one that its client uses",
            ));
        }
        Ok(())
    }

    /// Returns true if what a job's workflow leads to is within the bounds of a tree of jobs.
    pub(super) fn check_tree(&self, job: &DecodedJob, request: &Request) -> Result<(), Failure> {
        let said = Cost::of(request);
        if said == Cost::default() {
            return Ok(());
        }
        let settings = Settings::of_task(&self.config, &job.task, Advice::default());
        let most = settings.for_tenant(&self.config, &job.tenant).limits.tree();
        if said.jobs > most.jobs || said.bytes > most.bytes {
            return Err(too_much(said, most));
        }
        Ok(())
    }

    fn publisher<'a>(
        &'a self,
        source: &'a Source,
        request: &'a Request,
        end: &str,
    ) -> Publisher<'a> {
        let celery = &self.config.celery;
        Publisher {
            default_queue: celery.default_queue.as_deref().unwrap_or(&source.name),
            routes: &celery.routes,
            origin: ORIGIN,
            now: Timestamp::now(),
            inherit_priority: celery.inherit_priority,
            reply_to: request.reply_to.as_deref(),
            ids: workflow::ids(request, end),
        }
    }

    /// Does what a built-in task of Celery's does; `None` where the request's task is none.
    pub(super) async fn built_in(
        &self,
        source: &Source,
        job: &DecodedJob,
        request: &Request,
    ) -> Result<Option<BuiltIn>, BrokerError> {
        let mut publisher = self.publisher(source, request, "built-in");
        let Some(built_in) = Builtin::of(request, &mut publisher) else { return Ok(None) };
        let done = |result: &Json, plan| BuiltIn {
            outcome: Outcome::Done(Output {
                content_type: JSON.to_owned(),
                data: result.text().to_owned().into(),
            }),
            plan,
        };
        Ok(Some(match built_in {
            Builtin::Done { result, plan } => done(&result, plan),
            Builtin::Fail(exception) => BuiltIn {
                outcome: Outcome::Failed(Failure::new(&exception.kind, exception.repr())),
                plan: Plan::default(),
            },
            Builtin::Unlock(unlock) => {
                let Some(store) = &self.store else {
                    let why = "a chord is waited for, and there is no store that knows its parts: \
                               set celery.result_backend";
                    return Ok(Some(BuiltIn {
                        outcome: Outcome::Rejected(Failure::new(NO_RESULT_BACKEND, why)),
                        plan: Plan::default(),
                    }));
                };
                let ids: Vec<String> = unlock.ids().into_iter().map(str::to_owned).collect();
                let known = self.known(store, &job.tenant, &ids).await;
                let known = known
                    .map_err(|error| BrokerError::new(Fault::Unavailable, error.to_string()))?;
                match unlock.look(request, &|id| known.get(id), &mut publisher) {
                    Unlocked::Done(plan) => done(&Json::null(), plan),
                    // It is no failure that it is not done.
                    Unlocked::Wait(again) => BuiltIn {
                        outcome: Outcome::Snooze { after: until(again.eta) },
                        plan: Plan { steps: vec![Step::Send(again)], ..Plan::default() },
                    },
                }
            }
        }))
    }

    /// What is stored of tasks, by their ids.
    async fn known(
        &self,
        store: &Arc<dyn ResultStore>,
        tenant: &str,
        ids: &[String],
    ) -> Result<HashMap<String, Meta>, StoreError> {
        let found = self.patiently(|| store.get(tenant, ids)).await?;
        let metas = ids.iter().zip(found);
        Ok(metas.filter_map(|(id, value)| Some((id.clone(), Meta::read(id, &value?)))).collect())
    }

    /// The call of a task of Celery's that a guest asked for: its payload is the one argument, or
    /// what the task's settings say of it.
    pub(super) fn celery_call(
        &self,
        source: &Source,
        job: &DecodedJob,
        follow_on: &FollowOn,
    ) -> Result<TaskMessage, Failure> {
        let text = std::str::from_utf8(&follow_on.payload).ok();
        let payload = text.filter(|_| is_json(&follow_on.content_type)).and_then(Json::parse);
        let wrong = |why: &str| {
            Failure::new("dispatch", format!("a call of the task `{}`: {why}", follow_on.task))
        };
        let payload = payload.ok_or_else(|| wrong("tasks of Celery take JSON"))?;
        celery::rich::check(&payload).map_err(|why| wrong(&why))?;
        let (mapping, _) = self.config.celery_arguments(&follow_on.task);
        let (args, kwargs) = celery::arguments::call_of(&payload, mapping).map_err(wrong)?;
        let parent = Parent {
            id: job.id.clone(),
            root: job.root_id.clone().unwrap_or_else(|| job.id.clone()),
            ..Parent::default()
        };
        let mut call = celery::Map::from_iter([("task_id", Json::string(&follow_on.id))]);
        if !follow_on.delay.is_zero() {
            call.set("countdown", Json::of(&follow_on.delay.as_secs_f64()));
        }
        let mut publisher = Publisher {
            default_queue: self.config.celery.default_queue.as_deref().unwrap_or(&source.name),
            routes: &self.config.celery.routes,
            origin: ORIGIN,
            now: Timestamp::now(),
            inherit_priority: false,
            reply_to: None,
            ids: Ids::of(follow_on.id.clone()),
        };
        Ok(publisher.message(&follow_on.task, &args, &kwargs, call, Some(&parent)))
    }

    /// The end of a built-in task of Celery's; `None` where the job's task is none, or its time is
    /// over.
    pub(super) async fn end_built_in(
        &self,
        source: &Source,
        job: &DecodedJob,
        request: &Request,
        now: Timestamp,
    ) -> Option<Ended> {
        if job.is_expired(now) {
            return None;
        }
        let outcome = match self.built_in(source, job, request).await {
            Ok(None) => return None,
            Ok(Some(BuiltIn { outcome, plan })) => {
                return Some(Ended { celery: plan, ..self.unrun(job, outcome) });
            }
            Err(error) => {
                tracing::warn!(%error, "a chord cannot be looked at; it is put back");
                Outcome::Snooze { after: LEFT }
            }
        };
        Some(self.unrun(job, outcome))
    }

    /// How states are stored.
    fn storing(&self, reply: bool) -> Storing<'static> {
        Storing {
            ignore_result: self.store.is_none() && !reply,
            extended_by: self.config.celery.result_extended.then_some(ORIGIN),
        }
    }

    /// What is to be sent for a job of Celery's that is not at its end: its retry, as Celery has
    /// it, or its next look at a chord. `None` where its message goes back to its queue.
    pub(super) async fn celery_again(
        &self,
        end: &CeleryEnd<'_>,
        again: Option<(Duration, &Failure)>,
        more: &Plan,
    ) -> Result<Option<Vec<Send>>, Trouble> {
        let Some(request) = &end.job.celery else { return Ok(None) };
        let steps = match again {
            Some((after, failure)) => {
                let exception = self.exception(end, request, Status::Failed, failure);
                let mut publisher = self.publisher(end.source, request, "retry");
                let eta = publisher.now.checked_add(after).ok();
                let storing = self.storing(false);
                workflow::retried(request, Some(&exception), eta, storing, &mut publisher).steps
            }
            None if !more.steps.is_empty() => more.steps.clone(),
            None => return Ok(None),
        };
        let follow = Follow { pipeline: self, end, request };
        follow.carry_out(steps, Some(&end.source.queue), Refused::Fails, end.budget).await.map(Some)
    }

    /// Carries out what follows from the end of a job of Celery's, but for what is to be sent, which
    /// it gives back. A success after which the next task cannot be called is a failure, then.
    pub(super) async fn celery_end(
        &self,
        end: &CeleryEnd<'_>,
        status: &mut Status,
        value: &mut Result<Output, Failure>,
        reply: Option<&Queue>,
        more: &Plan,
    ) -> Result<Vec<Send>, Trouble> {
        let Some(request) = &end.job.celery else { return Ok(Vec::new()) };
        let follow = Follow { pipeline: self, end, request };
        loop {
            let plan = self.plan(end, request, *status, value, reply.is_some());
            // What has failed already tells its end all the same: what cannot be called is left out.
            let refused = if *status == Status::Done { Refused::Fails } else { Refused::IsLeftOut };
            let carried_out = match plan {
                Ok(plan) => {
                    let states = self.replies(&plan, request, reply, end.message);
                    let mut plans = (more.steps.clone(), plan.steps);
                    let left = match follow.left(&plans) {
                        Ok(left) => left,
                        Err(failure) if *status == Status::Done => {
                            *status = Status::Failed;
                            *value = Err(failure);
                            continue;
                        }
                        Err(failure) => {
                            left_out(&failure);
                            for steps in [&mut plans.0, &mut plans.1] {
                                steps.retain(|step| !matches!(step, Step::Send(_)));
                            }
                            Budget::default()
                        }
                    };
                    let body = more.body.as_deref();
                    follow.all(plans, body, refused, left).await.map(|mut sends| {
                        sends.extend(states);
                        sends
                    })
                }
                Err(exception) => {
                    Err(Trouble::Permanent(Failure::new(&exception.kind, exception.repr())))
                }
            };
            match carried_out {
                // It failed for this.
                Err(Trouble::Permanent(failure)) if *status == Status::Done => {
                    *status = Status::Failed;
                    *value = Err(failure);
                }
                other => return other,
            }
        }
    }

    /// The states for a client that takes them from a queue of its own: that of the job, and where a
    /// chain stops, those of the tasks that will not be. One that the queue has no room for becomes
    /// the failure that says so.
    fn replies(
        &self,
        plan: &Plan,
        request: &Request,
        to: Option<&Queue>,
        message: &Message,
    ) -> Vec<Send> {
        let Some(to) = to else { return Vec::new() };
        let limit = self.message_bytes;
        let states = plan.steps.iter().filter_map(|step| match step {
            Step::Store(meta) => Some(meta),
            _ => None,
        });
        let sends = states.map(|meta| {
            publish::celery_state(meta, message, to, limit).unwrap_or_else(|bytes| {
                let why = format!(
                    "the result has {bytes} bytes, and the queue takes {limit}; return a \
                     reference to where the data is, or less of it"
                );
                let exception = Exception::of_failure(RESULT_TOO_LARGE, &why);
                let owner = meta::Owner { id: meta.id.clone(), ..meta::Owner::of(request, None) };
                let meta = Meta::failure(&owner, &exception, Timestamp::now());
                publish::celery_state_whole(&meta, message, to)
            })
        });
        sends.collect()
    }

    /// What follows from the end of a job.
    fn plan(
        &self,
        end: &CeleryEnd<'_>,
        request: &Request,
        status: Status,
        value: &Result<Output, Failure>,
        reply: bool,
    ) -> Result<Plan, Exception> {
        let storing = self.storing(reply);
        let revoked = |why| Ok(workflow::revoked(request, why, storing, Timestamp::now()));
        match (status, value) {
            (Status::Done, Ok(output)) => {
                let mut publisher = self.publisher(end.source, request, "success");
                let result = json(output);
                // A client could read none of it.
                celery::rich::check(&result)
                    .map_err(|why| Exception::of_failure("kombu.exceptions.EncodeError", &why))?;
                workflow::succeeded(request, &result, storing, &mut publisher)
            }
            (Status::Expired, _) => revoked("expired"),
            (Status::Revoked, _) => revoked("revoked"),
            (status, value) => {
                let unknown = Failure::new("Exception", "");
                let failure = value.as_ref().err().unwrap_or(&unknown);
                let exception = self.exception(end, request, status, failure);
                let mut publisher = self.publisher(end.source, request, "failure");
                Ok(workflow::failed(request, &exception, storing, &mut publisher))
            }
        }
    }

    /// A failure as the exception that Celery's own worker would have stored.
    fn exception(
        &self,
        end: &CeleryEnd<'_>,
        request: &Request,
        status: Status,
        failure: &Failure,
    ) -> Exception {
        let Failure { kind, message, .. } = failure;
        let limits = &end.settings.limits;
        let exception = match (status, kind.as_str()) {
            (_, UNKNOWN_TASK) => {
                let mapped = Mapped::task_of(request).and_then(Result::ok);
                Exception::not_registered(mapped.as_deref().unwrap_or(&request.task))
            }
            (Status::TimedOut, "cpu_limit") => {
                Exception::time_limit(limits.cpu.unwrap_or(limits.timeout).as_secs_f64())
            }
            (Status::TimedOut, _) => Exception::time_limit(limits.timeout.as_secs_f64()),
            (Status::Crashed, kind) => Exception::worker_lost(&format!("{kind}: {message}")),
            // Python says of wrong arguments which function does not take them.
            (_, INVALID_PAYLOAD) | (Status::Rejected, REJECTED) => {
                Exception::of_failure("TypeError", &format!("{}(): {message}", request.task))
            }
            (_, kind) => {
                let own = Exception::of_guest(kind, message, &self.config.celery.exceptions);
                // As `self.retry(exc=…)` raises what it was given, and `self.retry()` this.
                if end.exhausted && !own.is_known() {
                    request.max_retries_exceeded().because(kind, message)
                } else {
                    own
                }
            }
        };
        let traceback = celery::traceback::of(&exception, &end.job.task, failure.detail.as_deref());
        exception.with_traceback(traceback)
    }

    /// Stores how far a task is, as a task of Celery's does by `update_state`.
    pub(super) async fn celery_progress(
        &self,
        job: &DecodedJob,
        request: &Request,
        progress: &Progress,
    ) {
        let Some(store) = &self.store else { return };
        if request.ignore_result == Some(true) {
            return;
        }
        let meta = celery::Map::from_iter([
            ("current", Json::number(progress.percent)),
            ("total", Json::number(100)),
            ("message", Json::string(&progress.message)),
        ]);
        let owner = meta::Owner::of(request, None);
        let meta = Meta::progress(&owner, "PROGRESS", meta.into());
        if let Err(error) = store.put(job.store_key(), meta.json().into()).await {
            tracing::debug!(%error, "progress was not stored");
        }
    }

    /// Tells the state of a task of which nothing but its id could be read: to the store, and to the
    /// client that takes results from a queue of its own.
    pub(super) async fn celery_refused(
        &self,
        job: &DecodedJob,
        id: &str,
        failure: &Failure,
        message: &Message,
        reply: Option<&Queue>,
    ) -> Result<(), Trouble> {
        let exception = match failure.kind.as_str() {
            "unsupported_content_type" => Exception::content_disallowed(&failure.message),
            _ => Exception::invalid_task(&failure.message),
        };
        let owner = meta::Owner::id(id);
        let traceback = celery::traceback::of(&exception, &job.task, None);
        let exception = exception.with_traceback(traceback);
        let meta = Meta::failure(&owner, &exception, Timestamp::now());
        if let Some(to) = reply {
            let state = publish::celery_state_whole(&meta, message, to);
            match self.routes.send(&state).await {
                // Nobody is there to be told.
                Err(error) if error.fault == Fault::NotFound => {}
                sent => sent.map_err(Trouble::Transient)?,
            }
        }
        let Some(store) = &self.store else { return Ok(()) };
        let meta = Bytes::from(meta.json());
        let key = JobKey::new(&job.tenant, id);
        let put = self.patiently(|| store.put(key, meta.clone())).await;
        match unless_others(put, "result", id) {
            Err(StoreError::Refused(reason)) => {
                tracing::warn!(reason, "the state of a task that was refused cannot be stored");
                Ok(())
            }
            other => Ok(other.map(drop)?),
        }
    }

    /// Asks a store, and again where it does not answer: for as long as the message is ours, since
    /// what a guest computed is kept here rather than computed once more. Meanwhile the job gives
    /// up its slot. Where nothing tells when the store is back (in Lambda), it is asked as often as
    /// publishing is tried.
    async fn patiently<T, F: Future<Output = Result<T, StoreError>>>(
        &self,
        mut ask: impl FnMut() -> F,
    ) -> Result<T, StoreError> {
        let mut wait = AGAIN;
        let mut tries = self.config.worker.publish_attempts.get();
        let mut held = None;
        loop {
            let error = match ask().await {
                Err(error @ (StoreError::Away(_) | StoreError::Refused(_))) => error,
                answer => return answer,
            };
            let watched = self.store_health.as_deref().filter(|it| it.is_monitored());
            #[allow(clippy::single_match_else, reason = "two waits side by side")]
            match (&error, watched) {
                (StoreError::Away(_), Some(dependency)) => {
                    held = held.or_else(|| slot::hold(&self.held_results));
                    dependency.until_up().await;
                }
                _ => {
                    tries = tries.saturating_sub(1);
                    if tries == 0 {
                        return Err(error);
                    }
                }
            }
            // Those who waited for the store do not come all at once.
            tokio::time::sleep(wait.mul_f64(0.5 + fastrand::f64())).await;
            wait = wait.saturating_mul(2).min(LONGEST_PAUSE);
        }
    }
}

/// What is done where a task that follows is refused for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refused {
    /// All that follows is refused with it, and so the job has failed.
    Fails,
    /// The others are called all the same.
    IsLeftOut,
}

impl Pipeline {
    /// A task that comes next cannot be sent, although the job has ended: it has failed before it ran,
    /// and so have those after it. Their states are stored; what follows from that is given back.
    pub(super) async fn celery_unsendable(
        &self,
        source: &Source,
        message: &Message,
        job: &DecodedJob,
        send: &Send,
        reply: Option<&Queue>,
        failure: &Failure,
    ) -> Result<Vec<Send>, Trouble> {
        let body = &send.message.body;
        let most = source.defaults.celery_body_bytes.max(body.len());
        let Ok(request) = Request::parse(body, most) else { return Ok(Vec::new()) };
        let settings = Settings::of_task(&self.config, &job.task, Advice::default());
        let budget = Budget::of(job, settings.limits.tree()).part(0, 2);
        let exhausted = false;
        let end = CeleryEnd { source, message, job, settings: &settings, exhausted, budget };
        let exception = self.exception(&end, &request, Status::Failed, failure);
        let storing = self.storing(reply.is_some());
        let mut publisher = self.publisher(source, &request, "refused");
        let plan = workflow::failed(&request, &exception, storing, &mut publisher);
        let states = self.replies(&plan, &request, reply, message);
        let follow = Follow { pipeline: self, end: &end, request: &request };
        let mut sends = follow.carry_out(plan.steps, None, Refused::IsLeftOut, budget).await?;
        sends.extend(states);
        Ok(sends)
    }

    /// The state of a task that has failed after all, in place of `send`, which is a state for a client
    /// that takes it from a queue.
    pub(super) fn celery_failed_state(
        job: &DecodedJob,
        message: &Message,
        send: &Send,
        exception: &Exception,
    ) -> Option<Send> {
        let id = send.message.attributes.get(publish::CORRELATION_ID)?;
        let owner = match &job.celery {
            Some(request) => meta::Owner { id: id.clone(), ..meta::Owner::of(request, None) },
            None => meta::Owner::id(id),
        };
        let meta = Meta::failure(&owner, exception, Timestamp::now());
        Some(publish::celery_state_whole(&meta, message, &routes::at(&send.to)))
    }

    /// What takes the place of a state that its queue refuses for what it is; `None` where nothing
    /// does.
    pub(super) fn celery_state_refused(
        job: &DecodedJob,
        message: &Message,
        send: &Send,
        error: &BrokerError,
    ) -> Option<Send> {
        if !matches!(error.fault, Fault::Invalid | Fault::TooLarge) {
            return None;
        }
        let id = send.message.attributes.get(publish::CORRELATION_ID)?;
        let was = Meta::parse(id, &send.message.body).and_then(|meta| meta.exception());
        let exception = Exception::of_failure(RESULT_TOO_LARGE, &error.to_string());
        if was.is_some_and(|was| was.kind == exception.kind && was.module == exception.module) {
            return None;
        }
        Self::celery_failed_state(job, message, send, &exception)
    }
}

/// A job's end that is being carried out.
struct Follow<'a> {
    pipeline: &'a Pipeline,
    end: &'a CeleryEnd<'a>,
    request: &'a Request,
}

impl Follow<'_> {
    /// Carries out what a built-in task leads to, and then what follows from every job.
    async fn all(
        &self,
        (more, steps): (Vec<Step>, Vec<Step>),
        body: Option<&Signature>,
        refused: Refused,
        budget: Budget,
    ) -> Result<Vec<Send>, Trouble> {
        // Both share the budget.
        let shares = 1 + usize::from(!more.is_empty());
        let (of_more, of_steps) = (budget.part(0, shares), budget.part(shares - 1, shares));
        let mut sends = match self.carry_out(more, None, refused, of_more).await {
            Err(Trouble::Permanent(failure)) if body.is_some() => {
                let plan = self.body_refused(body, &failure);
                self.carry_out(plan.steps, None, Refused::IsLeftOut, of_more).await?
            }
            other => other?,
        };
        sends.extend(self.carry_out(steps, None, refused, of_steps).await?);
        Ok(sends)
    }

    /// What follows where a chord's body is refused.
    fn body_refused(&self, body: Option<&Signature>, failure: &Failure) -> Plan {
        let Some(body) = body else { return Plan::default() };
        tracing::warn!(reason = failure.message, "a chord's body cannot be sent: it has failed");
        let mut publisher = self.pipeline.publisher(self.end.source, self.request, "chord refused");
        let why = Exception::of_failure(&failure.kind, &failure.message);
        workflow::body_refused(body, &why, &mut publisher)
    }

    /// What is left of the budget after these steps. What the job's own workflow says is free: it was
    /// counted before the job ran. What comes on top, as where a built-in task calls what it is given,
    /// is charged.
    fn left(&self, (more, steps): &(Vec<Step>, Vec<Step>)) -> Result<Budget, Failure> {
        let sent = more.iter().chain(steps).filter_map(|step| match step {
            Step::Send(task) => Some(task),
            _ => None,
        });
        let own = |task: &TaskMessage| Cost { jobs: 1, bytes: task.body.len() as u64 };
        let sent = sent.fold(Cost::default(), |all, task| all.and(own(task)).and(task.follow));
        let CeleryEnd { settings, budget, .. } = *self.end;
        let most = settings.limits.tree();
        let said = Cost::of(self.request);
        let said = Budget { jobs: said.jobs.min(most.jobs), bytes: said.bytes.min(most.bytes) };
        let more_jobs = sent.jobs.saturating_sub(said.jobs);
        let more_bytes = sent.bytes.saturating_sub(said.bytes);
        budget.less(more_jobs, more_bytes).ok_or_else(|| {
            let jobs = budget.jobs.saturating_add(said.jobs);
            too_much(sent, Budget { jobs, bytes: budget.bytes.saturating_add(said.bytes) })
        })
    }

    /// Does all but sending. Messages go to `to` where that is given, else where they say.
    ///
    /// Each message, and each part of a chord, has an equal part of the budget.
    async fn carry_out(
        &self,
        steps: Vec<Step>,
        to: Option<&Queue>,
        refused: Refused,
        budget: Budget,
    ) -> Result<Vec<Send>, Trouble> {
        let mut sends = Vec::new();
        let shares = |step: &&Step| matches!(step, Step::Send(_) | Step::ChordPart(_));
        let (mut number, children) = (0, steps.iter().filter(shares).count());
        for step in steps {
            let share = budget.part(number, children);
            number += usize::from(shares(&&step));
            if let Step::Send(task) = step {
                match self.send(&task, to, share).await {
                    Err(Trouble::Permanent(failure)) if refused == Refused::IsLeftOut => {
                        left_out(&failure);
                    }
                    send => sends.push(send?),
                }
                continue;
            }
            let Some(store) = &self.pipeline.store else { continue };
            let tenant = &self.end.job.tenant;
            match step {
                Step::Send(_) => {}
                Step::BeginChord { group, results } => {
                    let nested = results.children.as_deref().unwrap_or_default();
                    let nested = nested.iter().any(|it| it.children.is_some());
                    let kept = Bytes::from(meta::group(&results));
                    let key = JobKey::new(tenant, &group);
                    let ask = || store.begin_chord(key, kept.clone(), nested);
                    unless_others(self.pipeline.patiently(ask).await, "chord", &group)?;
                }
                Step::ChordSize { group, size } => {
                    let ask = || store.chord_size(JobKey::new(tenant, &group), size as u64);
                    unless_others(self.pipeline.patiently(ask).await, "chord", &group)?;
                }
                Step::Store(meta) => {
                    let value = Bytes::from(meta.json());
                    let key = JobKey::new(tenant, &meta.id);
                    let put = self.pipeline.patiently(|| store.put(key, value.clone())).await;
                    match unless_others(put, "result", &meta.id) {
                        // Nobody waits for a state on the way.
                        Err(StoreError::Refused(reason)) if !meta.state.is_ready() => {
                            tracing::warn!(reason, "the state of a task cannot be stored");
                        }
                        other => drop(other?),
                    }
                }
                Step::ChordPart(part) => self.end_part(store, &part, share).await?,
            }
        }
        Ok(sends)
    }

    /// Counts a part of a chord, and goes on with the chord where it was the last. The chord's body
    /// is sent before it is forgotten that it is due.
    async fn end_part(
        &self,
        store: &Arc<dyn ResultStore>,
        part: &ChordPart,
        budget: Budget,
    ) -> Result<(), Trouble> {
        let tenant = &self.end.job.tenant;
        if part.unless_failed {
            let known = self.pipeline.known(store, tenant, std::slice::from_ref(&part.id)).await?;
            if known.get(&part.id).is_some_and(|meta| meta.state.propagates()) {
                return Ok(());
            }
        }
        let encoded = meta::chord_part(&part.id, &part.state, &part.result);
        let told = Part {
            tenant,
            group: &part.group,
            task: &part.id,
            index: part.index.and_then(|index| u64::try_from(index).ok()),
            size: part.size().map(|size| size as u64),
            encoded: encoded.as_bytes(),
        };
        let complete = loop {
            let counted = self.pipeline.patiently(|| store.end_part(told)).await.map(Some);
            match unless_others(counted, "chord", &part.group)?.unwrap_or(Counted::Waits) {
                Counted::Waits => return Ok(()),
                Counted::Busy => tokio::time::sleep(BUSY).await,
                Counted::Complete(complete) => break complete,
            }
        };
        let plan = self.complete(store, part, &complete).await?;
        // Where the chord has failed already, whoever can be told is told.
        let refused = if plan.body.is_some() { Refused::Fails } else { Refused::IsLeftOut };
        match self.carry_out_now(plan.steps, refused, budget).await {
            Err(Trouble::Permanent(failure)) => {
                let plan = self.body_refused(plan.body.as_deref(), &failure);
                self.carry_out_now(plan.steps, Refused::IsLeftOut, budget).await?;
            }
            other => other?,
        }
        let key = JobKey::new(tenant, &part.group);
        self.pipeline.patiently(|| store.end_chord(key, &complete.claim)).await?;
        Ok(())
    }

    /// Does all, sending included.
    async fn carry_out_now(
        &self,
        steps: Vec<Step>,
        refused: Refused,
        budget: Budget,
    ) -> Result<(), Trouble> {
        let sends = Box::pin(self.carry_out(steps, None, refused, budget)).await?;
        for send in &sends {
            match self.pipeline.send_now(send).await {
                Err(Unsent::Permanent(failure)) if refused == Refused::IsLeftOut => {
                    left_out(&failure);
                }
                sent => sent?,
            }
        }
        Ok(())
    }

    /// What follows from a chord whose parts have all come to their end.
    async fn complete(
        &self,
        store: &Arc<dyn ResultStore>,
        part: &ChordPart,
        complete: &Complete,
    ) -> Result<Plan, Trouble> {
        let last = Parent::of(self.request);
        let mut publisher = self.pipeline.publisher(self.end.source, self.request, "chord");
        // Whichever part is told of last, the body is the same task.
        publisher.ids = Ids::of(format!("chord {}", part.group));
        let failed = |id: &str, cause: Option<Exception>, publisher: &mut Publisher<'_>| {
            let cause = cause.unwrap_or_else(|| Exception::of_failure("Exception", "it failed"));
            let error = workflow::chord_error(id, &cause);
            workflow::chord_failed(&part.body, &error, Some(&cause), publisher)
        };
        if let Some(results) = complete.group.as_deref().and_then(meta::read_group) {
            let ids: Vec<String> = results.tasks().into_iter().map(str::to_owned).collect();
            let known = self.pipeline.known(store, &self.end.job.tenant, &ids).await?;
            let culprit = ids
                .iter()
                .find(|id| known.get(*id).is_none_or(|meta| meta.state != State::Success));
            if let Some(id) = culprit {
                let cause = known.get(id).and_then(Meta::exception);
                return Ok(failed(id, cause, &mut publisher));
            }
            let children = results.children.as_deref().unwrap_or_default();
            let stored = |id: &str| known.get(id);
            let values: Vec<Json> =
                children.iter().map(|child| builtins::value(child, &stored)).collect();
            return Ok(workflow::chord_done(&part.body, &values, &last, &mut publisher));
        }
        let mut values = Vec::with_capacity(complete.parts.len());
        for kept in &complete.parts {
            match meta::read_chord_part(kept) {
                Some((id, state, result)) if state.propagates() => {
                    return Ok(failed(&id, Exception::of_json(&result), &mut publisher));
                }
                Some((_, _, result)) => values.push(result),
                None => return Ok(failed(&part.id, Some(meta::unreadable()), &mut publisher)),
            }
        }
        Ok(workflow::chord_done(&part.body, &values, &last, &mut publisher))
    }

    /// A task message on its way to its queue.
    async fn send(
        &self,
        task: &TaskMessage,
        to: Option<&Queue>,
        budget: Budget,
    ) -> Result<Send, Trouble> {
        let queue = match to {
            Some(queue) => queue.clone(),
            None => self.queue(task).await?,
        };
        let limit = self.pipeline.message_bytes;
        let delay = until(task.eta);
        let CeleryEnd { job, message, .. } = self.end;
        publish::celery_task(task, job, budget, message, &queue, delay, limit).map_err(|bytes| {
            Trouble::Permanent(Failure::new(
                "dispatch_too_large",
                format!(
                    "the message for the task `{}` has {bytes} bytes, and queues take {limit}; \
                     return a reference to where the data is, or less of it",
                    task.task
                ),
            ))
        })
    }

    async fn queue(&self, task: &TaskMessage) -> Result<Queue, Trouble> {
        let celery = &self.pipeline.config.celery;
        let source = self.end.source;
        if task.queue == *source.name || Some(&task.queue) == self.request.queue().as_ref() {
            return Ok(source.queue.clone());
        }
        let mut known = celery.default_queue.iter().chain(celery.routes.values());
        let operators = known.any(|name| *name == task.queue);
        // Several of Celery's names may be one queue: `a.b` and `a-b`.
        let translated = self.pipeline.routes.celery_name(&task.queue);
        if !operators && *translated == *self.pipeline.routes.celery_name(&source.name) {
            return Ok(source.queue.clone());
        }
        let allowed = operators
            || celery.queues.iter().any(|pattern| {
                matches_pattern(pattern, &task.queue) || matches_pattern(pattern, &translated)
            });
        let refused = |why: String| {
            Trouble::Permanent(Failure::new("dispatch", format!("the task `{}`: {why}", task.task)))
        };
        if !allowed {
            let queue = lovage_core::text::one_line(&task.queue, 200);
            return Err(refused(format!(
                "its message names the queue `{queue}`, which celery.queues does not allow"
            )));
        }
        let name = format!("{}{}", celery.queue_prefix, task.queue);
        let routes = &self.pipeline.routes;
        let found = if operators {
            routes.operators_celery_queue(&name).await
        } else {
            routes.celery_queue(&name).await
        };
        found.map_err(|error| {
            if error.is_refusal() { refused(error.to_string()) } else { Trouble::Transient(error) }
        })
    }
}

fn left_out(failure: &Failure) {
    tracing::warn!(reason = failure.message, "a task that follows from a failure cannot be called");
}

fn too_much(asked: Cost, most: Budget) -> Failure {
    Failure::new(
        "dispatch_limit",
        format!(
            "the workflow leads to {} tasks with {} bytes of messages in all, and {} with {} bytes \
             are allowed (`dispatch_tree_jobs` and `dispatch_tree_bytes` raise it)",
            asked.jobs, asked.bytes, most.jobs, most.bytes
        ),
    )
}

/// An output as a result of Celery's: what is no JSON is text where it is UTF-8, else base64.
pub(super) fn json(output: &Output) -> Json {
    use base64::{Engine as _, prelude::BASE64_STANDARD};

    let text = std::str::from_utf8(&output.data);
    match text {
        Ok(text) if is_json(&output.content_type) => {
            Json::parse(text).unwrap_or_else(|| Json::string(text))
        }
        Ok(text) => Json::string(text),
        Err(_) => Json::string(&BASE64_STANDARD.encode(&output.data)),
    }
}

fn until(eta: Option<Timestamp>) -> Duration {
    let wait = eta.map(|eta| eta.duration_since(Timestamp::now()));
    wait.and_then(|wait| Duration::try_from(wait).ok()).unwrap_or_default()
}
