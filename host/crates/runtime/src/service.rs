//! A worker with all that it needs, put together from a configuration, loaded components and a
//! broker.

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use lovage_config::Config;
use lovage_core::{
    backoff::Backoff,
    broker::{Broker, BrokerError, Fault},
    events::{BrokerLost, ReceiveFailed, TaskNotServed},
};
use lovage_registry::Registry;
use lovage_sandbox::Sandbox;
use lovage_services::store::ResultStore;
#[cfg(feature = "watch")]
use tokio::sync::Notify;

use crate::{
    load::Host,
    pipeline::Pipeline,
    routes::{Routes, Source},
    supervise::Panicked,
    worker::{Stop, Worker},
};

/// How long the deletion of scratch directories may take at the end.
const CLEAN_UP: Duration = Duration::from_secs(5);

/// Why a service ended that nobody stopped.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The broker is lost for good.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// A task that the worker needs panicked.
    #[error(transparent)]
    Panicked(#[from] Panicked),
}

/// A worker that is ready to run.
#[derive(Debug)]
pub struct Service {
    /// The worker.
    pub worker: Arc<Worker>,
    /// What it does with each message.
    pub pipeline: Arc<Pipeline>,
    /// The components that it serves.
    pub registry: Arc<Registry>,
    /// The queues that it takes jobs from, by name.
    pub queues: Vec<String>,
    broker: Arc<dyn Broker>,
    /// Each queue with the number of its jobs at once, if that is less than the worker's.
    sources: Vec<(Source, Option<usize>)>,
    sandbox: Sandbox,
    #[cfg_attr(not(feature = "watch"), allow(dead_code, reason = "only a watcher reads it"))]
    config: Arc<Config>,
}

impl Service {
    /// Finds the queues and makes the worker. A queue that cannot be reached is waited for.
    /// `result_store` takes the place of the one that the configuration names.
    ///
    /// # Errors
    ///
    /// A queue does not exist or is denied, or the host fails its self-test.
    pub async fn new(
        config: Arc<Config>,
        host: Host,
        broker: Arc<dyn Broker>,
        result_store: Option<Arc<dyn ResultStore>>,
        stop: &Stop,
    ) -> anyhow::Result<Self> {
        let routes = Arc::new(Routes::new(Arc::clone(&broker), Arc::clone(&config)));
        let queues = config.consumed_queues();
        let mut sources = Vec::with_capacity(queues.len());
        for name in &queues {
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
        let Host { registry, sandbox } = host;
        let mut pipeline = Pipeline::new(
            Arc::clone(&config),
            Arc::clone(&registry),
            sandbox.clone(),
            routes,
            Arc::clone(&broker),
        )
        .until(stop.drain.clone());
        if let Some(store) = result_store {
            pipeline = pipeline.with_result_store(store);
        }
        pipeline.health().check().await?;
        let pipeline = Arc::new(pipeline);
        let settings = config.worker.clone();
        let worker = Worker::new(Arc::clone(&broker), Arc::clone(&pipeline), settings);
        Ok(Self { worker, pipeline, registry, queues, broker, sources, sandbox, config })
    }

    /// Loads components ahead of their first jobs, and looks for other versions: by the
    /// configuration, and whenever `refresh` is notified. Ends when the worker is told to stop.
    #[cfg(feature = "watch")]
    pub fn watch_components(&self, refresh: Arc<Notify>, stop: &Stop) {
        let supervisor = stop.supervisor();
        let (registry, watch) = (Arc::clone(&self.registry), supervisor.clone());
        tokio::spawn(async move { watch.run("loader of components", registry.load_ahead()).await });
        let (registry, stopping) = (Arc::clone(&self.registry), stop.drain.clone());
        let watches = self.config.components.watch.unwrap_or(true);
        let interval = self.config.components.refresh_every();
        tokio::spawn(async move {
            let watcher = Box::pin(async {
                if watches {
                    Box::pin(registry.watch(interval, refresh, stopping)).await;
                } else {
                    Box::pin(registry.refresh_when(refresh, stopping)).await;
                }
            });
            supervisor.run("watcher of components", watcher).await;
        });
    }

    /// Works until told to stop.
    ///
    /// # Errors
    ///
    /// The broker is lost for good, or a task that the worker needs panicked: the worker was
    /// drained for that.
    pub async fn run(self, stop: Stop) -> Result<(), ServiceError> {
        let Self { worker, broker, sources, sandbox, .. } = self;
        let mut work = std::pin::pin!(worker.run(sources, stop.clone()));
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
            }
        };
        // What is not deleted by then is left to the next start.
        let _ = tokio::time::timeout(CLEAN_UP, sandbox.close_scratch()).await;
        ended?;
        why.map_or(Ok(()), |error| Err(error.into()))
    }
}

/// Finds a queue. A passing failure is waited for; any other ends the start.
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
