//! The child: confined before it looks at anything, then one attempt after the other.

use std::{
    collections::HashMap,
    io::Read as _,
    os::{fd::AsFd as _, unix::net::UnixStream},
    process::ExitCode,
    sync::Arc,
    time::Instant,
};

use tokio::{
    net::unix::{OwnedReadHalf, OwnedWriteHalf},
    sync::{mpsc, oneshot},
};
use tokio_util::sync::CancellationToken;

use super::{
    buckets::{Asked, ParentStore},
    confine::{Needs, confine},
    protocol::{self, Attempt, Start, ToChild, ToParent},
};
use lovage_config::{Config, SecretConfig, TaskConfig, TenantConfig};
use lovage_core::cancellation::Cancellation;
use lovage_policy::Grants;
use lovage_sandbox::{
    EngineOptions, LoadedComponent, Plan, Report, Sandbox, Services, Source, forward_guest_lines,
};
use lovage_services::keyvalue::{Answer, KeyValue, OperationError};

/// The argument that makes the program a child of a worker, with a socket for standard input.
pub const COMMAND: &str = "run-attempts";

/// The most bytes of a frame from the parent: code of a component, or a payload.
const FRAME_BYTES: u64 = 1 << 30;

/// Lines of guests that wait to be sent; more are dropped, as the log would.
const LINES: usize = 1024;

/// The child's whole life. Its parent learns of a failure by its end.
pub fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            #[allow(clippy::print_stderr, reason = "the parent reads it when the child has ended")]
            {
                eprintln!("{error:#}");
            }
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<()> {
    let mut socket = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    let start = first(&mut socket)?;
    let needs = Needs {
        memory_bytes: start.memory_bytes,
        network: start.network,
        scratch: start.scratch.as_deref(),
    };
    socket.set_nonblocking(true)?;
    // Made before, since it makes sockets for signals, and starts no thread.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let landlock = confine(&needs)?;
    runtime.block_on(serve(socket, &start, landlock))
}

/// Reads the first frame without a runtime, which would start threads.
fn first(socket: &mut UnixStream) -> anyhow::Result<Start> {
    let mut lengths = [0; 8];
    socket.read_exact(&mut lengths)?;
    let [a, b, c, d, ..] = lengths;
    let length = u32::from_le_bytes([a, b, c, d]);
    let mut header = Vec::new();
    socket.take(length.into()).read_to_end(&mut header)?;
    match serde_json::from_slice(&header)? {
        ToChild::Start(start) => Ok(*start),
        _ => anyhow::bail!("the first frame is not the start"),
    }
}

/// What an attempt under way hears from the parent.
struct Heard {
    answers: mpsc::Sender<Result<Answer, OperationError>>,
    cancellation: Cancellation,
    stopping: CancellationToken,
}

async fn serve(socket: UnixStream, start: &Start, landlock: &str) -> anyhow::Result<()> {
    let (mut from, mut to) = tokio::net::UnixStream::from_std(socket)?.into_split();
    let (lines, mut written) = mpsc::channel(LINES);
    forward_guest_lines(Box::new(move |stderr, line, cut| {
        // A line that has no room is dropped.
        let _ = lines.try_send(ToParent::Line { stderr, line: line.to_owned(), cut });
    }));
    let (operations, mut asked) = mpsc::channel::<Asked>(1);
    let sandbox = sandbox(start, operations)?;
    protocol::write(&mut to, &ToParent::Ready { landlock: landlock.to_owned() }, &[]).await?;
    let mut loaded: HashMap<String, Arc<LoadedComponent>> = HashMap::new();
    loop {
        let Some((frame, bytes)) = protocol::read::<ToChild>(&mut from, FRAME_BYTES).await? else {
            return Ok(());
        };
        match frame {
            ToChild::Code { digest, file, size, mode, tasks } => {
                let source = Source { file, digest: digest.clone(), size };
                let component = sandbox.load_native(source, &bytes, mode, tasks).await?;
                loaded.insert(digest, Arc::new(component));
            }
            ToChild::Attempt(attempt) => {
                let component = loaded.get(&attempt.digest).cloned();
                let component = component.ok_or_else(|| anyhow::anyhow!("no such component"))?;
                let stopping = CancellationToken::new();
                let cancellation = Cancellation::until(stopping.clone());
                let (answers, answered) = mpsc::channel(1);
                let heard = Heard { answers, cancellation: cancellation.clone(), stopping };
                let run = run_attempt(&sandbox, &component, *attempt, bytes, cancellation.clone());
                let talk = Talk { from, to, heard, asked: &mut asked, written: &mut written };
                let (report, back) = talk.during(run, answered, &cancellation).await?;
                (from, to) = back;
                let (header, bytes) = protocol::split(report);
                protocol::write(&mut to, &ToParent::Report(Box::new(header)), &bytes).await?;
            }
            // Of an attempt that has ended meanwhile.
            ToChild::Answer(_) | ToChild::Revoked { .. } => {}
            ToChild::Start(_) => anyhow::bail!("a second start"),
        }
    }
}

/// The conversation during one attempt.
struct Talk<'a> {
    from: OwnedReadHalf,
    to: OwnedWriteHalf,
    heard: Heard,
    asked: &'a mut mpsc::Receiver<Asked>,
    written: &'a mut mpsc::Receiver<ToParent>,
}

