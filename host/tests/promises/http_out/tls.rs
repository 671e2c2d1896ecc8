//! Whom TLS believes.

use std::sync::Arc;

use lovage::sandbox::Network;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::json;

use super::server::Server;
use super::stage::{Names, Stage, detail};

pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub fn der(&self) -> Vec<u8> {
        self.0.der().to_vec()
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A server with a certificate for these names.
    pub async fn server(&self, names: &[&str]) -> Server {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let leaf = CertificateParams::new(names).unwrap().signed_by(&key, &self.0).unwrap();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], key)
            .unwrap();
        Server::at("127.0.0.1:0", Some(Arc::new(config))).await
    }
}

#[tokio::test]
async fn tls_believes_certificates_of_its_roots_for_the_host_in_the_url() {
    let authority = Authority::new();
    let server = authority.server(&["good.test", "127.0.0.1"]).await;
    let names = Arc::new(Names::default());
    for name in ["good.test", "other.test"] {
        names.set(name, &[&["127.0.0.1"]]);
    }
    let rules = ["https://*.test:*", "https://127.0.0.1:*"];
    let network = Network::new(Arc::clone(&names) as _, Some(vec![authority.der()]));
    let stage = Stage::with("fetch", network, &rules, &["127.0.0.0/8"]).await;
    let url = |host: &str| format!("https://{host}:{}/x", server.port());
    for host in ["good.test", "GOOD.test.", "127.0.0.1"] {
        assert_eq!(stage.echo(&json!({ "url": url(host) })).await["target"], "/x", "{host}");
    }
    let failure = stage.refused(&url("other.test")).await;
    assert_eq!(failure.kind, "TlsCertificateError", "{failure:?}");
    assert!(detail(&failure).contains("certificate"), "{failure:?}");

    let stranger = Network::new(names, Some(vec![Authority::new().der()]));
    let stage = Stage::with("fetch", stranger, &rules, &["127.0.0.0/8"]).await;
    let failure = stage.refused(&url("good.test")).await;
    assert_eq!(failure.kind, "TlsCertificateError", "{failure:?}");
    assert_eq!(server.requests(), 3);
}
