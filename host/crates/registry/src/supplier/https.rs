//! One component at a URL, pinned by its digest: what is there is that component or nothing.

use async_trait::async_trait;

use super::download::{self, FETCH, within};
use super::{ComponentUrl, Fetched, Offer, SIGNATURE_BYTES, SIGNATURES, Supplier, remote};
use crate::RegistryError;
use lovage_sandbox::{Sandbox, digest};

/// A URL and a digest.
#[derive(Debug)]
pub(crate) struct Https {
    url: ComponentUrl,
    address: String,
    digest: String,
}

impl Https {
    /// From the parts of `https://HOST/PATH#sha256:DIGEST`.
    pub(crate) fn new(url: ComponentUrl, address: &str, digest: &str) -> Self {
        Self { url, address: address.to_owned(), digest: digest.to_owned() }
    }

    async fn get(&self, address: &str, most: u64) -> Result<Option<Vec<u8>>, RegistryError> {
        let failed = |error: reqwest::Error| {
            // The URL is told anyway, and its query may hold a secret.
            remote(&self.url, lovage_core::events::Chain(&error.without_url()).to_string())
        };
        let client = download::client(address.starts_with("http://")).map_err(failed)?;
        let answer = client.get(address).send().await.map_err(failed)?;
        if answer.status() == reqwest::StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let answer = answer.error_for_status().map_err(failed)?;
        download::read(&self.url, answer, most).await.map(Some)
    }

    async fn pull(&self, most: u64) -> Result<Fetched, RegistryError> {
        let wasm = self.get(&self.address, most).await?;
        let wasm = wasm.ok_or_else(|| remote(&self.url, "there is nothing".to_owned()))?;
        let found = digest(&wasm);
        if found != self.digest {
            let why = format!("what is there is {found}, and not {}", self.digest);
            return Err(remote(&self.url, why));
        }
        let beside = match self.address.split_once('?') {
            Some((path, query)) => format!("{path}{SIGNATURES}?{query}"),
            None => format!("{}{SIGNATURES}", self.address),
        };
        // Servers that know no such file answer in many ways; what is not signed is told as that.
        let signatures = self.get(&beside, SIGNATURE_BYTES).await.ok().flatten();
        Ok(Fetched { wasm: wasm.into(), signatures })
    }
}

#[async_trait]
impl Supplier for Https {
    fn shown(&self) -> String {
        self.url.to_string()
    }

    fn holds(&self, place: &str) -> bool {
        place == self.url.to_string()
    }

    async fn list(&self) -> Result<Vec<Offer>, RegistryError> {
        let place = self.url.to_string();
        Ok(vec![Offer { shown: place.clone(), place, stamp: self.digest.clone() }])
    }

    async fn fetch(&self, _: &Offer, sandbox: &Sandbox) -> Result<Fetched, RegistryError> {
        within(&self.url, FETCH, self.pull(sandbox.options().max_component_bytes)).await
    }
}
