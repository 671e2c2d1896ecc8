//! One attempt at one job, in a sandbox of its own.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::Sandbox;
use super::bindings::Invocation;
use super::code::Code;
use super::component::LoadedComponent;
use super::config::{self, ConfigValues, GivenConfig};
use super::cpu::Meter;
use super::cpu_executor::Whose;
use super::crash;
use super::engine_set::EngineSet;
use super::limits::{Limit, Limits};
use super::output;
use super::pool_wait::{PoolFull, PoolWait};
use super::scratch::ScratchDir;
use super::state::{DeadlinePassed, Scene};
use super::stdio::Tail;
use lovage_core::cancellation::Cancellation;
use lovage_core::follow_on::FollowOn;
use lovage_core::job::Job;
use lovage_core::media_type::is_json;
use lovage_core::outcome::{Failure, Outcome};
use lovage_core::usage::Usage;
use lovage_policy::Grants;

/// The kind of the failure of an attempt that the host's own end cut short ([`Plan::deadline`]).
pub const CUT_SHORT: &str = "deadline";

/// What the host decided about an attempt before it began.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What it may use.
    pub limits: Limits,
    /// The attempt after which the host gives up; at least 1.
    pub max_attempts: u32,
    /// When the host itself has to end, if it has to: a Lambda function's deadline, say. The
    /// attempt is stopped then, even if its timeout has not passed.
    pub deadline: Option<Instant>,
    /// What it may use beyond its memory and time.
    pub grants: Arc<Grants>,
    /// Whether it is still wanted, and how far it is.
    pub cancellation: Cancellation,
    /// The part of the CPU that the attempts of the job's tenant have together, beside those of
    /// other tenants, when there is not enough for all; at least 1.
    pub tenant_weight: u32,
    /// True if what it writes to standard output and error is logged.
    pub log_guests: bool,
    /// True if the payload is held to the schema that the task has for it.
    pub check_payload: bool,
    /// What it reads by `wasi:config/store`, where another process has looked that up.
    pub given_config: Option<Arc<GivenConfig>>,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            max_attempts: 1,
            deadline: None,
            grants: Arc::default(),
            cancellation: Cancellation::default(),
            tenant_weight: 1,
            log_guests: false,
            check_payload: true,
            given_config: None,
        }
    }
}

/// What an attempt came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// What follows from it. Texts are cut and escaped, an output is checked.
    pub outcome: Outcome,
    /// Jobs that it leads to; none unless it is done.
    pub follow_ons: Vec<FollowOn>,
    /// What it used.
    pub usage: Usage,
    /// The end of standard output.
    pub stdout: Tail,
    /// The end of standard error.
    pub stderr: Tail,
}

impl Report {
    /// An attempt that ended before its guest began.
    pub fn unrun(outcome: Outcome) -> Self {
        let (stdout, stderr) = (Tail::default(), Tail::default());
        Self { outcome, follow_ons: Vec::new(), usage: Usage::default(), stdout, stderr }
    }
}

/// How a call into a guest ended that gave no answer.
#[derive(Debug)]
pub(super) enum End {
    /// It was stopped at its deadline.
    Deadline,
    /// It was stopped when it had used so much CPU time, which is all that it may.
    Cpu(Duration),
    /// It trapped, or broke a limit.
    Error(wasmtime::Error),
}

/// Runs a guest until its deadline, or until it has used its CPU time, which `meter` tells. A guest
/// that waits is stopped by the executor's timer, one that computes by the epoch's callback; each
/// alone would miss the other.
pub(super) async fn within<T>(
    deadline: Instant,
    cpu: Option<Duration>,
    meter: &Meter,
    call: Pin<&mut impl Future<Output = wasmtime::Result<T>>>,
) -> Result<T, End> {
    let call = meter.up_to(cpu, tokio::time::timeout_at(deadline.into(), call));
    match (call.await, cpu) {
        (Some(Ok(Ok(answer))), _) => Ok(answer),
        (Some(Ok(Err(error))), _) if error.is::<DeadlinePassed>() => Err(End::Deadline),
        (Some(Ok(Err(error))), _) => Err(End::Error(error)),
        (Some(Err(_elapsed)), _) => Err(End::Deadline),
        (None, budget) => Err(End::Cpu(budget.unwrap_or_default())),
    }
}

