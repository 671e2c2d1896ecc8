//! Reading from an OCI registry
//! (<https://github.com/opencontainers/distribution-spec/blob/main/spec.md>), with a bound on the
//! bytes of each answer. What it answers is nobody's word before its digest was checked.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use oci_client::Reference;
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Client, Method, Response, StatusCode};
use serde::Deserialize;

use super::download;
use super::{ComponentUrl, remote};
use crate::RegistryError;
use lovage_core::text::one_line;
use lovage_sandbox::digest;

/// The most bytes of a manifest: what registries take
/// (<https://github.com/opencontainers/distribution-spec/blob/main/spec.md#pushing-manifests>).
const MANIFEST_BYTES: u64 = 4 << 20;

/// The most bytes of a token, and of what is said around it.
const TOKEN_BYTES: u64 = 256 << 10;

/// How long a program that keeps credentials may take.
const CREDENTIALS: Duration = Duration::from_secs(20);

/// The forms of manifests: of one image, and of several.
const MANIFESTS: &str = "application/vnd.oci.image.manifest.v1+json, \
                         application/vnd.oci.image.index.v1+json, \
                         application/vnd.docker.distribution.manifest.v2+json, \
                         application/vnd.docker.distribution.manifest.list.v2+json";

/// The header that has a manifest's digest.
const CONTENT_DIGEST: &str = "docker-content-digest";

/// A part of a manifest.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    #[serde(default)]
    pub media_type: String,
    pub digest: String,
    #[serde(default)]
    pub size: u64,
    platform: Option<Platform>,
}

#[derive(Debug, Clone, Deserialize)]
struct Platform {
    #[serde(default)]
    architecture: String,
}

/// A manifest of one image, or the index of several.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Manifest {
    #[serde(default)]
    pub layers: Vec<Descriptor>,
    #[serde(default)]
    manifests: Vec<Descriptor>,
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

/// Who we are to a registry.
enum Credentials {
    Nobody,
    Basic(String, String),
    Token(String),
}

/// A repository of a registry.
pub(super) struct Repository {
    url: ComponentUrl,
    reference: Reference,
    /// Its address, without a slash at its end.
    base: String,
    client: Client,
    /// What was answered to its challenge last.
    authorization: Mutex<Option<HeaderValue>>,
}

impl Repository {
    /// That of a reference; over TLS, but for one on this very machine.
    pub(super) fn new(
        url: ComponentUrl,
        reference: Reference,
        is_local: bool,
    ) -> Result<Self, RegistryError> {
        let scheme = if is_local { "http" } else { "https" };
        let (registry, name) = (reference.resolve_registry(), reference.repository());
        let base = format!("{scheme}://{registry}/v2/{name}");
        let client = download::client(is_local).map_err(|error| remote(&url, error.to_string()))?;
        Ok(Self { url, reference, base, client, authorization: Mutex::default() })
    }

    fn failed(&self, error: reqwest::Error) -> RegistryError {
        remote(&self.url, lovage_core::events::Chain(&error.without_url()).to_string())
    }

    fn name(&self) -> &str {
        self.reference.digest().or(self.reference.tag()).unwrap_or("latest")
    }

    /// The digest of what the reference names.
    pub(super) async fn digest(&self) -> Result<String, RegistryError> {
        // Some registries count what is got, and not what is asked.
        let address = format!("manifests/{}", self.name());
        let answer = self.ask(&Method::HEAD, &address).await?;
        match answer.headers().get(CONTENT_DIGEST).and_then(|digest| digest.to_str().ok()) {
            Some(digest) => Ok(one_line(digest, 200)),
            None => Ok(digest(&self.get_manifest(self.name()).await?)),
        }
    }