impl Talk<'_> {
    /// Passes on what the guest wants and says, and what the parent answers, until the attempt is
    /// over.
    async fn during(
        self,
        run: impl Future<Output = anyhow::Result<Report>>,
        mut answered: mpsc::Receiver<Result<Answer, OperationError>>,
        cancellation: &Cancellation,
    ) -> anyhow::Result<(Report, (OwnedReadHalf, OwnedWriteHalf))> {
        let Self { mut from, mut to, heard, asked, written } = self;
        // Frames are read by a task of their own, since a frame may not be left half-read.
        let (stop, stopped) = oneshot::channel::<()>();
        let reader = tokio::spawn(async move {
            let mut stopped = stopped;
            loop {
                let first = tokio::select! {
                    biased;
                    first = protocol::first_byte(&from) => first?,
                    _ = &mut stopped => return anyhow::Ok(from),
                };
                // The parent is gone.
                let Some(first) = first else { std::process::exit(1) };
                match protocol::read_rest(first, &mut from, FRAME_BYTES).await?.0 {
                    ToChild::Answer(answer) => drop(heard.answers.send(answer).await),
                    ToChild::Revoked { stopping: true } => heard.stopping.cancel(),
                    ToChild::Revoked { stopping: false } => heard.cancellation.revoke(),
                    // It does not keep to the protocol.
                    _ => std::process::exit(1),
                }
            }
        });
        let mut run = std::pin::pin!(run);
        let mut progress = tokio::time::interval(std::time::Duration::from_millis(100));
        let report = loop {
            tokio::select! {
                biased;
                report = &mut run => break report?,
                Some((operation, answer)) = asked.recv() => {
                    protocol::write(&mut to, &ToParent::Operation(operation), &[]).await?;
                    // The guest waits for it, and so does its attempt's deadline.
                    let told = tokio::select! {
                        told = answered.recv() => told,
                        report = &mut run => break report?,
                    };
                    let _ = answer.send(told.unwrap_or(Err(OperationError::Unavailable)));
                }
                Some(line) = written.recv() => protocol::write(&mut to, &line, &[]).await?,
                _ = progress.tick() => {
                    if let Some(news) = cancellation.news() {
                        protocol::write(&mut to, &ToParent::Progress(news), &[]).await?;
                    }
                }
            }
        };
        while let Ok(line) = written.try_recv() {
            protocol::write(&mut to, &line, &[]).await?;
        }
        if let Some(news) = cancellation.news() {
            protocol::write(&mut to, &ToParent::Progress(news), &[]).await?;
        }
        drop(stop);
        let from = reader.await??;
        Ok((report, (from, to)))
    }
}

fn sandbox(start: &Start, operations: mpsc::Sender<Asked>) -> anyhow::Result<Sandbox> {
    let most = &start.largest;
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let usual = EngineOptions::default();
    let options = EngineOptions {
        slots: 1,
        ready_instances: 0,
        memory_reservation: start.memory_reservation,
        memory_guard: start.memory_guard,
        max_memory_bytes: usual.max_memory_bytes.max(most.memory_bytes),
        memories: count(most.memories),
        tables: count(most.tables),
        instances: count(most.instances),
        table_elements: most.table_elements,
        tick: start.tick,
        ..usual
    };
    let keyvalue = KeyValue::with_store(Arc::new(ParentStore(operations)), "parent");
    let services = Services { keyvalue: Some(keyvalue), ..Services::default() };
    Ok(Sandbox::with(options, services)?)
}

async fn run_attempt(
    sandbox: &Sandbox,
    component: &Arc<LoadedComponent>,
    attempt: Attempt,
    payload: bytes::Bytes,
    cancellation: Cancellation,
) -> anyhow::Result<Report> {
    let grants = grants(&attempt)?;
    let Attempt { mut job, limits, max_attempts, deadline_in, config, .. } = attempt;
    job.payload = payload;
    let plan = Plan {
        limits,
        max_attempts,
        deadline: deadline_in.map(|after| Instant::now() + after),
        grants: Arc::new(grants),
        cancellation,
        log_guests: attempt.log_guests,
        check_payload: attempt.check_payload,
        given_config: Some(Arc::new(config)),
        ..Plan::default()
    };
    Ok(sandbox.run(component, job, &plan).await)
}

/// The grants again, from what the configuration says of task and tenant.
fn grants(attempt: &Attempt) -> anyhow::Result<Grants> {
    let Attempt { job, task_grants, tenant_grants, .. } = attempt;
    let mut config = Config::default();
    // That a secret is there was checked by the parent, which has sent its value.
    let secrets = [Some(task_grants), tenant_grants.as_ref()].into_iter().flatten();
    let names = secrets.flat_map(|grants| grants.secrets.iter().flatten()).map(|(_, name)| name);
    config.secrets = names.map(|name| (name.clone(), SecretConfig::default())).collect();
    let task = TaskConfig { grants: task_grants.clone(), ..TaskConfig::default() };
    config.tasks.insert(job.task.clone(), task);
    if let Some(grants) = tenant_grants {
        let tenant = TenantConfig { grants: grants.clone(), ..TenantConfig::default() };
        config.tenants.insert(job.tenant.clone(), tenant);
    }
    config.grants_of(&job.task, &job.tenant).map_err(anyhow::Error::msg)
}