/// How it is told that a guest was stopped for the CPU time that it had used.
pub(super) fn over_budget(budget: Duration) -> String {
    format!("used more than {budget:?} of CPU time{}", Limit::Cpu.hint())
}

/// How it is told that a guest was stopped at its deadline: at its timeout, or where the host had to end
/// so long after its start.
fn too_long(limits: &Limits, cut_short: Option<Duration>) -> Failure {
    let timeout = limits.timeout;
    match cut_short {
        None => {
            let hint = Limit::Timeout.hint();
            Failure::new("timeout", format!("ran for more than {timeout:?}{hint}"))
        }
        Some(after) => Failure::new(
            CUT_SHORT,
            format!(
                "stopped after {after:?}, before its timeout of {timeout:?}, since the host had to \
                 end"
            ),
        ),
    }
}

/// An attempt that has used all of its CPU time.
fn over_cpu(budget: Duration) -> Outcome {
    Outcome::TimedOut(Failure::new("cpu_limit", over_budget(budget)))
}

/// An attempt that has reached its deadline.
fn over_time(limits: &Limits, started: Instant, deadline: Instant) -> Outcome {
    let is_cut_short = deadline < started + limits.timeout;
    let cut_short = is_cut_short.then(|| deadline.saturating_duration_since(started));
    Outcome::TimedOut(too_long(limits, cut_short))
}

/// The outcome of an attempt that has come to its end, by its time, its CPU budget or since its job is
/// revoked.
fn over(plan: &Plan, meter: &Meter, started: Instant, deadline: Instant) -> Option<Outcome> {
    if plan.cancellation.is_revoked() {
        return Some(Outcome::Revoked);
    }
    if Instant::now() >= deadline {
        return Some(over_time(&plan.limits, started, deadline));
    }
    plan.limits.cpu.filter(|budget| meter.spent_so_far() >= *budget).map(over_cpu)
}

/// The outcome of an attempt whose payload was not read: for its fault, or since the attempt is over.
fn rejected(failure: Option<Failure>, over: impl FnOnce() -> Option<Outcome>) -> Outcome {
    let stopped = || Failure::new("payload_check", "the attempt ended while its payload was read");
    match failure {
        Some(failure) => Outcome::Rejected(failure),
        None => over().unwrap_or_else(|| Outcome::Crashed(stopped())),
    }
}

impl Sandbox {
    /// Makes one attempt at a job, in a fresh instance of the component that serves its task.
    ///
    /// Waits for a free slot first; the attempt's time begins when it has one. Nothing that goes
    /// wrong in the guest is an error here: it is the outcome. May be dropped at any time, which
    /// ends the guest and frees its slot: at once if the guest waits, at the next tick if it
    /// computes. Needs tokio's runtime around it.
    pub async fn run(
        &self,
        component: &Arc<LoadedComponent>,
        job: impl Into<Arc<Job>>,
        plan: &Plan,
    ) -> Report {
        self.run_metered(component, job, plan, Arc::default()).await
    }

