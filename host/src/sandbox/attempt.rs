//! One attempt at one job, in a sandbox of its own.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::Sandbox;
use super::bindings::Invocation;
use super::component::LoadedComponent;
use super::cpu::metered;
use super::crash;
use super::limits::{Limit, Limits};
use super::output;
use super::scratch::ScratchDir;
use super::state::{DeadlinePassed, Scene};
use super::stdio::Tail;
use crate::job::Job;
use crate::outcome::{Failure, Outcome};
use crate::policy::Grants;
use crate::usage::Usage;

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
    /// Whether what it writes to standard output and error is logged.
    pub log_guests: bool,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            max_attempts: 1,
            deadline: None,
            grants: Arc::default(),
            log_guests: false,
        }
    }
}

/// What an attempt came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// What follows from it. Texts are cut and escaped, an output is checked.
    pub outcome: Outcome,
    /// What it used.
    pub usage: Usage,
    /// The end of standard output.
    pub stdout: Tail,
    /// The end of standard error.
    pub stderr: Tail,
}

/// How a call into a guest ended that gave no answer.
#[derive(Debug)]
pub(super) enum End {
    /// It was stopped at its deadline.
    Deadline,
    /// It trapped, or broke a limit.
    Error(wasmtime::Error),
}

/// Runs a guest until its deadline. A guest that waits is stopped by the executor's timer, one
/// that computes by the epoch's callback; each alone would miss the other.
pub(super) async fn within<T>(
    deadline: Instant,
    call: impl Future<Output = wasmtime::Result<T>>,
) -> Result<T, End> {
    match tokio::time::timeout_at(deadline.into(), call).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) if error.is::<DeadlinePassed>() => Err(End::Deadline),
        Ok(Err(error)) => Err(End::Error(error)),
        Err(_elapsed) => Err(End::Deadline),
    }
}

impl Sandbox {
    /// Makes one attempt at a job, in a fresh instance of the component that serves its task.
    ///
    /// Waits for a free slot first; the attempt's time begins when it has one. Nothing that goes
    /// wrong in the guest is an error here: it is the outcome. May be dropped at any time, which
    /// ends the guest and frees its slot.
    pub async fn run(
        &self,
        component: &Arc<LoadedComponent>,
        job: impl Into<Arc<Job>>,
        plan: &Plan,
    ) -> Report {
        let job = &job.into();
        let _slot = self.slot().await;
        let scratch = match plan.grants.scratch.then(|| self.scratches().make()) {
            Some(made) => match made.await {
                Ok(scratch) => Some(scratch),
                Err(error) => return Report::without_a_guest("scratch", &error),
            },
            None => None,
        };
        let _running = self.ticker().run();
        let started = Instant::now();
        let (mut report, cpu) = metered(self.attempt(component, job, plan, started, scratch)).await;
        report.usage.cpu = cpu;
        report.usage.wall = started.elapsed();
        report
    }

    async fn attempt(
        &self,
        component: &Arc<LoadedComponent>,
        job: &Arc<Job>,
        plan: &Plan,
        started: Instant,
        scratch: Option<ScratchDir>,
    ) -> Report {
        let limits = &plan.limits;
        let timeout = started + limits.timeout;
        let deadline = plan.deadline.map_or(timeout, |by| by.min(timeout));
        let invocation = Invocation {
            job,
            max_attempts: plan.max_attempts,
            deadline: unix_millis(deadline.saturating_duration_since(started)),
        };
        let mut store = match self.store(Scene {
            limits: *limits,
            deadline,
            grants: Arc::clone(&plan.grants),
            job: Some(Arc::clone(job)),
            scratch,
            log_guests: plan.log_guests,
        }) {
            Ok(store) => store,
            Err(error) => return Report::without_a_guest("sandbox", error.as_ref()),
        };
        let ended = within(deadline, async {
            let instance = component.pre.instantiate_async(&mut store).await?;
            let handler = &component.handler;
            handler.run(&mut store, &instance, invocation).await
        })
        .await;
        // A guest that returned before it met the clock made too many calls all the same.
        let ended = ended.and_then(|outcome| match store.data().calls.check() {
            Ok(()) => Ok(outcome),
            Err(refusal) => Err(End::Error(refusal.into())),
        });
        let outcome = match ended {
            Ok(outcome) => output::settle(outcome, limits),
            Err(End::Deadline) => Outcome::TimedOut(if deadline == timeout {
                Failure::new(
                    "timeout",
                    format!("ran for more than {:?}{}", limits.timeout, Limit::Timeout.hint()),
                )
            } else {
                Failure::new(
                    CUT_SHORT,
                    format!(
                        "stopped after {:?}, before its timeout of {:?}, since the host had to \
                         end",
                        deadline.saturating_duration_since(started),
                        limits.timeout
                    ),
                )
            }),
            Err(End::Error(error)) => crash::outcome(&error, store.data(), limits),
        };
        let state = store.data();
        let (stdout, stderr) = (state.stdout.take(), state.stderr.take());
        let mut usage = state.usage();
        usage.bytes_in += job.payload.len() as u64;
        if let Outcome::Done(output) = &outcome {
            usage.bytes_out += output.data.len() as u64;
        }
        Report {
            outcome: with_tails(outcome, &state.notes.text(), &stdout, &stderr),
            usage,
            stdout,
            stderr,
        }
    }
}

impl Report {
    /// Of an attempt that the host could not even begin.
    fn without_a_guest(kind: &str, error: &dyn std::error::Error) -> Self {
        Self {
            outcome: Outcome::Crashed(Failure::new(kind, error.to_string())),
            usage: Usage::default(),
            stdout: Tail::default(),
            stderr: Tail::default(),
        }
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