    /// The manifest that the reference names; of an index the one for WebAssembly, or else the one
    /// for this kind of machine.
    pub(super) async fn manifest(&self) -> Result<Manifest, RegistryError> {
        let bytes = self.get_manifest(self.name()).await?;
        if let Some(expected) = self.reference.digest() {
            self.check(&bytes, expected)?;
        }
        let manifest = self.parse(&bytes)?;
        if manifest.manifests.is_empty() {
            return Ok(manifest);
        }
        let machine = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let of = |wanted: &str| {
            let is =
                |it: &&Descriptor| it.platform.as_ref().is_some_and(|it| it.architecture == wanted);
            manifest.manifests.iter().find(is)
        };
        let chosen = of("wasm").or_else(|| of(machine)).ok_or_else(|| {
            let why = format!("its index has no manifest for wasm, nor one for {machine}");
            remote(&self.url, why)
        })?;
        let bytes = self.get_manifest(&chosen.digest).await?;
        self.check(&bytes, &chosen.digest)?;
        self.parse(&bytes)
    }

    /// The bytes of a part of a manifest, no more than `most`.
    pub(super) async fn blob(
        &self,
        part: &Descriptor,
        most: u64,
    ) -> Result<Vec<u8>, RegistryError> {
        if part.size > most {
            let size = part.size;
            let why = format!("it has {size} bytes, and {most} are allowed (components.max_bytes)");
            return Err(remote(&self.url, why));
        }
        let answer = self.ask(&Method::GET, &format!("blobs/{}", part.digest)).await?;
        let bytes = download::read(&self.url, answer, part.size).await?;
        self.check(&bytes, &part.digest)?;
        Ok(bytes)
    }

    fn parse(&self, bytes: &[u8]) -> Result<Manifest, RegistryError> {
        serde_json::from_slice(bytes)
            .map_err(|error| remote(&self.url, format!("its manifest is none: {error}")))
    }

    fn check(&self, bytes: &[u8], expected: &str) -> Result<(), RegistryError> {
        let found = digest(bytes);
        if found == expected {
            return Ok(());
        }
        let expected = one_line(expected, 200);
        Err(remote(&self.url, format!("what is there is {found}, and not {expected}")))
    }

    async fn get_manifest(&self, name: &str) -> Result<Vec<u8>, RegistryError> {
        let answer = self.ask(&Method::GET, &format!("manifests/{name}")).await?;
        download::read(&self.url, answer, MANIFEST_BYTES).await
    }

    /// Asks the registry, and once more with a token if it wants one.
    async fn ask(&self, method: &Method, address: &str) -> Result<Response, RegistryError> {
        let mut answer = self.send(method, address).await?;
        if answer.status() == StatusCode::UNAUTHORIZED {
            let challenge = answer.headers().get(WWW_AUTHENTICATE).cloned();
            let authorization = self.authorize(challenge.as_ref()).await?;
            *self.authorization.lock().unwrap_or_else(PoisonError::into_inner) = authorization;
            answer = self.send(method, address).await?;
        }
        let status = answer.status();
        if !status.is_success() {
            let what = one_line(address, 200);
            return Err(remote(&self.url, format!("the registry answers {status} for {what}")));
        }
        Ok(answer)
    }

    async fn send(&self, method: &Method, address: &str) -> Result<Response, RegistryError> {
        let request = self.client.request(method.clone(), format!("{}/{address}", self.base));
        let mut request = request.header(ACCEPT, MANIFESTS);
        let known = self.authorization.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(authorization) = known {
            // A redirect to another host goes without it.
            request = request.header(AUTHORIZATION, authorization);
        }
        request.send().await.map_err(|error| self.failed(error))
    }

