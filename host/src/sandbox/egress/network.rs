//! What all requests share of the world outside: names, and whom TLS believes.

use std::fmt;
use std::io;
use std::net::{IpAddr, ToSocketAddrs as _};
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};
use tokio::sync::{OnceCell, Semaphore};

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
        Self::new(Arc::new(System(Arc::new(Semaphore::new(MAX_LOOKUPS)))), None)
    }
}

impl Network {
    /// Names by this resolver. `roots` are certificates (DER) to be believed in place of the
    /// machine's.
    pub fn new(resolver: Arc<dyn Resolve>, roots: Option<Vec<Vec<u8>>>) -> Self {
        Self(Arc::new(Inner { resolver, roots, tls: OnceCell::new() }))
    }

    pub(super) async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        self.0.resolver.resolve(name).await
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

struct System(Arc<Semaphore>);

#[async_trait::async_trait]
impl Resolve for System {
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        let permit =
            Arc::clone(&self.0).acquire_owned().await.map_err(|_| io::ErrorKind::NotConnected)?;
        let name = name.to_owned();
        tokio::task::spawn_blocking(move || {
            // Held to the end of the look-up, also when nobody waits for it any more.
            let _permit = permit;
            Ok((name.as_str(), 0).to_socket_addrs()?.map(|address| address.ip()).collect())
        })
        .await?
    }
}
