//! What jobs need beside the broker, and what is done while it is away.

use std::{sync::Arc, time::Duration};

use super::Pipeline;
use crate::{message::DecodedJob, routes::Source};
use lovage_core::{
    dependency::{Dependency, Readiness},
    format::Format,
};
use lovage_policy::{Capability, Grants};
use lovage_registry::Task;

impl Pipeline {
    /// The services that jobs of this process may need.
    pub fn dependencies(&self) -> Vec<Arc<Dependency>> {
        self.store_health.iter().chain(self.keyvalue_health()).cloned().collect()
    }

    /// The state of each of them, and of the queues that results cannot be published to.
    pub fn readiness(&self) -> Vec<Readiness> {
        let dependencies = self.dependencies();
        let dependencies = dependencies.iter().map(|dependency| dependency.readiness());
        dependencies.chain(self.publish_gate().readiness()).collect()
    }

    fn keyvalue_health(&self) -> Option<&Arc<Dependency>> {
        self.sandbox.keyvalue()?.dependency()
    }

    /// The service without which no job of a queue can be run, if it is down.
    fn missing(&self, source: &Source) -> Option<&Arc<Dependency>> {
        let down = |it: &&Arc<Dependency>| !it.is_up();
        let needs_store = source.defaults.format == Format::Celery;
        if let Some(store) = self.store_health.as_ref().filter(down)
            && needs_store
        {
            return Some(store);
        }
        let keyvalue = self.keyvalue_health().filter(down)?;
        let tasks = self.registry.tasks();
        let needs_buckets =
            |task: &Arc<Task>| self.policies.of(&task.spec.name, "").allows(Capability::Keyvalue);
        (!tasks.is_empty() && tasks.iter().all(needs_buckets)).then_some(keyvalue)
    }

    /// Waits until there is a point in taking jobs from a queue: until what all of them need is up.
    pub async fn until_ready(&self, source: &Source) {
        while let Some(dependency) = self.missing(source) {
            dependency.until_up().await;
        }
    }

    /// Returns true if there is a point in taking jobs from a queue.
    pub fn is_ready(&self, source: &Source) -> bool {
        self.missing(source).is_none()
    }

    /// When a job is to be looked at again that needs what is away; `None` where it can be run.
    pub(super) fn held_up(&self, job: &DecodedJob, grants: Option<&Grants>) -> Option<Duration> {
        let store = self.store_health.as_ref().filter(|_| job.celery.is_some());
        let keyvalue = grants.filter(|grants| grants.allows(Capability::Keyvalue));
        let keyvalue = keyvalue.and_then(|_| self.keyvalue_health());
        let away = store.into_iter().chain(keyvalue).find(|dependency| {
            // Where no task probes it, a job is let through now and then to find out.
            !dependency.is_up() && (dependency.is_monitored() || dependency.is_pausing())
        })?;
        tracing::debug!(dependency = away.name(), "a job needs what is down; it is put back");
        let cap = Duration::from_millis(self.config.worker.error_backoff_cap_ms.get());
        Some((cap / 2).mul_f64(1.0 + fastrand::f64()))
    }

    /// Waits until it is known if the buckets of a job that failed were away.
    pub(super) async fn buckets_settled(&self, grants: &Grants) {
        if grants.allows(Capability::Keyvalue)
            && let Some(dependency) = self.keyvalue_health()
        {
            dependency.settled().await;
        }
    }

    /// How many outages of buckets there were; `None` where a job has none.
    pub(super) fn bucket_outages(&self, grants: &Grants) -> Option<u64> {
        let granted = grants.allows(Capability::Keyvalue);
        self.keyvalue_health().filter(|_| granted).map(|dependency| dependency.outages())
    }
}
