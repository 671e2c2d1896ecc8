//! One component at a URL, pinned by its digest: what is there is that component or nothing.

use std::time::Duration;

use async_trait::async_trait;

use super::{Fetched, Offer, SIGNATURE_BYTES, SIGNATURES, Supplier, Url, remote};
use crate::registry::RegistryError;
use crate::sandbox::{Sandbox, digest};

/// How long a fetch may take in all.
const PATIENCE: Duration = Duration::from_mins(5);

/// How long it may take until somebody answers.
const CONNECT: Duration = Duration::from_secs(10);

/// A URL and a digest.
#[derive(Debug)]
pub(in crate::registry) struct Https {
    url: Url,
    address: String,
    digest: String,
}

impl Https {
    /// From the parts of `https://HOST/PATH#sha256:DIGEST`.
    pub(in crate::registry) fn new(url: Url, address: &str, digest: &str) -> Self {
        Self { url, address: address.to_owned(), digest: digest.to_owned() }
    }

    async fn get(&self, address: &str, most: u64) -> Result<Option<Vec<u8>>, RegistryError> {
        let failed = |error: reqwest::Error| {
            // The URL is told anyway, and its query may hold a secret.
            remote(&self.url, crate::events::Chain(&error.without_url()).to_string())
        };
        let client = reqwest::Client::builder()
            .connect_timeout(CONNECT)
            .timeout(PATIENCE)
            .build()
            .map_err(failed)?;
        let mut answer = client.get(address).send().await.map_err(failed)?;
        if answer.status() == reqwest::StatusCode::NOT_FOUND {
            return Ok(None);
        }
        answer = answer.error_for_status().map_err(failed)?;
        let mut bytes = Vec::new();
        while let Some(more) = answer.chunk().await.map_err(failed)? {
            if (bytes.len() + more.len()) as u64 > most {
                let why = format!("it is larger than the {most} bytes that are allowed");
                return Err(remote(&self.url, why));
            }
            bytes.extend_from_slice(&more);
        }
        Ok(Some(bytes))
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
        let most = sandbox.options().max_component_bytes;
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
        let signatures = self.get(&beside, SIGNATURE_BYTES).await.ok().flatten();
        Ok(Fetched { wasm: wasm.into(), signatures })
    }
}
