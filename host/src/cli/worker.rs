//! `lovage worker`

use std::{num::NonZeroUsize, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::Misuse;
use crate::{
    broker::{BrokerError, Fault},
    config::Config,
    connect::connect,
    events::{ReceiveFailed, TaskNotServed, WorkerStarted},
    http::Metrics,
    load,
    pipeline::Pipeline,
    retry::Backoff,
    routes::{Routes, Source},
    sandbox::Sandbox,
    worker::{Stop, Worker as Service},
};

/// How long tidying up may take at the end.
const LEAVE: Duration = Duration::from_secs(5);

/// Take jobs from queues and run them until told to stop
#[derive(Debug, Args)]
#[command(after_help = "On the embedded broker, without a configuration:\n  \
    lovage worker --components guest-tasks/dist\n\n\
    SIGTERM or SIGINT: takes no more jobs, lets running ones finish within worker.drain_timeout_ms, \
    gives the rest back. A second signal: gives all back at once. SIGHUP: looks for other versions of \
    components at once, as it does when a directory changes (components.watch).")]
pub struct Worker {
    /// A queue to take jobs from, in place of those of the configuration; may be given again
    #[arg(long = "queue", short, value_name = "QUEUE")]
    queues: Vec<String>,
    /// A .wasm file or a directory of them, beside those of the configuration; may be given again
    #[arg(long = "components", value_name = "PATH")]
    components: Vec<PathBuf>,
    /// How many jobs run at once
    #[arg(long, value_name = "N")]
    concurrency: Option<NonZeroUsize>,
}

impl Worker {
    /// Puts the flags over the configuration.
    pub(super) fn amend(&self, config: &mut Config) -> anyhow::Result<()> {
        if !self.queues.is_empty() {
            config.worker.queues.clone_from(&self.queues);
        }
        config.components.paths.extend(self.components.iter().cloned());
        config.worker.concurrency = self.concurrency.unwrap_or(config.worker.concurrency);
        config.validate("the command line").map_err(|error| Misuse(error.to_string()))?;
        Ok(())
    }

    pub(super) async fn execute(self, config: Config) -> anyhow::Result<ExitCode> {
        let stop = Stop::default();
        tokio::spawn(watch_signals(stop.clone())?);
        serve(config, stop).await
    }
}

/// Works until told to stop.
pub(super) async fn serve(config: Config, stop: Stop) -> anyhow::Result<ExitCode> {
    // Nothing is held before the start is over, so that it can be broken off anywhere.
    let (worker, sources, sandbox) = tokio::select! {
        started = start(Arc::new(config), stop.drain.clone()) => started?,
        () = stop.drain.cancelled() => return Ok(ExitCode::SUCCESS),
    };
    worker.run(sources, stop).await;
    // What is not deleted by then is left to the next start.
    let _ = tokio::time::timeout(LEAVE, sandbox.close_scratch()).await;
    Ok(ExitCode::SUCCESS)
}

/// A worker that is ready to run, the queues it takes jobs from, each with the number of its jobs
/// at once, and where those run.
async fn start(
    config: Arc<Config>,
    stopping: CancellationToken,
) -> anyhow::Result<(Arc<Service>, Vec<(Source, Option<usize>)>, Sandbox)> {
    // Before all else, so that nothing is done for long when the address is taken.
    let metrics = match config.worker.metrics_address {
        Some(address) => Some(Metrics::start(address).await?),
        None => None,
    };
    let watches = config.components.watch.unwrap_or(true);
    let host = load::host(&config, load::history(&config)).await?;
    let broker = connect(&config).await?;
    let routes = Arc::new(Routes::new(Arc::clone(&broker), Arc::clone(&config)));
    let names = config.consumed_queues();
    let mut sources = Vec::with_capacity(names.len());
    for name in &names {
        let source = find(&config, name, || routes.source(name)).await?;
        let own = config.queue(name).and_then(|queue| queue.concurrency).map(NonZeroUsize::get);
        sources.push((source, own));
    }
    let named = config.tasks.values().chain([&config.defaults]);
    for results in named.filter_map(|task| task.results.as_deref()) {
        find(&config, results, || routes.queue(results)).await?;
    }
    for task in config.tasks.keys().filter(|task| host.registry.get(task).is_none()) {
        TaskNotServed { task, nearest: host.registry.nearest(task).as_deref() }.emit();
    }
    let tasks = host.registry.tasks().len();
    let registry = Arc::clone(&host.registry);
    let sandbox = host.sandbox.clone();
    let pipeline =
        Pipeline::new(Arc::clone(&config), host.registry, host.sandbox, routes, broker.clone())
            .until(stopping.clone());
    if let Some(metrics) = metrics {
        let registry = Arc::clone(&registry);
        let health = pipeline.dependencies();
        let readiness = move || health.iter().map(|it| it.readiness()).collect();
        metrics.serve(pipeline.totals(), readiness, move || registry.status());
    }
    let ahead = Arc::clone(&registry);
    tokio::spawn(async move { ahead.load_ahead().await });
    let wake = on_hangup()?;
    if watches {
        let interval = config.components.refresh_every();
        tokio::spawn(async move { registry.watch(interval, wake, stopping).await });
    } else {
        tokio::spawn(async move { registry.refresh_when(wake, stopping).await });
    }
    WorkerStarted {
        broker: broker.kind(),
        queues: &names,
        tasks,
        concurrency: config.worker.concurrency.get(),
    }
    .emit();
    let worker = Service::new(broker, Arc::new(pipeline), config.worker.clone());
    Ok((worker, sources, sandbox))
}

/// Finds a queue. What may pass is waited for; what is wrong for good ends the start.
async fn find<T, F: Future<Output = Result<T, BrokerError>>>(
    config: &Config,
    name: &str,
    look: impl Fn() -> F,
) -> Result<T, BrokerError> {
    let backoff = Backoff {
        base: Duration::from_millis(config.worker.error_backoff_base_ms.get()),
        cap: Duration::from_millis(config.worker.error_backoff_cap_ms.get()),
    };
    let mut failures = 0;
    loop {
        let error = match look().await {
            Err(error) if error.fault == Fault::Unavailable => error,
            other => return other,
        };
        failures += 1;
        let retry_in = backoff.delay(failures).max(backoff.bound(failures) / 2);
        ReceiveFailed { queue: name, error: &error, failures, retry_in }.emit();
        tokio::time::sleep(retry_in).await;
    }
}

/// SIGHUP asks to look for other versions of components at once.
fn on_hangup() -> std::io::Result<Arc<Notify>> {
    let mut hangup = signal(SignalKind::hangup())?;
    let wake = Arc::new(Notify::new());
    let woken = Arc::clone(&wake);
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            woken.notify_one();
        }
    });
    Ok(wake)
}

/// The first signal drains, the second gives all back, the third ends the process.
pub(super) fn watch_signals(stop: Stop) -> std::io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        for count in 1.. {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            match count {
                1 => stop.drain.cancel(),
                2 => stop.now.cancel(),
                _ => std::process::exit(130),
            }
        }
    })
}
