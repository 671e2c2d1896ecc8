//! One component in an OCI registry, by a tag or a digest.
//!
//! As the guidance of the CNCF's working group has it, the component is the one layer of type
//! `application/wasm` (<https://tag-runtime.cncf.io/wgs/wasm/deliverables/wasm-oci-artifact/>).
//! Signatures are the text of the manifest's annotation [`ANNOTATION`]. The registry is asked again
//! and again for the digest of what the tag names.

use std::collections::BTreeMap;

use async_trait::async_trait;
use oci_client::client::{ClientConfig, ClientProtocol, Config, ImageLayer};
use oci_client::manifest::{OCI_IMAGE_MEDIA_TYPE, OciImageManifest};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference};

use super::download::{FETCH, LISTING, within};
use super::oci_pull::Repository;
use super::{ComponentUrl, Fetched, Offer, Supplier, remote};
use crate::RegistryError;
use lovage_sandbox::Sandbox;

/// The annotation of a manifest that holds its component's signatures.
const ANNOTATION: &str = "dev.lovage.signatures";

/// The type of the layer.
const WASM: &str = "application/wasm";

/// The type of what is said of it.
const CONFIG: &str = "application/vnd.wasm.config.v0+json";

/// A reference such as `ghcr.io/team/resize:1`.
pub(crate) struct Oci {
    url: ComponentUrl,
    repository: Repository,
}

impl std::fmt::Debug for Oci {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Oci").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Oci {
    /// From the parts of `oci://REFERENCE`.
    pub(crate) fn new(url: ComponentUrl, reference: &str) -> Result<Self, RegistryError> {
        let reference: Reference =
            reference.parse().map_err(|error| remote(&url, format!("{error}")))?;
        let is_local = is_local(&reference);
        let repository = Repository::new(url.clone(), reference, is_local)?;
        Ok(Self { url, repository })
    }

    async fn pull(&self, most: u64) -> Result<Fetched, RegistryError> {
        let manifest = self.repository.manifest().await?;
        let layer = manifest.layers.iter().find(|layer| layer.media_type == WASM);
        let why = || format!("it has no layer of type {WASM}, and so holds no component");
        let layer = layer.ok_or_else(|| remote(&self.url, why()))?;
        let wasm = self.repository.blob(layer, most).await?;
        let signatures = manifest.annotations.get(ANNOTATION).map(|text| text.as_bytes().to_vec());
        Ok(Fetched { wasm: wasm.into(), signatures })
    }
}

/// Returns true if a registry is on this very machine, and so is asked without TLS.
fn is_local(reference: &Reference) -> bool {
    let registry = reference.resolve_registry();
    let host = registry.rsplit_once(':').map_or(registry, |(host, _)| host);
    ["127.0.0.1", "localhost", "[::1]"].contains(&host)
}

/// A client that pushes.
fn client(reference: &Reference) -> Client {
    let protocol = if is_local(reference) { ClientProtocol::Http } else { ClientProtocol::Https };
    Client::new(ClientConfig { protocol, ..ClientConfig::default() })
}

/// Who we are to a registry, as `docker login` noted it; nobody where it did not.
fn auth(reference: &Reference) -> RegistryAuth {
    use docker_credential::DockerCredential::{IdentityToken, UsernamePassword};
    match docker_credential::get_credential(reference.resolve_registry()) {
        Ok(UsernamePassword(user, password)) => RegistryAuth::Basic(user, password),
        Ok(IdentityToken(token)) => RegistryAuth::Bearer(token),
        Err(_) => RegistryAuth::Anonymous,
    }
}

#[async_trait]
impl Supplier for Oci {
    fn shown(&self) -> String {
        self.url.to_string()
    }

    fn holds(&self, place: &str) -> bool {
        place == self.url.to_string()
    }

    async fn list(&self) -> Result<Vec<Offer>, RegistryError> {
        let stamp = within(&self.url, LISTING, self.repository.digest()).await?;
        let place = self.url.to_string();
        Ok(vec![Offer { shown: place.clone(), place, stamp }])
    }

    async fn fetch(&self, _: &Offer, sandbox: &Sandbox) -> Result<Fetched, RegistryError> {
        within(&self.url, FETCH, self.pull(sandbox.options().max_component_bytes)).await
    }
}

/// Puts a component into a registry, with its signatures; the digest of the manifest.
pub async fn push(
    reference: &str,
    wasm: Vec<u8>,
    signatures: Option<String>,
    imports: &[String],
    exports: &[String],
) -> Result<String, RegistryError> {
    let url = ComponentUrl::Oci { reference: reference.to_owned() };
    let failed = |error: &(dyn std::error::Error + 'static)| {
        remote(&url, lovage_core::events::Chain(error).to_string())
    };
    let reference: Reference =
        reference.parse().map_err(|error| remote(&url, format!("{error}")))?;
    // https://tag-runtime.cncf.io/wgs/wasm/deliverables/wasm-oci-artifact/
    let config = serde_json::json!({
        "created": jiff::Timestamp::now().to_string(),
        "architecture": "wasm",
        "os": "wasip2",
        "layerDigests": [lovage_sandbox::digest(&wasm)],
        "component": {"imports": imports, "exports": exports, "target": null},
    });
    let config = Config::new(config.to_string().into_bytes(), CONFIG.to_owned(), None);
    let layers = [ImageLayer::new(wasm, WASM.to_owned(), None)];
    let annotations = signatures.map(|text| BTreeMap::from([(ANNOTATION.to_owned(), text)]));
    let mut manifest = OciImageManifest::build(&layers, &config, annotations);
    manifest.media_type = Some(OCI_IMAGE_MEDIA_TYPE.to_owned());
    let client = client(&reference);
    let auth = auth(&reference);
    client
        .push(&reference, &layers, config, &auth, Some(manifest))
        .await
        .map_err(|error| failed(&error))?;
    client.fetch_manifest_digest(&reference, &auth).await.map_err(|error| failed(&error))
}