    /// The same by a meter of the caller's, which tells what CPU time the attempt has used even
    /// where it is dropped. Each attempt takes a new one.
    pub async fn run_metered(
        &self,
        component: &Arc<LoadedComponent>,
        job: impl Into<Arc<Job>>,
        plan: &Plan,
        meter: Arc<Meter>,
    ) -> Report {
        let job = job.into();
        let whole = {
            // All its own, since it goes to another thread if it takes long.
            let (sandbox, component, plan) = (self.clone(), Arc::clone(component), plan.clone());
            let (job, meter) = (Arc::clone(&job), Arc::clone(&meter));
            async move {
                let _slot = sandbox.slot().await;
                let _memory = sandbox.memory(plan.limits.memory_bytes).await;
                let code = match sandbox.code(&component).await {
                    Ok(code) => code,
                    Err(problem) => {
                        let error = problem.of(&component.source.file);
                        return Report::without_a_guest("component", &error);
                    }
                };
                let engine_set = sandbox.engine_set(code.pre.engine());
                let mut wait = PoolWait::new(plan.deadline, plan.limits.timeout);
                let (started, mut report) = loop {
                    let scratch = match plan.grants.scratch.then(|| sandbox.scratches().make()) {
                        Some(made) => match made.await {
                            Ok(scratch) => Some(scratch),
                            Err(error) => return Report::without_a_guest("scratch", &error),
                        },
                        None => None,
                    };
                    let _running = engine_set.ticker.run();
                    let started = Instant::now();
                    let attempt = (&code, engine_set, component.reads_config);
                    let attempt =
                        pin!(sandbox.attempt(attempt, &job, &plan, &meter, started, scratch));
                    match meter.run(attempt).await {
                        Ok(report) => break (started, report),
                        Err(full) => {
                            if let Some(outcome) = wait.wait(&full).await {
                                return Report::unrun(outcome);
                            }
                        }
                    }
                };
                report.usage.cpu = meter.spent();
                report.usage.wall = started.elapsed();
                if sandbox.is_idle_but_for(1) && !plan.grants.scratch {
                    sandbox.get_ready(&code, &plan.limits, &job.tenant, plan.tenant_weight);
                }
                report
            }
        };
        let whose = Whose { tenant: &job.tenant, weight: plan.tenant_weight, task: &job.task };
        self.cpu_executor().run(whose, &meter, Box::pin(whole)).await
    }

    async fn attempt(
        &self,
        (code, engine_set, reads_config): (&Arc<Code>, &EngineSet, bool),
        job: &Arc<Job>,
        plan: &Plan,
        meter: &Meter,
        started: Instant,
        scratch: Option<ScratchDir>,
    ) -> Result<Report, PoolFull> {
        let limits = &plan.limits;
        let timeout = started + limits.timeout;
        let deadline = plan.deadline.map_or(timeout, |by| by.min(timeout));
        let invocation = Invocation {
            job,
            max_attempts: plan.max_attempts,
            deadline: unix_millis(deadline.saturating_duration_since(started)),
        };
        // Before anything is made for a guest that will not run.
        if let Err(outcome) = check_payload(code, job, plan, meter, (started, deadline)).await {
            return Ok(Report::unrun(outcome));
        }
        let over = || over(plan, meter, started, deadline);
        let input = match code.handler.input(job, limits, &|| over().is_none()) {
            Ok(input) => input,
            Err(failure) => return Ok(Report::unrun(rejected(failure, over))),
        };
        let config = if let Some(given) = &plan.given_config {
            given.values()
        } else if reads_config {
            match config::values(self.services(), &plan.grants, deadline).await {
                Ok(config) => config,
                Err(outcome) => return Ok(Report::unrun(outcome)),
            }
        } else {
            ConfigValues::default()
        };
        let scene = Scene {
            limits: *limits,
            deadline,
            grants: Arc::clone(&plan.grants),
            job: Some(Arc::clone(job)),
            cancellation: plan.cancellation.clone(),
            config,
            scratch,
            log_guests: plan.log_guests,
        };
        let (mut store, instance) = match self.begin(code, engine_set, scene, meter) {
            Ok(begun) => begun,
            Err(error) => return Ok(Report::without_a_guest("sandbox", error.as_ref())),
        };
        let held = input.memory_bytes();
        let ended = {
            let call = pin!(async {
                store.data_mut().limiter.hold(held)?;
                let instance = match instance {
                    Some(instance) => instance,
                    None => code.pre.instantiate_async(&mut store).await?,
                };
                code.handler.run(&mut store, &instance, invocation, input, limits).await
            });
            within(deadline, limits.cpu, meter, call).await
        };
        if let Err(End::Error(error)) = &ended
            && let Some(full) = PoolFull::of(error)
        {
            return Err(full);
        }
        // A guest that returned before it met the clock made too many calls all the same.
        let ended = ended.and_then(|outcome| match store.data().calls.check() {
            Ok(()) => Ok(outcome),
            Err(refusal) => Err(End::Error(refusal.into())),
        });
        let outcome = match ended {
            Ok(outcome) => output::settle(outcome, limits),
            Err(End::Cpu(budget)) => over_cpu(budget),
            Err(End::Deadline) => over_time(limits, started, deadline),
            Err(End::Error(error)) => crash::outcome(&error, store.data(), limits),
        };
        let state = store.data_mut();
        let follow_ons = match outcome {
            Outcome::Done(_) => std::mem::take(&mut state.follow_ons),
            _ => Vec::new(),
        };
        let (stdout, stderr) = (state.stdout.take(), state.stderr.take());
        let mut usage = state.usage();
        usage.bytes_in += job.payload.len() as u64;
        if let Outcome::Done(output) = &outcome {
            usage.bytes_out += output.data.len() as u64;
        }
        Ok(Report {
            outcome: state.egress.explain(with_tails(
                outcome,
                &state.notes.text(),
                &stdout,
                &stderr,
            )),
            follow_ons,
            usage,
            stdout,
            stderr,
        })
    }
}

