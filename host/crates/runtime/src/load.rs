//! From a configuration to tasks that are ready to run.

use std::num::{NonZeroU64, NonZeroUsize};
use std::sync::Arc;
use std::time::Duration;

use crate::settings::{Advice, Settings};
use lovage_config::{AllocatorKind, Config, KeyConfig};
use lovage_policy::Policies;
use lovage_registry::{
    Canary, Claims, ComponentUrl, DEFAULT_KEEP, History, HistoryError, LoadOptions, Origin,
    Registry,
    signature::{Key, Signatures, WARN_BEFORE},
};
use lovage_sandbox::{Allocator, EngineOptions, HostInterface, Limits, Network, Sandbox, Services};
use lovage_services::{keyvalue::KeyValue, secrets::Secrets};

/// What it takes to run jobs.
#[derive(Debug, Clone)]
pub struct Host {
    /// The tasks.
    pub registry: Arc<Registry>,
    /// Where they run.
    pub sandbox: Sandbox,
}

/// A sandbox as the configuration describes it, with room for `slots` attempts at once.
pub fn sandbox(config: &Config, slots: usize) -> anyhow::Result<Sandbox> {
    sandbox_with(config, slots, services(config)?)
}

/// What stands behind the capabilities that the configuration grants. Nothing is asked, opened or
/// connected yet.
fn services(config: &Config) -> anyhow::Result<Services> {
    let keyvalue = config.grants_buckets().then(|| KeyValue::new(&config.keyvalue)).transpose();
    Ok(Services {
        secrets: Secrets::new(&config.secrets),
        keyvalue: keyvalue.map_err(anyhow::Error::msg)?,
        network: Network::default(),
        interfaces: Vec::new(),
    })
}

fn sandbox_with(config: &Config, slots: usize, services: Services) -> anyhow::Result<Sandbox> {
    let mut options = EngineOptions {
        slots: u32::try_from(slots).unwrap_or(u32::MAX),
        allocator: match config.sandbox.allocator {
            AllocatorKind::Auto => Allocator::Auto,
            AllocatorKind::Pooling => Allocator::Pooling,
            AllocatorKind::OnDemand => Allocator::OnDemand,
        },
        threads: config.worker.threads,
        ..EngineOptions::default()
    };
    if let Some(bytes) = config.sandbox.memory_reservation_bytes {
        options.memory_reservation = bytes;
    }
    options.memory_budget = config.worker.memory_bytes.map(NonZeroU64::get);
    if let Some(instances) = config.sandbox.ready_instances {
        options.ready_instances = instances;
    }
    if let Some(bytes) = config.components.max_bytes {
        options.max_component_bytes = bytes.get();
    }
    if let Some(bytes) = config.components.loaded_bytes {
        options.loaded_bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
    }
    #[cfg(feature = "compiler")]
    {
        let compile = &mut options.compile;
        if let Some(ms) = config.components.compile_cpu_ms {
            compile.cpu = Duration::from_millis(ms.get());
        }
        if let Some(bytes) = config.components.compile_memory_bytes {
            compile.memory_bytes = bytes.get();
        }
        if let Some(ms) = config.components.compile_timeout_ms {
            compile.wall = Duration::from_millis(ms.get());
        }
        if let Some(bytes) = config.components.max_code_bytes {
            compile.code_bytes = bytes.get();
        }
        if let Some(ratio) = config.components.max_code_ratio {
            compile.code_ratio = ratio.get();
        }
    }
    // The pool has room for whatever some task may have.
    let most = largest(config);
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    options.max_memory_bytes = options.max_memory_bytes.max(most.memory_bytes);
    options.memories = count(most.memories);
    options.tables = count(most.tables);
    options.instances = count(most.instances);
    options.table_elements = most.table_elements;
    Ok(Sandbox::with(options, services)?)
}

/// Loads all components that the configuration names. Their versions are kept in `history`, where
/// there is one.
pub async fn host(config: &Config, history: Option<History>) -> anyhow::Result<Host> {
    host_with(config, history, Vec::new()).await
}

/// The same, with interfaces that the embedding program serves to guests.
pub async fn host_with(
    config: &Config,
    history: Option<History>,
    interfaces: Vec<HostInterface>,
) -> anyhow::Result<Host> {
    let services = Services { interfaces, ..services(config)? };
    if let Some(keyvalue) = &services.keyvalue {
        // Better now than at the first job.
        keyvalue.store().prepare().await?;
    }
    let sandbox = sandbox_with(config, config.worker.concurrency.get(), services)?;
    let grants = config.tasks.values().map(|task| &task.grants).chain([&config.defaults.grants]);
    if grants.into_iter().any(|grants| grants.scratch == Some(true)) {
        let sandbox = sandbox.clone();
        tokio::task::spawn_blocking(move || sandbox.prepare_scratch()).await??;
    }
    let origins = origins(config);
    let options = LoadOptions {
        history,
        canary: canary(config),
        on_error: config.components.on_error,
        ..options(config)
    };
    let registry = Registry::load(&sandbox, &origins, &options).await?;
    Ok(Host { registry: Arc::new(registry), sandbox })
}

