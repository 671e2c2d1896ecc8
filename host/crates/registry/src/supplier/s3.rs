//! Objects in a bucket of Amazon S3, or of what speaks its protocol: all `.wasm` objects whose key
//! begins with a prefix, or what was compiled of them.
//!
//! They are listed again and again; an object whose `ETag` is another is another version. Region,
//! credentials and an endpoint come from the environment, as everything of AWS does.

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::error::DisplayErrorContext;
use tokio::sync::OnceCell;

use super::download::{FETCH, LISTING, within};
use super::{ComponentUrl, Fetched, Offer, SIGNATURE_BYTES, SIGNATURES, Supplier, remote};
use crate::RegistryError;
use lovage_aws::bounded_body::BoundedBody;
use lovage_sandbox::Sandbox;

/// The most bytes of one page of a listing: a thousand keys of a kilobyte each, and what is around
/// them.
const PAGE_BYTES: u64 = 8 << 20;

/// The most objects that are listed.
const OBJECTS: usize = 100_000;

/// A bucket and a prefix.
#[derive(Debug)]
pub(crate) struct S3 {
    url: ComponentUrl,
    bucket: String,
    prefix: String,
    client: OnceCell<Client>,
}

impl S3 {
    /// From the parts of `s3://BUCKET/PREFIX`.
    pub(crate) fn new(url: ComponentUrl, bucket: &str, prefix: &str) -> Self {
        let (bucket, prefix) = (bucket.to_owned(), prefix.to_owned());
        Self { url, bucket, prefix, client: OnceCell::new() }
    }

    /// The whole of a bucket, by a client that is made already.
    #[cfg(test)]
    pub(super) fn of_client(url: ComponentUrl, bucket: &str, client: Client) -> Self {
        Self { client: OnceCell::from(client), ..Self::new(url, bucket, "") }
    }

    async fn client(&self) -> &Client {
        self.client
            .get_or_init(|| async {
                let (shared, renewing) = lovage_aws::load().await;
                // What stands in for S3 is seldom reached by a name for each bucket.
                let own = std::env::var_os("AWS_ENDPOINT_URL").is_some()
                    || std::env::var_os("AWS_ENDPOINT_URL_S3").is_some();
                let config = aws_sdk_s3::config::Builder::from(&shared)
                    .force_path_style(own)
                    .retry_classifier(renewing)
                    .build();
                Client::from_conf(config)
            })
            .await
    }

    fn failed(&self, error: &(dyn std::error::Error + 'static)) -> RegistryError {
        remote(&self.url, DisplayErrorContext(error).to_string())
    }

    /// The address, as it is configured.
    pub(crate) fn url(&self) -> &ComponentUrl {
        &self.url
    }

    /// What one object of the bucket is called everywhere.
    pub(crate) fn place(&self, key: &str) -> String {
        format!("s3://{}/{key}", self.bucket)
    }

    /// The keys and entity tags of all objects, in the order of the keys.
    pub(crate) async fn objects(&self) -> Result<Vec<Object>, RegistryError> {
        within(&self.url, LISTING, self.pages()).await
    }

    async fn pages(&self) -> Result<Vec<Object>, RegistryError> {
        let client = self.client().await;
        let mut found = Vec::new();
        let mut next = None;
        loop {
            let list = client.list_objects_v2().bucket(&self.bucket).prefix(&self.prefix);
            let page = list
                .set_continuation_token(next)
                .customize()
                .interceptor(BoundedBody::new(PAGE_BYTES))
                .send()
                .await
                .map_err(|error| self.failed(&error))?;
            for object in page.contents() {
                let (Some(key), Some(etag)) = (object.key(), object.e_tag()) else { continue };
                found.push(Object { key: key.to_owned(), etag: etag.to_owned() });
            }
            if found.len() > OBJECTS {
                let why =
                    format!("there are more than {OBJECTS} objects; name a prefix that has fewer");
                return Err(remote(&self.url, why));
            }
            match page.next_continuation_token {
                Some(token) if page.is_truncated == Some(true) => next = Some(token),
                _ => return Ok(found),
            }
        }
    }

    /// The bytes of the very version of an object that was listed: another one is listed the next
    /// time.
    pub(crate) async fn get(&self, object: &Object, most: u64) -> Result<Vec<u8>, RegistryError> {
        let mut bytes = Vec::new();
        self.read(object, most, |more| {
            bytes.extend_from_slice(more);
            Ok(())
        })
        .await?;
        Ok(bytes)
    }

    /// The same, a piece at a time.
    pub(crate) async fn read(
        &self,
        object: &Object,
        most: u64,
        take: impl FnMut(&[u8]) -> std::io::Result<()> + Send,
    ) -> Result<(), RegistryError> {
        within(&self.url, FETCH, self.read_all(object, most, take)).await
    }

    async fn read_all(
        &self,
        object: &Object,
        most: u64,
        mut take: impl FnMut(&[u8]) -> std::io::Result<()> + Send,
    ) -> Result<(), RegistryError> {
        let Object { key, etag } = object;
        let get = self.client().await.get_object().bucket(&self.bucket).key(key).if_match(etag);
        // An answer that is an error is read as a whole.
        let bound = BoundedBody::new(most.saturating_add(PAGE_BYTES));
        let object = get.customize().interceptor(bound).send().await;
        let object = object.map_err(|error| self.failed(&error))?;
        let mut body = object.body;
        let mut length = 0;
        while let Some(more) = body.next().await {
            let more = more.map_err(|error| self.failed(&error))?;
            length += more.len() as u64;
            if length > most {
                let why = format!("{key} is larger than the {most} bytes that are allowed");
                return Err(remote(&self.url, why));
            }
            take(&more).map_err(|error| remote(&self.url, format!("{key}: {error}")))?;
        }
        Ok(())
    }
}

/// An object of a bucket, as it was listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Object {
    /// Its key.
    pub key: String,
    /// Changes whenever the object does.
    pub etag: String,
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
        let found = self.objects().await?;
        let etag = |key: &str| found.iter().find(|it| it.key == key).map(|it| it.etag.as_str());
        let mut offers = Vec::new();
        for Object { key, etag: own } in
            found.iter().filter(|it| it.key.strip_suffix(".wasm").is_some())
        {
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
        let object = |key: String, etag: &str| Object { key, etag: etag.to_owned() };
        let most = sandbox.options().max_component_bytes;
        let wasm = self.get(&object(key.to_owned(), etag), most).await?;
        let signatures = match signed {
            "" => None,
            etag => {
                let beside = object(format!("{key}{SIGNATURES}"), etag);
                Some(self.get(&beside, SIGNATURE_BYTES).await?)
            }
        };
        Ok(Fetched { wasm: wasm.into(), signatures })
    }
}
