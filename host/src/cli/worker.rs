//! `lovage worker`

use std::{num::NonZeroUsize, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    broker::{BrokerError, Fault},
    config::Config,
    connect::connect,
    events::{ReceiveFailed, WorkerStarted},
    load,
    pipeline::Pipeline,
    retry::Backoff,
    routes::{Routes, Source},
    worker::{Stop, Worker as Service},
};

/// Take jobs from queues and run them until told to stop
#[derive(Debug, Args)]
#[command(after_help = "On the embedded broker, without a configuration:\n  \
    lovage worker --components guest-tasks/dist\n\n\
    SIGTERM or SIGINT: takes no more jobs, lets running ones finish within worker.drain_timeout_ms, \
    gives the rest back. A second signal: gives all back at once.")]
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
    #[allow(clippy::unnecessary_wraps, reason = "the shape that amendments have")]
    pub(super) fn amend(&self, config: &mut Config) -> anyhow::Result<()> {
        if !self.queues.is_empty() {
            config.worker.queues.clone_from(&self.queues);
        }
        config.components.paths.extend(self.components.iter().cloned());
        config.worker.concurrency = self.concurrency.unwrap_or(config.worker.concurrency);
        config.validate("the command line")?;
        Ok(())
    }

    pub(super) async fn execute(self, config: Config) -> anyhow::Result<ExitCode> {
        let stop = Stop::default();
        tokio::spawn(watch_signals(stop.clone())?);
        let config = Arc::new(config);
        let host = load::host(&config).await?;
        let broker = connect(&config).await?;
        let routes = Arc::new(Routes::new(Arc::clone(&broker), Arc::clone(&config)));
        let names = config.consumed_queues();
        let mut sources = Vec::with_capacity(names.len());
        for name in &names {
            let Some(source) = find(&routes, name, &config, &stop).await? else {
                return Ok(ExitCode::SUCCESS);
            };
            let own = config.queue(name).and_then(|queue| queue.concurrency).map(NonZeroUsize::get);
            sources.push((source, own));
        }
        let named = config.tasks.values().chain([&config.defaults]);
        for results in named.filter_map(|task| task.results.as_deref()) {
            routes.queue(results).await?;
        }
        let tasks = host.registry.tasks().len();
        let pipeline =
            Pipeline::new(Arc::clone(&config), host.registry, host.sandbox, routes, &*broker);
        WorkerStarted {
            broker: broker.kind(),
            queues: &names,
            tasks,
            concurrency: config.worker.concurrency.get(),
        }
        .emit();
        let worker = Service::new(broker, Arc::new(pipeline), config.worker.clone());
        worker.run(sources, stop).await;
        Ok(ExitCode::SUCCESS)
    }
}

/// Finds a queue. What may pass is waited for; what is wrong for good ends the start. `None` when
/// told to stop meanwhile.
async fn find(
    routes: &Routes,
    name: &str,
    config: &Config,
    stop: &Stop,
) -> Result<Option<Source>, BrokerError> {
    let backoff = Backoff {
        base: Duration::from_millis(config.worker.error_backoff_base_ms.get()),
        cap: Duration::from_millis(config.worker.error_backoff_cap_ms.get()),
    };
    for failures in 1.. {
        let error = match routes.source(name).await {
            Ok(source) => return Ok(Some(source)),
            Err(error) if error.fault != Fault::Unavailable => return Err(error),
            Err(error) => error,
        };
        let retry_in = backoff.delay(failures).max(backoff.bound(failures) / 2);
        ReceiveFailed { queue: name, error: &error, failures, retry_in }.emit();
        tokio::select! {
            () = stop.drain.cancelled() => return Ok(None),
            () = tokio::time::sleep(retry_in) => {}
        }
    }
    Ok(None)
}

/// The first signal drains, the second gives all back, the third ends the process.
fn watch_signals(stop: Stop) -> std::io::Result<impl Future<Output = ()>> {
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
