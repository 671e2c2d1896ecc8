//! What all requests share of the world outside: names, and whom TLS believes.

use std::fmt;
use std::io;
use std::net::{IpAddr, ToSocketAddrs as _};
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};
use tokio::sync::OnceCell;

use crate::shares::{Share, Shares};

/// Finds the addresses of a name.
#[async_trait::async_trait]
pub trait Resolve: Send + Sync {
    /// All addresses, the one to be tried first first. The name has no port and is no address.
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>>;
}

/// The way to the network for requests of guests. Clones are the same one.
#[derive(Clone)]
pub struct Network(Arc<Inner>);

struct Inner {
    resolver: Arc<dyn Resolve>,
    lookups: Shares,
    descriptors: Shares,
    /// Those of the machine when absent.
    roots: Option<Vec<Vec<u8>>>,
    /// Reading a machine's certificates takes milliseconds, and most workers need none.
    tls: OnceCell<Arc<ClientConfig>>,
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Network").finish_non_exhaustive()
    }
}

impl Default for Network {
    /// Names as the system resolves them, and the root certificates of the machine:
    /// `SSL_CERT_FILE` and `SSL_CERT_DIR` stand over its own.
    fn default() -> Self {
        Self::new(Arc::new(System), None)
    }
}

impl Network {
    /// Names by this resolver. `roots` are certificates (DER) to be believed in place of the
    /// machine's.
    pub fn new(resolver: Arc<dyn Resolve>, roots: Option<Vec<Vec<u8>>>) -> Self {
        let lookups = Shares::new(MAX_LOOKUPS);
        let descriptors = Shares::new(descriptors());
        Self(Arc::new(Inner { resolver, lookups, descriptors, roots, tls: OnceCell::new() }))
    }

    pub(super) async fn resolve(&self, tenant: &str, name: &str) -> io::Result<Vec<IpAddr>> {
        let share = self.0.lookups.acquire(tenant).await;
        let (network, name) = (self.clone(), name.to_owned());
        // It is held to the end of the look-up, also when nobody waits for it any more: the thread cannot be
        // stopped.
        let looked_up = tokio::spawn(async move {
            let _share = share;
            network.0.resolver.resolve(&name).await
        });
        looked_up.await.unwrap_or_else(|error| Err(io::Error::other(error)))
    }

    /// Waits for one of the file descriptors that connections and files of guests may have.
    pub(crate) async fn descriptor(&self, tenant: &str) -> Share {
        self.0.descriptors.acquire(tenant).await
    }

    /// How TLS is spoken. The error says what is wrong with this machine.
    pub(super) async fn tls(&self) -> Result<Arc<ClientConfig>, String> {
        let made = self.0.tls.get_or_try_init(|| async {
            let roots = self.0.roots.clone();
            tokio::task::spawn_blocking(move || tls(roots))
                .await
                .map_err(|error| format!("reading the root certificates ended early: {error}"))?
        });
        made.await.cloned()
    }
}

fn tls(roots: Option<Vec<Vec<u8>>>) -> Result<Arc<ClientConfig>, String> {
    let mut store = RootCertStore::empty();
    let (added, why) = if let Some(roots) = roots {
        (store.add_parsable_certificates(roots.into_iter().map(CertificateDer::from)).0, None)
    } else {
        let found = rustls_native_certs::load_native_certs();
        let why = found.errors.first().map(ToString::to_string);
        (store.add_parsable_certificates(found.certs).0, why)
    };
    if added == 0 {
        let why = why.map_or_else(String::new, |why| format!(" ({why})"));
        return Err(format!(
            "this machine has no root certificates{why}; install its `ca-certificates`, or name a \
             file of them in SSL_CERT_FILE"
        ));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS cannot be set up: {error}"))?
        .with_root_certificates(store)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// How many names the system resolves at once: each takes a thread, which cannot be stopped.
const MAX_LOOKUPS: usize = 64;

struct System;

#[async_trait::async_trait]
impl Resolve for System {
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        let name = name.to_owned();
        tokio::task::spawn_blocking(move || {
            Ok((name.as_str(), 0).to_socket_addrs()?.map(|address| address.ip()).collect())
        })
        .await?
    }
}

/// File descriptors that guests may have: those of the process but for what it needs itself.
fn descriptors() -> usize {
    /// More than this nobody needs, where the process may have any number.
    const MOST: u64 = 1 << 16;
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let limit = limit.unwrap_or(MOST).min(MOST);
    usize::try_from(limit - (limit / 2).min(256)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    struct Never;

    #[async_trait::async_trait]
    impl Resolve for Never {
        async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
            if name == "quick" {
                return Ok(Vec::new());
            }
            std::future::pending().await
        }
    }

    #[tokio::test]
    async fn look_ups_that_hang_hold_up_no_other_tenant() {
        let network = Network::new(Arc::new(Never), None);
        let hang: Vec<_> = (0..200)
            .map(|_| {
                let network = network.clone();
                tokio::spawn(async move { network.resolve("hostile", "hangs").await })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(50)).await;
        // Nor are they over with those who asked.
        hang.iter().for_each(tokio::task::JoinHandle::abort);
        let quick = network.resolve("victim", "quick");
        tokio::time::timeout(Duration::from_secs(5), quick).await.unwrap().unwrap();
        let own = network.resolve("hostile", "quick");
        assert!(tokio::time::timeout(Duration::from_millis(50), own).await.is_err());
    }
}
