//! `wasi:keyvalue`, for guests that were granted buckets.
//!
//! Both drafts are served by the same code; what differs between them is in a module of each. A
//! guest names a bucket and never a tenant: the tenant is the job's.

mod draft;
mod draft2;

use wasmtime::component::{HasData, Linker, Resource, ResourceTable, ResourceTableError};

use super::host_memory::HostMemory;
use super::limits::{Limits, Refusal};
use super::services::Services;
use super::state::State;
use lovage_policy::Grants;
use lovage_services::keyvalue::{
    KeyValue, MAX_BATCH, MAX_KEY_BYTES, Namespace, Page, Store, StoreError, Swap, Version,
};

/// Links both drafts.
pub(super) fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    draft::add_to_linker(linker)?;
    draft2::add_to_linker(linker)
}

/// What one attempt may do with buckets, and what it has done.
#[derive(Debug, Default)]
pub(super) struct Access {
    service: Option<KeyValue>,
    allowed: u32,
    /// How many operations it made; each key of a call is one.
    pub(super) operations: u32,
    /// Bytes of keys and values that it was given.
    pub(super) bytes_in: u64,
    /// Bytes of keys and values that it gave.
    pub(super) bytes_out: u64,
}

impl Access {
    pub(super) fn new(services: &Services, limits: &Limits) -> Self {
        Self {
            service: services.keyvalue.clone(),
            allowed: limits.keyvalue_operations,
            ..Self::default()
        }
    }

    /// Counts operations before they are made, and keys that go out with them.
    fn count<'a>(&mut self, keys: impl ExactSizeIterator<Item = &'a str>) -> Result<(), Fault> {
        let count = keys.len();
        if count > MAX_BATCH {
            return Err(Fault::Other(format!(
                "the call has {count} keys, and {MAX_BATCH} are allowed in one"
            )));
        }
        let (made, allowed) = (self.operations, self.allowed);
        let after = made.saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
        if after > allowed {
            return Err(Fault::Other(format!(
                "the attempt would have made {after} operations on buckets, and {allowed} are \
                 allowed (`keyvalue_operations` raises it)"
            )));
        }
        let mut bytes = 0;
        for key in keys {
            if key.len() > MAX_KEY_BYTES {
                return Err(Fault::Other(format!(
                    "the key has {} bytes, and {MAX_KEY_BYTES} are allowed",
                    key.len()
                )));
            }
            bytes += key.len() as u64;
        }
        self.operations = after;
        self.bytes_out = self.bytes_out.saturating_add(bytes);
        Ok(())
    }

    fn sent(&mut self, value: &[u8]) {
        self.bytes_out = self.bytes_out.saturating_add(value.len() as u64);
    }

    fn got(&mut self, bytes: &[u8]) {
        self.bytes_in = self.bytes_in.saturating_add(bytes.len() as u64);
    }

    /// Makes an operation within its time.
    async fn run<'a, T, F>(&'a self, operation: impl FnOnce(&'a dyn Store) -> F) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, StoreError>> + 'a,
    {
        let Some(service) = &self.service else {
            return Err(Fault::Other("this host keeps no buckets".to_owned()));
        };
        Ok(service.within(operation(service.store())).await?)
    }
}

/// An open bucket. That it is open is the proof that it was granted.
#[derive(Debug, Clone)]
pub struct Bucket(Namespace);

/// A key, and which of its values was seen last. The value itself is not held: a guest may have
/// as many of these as handles.
#[derive(Debug)]
pub struct Cas {
    bucket: Namespace,
    key: String,
    seen: Option<Version>,
}

/// Why a guest does not get what it asked for.
#[derive(Debug)]
pub(super) enum Fault {
    /// The bucket was not granted.
    Denied,
    /// For the guest to read.
    Other(String),
    /// The guest broke the rules of handles, and traps.
    Trap(wasmtime::Error),
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        // Where the store is, and what is the matter with it, is the operator's to know.
        Self::Other(match error {
            StoreError::Unavailable(_) => "the key-value store cannot be used now".to_owned(),
            error => error.to_string(),
        })
    }
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        Self::Other(format!("there is no memory for the answer: {refusal}"))
    }
}

impl From<ResourceTableError> for Fault {
    fn from(error: ResourceTableError) -> Self {
        Self::Trap(error.into())
    }
}

/// What the interfaces are served with.
pub(super) struct View<'a> {
    pub(super) table: &'a mut ResourceTable,
    pub(super) access: &'a mut Access,
    pub(super) grants: &'a Grants,
    /// The job's, where there is a job.
    pub(super) tenant: &'a str,
    /// What a call gives has to have room beside what the guest holds.
    pub(super) memory: &'a HostMemory,
}

struct HasKeyvalue;

impl HasData for HasKeyvalue {
    type Data<'a> = View<'a>;
}

