//! `wasi:keyvalue@0.2.0-draft2`: cursors are texts, numbers have a sign, and there is a swap.

use wasmtime::component::{Linker, Resource};

use self::generated::wasi::keyvalue::{atomics, batch, store};
use super::{Bucket, Cas, Fault, HasKeyvalue, View};
use crate::state::State;

#[allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    unused_qualifications,
    dead_code,
    reason = "generated code"
)]
mod generated {
    wasmtime::component::bindgen!({
        path: "wit/keyvalue-draft2",
        world: "wasi:keyvalue/imports",
        imports: { default: async | trappable },
        with: {
            "wasi:keyvalue/store.bucket": crate::keyvalue::Bucket,
            "wasi:keyvalue/atomics.cas": crate::keyvalue::Cas,
        },
        trappable_error_type: {
            "wasi:keyvalue/store.error" => crate::keyvalue::Fault,
        },
    });
}

pub(super) fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    store::add_to_linker::<_, HasKeyvalue>(linker, State::keyvalue)?;
    atomics::add_to_linker::<_, HasKeyvalue>(linker, State::keyvalue)?;
    batch::add_to_linker::<_, HasKeyvalue>(linker, State::keyvalue)
}

impl store::Host for View<'_> {
    fn convert_error(&mut self, fault: Fault) -> wasmtime::Result<store::Error> {
        match fault {
            Fault::Denied => Ok(store::Error::AccessDenied),
            Fault::Other(text) => Ok(store::Error::Other(text)),
            Fault::Trap(error) => Err(error),
        }
    }

    async fn open(&mut self, identifier: String) -> Result<Resource<Bucket>, Fault> {
        View::open(self, &identifier)
    }
}

impl store::HostBucket for View<'_> {
    async fn get(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
    ) -> Result<Option<Vec<u8>>, Fault> {
        self.get_one(&bucket, key).await
    }

    async fn set(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
        value: Vec<u8>,
    ) -> Result<(), Fault> {
        View::set(self, &bucket, vec![(key, value)]).await
    }

    async fn delete(&mut self, bucket: Resource<Bucket>, key: String) -> Result<(), Fault> {
        View::delete(self, &bucket, vec![key]).await
    }

    async fn exists(&mut self, bucket: Resource<Bucket>, key: String) -> Result<bool, Fault> {
        View::exists(self, &bucket, key).await
    }

    async fn list_keys(
        &mut self,
        bucket: Resource<Bucket>,
        cursor: Option<String>,
    ) -> Result<store::KeyResponse, Fault> {
        let unknown = |_| Fault::Other("the cursor is not one that a page came with".to_owned());
        let after = cursor.map(|cursor| cursor.parse().map_err(unknown)).transpose()?;
        let page = self.list(&bucket, after).await?;
        Ok(store::KeyResponse { keys: page.keys, cursor: page.next.map(|at| at.to_string()) })
    }

    async fn drop(&mut self, bucket: Resource<Bucket>) -> wasmtime::Result<()> {
        self.table.delete(bucket)?;
        Ok(())
    }
}

impl atomics::Host for View<'_> {
    async fn increment(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
        delta: i64,
    ) -> Result<i64, Fault> {
        View::increment(self, &bucket, key, delta).await
    }

    async fn swap(
        &mut self,
        cas: Resource<Cas>,
        value: Vec<u8>,
    ) -> wasmtime::Result<Result<(), atomics::CasError>> {
        match View::swap(self, cas, value).await {
            Ok(None) => Ok(Ok(())),
            Ok(Some(again)) => Ok(Err(atomics::CasError::CasFailed(again))),
            Err(fault) => {
                let error = store::Host::convert_error(self, fault)?;
                Ok(Err(atomics::CasError::StoreError(error)))
            }
        }
    }
}

impl atomics::HostCas for View<'_> {
    async fn new(&mut self, bucket: Resource<Bucket>, key: String) -> Result<Resource<Cas>, Fault> {
        self.look(&bucket, key).await
    }

    async fn current(&mut self, cas: Resource<Cas>) -> Result<Option<Vec<u8>>, Fault> {
        View::current(self, &cas).await
    }

    async fn drop(&mut self, cas: Resource<Cas>) -> wasmtime::Result<()> {
        self.table.delete(cas)?;
        Ok(())
    }
}

impl batch::Host for View<'_> {
    async fn get_many(
        &mut self,
        bucket: Resource<Bucket>,
        keys: Vec<String>,
    ) -> Result<Vec<Option<(String, Vec<u8>)>>, Fault> {
        View::get_many(self, &bucket, keys).await
    }

    async fn set_many(
        &mut self,
        bucket: Resource<Bucket>,
        key_values: Vec<(String, Vec<u8>)>,
    ) -> Result<(), Fault> {
        View::set(self, &bucket, key_values).await
    }

    async fn delete_many(
        &mut self,
        bucket: Resource<Bucket>,
        keys: Vec<String>,
    ) -> Result<(), Fault> {
        View::delete(self, &bucket, keys).await
    }
}
