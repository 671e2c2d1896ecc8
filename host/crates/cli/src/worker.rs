//! `lovage worker`

use std::{num::NonZeroUsize, path::PathBuf, process::ExitCode, sync::Arc};

use clap::Args;

use super::{
    Misuse,
    signals::{self, Asked},
};
use crate::http::Metrics;
use lovage_config::Config;
use lovage_connect::connect;
use lovage_core::{
    events::{WorkerReport, WorkerStarted},
    phase::{Current, Phase},
};
use lovage_runtime::{load, service::Service, worker::Stop};

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
    let (worker, registry) = (Arc::clone(&started.worker), Arc::clone(&started.registry));
    let mut work = std::pin::pin!(started.run(stop.clone()));
    loop {
        tokio::select! {
            worked = &mut work => break worked?,
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
    }
    Ok(ExitCode::SUCCESS)
}

async fn start(
    config: Arc<Config>,
    stop: &Stop,
    asked: &Asked,
    phase: &Arc<Current>,
) -> anyhow::Result<Service> {
    // Before all else, so that nothing is done for long when the address is taken.
    let metrics = match config.worker.metrics_address {
        Some(address) => Some(Metrics::start(address, Arc::clone(phase)).await?),
        None => None,
    };
    let host = load::host(&config, load::history(&config)).await?;
    let broker = connect(&config).await?;
    let kind = broker.kind();
    let service = Service::new(Arc::clone(&config), host, broker, None, stop).await?;
    if let Some(metrics) = metrics {
        let registry = Arc::clone(&service.registry);
        let pipeline = &service.pipeline;
        let (health, gate) = (pipeline.dependencies(), pipeline.publish_gate().clone());
        let readiness =
            move || health.iter().map(|it| it.readiness()).chain(gate.readiness()).collect();
        metrics.serve(pipeline.totals(), readiness, move || registry.status());
    }
    service.watch_components(Arc::clone(&asked.refresh), stop);
    phase.set(Phase::Running);
    WorkerStarted {
        broker: kind,
        queues: &service.queues,
        tasks: service.registry.tasks().len(),
        concurrency: config.worker.concurrency.get(),
    }
    .emit();
    Ok(service)
}