/// A payload of so many bytes takes about half a millisecond to parse, in one piece.
const LARGE_PAYLOAD: usize = 64 << 10;

/// Holds a payload to the schema that its task has for it, within the attempt's time, CPU budget and
/// priority. The error is what becomes of the attempt.
async fn check_payload(
    code: &Code,
    job: &Job,
    plan: &Plan,
    meter: &Meter,
    (started, deadline): (Instant, Instant),
) -> Result<(), Outcome> {
    let checker = code.checkers.get(&job.task).filter(|_| plan.check_payload);
    let is_parsed = checker.is_some() || code.handler.derived().is_some();
    if !is_parsed || !is_json(&job.content_type) {
        return Ok(());
    }
    if job.payload.len() > LARGE_PAYLOAD {
        // Not on a thread that others wait for.
        meter.expect_long();
        tokio::task::yield_now().await;
    }
    let Some(checker) = checker else { return Ok(()) };
    let over = || over(plan, meter, started, deadline);
    let begun = checker.begin(&job.payload, plan.limits.memory_bytes, &|| over().is_none());
    let mut checking = begun.map_err(|failure| rejected(failure, over))?;
    if let Some(checked) = checking.go_on() {
        return checked.map_err(Outcome::Rejected);
    }
    let rest = pin!(async {
        loop {
            tokio::task::yield_now().await;
            if plan.cancellation.is_revoked() {
                return Ok(Err(Outcome::Revoked));
            }
            if let Some(checked) = checking.go_on() {
                return Ok(checked.map_err(Outcome::Rejected));
            }
        }
    });
    match within(deadline, plan.limits.cpu, meter, rest).await {
        Ok(checked) => checked,
        Err(End::Cpu(budget)) => Err(over_cpu(budget)),
        Err(End::Deadline) => Err(over_time(&plan.limits, started, deadline)),
        Err(End::Error(error)) => {
            Err(Outcome::Crashed(Failure::new("payload_check", error.to_string())))
        }
    }
}

impl Report {
    /// Of an attempt that the host could not even begin.
    fn without_a_guest(kind: &str, error: &dyn std::error::Error) -> Self {
        Self::unrun(Outcome::HostFault(Failure::new(kind, error.to_string())))
    }
}

/// Adds what a guest wrote to a failure that says no more: where it stood when its time was over,
/// or what it logged before it gave up. And what it was refused, since that may be why.
fn with_tails(outcome: Outcome, notes: &str, stdout: &Tail, stderr: &Tail) -> Outcome {
    let own = |failure: Failure| match failure.detail {
        None => {
            let tails = crash::tails(&Tail::default(), stderr);
            failure.with_detail(notes.to_owned() + &tails)
        }
        Some(ref detail) if !notes.is_empty() && !detail.contains(notes) => {
            let detail = format!("{notes}{detail}");
            failure.with_detail(detail)
        }
        Some(_) => failure,
    };
    match outcome {
        Outcome::TimedOut(failure) => {
            Outcome::TimedOut(failure.with_detail(notes.to_owned() + &crash::tails(stdout, stderr)))
        }
        Outcome::Failed(failure) => Outcome::Failed(own(failure)),
        Outcome::Retry { failure, after } => Outcome::Retry { failure: own(failure), after },
        other => other,
    }
}

/// The time so far from now, in milliseconds since the Unix epoch.
fn unix_millis(from_now: Duration) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from((now + from_now).as_millis()).unwrap_or(u64::MAX)
}
