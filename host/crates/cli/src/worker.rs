//! `lovage worker`

use std::{num::NonZeroUsize, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use clap::Args;

use super::{
    Misuse,
    signals::{self, Asked},
};
use crate::http::Metrics;
use lovage_config::Config;
use lovage_connect::connect;
use lovage_core::{
    broker::{Broker, BrokerError, Fault},
    events::{BrokerLost, ReceiveFailed, TaskNotServed, WorkerReport, WorkerStarted},
    phase::{Current, Phase},
    retry::Backoff,
};
use lovage_registry::Registry;
use lovage_runtime::{
    load,
    pipeline::Pipeline,
    routes::{Routes, Source},
    worker::{Stop, Worker as Service},
};
use lovage_sandbox::Sandbox;

/// How long tidying up may take at the end.
const LEAVE: Duration = Duration::from_secs(5);

/// Take jobs from queues and run them until told to stop
#[derive(Debug, Args)]
#[command(after_help = "On the embedded broker, without a configuration:\n  \
    lovage worker --components guest-tasks/dist\n\n\
    SIGTERM or SIGINT: takes no more jobs, lets running ones finish within worker.drain_timeout_ms, \
    gives the rest back. A second signal, or SIGQUIT: gives all back at once. SIGHUP: looks for other \
    versions of components at once, as it does when a directory changes (components.watch). SIGUSR1: \
    logs the state of the worker. SIGUSR2: nothing.")]
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
        let asked = signals::watch(stop.clone())?;
        serve(config, stop, asked).await
    }
}

/// Works until told to stop, or until the broker is lost for good.
pub(super) async fn serve(config: Config, stop: Stop, asked: Asked) -> anyhow::Result<ExitCode> {
    let phase = Arc::new(Current::default());
    // Nothing is held before the start is over, so that it can be broken off anywhere.
    let starting = start(Arc::new(config), &stop, &asked, &phase);
    let mut starting = std::pin::pin!(starting);
    let started = loop {
        tokio::select! {
            started = &mut starting => break started?,
            () = stop.drain.cancelled() => return Ok(ExitCode::SUCCESS),
            () = asked.report.notified() => {
                let log_lines_dropped = lovage_runtime::telemetry::dropped_lines();
                let state = phase.get().as_str();
                WorkerReport { state, running: 0, tasks: 0, log_lines_dropped }.emit();
            }
        }
    };
    let Started { worker, broker, registry, sources, sandbox } = started;
    let work = Arc::clone(&worker).run(sources, stop.clone());
    let mut work = std::pin::pin!(work);
    let mut lost = std::pin::pin!(broker.lost());
    let mut why = None;
    let ended = loop {
        tokio::select! {
            worked = &mut work => break worked,
            error = &mut lost, if why.is_none() => {
                BrokerLost { error: &error }.emit();
                why = Some(error);
                stop.now.cancel();
            }
            () = stop.drain.cancelled(), if phase.get() == Phase::Running => {
                phase.set(Phase::Stopping);
            }
            () = asked.report.notified() => {
                let tasks = registry.tasks().len();
                let (state, running) = (phase.get().as_str(), worker.running());
                let log_lines_dropped = lovage_runtime::telemetry::dropped_lines();
                WorkerReport { state, running, tasks, log_lines_dropped }.emit();
            }
        }
    };
    // What is not deleted by then is left to the next start.
    let _ = tokio::time::timeout(LEAVE, sandbox.close_scratch()).await;
    ended?;
    why.map_or(Ok(ExitCode::SUCCESS), |error| Err(error.into()))
}

/// A worker that is ready to run.
struct Started {
    worker: Arc<Service>,
    broker: Arc<dyn Broker>,
    registry: Arc<Registry>,
    /// The queues that jobs are taken from, each with the number of its jobs at once.
    sources: Vec<(Source, Option<usize>)>,
    sandbox: Sandbox,
}

async fn start(
    config: Arc<Config>,
    stop: &Stop,
    asked: &Asked,
    phase: &Arc<Current>,
) -> anyhow::Result<Started> {
    let (stopping, supervisor) = (stop.drain.clone(), stop.supervisor());
    // Before all else, so that nothing is done for long when the address is taken.
    let metrics = match config.worker.metrics_address {
        Some(address) => Some(Metrics::start(address, Arc::clone(phase)).await?),
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
    pipeline.health().check().await?;
    if let Some(metrics) = metrics {
        let registry = Arc::clone(&registry);
        let (health, gate) = (pipeline.dependencies(), pipeline.publish_gate().clone());
        let readiness =
            move || health.iter().map(|it| it.readiness()).chain(gate.readiness()).collect();
        metrics.serve(pipeline.totals(), readiness, move || registry.status());
    }
    let (ahead, watch) = (Arc::clone(&registry), supervisor.clone());
    tokio::spawn(async move { watch.run("loader of components", ahead.load_ahead()).await });
    let (watched, wake) = (Arc::clone(&registry), Arc::clone(&asked.refresh));
    let interval = config.components.refresh_every();
    tokio::spawn(async move {
        let watcher = Box::pin(async {
            if watches {
                Box::pin(watched.watch(interval, wake, stopping)).await;
            } else {
                Box::pin(watched.refresh_when(wake, stopping)).await;
            }
        });
        supervisor.run("watcher of components", watcher).await;
    });
    phase.set(Phase::Running);
    WorkerStarted {
        broker: broker.kind(),
        queues: &names,
        tasks,
        concurrency: config.worker.concurrency.get(),
    }
    .emit();
    let worker = Service::new(Arc::clone(&broker), Arc::new(pipeline), config.worker.clone());
    Ok(Started { worker, broker, registry, sources, sandbox })
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