/// Where the components of a configuration come from.
pub fn origins(config: &Config) -> Vec<Origin> {
    let components = &config.components;
    let remote = |url| {
        if cfg!(feature = "compiler") {
            return Origin::Remote(url);
        }
        let cache = components.cache_dir.clone();
        Origin::RemotePrecompiled(url, cache.unwrap_or_else(|| "/tmp/lovage".into()))
    };
    components
        .paths
        .iter()
        .cloned()
        .map(Origin::Wasm)
        .chain(components.precompiled.iter().cloned().map(Origin::Precompiled))
        // Those that are none were refused with the configuration.
        .chain(components.urls.iter().filter_map(|url| ComponentUrl::parse(url).ok()).map(remote))
        .collect()
}

/// Where the versions that are served are kept; without one where that fails, and with a warning
/// that says why.
pub fn history(config: &Config) -> Option<History> {
    match open_history(config) {
        Ok(history) => Some(history),
        Err(error) => {
            tracing::warn!(%error, "no versions are kept; there is no way back from a bad one");
            None
        }
    }
}

/// The same, where one cannot do without.
pub fn open_history(config: &Config) -> Result<History, HistoryError> {
    let keep = config.components.keep_versions.map_or(DEFAULT_KEEP, NonZeroUsize::get);
    match &config.components.state_dir {
        Some(dir) => History::open(dir, keep),
        None => History::open(&History::default_dir()?, keep),
    }
}

fn canary(config: &Config) -> Option<Canary> {
    config.components.canary.map(|canary| Canary {
        percent: canary.percent,
        min_calls: canary.min_calls.get(),
        failure_margin: canary.failure_margin,
        latency_ratio: canary.latency_ratio,
        alpha: canary.alpha,
    })
}

/// How components are loaded: the compile cache, and what `describe` may use.
///
/// Which tasks a component serves is not known before it has said so. So `describe` may use as
/// much as the task that is allowed the most: who raises a task's memory so that it runs has raised
/// it for loading, too, and what a failure says of how to raise a limit is true.
pub fn options(config: &Config) -> LoadOptions {
    LoadOptions {
        #[cfg(feature = "compiler")]
        cache: lovage_registry::CompileCache::open_or_warn(
            config.components.cache_dir.as_deref(),
            config.components.cache_bytes.unwrap_or(lovage_registry::DEFAULT_MAX_BYTES),
        ),
        limits: largest(config),
        policies: Arc::new(Policies::new(config)),
        signatures: Arc::new(signatures(config)),
        claims: Arc::new(Claims::of(config)),
        ..LoadOptions::default()
    }
}

/// Who may sign components. Keys that are none were refused with the configuration.
pub fn signatures(config: &Config) -> Signatures {
    let signatures = &config.components.signatures;
    let key = |key: &KeyConfig| {
        let parsed = Key::parse(&key.id, &key.public, key.not_after).ok()?;
        Some(Key { precompiled: key.precompiled, ..parsed })
    };
    Signatures {
        required: signatures.required,
        warn_before: signatures.warn_before_ms.map_or(WARN_BEFORE, Duration::from_millis),
        keys: signatures.keys.iter().filter_map(key).collect(),
    }
}

/// What is not wrong with a configuration, but is to be known.
pub fn warnings(config: &Config) -> Vec<String> {
    let mut warnings = signatures(config).warnings(jiff::Timestamp::now());
    let claims = Claims::of(config);
    warnings.extend(claims.unbound().map(|task| {
        format!(
            "tasks.{task}.grants is set, and tasks.{task}.component is not: any component that \
             declares the task may have these grants"
        )
    }));
    warnings
}

/// The most that any task may have, limit by limit.
pub(crate) fn largest(config: &Config) -> Limits {
    let of_task = |task: &str| Settings::of_task(config, task, Advice::default()).limits;
    config.tasks.keys().map(|task| of_task(task)).fold(of_task(""), |most, task| Limits {
        memory_bytes: most.memory_bytes.max(task.memory_bytes),
        timeout: most.timeout.max(task.timeout),
        // Where one has none of its own, it has as much as it has time.
        cpu: most.cpu.zip(task.cpu).map(|(most, task)| most.max(task)),
        host_calls: most.host_calls.max(task.host_calls),
        handles: most.handles.max(task.handles),
        memories: most.memories.max(task.memories),
        tables: most.tables.max(task.tables),
        instances: most.instances.max(task.instances),
        table_elements: most.table_elements.max(task.table_elements),
        ..most
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn to_load_a_component_as_much_is_allowed_as_to_any_task() {
        let config = "[defaults]\nmemory_bytes = 100\ntimeout_ms = 1000\n\
                      [tasks.a]\nmemory_bytes = 300\ntimeout_ms = 500\n\
                      [tasks.b]\nmemory_bytes = 50\ntimeout_ms = 3000\n";
        let limits = largest(&Config::parse(config, "test").unwrap());
        assert_eq!((limits.memory_bytes, limits.timeout), (300, Duration::from_secs(3)));
        assert_eq!(limits.cpu, None);
        let tight = "[defaults]\ncpu_ms = 10\n[tasks.a]\ncpu_ms = 30\n";
        let limits = largest(&Config::parse(tight, "test").unwrap());
        assert_eq!(limits.cpu, Some(Duration::from_millis(30)));
        let one = largest(&Config::parse("[tasks.a]\ncpu_ms = 30\n", "test").unwrap());
        assert_eq!(one.cpu, None);
        let none = largest(&Config::default());
        let usual = Settings::of_task(&Config::default(), "", Advice::default()).limits;
        assert_eq!(none, usual);
    }
}
