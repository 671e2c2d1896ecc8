//! Where components come from: what is offered there, and its bytes.

mod directory;
mod download;
#[cfg(feature = "remote")]
mod https;
#[cfg(feature = "remote")]
mod oci;
#[cfg(feature = "remote")]
mod oci_pull;
mod s3;

use std::fmt::Debug;

use async_trait::async_trait;
use bytes::Bytes;

pub(super) use self::directory::{Directory, bundles};
#[cfg(feature = "remote")]
pub use self::oci::push;
pub(super) use self::s3::{Object, S3};
use super::RegistryError;
pub use lovage_config::ComponentUrl;
use lovage_sandbox::Sandbox;

/// The ending of the file of signatures, beside that of the component.
pub(super) const SIGNATURES: &str = ".sig";

/// The most bytes of one.
pub(super) const SIGNATURE_BYTES: u64 = 64 << 10;

/// One component that is offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Offer {
    /// What names it for ever: an absolute path, or a URL.
    pub place: String,
    /// How it is told to people.
    pub shown: String,
    /// Changes whenever the component does.
    pub stamp: String,
}

/// The bytes of a component, and those of its signatures where there are any.
#[derive(Debug, Clone, Default)]
pub(super) struct Fetched {
    pub wasm: Bytes,
    pub signatures: Option<Vec<u8>>,
}

/// A place with components.
#[async_trait]
pub(super) trait Supplier: Debug + Send + Sync {
    /// How it is told to people.
    fn shown(&self) -> String;

    /// Whether a component of that place is one of this supplier's, offered now or not.
    fn holds(&self, place: &str) -> bool;

    /// A directory to be told of changes in; `None` where one has to ask.
    #[cfg(feature = "watch")]
    fn watched(&self) -> Option<&std::path::Path> {
        None
    }

    /// Waits until whoever writes it is done. Not for the start, when nobody is expected to.
    async fn settle(&self, _offer: &Offer) {}

    /// What is offered now, in the order of the names.
    async fn list(&self) -> Result<Vec<Offer>, RegistryError>;

    /// The bytes of one of them, no more than the sandbox takes.
    async fn fetch(&self, offer: &Offer, sandbox: &Sandbox) -> Result<Fetched, RegistryError>;
}

/// The supplier of an address.
pub(super) fn of(url: &ComponentUrl) -> Result<Box<dyn Supplier>, RegistryError> {
    Ok(match url {
        ComponentUrl::S3 { bucket, prefix } => Box::new(S3::new(url.clone(), bucket, prefix)),
        #[cfg(feature = "remote")]
        ComponentUrl::Oci { reference } => Box::new(oci::Oci::new(url.clone(), reference)?),
        #[cfg(feature = "remote")]
        ComponentUrl::Https { address, digest } => {
            Box::new(https::Https::new(url.clone(), address, digest))
        }
        #[allow(unreachable_patterns, reason = "not in a build that has them all")]
        _ => return Err(remote(url, "this build fetches nothing from there".to_owned())),
    })
}

/// The one supplier that has what was compiled, too.
pub(super) fn s3(url: &ComponentUrl) -> Result<S3, RegistryError> {
    match url {
        ComponentUrl::S3 { bucket, prefix } => Ok(S3::new(url.clone(), bucket, prefix)),
        _ => Err(remote(url, "precompiled code is taken from s3:// alone".to_owned())),
    }
}

/// What a place that is not on this machine has to say.
pub(super) fn remote(url: &ComponentUrl, why: String) -> RegistryError {
    RegistryError::Remote { place: url.to_string(), why }
}