    /// What answers a challenge.
    async fn authorize(
        &self,
        challenge: Option<&HeaderValue>,
    ) -> Result<Option<HeaderValue>, RegistryError> {
        let credentials = self.credentials().await?;
        let challenge = challenge.and_then(|it| it.to_str().ok()).unwrap_or_default();
        let header = |text: String| {
            let made = HeaderValue::from_str(&text);
            made.map(|mut value| {
                value.set_sensitive(true);
                Some(value)
            })
            .map_err(|_| remote(&self.url, "its token is no text of a header".to_owned()))
        };
        let (scheme, parameters) = parse_challenge(challenge);
        if scheme != "bearer" {
            return match credentials {
                Credentials::Basic(user, password) => header(basic(&user, &password)),
                Credentials::Token(token) => header(format!("Bearer {token}")),
                Credentials::Nobody => Ok(None),
            };
        }
        if let Credentials::Token(token) = credentials {
            return header(format!("Bearer {token}"));
        }
        let none = || remote(&self.url, "it asks for a token, and not where from".to_owned());
        let realm = parameters.get("realm").ok_or_else(none)?;
        let scope = format!("repository:{}:pull", self.reference.repository());
        let service = parameters.get("service");
        let query = [("scope", scope.as_str())]
            .into_iter()
            .chain(service.map(|service| ("service", service.as_str())));
        let realm = reqwest::Url::parse_with_params(realm, query).map_err(|_| none())?;
        let mut request = self.client.get(realm);
        if let Credentials::Basic(user, password) = credentials {
            request = request.basic_auth(user, Some(password));
        }
        let answer = request.send().await.map_err(|error| self.failed(error))?;
        let status = answer.status();
        if !status.is_success() {
            return Err(remote(&self.url, format!("it gives no token: {status}")));
        }
        let bytes = download::read(&self.url, answer, TOKEN_BYTES).await?;
        let token: Option<Token> = serde_json::from_slice(&bytes).ok();
        let token = token.and_then(|it| it.token.or(it.access_token));
        // Not what it said, in which a token may be.
        let token =
            token.ok_or_else(|| remote(&self.url, "it gives no token that is one".to_owned()))?;
        header(format!("Bearer {token}"))
    }

    /// Who we are to the registry, as `docker login` noted it; nobody where it did not.
    async fn credentials(&self) -> Result<Credentials, RegistryError> {
        use docker_credential::DockerCredential::{IdentityToken, UsernamePassword};
        let registry = self.reference.resolve_registry().to_owned();
        // It may be a program that is asked.
        let ask = tokio::task::spawn_blocking(move || docker_credential::get_credential(&registry));
        let late = |_| remote(&self.url, format!("no credentials within {CREDENTIALS:?}"));
        Ok(match tokio::time::timeout(CREDENTIALS, ask).await.map_err(late)? {
            Ok(Ok(UsernamePassword(user, password))) => Credentials::Basic(user, password),
            Ok(Ok(IdentityToken(token))) => Credentials::Token(token),
            _ => Credentials::Nobody,
        })
    }
}

fn basic(user: &str, password: &str) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    format!("Basic {text}")
}

/// The scheme of a challenge in small letters, and its parameters (RFC 9110, section 11).
fn parse_challenge(text: &str) -> (String, BTreeMap<String, String>) {
    let (scheme, mut rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
    let mut parameters = BTreeMap::new();
    while let Some((name, after)) = rest.split_once('=') {
        let name = name.trim_matches([',', ' ']).to_ascii_lowercase();
        let value;
        (value, rest) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => after.split_once(',').unwrap_or((after, "")),
        };
        parameters.insert(name, value.trim().to_owned());
    }
    (scheme.to_ascii_lowercase(), parameters)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read_whatever_they_hold() {
        let (scheme, parameters) = parse_challenge(
            r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io", scope=a"#,
        );
        assert_eq!(scheme, "bearer");
        assert_eq!(parameters["realm"], "https://auth.docker.io/token");
        assert_eq!(parameters["service"], "registry.docker.io");
        assert_eq!(parameters["scope"], "a");
        for text in
            ["", "Basic", "Bearer realm", "Bearer realm=", "Bearer realm=\"x", "= = =", "ü=\""]
        {
            let _ = parse_challenge(text);
        }
    }
}