impl View<'_> {
    fn open(&mut self, name: &str) -> Result<Resource<Bucket>, Fault> {
        if !self.grants.keyvalue.contains(name) {
            return Err(Fault::Denied);
        }
        let namespace = Namespace::new(self.tenant, name);
        Ok(self.table.push(Bucket(namespace))?)
    }

    fn bucket(&self, bucket: &Resource<Bucket>) -> Result<Namespace, Fault> {
        Ok(self.table.get(bucket)?.0.clone())
    }

    async fn get(
        &mut self,
        bucket: &Resource<Bucket>,
        keys: Vec<String>,
    ) -> Result<Vec<Option<Vec<u8>>>, Fault> {
        let bucket = self.bucket(bucket)?;
        self.access.count(keys.iter().map(String::as_str))?;
        let values = self.access.run(|store| store.get(&bucket, keys)).await?;
        let mut bytes = 0;
        for value in values.iter().flatten() {
            self.access.got(value);
            bytes += value.len() as u64;
        }
        self.memory.check(bytes)?;
        Ok(values)
    }

    async fn get_one(
        &mut self,
        bucket: &Resource<Bucket>,
        key: String,
    ) -> Result<Option<Vec<u8>>, Fault> {
        Ok(self.get(bucket, vec![key]).await?.pop().flatten())
    }

    async fn get_many(
        &mut self,
        bucket: &Resource<Bucket>,
        keys: Vec<String>,
    ) -> Result<Vec<Option<(String, Vec<u8>)>>, Fault> {
        let values = self.get(bucket, keys.clone()).await?;
        Ok(keys.into_iter().zip(values).map(|(key, value)| Some((key, value?))).collect())
    }

    async fn set(
        &mut self,
        bucket: &Resource<Bucket>,
        entries: Vec<(String, Vec<u8>)>,
    ) -> Result<(), Fault> {
        let bucket = self.bucket(bucket)?;
        self.access.count(entries.iter().map(|(key, _)| key.as_str()))?;
        for (_, value) in &entries {
            self.access.sent(value);
        }
        self.access.run(|store| store.set(&bucket, entries)).await
    }

    async fn delete(&mut self, bucket: &Resource<Bucket>, keys: Vec<String>) -> Result<(), Fault> {
        let bucket = self.bucket(bucket)?;
        self.access.count(keys.iter().map(String::as_str))?;
        self.access.run(|store| store.delete(&bucket, keys)).await
    }

    async fn exists(&mut self, bucket: &Resource<Bucket>, key: String) -> Result<bool, Fault> {
        let bucket = self.bucket(bucket)?;
        self.access.count([key.as_str()].into_iter())?;
        self.access.run(|store| store.exists(&bucket, key)).await
    }

    async fn list(&mut self, bucket: &Resource<Bucket>, after: Option<u64>) -> Result<Page, Fault> {
        let bucket = self.bucket(bucket)?;
        self.access.count([""].into_iter())?;
        let page = self.access.run(|store| store.list(&bucket, after)).await?;
        for key in &page.keys {
            self.access.got(key.as_bytes());
        }
        Ok(page)
    }

    async fn increment(
        &mut self,
        bucket: &Resource<Bucket>,
        key: String,
        delta: i64,
    ) -> Result<i64, Fault> {
        let bucket = self.bucket(bucket)?;
        self.access.count([key.as_str()].into_iter())?;
        self.access.run(|store| store.increment(&bucket, key, delta)).await
    }

    /// The value that a key has, and which one it is.
    async fn read(
        &mut self,
        bucket: &Namespace,
        key: &str,
    ) -> Result<Option<(Version, Vec<u8>)>, Fault> {
        self.access.count([key].into_iter())?;
        let key = key.to_owned();
        let found = self.access.run(|store| store.read(bucket, key)).await?;
        if let Some((_, value)) = &found {
            self.access.got(value);
            self.memory.check(value.len() as u64)?;
        }
        Ok(found)
    }

    async fn look(
        &mut self,
        bucket: &Resource<Bucket>,
        key: String,
    ) -> Result<Resource<Cas>, Fault> {
        let bucket = self.bucket(bucket)?;
        let seen = self.read(&bucket, &key).await?.map(|(version, _)| version);
        Ok(self.table.push(Cas { bucket, key, seen })?)
    }

    async fn current(&mut self, cas: &Resource<Cas>) -> Result<Option<Vec<u8>>, Fault> {
        let Cas { bucket, key, .. } = self.table.get(cas)?;
        let (bucket, key) = (bucket.clone(), key.clone());
        let (seen, value) = self.read(&bucket, &key).await?.unzip();
        self.table.get_mut(cas)?.seen = seen;
        Ok(value)
    }

    /// `Some` where another was first: a handle that knows the value there is now.
    async fn swap(
        &mut self,
        cas: Resource<Cas>,
        value: Vec<u8>,
    ) -> Result<Option<Resource<Cas>>, Fault> {
        let Cas { bucket, key, seen } = self.table.delete(cas)?;
        self.access.count([key.as_str()].into_iter())?;
        self.access.sent(&value);
        let swap = (key.clone(), value);
        let swapped = self.access.run(|store| store.swap(&bucket, swap.0, seen, swap.1)).await?;
        match swapped {
            Swap::Done => Ok(None),
            Swap::Stale(seen) => Ok(Some(self.table.push(Cas { bucket, key, seen })?)),
        }
    }
}
