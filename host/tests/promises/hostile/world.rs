//! What is around the sandbox for guests with capabilities: servers, names, buckets of others,
//! secrets, a file that is nobody's business.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use lovage::config::Config;
use lovage::keyvalue::{KeyValue, Namespace};
use lovage::policy::Policies;
use lovage::sandbox::{Network, Resolve, Services};
use lovage::secrets::Secrets;

use super::adversary::Adversary;

/// What is in the file, in the buckets of others and in secrets; whoever is told it was told too
/// much.
pub const CANARY: &str = "the-secret-of-others";

/// Settings of the world, before those of a fixture. In both, and in payloads, `GOOD` stands for
/// the host and port of a server that may be asked, `BAD` for those of one that may not, `PORT`
/// for the port of both, and `DIR` for a directory with the file `secret`.
const SETTINGS: &str = "
    [keyvalue]
    path = 'DIR/kv.db'
    max_keys = 100
    max_bytes = 100_000
    max_value_bytes = 50_000
    [secrets.key]
    file = 'DIR/secret'
    only_for = ['http://GOOD/only']
    [secrets.plain]
    file = 'DIR/secret'
";

/// The tenant whose bucket `cache` has a value.
const OTHER: &str = "umbrella";

#[derive(Debug)]
pub struct World {
    good: Adversary,
    bad: Adversary,
    dir: tempfile::TempDir,
    store: KeyValue,
}

impl World {
    pub async fn new() -> (Self, Services) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("secret"), CANARY).unwrap();
        let good = Adversary::at("127.0.0.1:0").await.unwrap();
        let bad = Adversary::at(&format!("127.0.0.2:{}", good.address.port())).await.unwrap();
        let config = Config::parse(&fill(SETTINGS, &good, dir.path()), "world").unwrap();
        let store = KeyValue::new(&config.keyvalue).unwrap();
        store.store().prepare().await.unwrap();
        let services = Services {
            secrets: Secrets::new(&config.secrets),
            keyvalue: Some(store.clone()),
            network: Network::new(Arc::<Names>::default(), None),
            ..Services::default()
        };
        let world = Self { good, bad, dir, store };
        let values = vec![("secret".to_owned(), CANARY.as_bytes().to_vec())];
        world.store.store().set(&Namespace::new(OTHER, "cache"), values).await.unwrap();
        (world, services)
    }

    /// A text with what stands in it filled in.
    pub fn fill(&self, text: &str) -> String {
        fill(text, &self.good, self.dir.path())
    }

    /// What a fixture's settings grant.
    pub fn policies(&self, settings: &str) -> Policies {
        let settings = self.fill(&format!("{settings}\n{SETTINGS}"));
        let config = Config::parse(&settings, "fixture").unwrap();
        config.validate("fixture").unwrap();
        Policies::new(&config)
    }

    /// All is as it was: nothing of others was changed, asked or left behind.
    pub async fn is_unharmed(&self, name: &str) {
        self.good.all_closed(name).await;
        assert_eq!(self.bad.connections(), 0, "{name}: asked whom it may not ask");
        let bucket = Namespace::new(OTHER, "cache");
        let page = self.store.store().list(&bucket, None).await.unwrap();
        assert_eq!(page.keys, ["secret"], "{name}");
        let values = self.store.store().get(&bucket, page.keys).await.unwrap();
        assert_eq!(values, [Some(CANARY.as_bytes().to_vec())], "{name}");
        let secret = std::fs::read_to_string(self.dir.path().join("secret")).unwrap();
        assert_eq!(secret, CANARY, "{name}");
        let until = Instant::now() + Duration::from_secs(30);
        while !scratch_directories().is_empty() {
            assert!(Instant::now() < until, "{name}: {:?} are left", scratch_directories());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Those of attempts of this process, which has the directory for temporary files for itself.
fn scratch_directories() -> Vec<PathBuf> {
    let entries = |path: &Path| {
        std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path())
    };
    entries(&std::env::temp_dir())
        .filter(|path| path.display().to_string().contains("lovage-scratch-"))
        .flat_map(|home| entries(&home).filter(|path| path.is_dir()).collect::<Vec<_>>())
        .collect()
}

fn fill(text: &str, good: &Adversary, dir: &Path) -> String {
    let port = good.address.port().to_string();
    text.replace("GOOD", &good.address.to_string())
        .replace("BAD", &format!("127.0.0.2:{port}"))
        .replace("PORT", &port)
        .replace("DIR", &dir.display().to_string())
}

const METADATA: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254));
const GOOD: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Names that lie.
#[derive(Debug, Default)]
struct Names {
    asked: AtomicUsize,
}

#[async_trait::async_trait]
impl Resolve for Names {
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        Ok(match name {
            "good.test" => vec![GOOD],
            "metadata.test" => vec![METADATA],
            "mapped.test" => {
                vec![IpAddr::V6(Ipv4Addr::new(169, 254, 169, 254).to_ipv6_mapped())]
            }
            "tunnel.test" => vec![IpAddr::V6(Ipv6Addr::new(0x2002, 0x7f00, 2, 0, 0, 0, 0, 1))],
            // Innocent at every other time.
            "turns.test" => match self.asked.fetch_add(1, Ordering::SeqCst) % 2 {
                0 => vec![GOOD],
                _ => vec![METADATA],
            },
            "both.test" => vec![METADATA, IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2)), GOOD],
            "many.test" => {
                (0..100_000).map(|n| Ipv4Addr::from_bits(0x0a00_0000 + n).into()).collect()
            }
            "none.test" => Vec::new(),
            "slow.test" => std::future::pending().await,
            _ => return Err(io::Error::other(format!("\u{1b}[2J\r\nno {name}\u{202e}"))),
        })
    }
}
