//! A result store behind a circuit breaker.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::{Counted, Part, ResultStore, StoreError};
use lovage_core::{
    dependency::{Dependency, Probe},
    job::JobKey,
};

/// A store that fails at once while it is known to be away, and tells its [`Dependency`] how
/// operations fare.
#[derive(Debug)]
pub struct Guarded {
    store: Arc<dyn ResultStore>,
    dependency: Arc<Dependency>,
}

/// The store as a service to be probed.
#[derive(Debug)]
struct Probed(Arc<dyn ResultStore>);

#[async_trait]
impl Probe for Probed {
    async fn probe(&self) -> Result<(), String> {
        self.0.probe().await
    }
}

impl Guarded {
    /// Puts a store behind a circuit breaker.
    pub fn new(store: Arc<dyn ResultStore>) -> (Arc<Self>, Arc<Dependency>) {
        let dependency = Dependency::new("result_backend", Arc::new(Probed(Arc::clone(&store))));
        (Arc::new(Self { store, dependency: Arc::clone(&dependency) }), dependency)
    }

    async fn guard<T>(
        &self,
        operation: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        self.dependency.admit().map_err(StoreError::Away)?;
        let answer = operation.await;
        match &answer {
            Ok(_) | Err(StoreError::OtherTenants) => self.dependency.succeeded(),
            Err(StoreError::Away(reason)) => self.dependency.failed(reason),
            Err(StoreError::Refused(_)) => self.dependency.doubt(),
        }
        answer
    }
}

#[async_trait]
impl Probe for Guarded {
    async fn probe(&self) -> Result<(), String> {
        self.store.probe().await
    }
}

#[async_trait]
impl ResultStore for Guarded {
    async fn put(&self, job: JobKey<'_>, meta: Bytes) -> Result<bool, StoreError> {
        self.guard(self.store.put(job, meta)).await
    }

    async fn get(&self, tenant: &str, tasks: &[String]) -> Result<Vec<Option<Bytes>>, StoreError> {
        self.guard(self.store.get(tenant, tasks)).await
    }

    async fn begin_chord(
        &self,
        group: JobKey<'_>,
        result: Bytes,
        nested: bool,
    ) -> Result<(), StoreError> {
        self.guard(self.store.begin_chord(group, result, nested)).await
    }

    async fn chord_size(&self, group: JobKey<'_>, size: u64) -> Result<(), StoreError> {
        self.guard(self.store.chord_size(group, size)).await
    }

    async fn end_part(&self, part: Part<'_>) -> Result<Counted, StoreError> {
        self.guard(self.store.end_part(part)).await
    }

    async fn end_chord(&self, group: JobKey<'_>, claim: &str) -> Result<(), StoreError> {
        self.guard(self.store.end_chord(group, claim)).await
    }

    async fn revoke(&self, tenant: Option<&str>, tasks: &[String]) -> Result<(), StoreError> {
        self.guard(self.store.revoke(tenant, tasks)).await
    }

    async fn is_revoked(&self, job: JobKey<'_>) -> Result<bool, StoreError> {
        self.guard(self.store.is_revoked(job)).await
    }
}
