//! Lovage inside another program.

use std::{num::NonZeroUsize, path::PathBuf, sync::Arc};

use lovage_config::{Config, ConfigError};
use lovage_connect::connect;
use lovage_core::{
    broker::{Broker, BrokerError},
    job::Job,
};
use lovage_registry::Registry;
use lovage_runtime::{
    load,
    service::{Service, ServiceError},
    settings::{Advice, Settings},
    worker::Stop,
};
use lovage_sandbox::{HostInterface, Plan, Report};
use lovage_services::store::ResultStore;

/// Why a host was not built, did not run a job, or stopped serving.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    /// The configuration is wrong. The text names the field.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A component does not load, or the engine cannot be set up.
    #[error("{0:#}")]
    Load(anyhow::Error),
    /// The broker cannot be used.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// The worker cannot start: a queue is missing or denied, or the host fails its self-test.
    #[error("{0:#}")]
    Start(anyhow::Error),
    /// No component serves the task.
    #[error("no component serves the task `{task}`{}", .nearest.as_ref().map(|near| format!("; did you mean `{near}`?")).unwrap_or_default())]
    UnknownTask {
        /// The task of the job.
        task: String,
        /// A task with a similar name.
        nearest: Option<String>,
    },
    /// The grants of the task are wrong. The text names the field.
    #[error("{0}")]
    Grants(String),
    /// The worker ended although nobody stopped it.
    #[error(transparent)]
    Service(#[from] ServiceError),
}

/// What a [`Host`] is made of. See [`Host::builder`].
#[derive(Debug, Default)]
pub struct HostBuilder {
    config: Config,
    broker: Option<Arc<dyn Broker>>,
    result_store: Option<Arc<dyn ResultStore>>,
    interfaces: Vec<HostInterface>,
}

impl HostBuilder {
    /// Takes all settings from a configuration: limits, grants, queues, tenants. Without one the
    /// defaults hold. Call it before methods that change single settings.
    #[must_use]
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Adds a `.wasm` file, or a directory of them.
    #[must_use]
    pub fn components(mut self, path: impl Into<PathBuf>) -> Self {
        self.config.components.paths.push(path.into());
        self
    }

    /// Sets how many jobs run at once; 64 unless the configuration says otherwise.
    #[must_use]
    pub fn concurrency(mut self, jobs: NonZeroUsize) -> Self {
        self.config.worker.concurrency = jobs;
        self
    }

    /// Takes messages from this broker and not from the one that the configuration names.
    #[must_use]
    pub fn broker(mut self, broker: Arc<dyn Broker>) -> Self {
        self.broker = Some(broker);
        self
    }

    /// Keeps the results of Celery's tasks here and not at `celery.result_backend`.
    #[must_use]
    pub fn result_store(mut self, store: Arc<dyn ResultStore>) -> Self {
        self.result_store = Some(store);
        self
    }

    /// Serves an interface of this program to the tasks that it is granted to.
    #[must_use]
    pub fn interface(mut self, interface: HostInterface) -> Self {
        self.interfaces.push(interface);
        self
    }

    /// Checks the configuration, sets up the engine and loads the components. Connects to no
    /// broker.
    ///
    /// # Errors
    ///
    /// [`HostError::Config`] and [`HostError::Load`].
    pub async fn build(self) -> Result<Host, HostError> {
        let Self { config, broker, result_store, interfaces } = self;
        config.validate("the host's configuration")?;
        let loaded = load::host_with(&config, load::history(&config), interfaces).await;
        let loaded = loaded.map_err(HostError::Load)?;
        Ok(Host { config: Arc::new(config), loaded, broker, result_store })
    }
}

/// Loaded components that run jobs: single ones, or as a worker those of queues.
#[derive(Debug, Clone)]
pub struct Host {
    config: Arc<Config>,
    loaded: load::Host,
    broker: Option<Arc<dyn Broker>>,
    result_store: Option<Arc<dyn ResultStore>>,
}

impl Host {
    /// A host with default settings and no components yet.
    pub fn builder() -> HostBuilder {
        HostBuilder::default()
    }

    /// The tasks that are served, and their versions.
    pub fn registry(&self) -> &Registry {
        &self.loaded.registry
    }

    /// Makes one attempt at a job in a fresh sandbox, under the limits and grants of its task and
    /// tenant. Uses no queue: nothing is retried, published or stored. A failure of the guest is no
    /// error but the [`outcome`](Report::outcome) of the report.
    ///
    /// # Errors
    ///
    /// [`HostError::UnknownTask`] and [`HostError::Grants`].
    pub async fn run(&self, job: Job) -> Result<Report, HostError> {
        let registry = &self.loaded.registry;
        let Some(task) = registry.choose(&job.task, &job.id) else {
            let nearest = registry.nearest(&job.task);
            return Err(HostError::UnknownTask { task: job.task, nearest });
        };
        let settings = Settings::of_task(&self.config, &job.task, Advice::from(&task.spec))
            .for_tenant(&self.config, &job.tenant)
            .for_job(&job);
        let grants = self.config.grants_of(&job.task, &job.tenant).map_err(HostError::Grants)?;
        let plan = Plan {
            limits: settings.limits,
            max_attempts: settings.max_attempts.max(job.attempt),
            grants: Arc::new(grants),
            check_payload: settings.check_payload,
            log_guests: self.config.log.guests,
            ..Plan::default()
        };
        Ok(self.loaded.sandbox.run(&task.component, job, &plan).await)
    }

    /// Works as `lovage worker` does until `stop` is cancelled: takes messages from the queues of
    /// the configuration, runs their jobs, publishes results.
    ///
    /// # Errors
    ///
    /// [`HostError::Broker`], [`HostError::Start`] and [`HostError::Service`].
    pub async fn serve(&self, stop: Stop) -> Result<(), HostError> {
        let broker = match &self.broker {
            Some(broker) => Arc::clone(broker),
            None => connect(&self.config).await?,
        };
        let (config, loaded) = (Arc::clone(&self.config), self.loaded.clone());
        let store = self.result_store.clone();
        let service = Service::new(config, loaded, broker, store, &stop).await;
        let service = service.map_err(HostError::Start)?;
        #[cfg(feature = "watch")]
        service.watch_components(Arc::default(), &stop);
        Ok(service.run(stop).await?)
    }
}
