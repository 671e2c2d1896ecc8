//! The worker's side: its children, and one attempt in one of them.

use std::{
    collections::HashSet,
    io,
    os::{fd::OwnedFd, unix::net::UnixStream},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{
    net::unix::{OwnedReadHalf, OwnedWriteHalf},
    sync::Semaphore,
};

use super::{
    COMMAND,
    protocol::{self, Attempt, HEADER_BYTES, Start, ToChild, ToParent},
};
use lovage_config::{Config, GrantsConfig, IsolationConfig};
use lovage_core::{
    job::Job,
    outcome::{Failure, Outcome},
    text::printable,
};
use lovage_sandbox::{self as sandbox, ChildHome, LoadedComponent, Meter, Plan, Report, Sandbox};
use lovage_services::keyvalue::{Namespace, Operation, OperationError};

/// Memory of a child beside what its attempt may have, in bytes: the program's own, code, and what
/// the host holds for the attempt.
const OVERHEAD_BYTES: u64 = 512 << 20;

/// The longest that a child may go on beyond its attempt's deadline.
const GRACE: Duration = Duration::from_secs(2);

/// The longest that a child may take to start.
const START: Duration = Duration::from_secs(30);

/// The most bytes that are told of what a child wrote before it died.
const LAST_WORDS: usize = 1024;

/// The kind of the failure of an attempt whose process died.
const PROCESS_DIED: &str = "process_died";

/// Children of a worker, at most so many.
#[derive(Debug)]
pub struct Isolation {
    config: IsolationConfig,
    start: Start,
    places: Semaphore,
    idle: Mutex<Vec<Process>>,
}

/// An attempt that is to be made in a child.
#[derive(Debug)]
pub struct Isolated<'a> {
    /// The worker's sandbox: it has the component's code, and what grants lead to.
    pub sandbox: &'a Sandbox,
    /// The component.
    pub component: &'a Arc<LoadedComponent>,
    /// The job.
    pub job: &'a Arc<Job>,
    /// What the host decided of the attempt.
    pub plan: &'a Plan,
    /// The configuration, for the grants.
    pub config: &'a Config,
    /// What is told the CPU time of an attempt that is given up.
    pub meter: &'a Meter,
}

/// What a child was started for. One is never used for another tenant, nor for more than it is
/// confined to.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Kind {
    tenant: String,
    network: bool,
    scratch: bool,
    memory_bytes: u64,
}

/// A child that takes attempts. Killed when it is dropped.
#[derive(Debug)]
struct Process {
    kind: Kind,
    child: Child,
    from: OwnedReadHalf,
    to: OwnedWriteHalf,
    loaded: HashSet<String>,
    /// CPU time of attempts that have ended, as they were told.
    told_cpu: Duration,
    /// Deleted when the child is gone.
    _scratch: Option<ChildHome>,
}

