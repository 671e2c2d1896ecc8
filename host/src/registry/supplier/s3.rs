//! Objects in a bucket of Amazon S3, or of what speaks its protocol: all `.wasm` objects whose key
//! begins with a prefix.
//!
//! They are listed again and again; an object whose `ETag` is another is another version. Region,
//! credentials and an endpoint come from the environment, as everything of AWS does.

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::error::DisplayErrorContext;
use tokio::sync::OnceCell;

use super::{Fetched, Offer, SIGNATURE_BYTES, SIGNATURES, Supplier, Url, remote};
use crate::registry::RegistryError;
use crate::sandbox::Sandbox;

/// A bucket and a prefix.
#[derive(Debug)]
pub(in crate::registry) struct S3 {
    url: Url,
    bucket: String,
    prefix: String,
    client: OnceCell<Client>,
}

impl S3 {
    /// From the parts of `s3://BUCKET/PREFIX`.
    pub(in crate::registry) fn new(url: Url, bucket: &str, prefix: &str) -> Self {
        let (bucket, prefix) = (bucket.to_owned(), prefix.to_owned());
        Self { url, bucket, prefix, client: OnceCell::new() }
    }

    async fn client(&self) -> &Client {
        self.client
            .get_or_init(|| async {
                let shared = aws_config::load_from_env().await;
                // What stands in for S3 is seldom reached by a name for each bucket.
                let own = std::env::var_os("AWS_ENDPOINT_URL").is_some()
                    || std::env::var_os("AWS_ENDPOINT_URL_S3").is_some();
                let config =
                    aws_sdk_s3::config::Builder::from(&shared).force_path_style(own).build();
                Client::from_conf(config)
            })
            .await
    }

    fn failed(&self, error: &(dyn std::error::Error + 'static)) -> RegistryError {
        remote(&self.url, DisplayErrorContext(error).to_string())
    }

    fn place(&self, key: &str) -> String {
        format!("s3://{}/{key}", self.bucket)
    }

    async fn get(
        &self,
        key: &str,
        etag: Option<&str>,
        most: u64,
    ) -> Result<Vec<u8>, RegistryError> {
        let get = self.client().await.get_object().bucket(&self.bucket).key(key);
        let get = get.set_if_match(etag.map(str::to_owned));
        let object = get.send().await.map_err(|error| self.failed(&error))?;
        let mut body = object.body;
        let mut bytes = Vec::new();
        while let Some(more) = body.next().await {
            let more = more.map_err(|error| self.failed(&error))?;
            if (bytes.len() + more.len()) as u64 > most {
                let why = format!("{key} is larger than the {most} bytes that are allowed");
                return Err(remote(&self.url, why));
            }
            bytes.extend_from_slice(&more);
        }
        Ok(bytes)
    }
}

/// Keys have case, as file names do.
#[allow(clippy::case_sensitive_file_extension_comparisons)]
fn is_component(key: &str) -> bool {
    key.ends_with(".wasm")
}

#[async_trait]
impl Supplier for S3 {
    fn shown(&self) -> String {
        self.url.to_string()
    }

    fn holds(&self, place: &str) -> bool {
        place.starts_with(&self.place(&self.prefix))
    }

    async fn list(&self) -> Result<Vec<Offer>, RegistryError> {
        let mut pages = self
            .client()
            .await
            .list_objects_v2()
            .bucket(&self.bucket)
            .prefix(&self.prefix)
            .into_paginator()
            .send();
        let mut found = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| self.failed(&error))?;
            for object in page.contents() {
                let (Some(key), Some(etag)) = (object.key(), object.e_tag()) else { continue };
                found.push((key.to_owned(), etag.to_owned()));
            }
        }
        let etag =
            |key: &str| found.iter().find(|(it, _)| it == key).map(|(_, etag)| etag.as_str());
        let mut offers = Vec::new();
        for (key, own) in found.iter().filter(|(key, _)| is_component(key)) {
            let signatures = etag(&format!("{key}{SIGNATURES}")).unwrap_or("");
            let place = self.place(key);
            let stamp = format!("{own} {signatures}");
            offers.push(Offer { shown: place.clone(), place, stamp });
        }
        if offers.is_empty() {
            return Err(remote(&self.url, "there are no `.wasm` objects".to_owned()));
        }
        Ok(offers)
    }

    async fn fetch(&self, offer: &Offer, sandbox: &Sandbox) -> Result<Fetched, RegistryError> {
        let key = offer.place.strip_prefix(&self.place("")).unwrap_or_default();
        let (etag, signed) = offer.stamp.split_once(' ').unwrap_or((&offer.stamp, ""));
        let most = sandbox.options().max_component_bytes;
        // The very version that was listed: another one is listed the next time.
        let wasm = self.get(key, Some(etag), most).await?;
        let beside = format!("{key}{SIGNATURES}");
        let signatures = match signed {
            "" => None,
            etag => Some(self.get(&beside, Some(etag), SIGNATURE_BYTES).await?),
        };
        Ok(Fetched { wasm: wasm.into(), signatures })
    }
}
