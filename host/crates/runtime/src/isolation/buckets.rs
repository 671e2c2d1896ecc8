//! Buckets as a child has them: each operation goes to the parent, which holds the store.

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};

use lovage_services::keyvalue::{
    Answer, Namespace, Operation, OperationError, Page, Store, StoreError, Swap, Version,
};

/// An operation, and where its answer goes.
pub type Asked = (Operation, oneshot::Sender<Result<Answer, OperationError>>);

/// A store behind the parent.
#[derive(Debug, Clone)]
pub struct ParentStore(pub mpsc::Sender<Asked>);

impl ParentStore {
    async fn ask(&self, operation: Operation) -> Result<Answer, StoreError> {
        let gone = || StoreError::Unavailable("the worker is gone".to_owned());
        let (answer, told) = oneshot::channel();
        self.0.send((operation, answer)).await.map_err(|_| gone())?;
        told.await.map_err(|_| gone())?.map_err(StoreError::from)
    }
}

/// The operation's own kind of answer, or an error.
macro_rules! expect {
    ($answer:expr, $kind:ident) => {
        match $answer {
            Answer::$kind(it) => Ok(it),
            _ => Err(StoreError::Unavailable("the worker gave another answer".to_owned())),
        }
    };
}

#[async_trait]
impl Store for ParentStore {
    async fn prepare(&self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn get(
        &self,
        bucket: &Namespace,
        keys: Vec<String>,
    ) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        expect!(self.ask(Operation::Get(bucket.clone(), keys)).await?, Values)
    }

    async fn read(
        &self,
        bucket: &Namespace,
        key: String,
    ) -> Result<Option<(Version, Vec<u8>)>, StoreError> {
        expect!(self.ask(Operation::Read(bucket.clone(), key)).await?, Read)
    }

    async fn set(
        &self,
        bucket: &Namespace,
        entries: Vec<(String, Vec<u8>)>,
    ) -> Result<(), StoreError> {
        expect!(self.ask(Operation::Set(bucket.clone(), entries)).await?, Done)
    }

    async fn delete(&self, bucket: &Namespace, keys: Vec<String>) -> Result<(), StoreError> {
        expect!(self.ask(Operation::Delete(bucket.clone(), keys)).await?, Done)
    }

    async fn exists(&self, bucket: &Namespace, key: String) -> Result<bool, StoreError> {
        expect!(self.ask(Operation::Exists(bucket.clone(), key)).await?, Exists)
    }

    async fn list(&self, bucket: &Namespace, after: Option<u64>) -> Result<Page, StoreError> {
        expect!(self.ask(Operation::List(bucket.clone(), after)).await?, Page)
    }

    async fn increment(
        &self,
        bucket: &Namespace,
        key: String,
        delta: i64,
    ) -> Result<i64, StoreError> {
        expect!(self.ask(Operation::Increment(bucket.clone(), key, delta)).await?, Number)
    }

    async fn swap(
        &self,
        bucket: &Namespace,
        key: String,
        expected: Option<Version>,
        value: Vec<u8>,
    ) -> Result<Swap, StoreError> {
        expect!(self.ask(Operation::Swap(bucket.clone(), key, expected, value)).await?, Swap)
    }
}