impl Drop for Process {
    fn drop(&mut self) {
        // Gone already is as well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Why there is no report.
enum Lost {
    /// The child died, or broke the protocol.
    Died(String),
    /// It did not end in time.
    Late,
    /// It could not be started: the host's fault.
    Start(io::Error),
}

impl Isolation {
    /// The children of a configuration; none are started yet. `None` where it asks for none.
    pub fn new(config: &Config, sandbox: &Sandbox) -> Option<Self> {
        let options = sandbox.options();
        (config.isolation.processes > 0).then(|| Self {
            places: Semaphore::new(config.isolation.processes as usize),
            idle: Mutex::default(),
            start: Start {
                memory_reservation: options.memory_reservation,
                memory_guard: options.memory_guard,
                largest: crate::load::largest(config),
                tick: options.tick,
                memory_bytes: 0,
                network: false,
                scratch: None,
            },
            config: config.isolation.clone(),
        })
    }

    /// True where a job's attempts are made in children.
    pub fn applies(&self, job: &Job) -> bool {
        self.config.applies(&job.task, &job.tenant)
    }

    /// Makes an attempt in a child. Waits for a child first; the attempt's time begins when it has
    /// one. May be dropped at any time, which ends the child.
    pub async fn run(&self, attempt: Isolated<'_>) -> Report {
        // `None` only if the semaphore were closed, which nobody does.
        let _place = self.places.acquire().await.ok();
        let limits = &attempt.plan.limits;
        match self.attempt(&attempt).await {
            Ok(report) => report,
            Err(Lost::Died(reason)) => Report::unrun(Outcome::Crashed(Failure::new(
                PROCESS_DIED,
                format!("the process of the attempt ended: {reason}"),
            ))),
            Err(Lost::Late) => Report::unrun(Outcome::TimedOut(Failure::new(
                "timeout",
                format!("the process of the attempt did not end within {:?}", limits.timeout),
            ))),
            Err(Lost::Start(error)) => Report::unrun(Outcome::HostFault(Failure::new(
                "isolation",
                format!("no process can be started for the attempt: {error}"),
            ))),
        }
    }

    async fn attempt(&self, attempt: &Isolated<'_>) -> Result<Report, Lost> {
        let Isolated { sandbox, component, job, plan, config, meter } = attempt;
        let kind = Kind {
            tenant: job.tenant.clone(),
            network: plan.grants.allows(lovage_policy::Capability::Http),
            scratch: plan.grants.scratch,
            memory_bytes: plan.limits.memory_bytes,
        };
        let deadline = Instant::now() + plan.limits.timeout;
        let deadline = plan.deadline.map_or(deadline, |by| by.min(deadline));
        let given = match sandbox.given_config(component, &plan.grants, deadline).await {
            Ok(given) => given,
            Err(outcome) => return Ok(Report::unrun(outcome)),
        };
        let mut busy = Busy { process: Some(self.process(kind, sandbox).await?), meter };
        let Some(process) = &mut busy.process else { return Err(Lost::Late) };
        let digest = &component.source.digest;
        if !process.loaded.contains(digest) {
            let (mode, code) = sandbox
                .native_code(component)
                .await
                .map_err(|problem| Lost::Start(io::Error::other(problem.to_string())))?;
            let code_frame = ToChild::Code {
                digest: digest.clone(),
                file: component.source.file.clone(),
                size: component.source.size,
                mode,
                tasks: component.tasks.clone(),
            };
            process.tell(&code_frame, &code).await?;
            process.loaded.insert(digest.clone());
        }
        let or = &config.defaults.grants;
        let task_grants = config
            .tasks
            .get(&job.task)
            .map_or_else(|| or.clone(), |task| task.grants.clone().or(or));
        let tenant_grants: Option<GrantsConfig> =
            config.tenants.get(&job.tenant).map(|tenant| tenant.grants.clone());
        let payload = job.payload.clone();
        let frame = ToChild::Attempt(Box::new(Attempt {
            digest: digest.clone(),
            job: Job { payload: Bytes::new(), ..Job::clone(job) },
            limits: plan.limits,
            max_attempts: plan.max_attempts,
            deadline_in: plan.deadline.map(|by| by.saturating_duration_since(Instant::now())),
            task_grants,
            tenant_grants,
            config: given,
            log_guests: plan.log_guests,
            check_payload: plan.check_payload,
        }));
        process.tell(&frame, &payload).await?;
        let last = deadline.max(Instant::now()) + GRACE;
        let listened = tokio::time::timeout_at(last.into(), process.listen(attempt)).await;
        let report = listened.unwrap_or(Err(Lost::Late))?;
        process.told_cpu += report.usage.cpu;
        meter.add(report.usage.cpu);
        // One whose guest came to a bad end may be what it has made of it.
        if !matches!(report.outcome, Outcome::Crashed(_) | Outcome::TimedOut(_)) {
            self.idle().extend(busy.process.take());
        }
        Ok(report)
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Process>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A child for a kind of attempt: one that waits, or a new one, for which one that waits for
    /// others is ended where there are too many.
    async fn process(&self, kind: Kind, sandbox: &Sandbox) -> Result<Process, Lost> {
        let ended = {
            let mut idle = self.idle();
            if let Some(found) = idle.iter().rposition(|process| process.kind == kind) {
                let mut process = idle.swap_remove(found);
                // It may have been killed while it waited.
                if matches!(process.child.try_wait(), Ok(None)) {
                    return Ok(process);
                }
            }
            // This attempt has a place, so with none idle there is room for one more.
            let busy =
                (self.config.processes as usize).saturating_sub(self.places.available_permits());
            let full = idle.len() + busy > self.config.processes as usize;
            (full && !idle.is_empty()).then(|| idle.remove(0))
        };
        drop(ended);
        let scratch = match kind.scratch.then(|| sandbox.child_home()).transpose() {
            Ok(scratch) => scratch,
            Err(error) => return Err(Lost::Start(io::Error::other(error.to_string()))),
        };
        let start = Start {
            memory_bytes: kind.memory_bytes.saturating_add(OVERHEAD_BYTES),
            network: kind.network,
            scratch: scratch.as_ref().map(|home| home.path().to_owned()),
            ..self.start.clone()
        };
        tokio::time::timeout(START, Process::start(kind, start, scratch)).await.unwrap_or_else(
            |_elapsed| {
                Err(Lost::Start(io::Error::new(io::ErrorKind::TimedOut, "it does not answer")))
            },
        )
    }
}

/// A child at an attempt. One that is still here when this is dropped is killed, and the CPU time that
/// it did not report is charged.
struct Busy<'a> {
    process: Option<Process>,
    meter: &'a Meter,
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        if let Some(process) = &self.process {
            let cpu = process.cpu().unwrap_or_default();
            self.meter.add(cpu.saturating_sub(process.told_cpu));
        }
    }
}

impl Process {
    async fn start(kind: Kind, start: Start, scratch: Option<ChildHome>) -> Result<Self, Lost> {
        let (ours, theirs) = UnixStream::pair().map_err(Lost::Start)?;
        ours.set_nonblocking(true).map_err(Lost::Start)?;
        let mut command = Command::new(sandbox::own_program().map_err(Lost::Start)?);
        command.arg(COMMAND).env_clear();
        if let Some(scratch) = &scratch {
            command.env("TMPDIR", scratch.path());
        }
        let child = command
            .env("MIMALLOC_ARENA_EAGER_COMMIT", "0")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(Lost::Start)?;
        // It holds the child's end of the socket, whose closing tells that the child is gone.
        drop(command);
        let socket = tokio::net::UnixStream::from_std(ours).map_err(Lost::Start)?;
        let (from, to) = socket.into_split();
        let loaded = HashSet::new();
        let told_cpu = Duration::ZERO;
        let mut process = Self { kind, child, from, to, loaded, told_cpu, _scratch: scratch };
        process.tell(&ToChild::Start(Box::new(start)), &[]).await?;
        match protocol::read::<ToParent>(&mut process.from, 0).await {
            Ok(Some((ToParent::Ready { landlock }, _))) => {
                lovage_core::events::IsolationStarted { landlock: &landlock }.emit();
                Ok(process)
            }
            _ => Err(Lost::Start(io::Error::other(process.last_words()))),
        }
    }

