//! What key-value buckets promise: to a store's callers, which one suite holds every store to, and
//! to guests, tenants and operators.

#[cfg(feature = "local")]
use std::path::Path;
use std::sync::Arc;

#[cfg(feature = "local")]
use lovage::config::Config;
use lovage::{
    config::{KeyValueConfig, KeyValueKind},
    keyvalue::{KeyValue, Namespace, Quotas, Store, StoreError, redis::RedisStore},
};

use crate::support::{ministack::unique, redis};

mod suite;

#[cfg(all(feature = "compiler", feature = "local"))]
mod guests;
#[cfg(all(feature = "cli", feature = "compiler", feature = "local"))]
mod processes;

use suite::LONG;

/// A store that holds as much as a test needs.
const WIDE: Quotas = Quotas { max_keys: 10_000, max_bytes: 64 << 20, max_value_bytes: 1 << 20 };

/// Stores of one kind, each on its own.
trait Fixture {
    /// A store that nobody else has keys in.
    fn store(&self, quotas: Quotas) -> Arc<dyn Store>;
}

#[cfg(feature = "local")]
struct Local(tempfile::TempDir);

#[cfg(feature = "local")]
impl Fixture for Local {
    fn store(&self, quotas: Quotas) -> Arc<dyn Store> {
        let path = self.0.path().join(unique("store"));
        Arc::new(lovage::keyvalue::local::LocalStore::new(&path, quotas, LONG))
    }
}

struct Redis;

impl Fixture for Redis {
    fn store(&self, quotas: Quotas) -> Arc<dyn Store> {
        let store = RedisStore::new(&redis::url(), &unique("store"), quotas, LONG);
        Arc::new(store.unwrap())
    }
}

#[cfg(feature = "local")]
mod local {
    fn fixture() -> super::Local {
        super::Local(tempfile::tempdir().unwrap())
    }
    super::suite::suite!(fixture);
}

mod on_redis {
    fn fixture() -> super::Redis {
        super::Redis
    }
    super::suite::suite!(fixture);
}

/// The store that a configuration names, in a directory.
#[cfg(feature = "local")]
fn service(dir: &Path, settings: &str) -> KeyValue {
    let config = config(dir, settings);
    KeyValue::new(&config.keyvalue).unwrap()
}

#[cfg(feature = "local")]
fn config(dir: &Path, settings: &str) -> Config {
    let file = dir.join("lovage.toml");
    std::fs::write(&file, settings).unwrap();
    Config::load(Some(&file), []).unwrap()
}

#[cfg(feature = "local")]
#[tokio::test]
async fn a_file_that_cannot_be_used_is_told_with_what_to_do() {
    use std::os::unix::fs::PermissionsExt as _;

    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("text"), "not a database, by far and at any rate").unwrap();
    let other = rusqlite_file(&dir.path().join("other"));
    for (path, words) in [
        ("missing/kv.db", "its directory has to be there"),
        ("text", "not a database"),
        (&*other, "another program"),
    ] {
        let service = service(dir.path(), &format!("keyvalue.path = '{path}'"));
        match service.store().prepare().await {
            Err(StoreError::Unavailable(text)) => assert!(text.contains(words), "{text}"),
            other => panic!("{path}: {other:?}"),
        }
    }
    // What tenants keep is for no other user to read.
    service(dir.path(), "keyvalue.path = 'kv.db'").store().prepare().await.unwrap();
    let mode = std::fs::metadata(dir.path().join("kv.db")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

/// The embedded broker's file: a database, and another one.
#[cfg(feature = "local")]
fn rusqlite_file(path: &Path) -> String {
    use lovage::broker::local::{LocalBroker, LocalOptions};
    drop(LocalBroker::open(path, LocalOptions::default()).unwrap());
    path.display().to_string()
}

#[tokio::test]
async fn an_operation_ends_in_time_where_redis_is_away_and_works_when_it_is_back() {
    let mut redis = redis::Redis::start();
    let config = KeyValueConfig {
        kind: KeyValueKind::Redis,
        url: Some(redis.url().replace("://", "://user:hunter2@")),
        ..KeyValueConfig::default()
    };
    let denied = KeyValue::new(&config).unwrap();
    let config = KeyValueConfig { url: Some(redis.url()), ..config };
    let service = KeyValue::new(&config).unwrap();
    let bucket = Namespace::new("", "b");
    let set = async |service: &KeyValue, value: &str| {
        let entries = vec![("k".to_owned(), value.as_bytes().to_vec())];
        service.within(service.store().set(&bucket, entries)).await
    };
    match set(&denied, "x").await {
        Err(StoreError::Unavailable(text)) => {
            assert!(text.contains("127.0.0.1") && !text.contains("hunter2"), "{text}");
        }
        other => panic!("{other:?}"),
    }
    set(&service, "before").await.unwrap();
    redis.stop();
    match set(&service, "away").await {
        Err(StoreError::Unavailable(text)) => assert!(text.contains("127.0.0.1"), "{text}"),
        other => panic!("{other:?}"),
    }
    redis.begin().unwrap();
    // The scripts are gone with the process that knew them, too. The circuit breaker lets an
    // operation through after a pause.
    let begin = std::time::Instant::now();
    while set(&service, "after").await.is_err() {
        assert!(begin.elapsed() < std::time::Duration::from_secs(20));
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let value = service.store().get(&bucket, vec!["k".to_owned()]).await.unwrap();
    assert_eq!(value, [Some(b"after".to_vec())]);
}

#[tokio::test]
async fn a_store_that_never_answers_is_given_up_in_time() {
    // Takes connections, and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let config = KeyValueConfig {
        kind: KeyValueKind::Redis,
        url: Some(format!("redis://{}", silent.local_addr().unwrap())),
        timeout_ms: 200.try_into().unwrap(),
        ..KeyValueConfig::default()
    };
    let service = KeyValue::new(&config).unwrap();
    let bucket = Namespace::new("", "b");
    let answer = service.within(service.store().exists(&bucket, "k".to_owned())).await;
    assert!(
        matches!(answer, Err(StoreError::Timeout(_) | StoreError::Unavailable(_))),
        "{answer:?}"
    );
}