    async fn tell(&mut self, frame: &ToChild, bytes: &[u8]) -> Result<(), Lost> {
        let told = protocol::write(&mut self.to, frame, bytes).await;
        told.map_err(|_| Lost::Died(self.last_words()))
    }

    /// Serves the child until it reports.
    async fn listen(&mut self, attempt: &Isolated<'_>) -> Result<Report, Lost> {
        let plan = attempt.plan;
        // The output, follow-on jobs and values on their way to buckets.
        let most = plan.limits.memory_bytes.saturating_add(HEADER_BYTES as u64);
        let mut ended = std::pin::pin!(plan.cancellation.ended());
        let mut told = false;
        loop {
            let first = tokio::select! {
                biased;
                first = protocol::first_byte(&self.from) => first,
                stopping = &mut ended, if !told => {
                    told = true;
                    self.tell(&ToChild::Revoked { stopping }, &[]).await?;
                    continue;
                }
            };
            let Ok(Some(first)) = first else { return Err(Lost::Died(self.last_words())) };
            let (frame, bytes) = match protocol::read_rest(first, &mut self.from, most).await {
                Ok(frame) => frame,
                Err(error) => return Err(Lost::Died(format!("it sent nonsense: {error}"))),
            };
            match frame {
                ToParent::Report(header) => {
                    let joined = protocol::join(*header, bytes);
                    return joined.ok_or_else(|| Lost::Died("it sent nonsense".to_owned()));
                }
                ToParent::Progress(progress) => plan.cancellation.report(progress),
                ToParent::Line { stderr, line, cut } if plan.log_guests => {
                    sandbox::log_guest_line(stderr, &line, cut);
                }
                ToParent::Line { .. } | ToParent::Ready { .. } => {}
                ToParent::Operation(operation) => {
                    let answer = operate(attempt, operation).await;
                    self.tell(&ToChild::Answer(answer), &[]).await?;
                }
            }
        }
    }

    /// How it ended, and what it said.
    fn last_words(&mut self) -> String {
        use io::Read as _;
        let _ = self.child.kill();
        let status = self.child.wait();
        let mut words = Vec::new();
        if let Some(stderr) = &mut self.child.stderr {
            // The writing end is closed, so this ends.
            let _ = stderr.take(64 << 10).read_to_end(&mut words);
        }
        let words = printable(String::from_utf8_lossy(&words).trim(), LAST_WORDS);
        let status = status.map_or_else(|error| error.to_string(), |it: ExitStatus| it.to_string());
        if words.is_empty() { status } else { format!("{status}: {words}") }
    }

    /// CPU time of the process so far.
    fn cpu(&self) -> Option<Duration> {
        // After the name, which may hold anything: user and system time are fields 14 and 15, in
        // ticks of a hundredth of a second (proc(5)).
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).ok()?;
        let (_, fields) = stat.rsplit_once(')')?;
        let mut fields = fields.split_ascii_whitespace().skip(11);
        let ticks: u64 =
            fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
        Some(Duration::from_millis(ticks.saturating_mul(10)))
    }
}

/// Makes an operation on a bucket for a child: of a bucket that its attempt was granted only.
async fn operate(
    attempt: &Isolated<'_>,
    operation: Operation,
) -> Result<lovage_services::keyvalue::Answer, OperationError> {
    let granted = attempt.plan.grants.keyvalue.iter();
    let mut granted = granted.map(|bucket| Namespace::new(&attempt.job.tenant, bucket));
    let bucket = operation.bucket().clone();
    let Some(keyvalue) = attempt.sandbox.keyvalue().filter(|_| granted.any(|it| it == bucket))
    else {
        return Err(OperationError::Unavailable);
    };
    let made = keyvalue.within(operation.make(keyvalue.store())).await;
    made.map_err(OperationError::from)
}
