//! Key-value buckets: small state that outlives a job, private to its tenant.
//!
//! [`Store`] is what a place to keep them has to do; [`local`] keeps them in an SQLite file,
//! [`redis`] in Redis. One suite of promises holds both to the same behaviour. Nothing here knows
//! of wasmtime: what a guest may open, and how often it may ask, is for the sandbox.
//!
//! - A bucket is named by its [`Namespace`]: tenant and name, encoded so that no two pairs share
//!   one, whatever characters are in them.
//! - [`Quotas`] hold for each bucket of each tenant, and are checked where the value is written, in
//!   the same step: two that write at once cannot both have the last place.
//! - What an operation writes, it writes as a whole or not at all.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;

mod error;
#[cfg(feature = "local")]
pub mod local;
mod operation;
pub mod redis;

pub use error::{Quota, StoreError};
pub use operation::{Answer, Operation, OperationError};

use lovage_config::KeyValueConfig;
use lovage_core::{dependency::Dependency, events::KeyvalueFailed, log_throttle::LogThrottle};

/// The longest key, in bytes.
pub const MAX_KEY_BYTES: usize = 1024;

/// The most keys in one call.
pub const MAX_BATCH: usize = 1000;

/// The most bytes of values that one call gives, where a single value is not larger.
pub const ANSWER_BYTES: u64 = 16 << 20;

/// The most keys on one page of a listing: with the longest of keys a megabyte.
pub const PAGE_KEYS: usize = 1000;

/// Tenant and bucket, as one text: `tenant:bucket`, with all but letters, digits, `_`, `-` and `.`
/// as `%` and two hexadecimal digits. No two pairs have the same, and none has a character that
/// means something to a store.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Namespace(Arc<str>);

impl Namespace {
    /// The namespace of a tenant's bucket; the tenant is empty for jobs without one.
    pub fn new(tenant: &str, bucket: &str) -> Self {
        let mut text = String::with_capacity(tenant.len() + bucket.len() + 1);
        encode(tenant, &mut text);
        text.push(':');
        encode(bucket, &mut text);
        Self(text.into())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn encode(name: &str, text: &mut String) {
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"_-.".contains(&byte) {
            text.push(char::from(byte));
        } else {
            text.push('%');
            for digit in [byte >> 4, byte & 15] {
                text.push(char::from_digit(u32::from(digit), 16).unwrap_or('?'));
            }
        }
    }
}

/// Which value of a key it is: another one for each time that it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Version(u64);

impl Version {
    /// A new one. Nobody can be told an old one for it but by a chance of one in 2⁶⁴.
    fn new() -> Self {
        Self(fastrand::u64(..))
    }
}

/// A page of a bucket's keys.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Page {
    /// The keys.
    pub keys: Vec<String>,
    /// Where the next page begins; `None` when this was the last.
    pub next: Option<u64>,
}

/// What a swap came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Swap {
    /// The key has the new value.
    Done,
    /// The key had another value than was expected: this one, or none.
    Stale(Option<Version>),
}

/// How much a bucket may hold, for each tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quotas {
    /// The most keys.
    pub max_keys: u64,
    /// The most bytes of keys and values together.
    pub max_bytes: u64,
    /// The most bytes of one value.
    pub max_value_bytes: u64,
}

impl Quotas {
    /// Whether a bucket may go from one size to another. One that holds too much, since its quota
    /// was lowered, may shrink. Redis has the same in a script.
    #[cfg(feature = "local")]
    fn allow(&self, before: Size, after: Size) -> Result<(), StoreError> {
        for (quota, before, after, most) in [
            (Quota::Keys, before.keys, after.keys, self.max_keys),
            (Quota::Bytes, before.bytes, after.bytes, self.max_bytes),
        ] {
            if after > most && after > before {
                return Err(StoreError::Quota { quota, asked: after, allowed: most });
            }
        }
        Ok(())
    }

    /// Returns true if a value is not too large by itself.
    fn allow_value(&self, value: &[u8]) -> Result<(), StoreError> {
        let (asked, allowed) = (value.len() as u64, self.max_value_bytes);
        if asked > allowed {
            return Err(StoreError::Quota { quota: Quota::ValueBytes, asked, allowed });
        }
        Ok(())
    }

    /// The most bytes of values that one call gives.
    fn answer_bytes(&self) -> u64 {
        self.max_value_bytes.max(ANSWER_BYTES)
    }
}

/// How much a bucket holds.
#[cfg(feature = "local")]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Size {
    keys: u64,
    bytes: u64,
}

/// A place to keep buckets.
///
/// A bucket is there when it holds a key; nobody makes or removes one. Keys are any texts of up to
/// [`MAX_KEY_BYTES`], which callers see to, as to [`MAX_BATCH`]. Dropping an operation's future
/// gives up waiting for it; whether it happened is then not known.
#[async_trait]
pub trait Store: Send + Sync + fmt::Debug {
    /// Makes sure that it can be used, where that can be told at the start.
    async fn prepare(&self) -> Result<(), StoreError>;

    /// The values of keys, in their order.
    async fn get(
        &self,
        bucket: &Namespace,
        keys: Vec<String>,
    ) -> Result<Vec<Option<Vec<u8>>>, StoreError>;

    /// The value of a key, and which one it is.
    async fn read(
        &self,
        bucket: &Namespace,
        key: String,
    ) -> Result<Option<(Version, Vec<u8>)>, StoreError>;

    /// Gives keys their values: all or, where a quota forbids, none. Of a key that is there twice
    /// the last value counts.
    async fn set(
        &self,
        bucket: &Namespace,
        entries: Vec<(String, Vec<u8>)>,
    ) -> Result<(), StoreError>;

    /// Takes keys away, as far as they are there.
    async fn delete(&self, bucket: &Namespace, keys: Vec<String>) -> Result<(), StoreError>;

    /// Returns true if a key has a value.
    async fn exists(&self, bucket: &Namespace, key: String) -> Result<bool, StoreError>;

    /// A page of keys: the first, or what comes after a cursor. A key that is there all the while
    /// is on one page exactly.
    async fn list(&self, bucket: &Namespace, after: Option<u64>) -> Result<Page, StoreError>;

    /// Adds to the number that a key holds in decimal digits, 0 where there is none; what it is
    /// then.
    async fn increment(
        &self,
        bucket: &Namespace,
        key: String,
        delta: i64,
    ) -> Result<i64, StoreError>;

    /// Gives a key a value if it still has the one that is expected.
    async fn swap(
        &self,
        bucket: &Namespace,
        key: String,
        expected: Option<Version>,
        value: Vec<u8>,
    ) -> Result<Swap, StoreError>;
}

/// The store of a process, and how long its operations may take. Clones are the same.
#[derive(Debug, Clone)]
pub struct KeyValue {
    store: Arc<dyn Store>,
    timeout: Duration,
    kind: &'static str,
    /// The circuit breaker of a store that is elsewhere.
    dependency: Option<Arc<Dependency>>,
}

impl KeyValue {
    /// The store that a validated configuration names. Nothing is opened or connected yet. `Err`
    /// says what to change where this build has no such store.
    pub fn new(config: &KeyValueConfig) -> Result<Self, String> {
        let quotas = Quotas {
            max_keys: config.max_keys,
            max_bytes: config.max_bytes,
            max_value_bytes: config.max_value_bytes,
        };
        let timeout = Duration::from_millis(config.timeout_ms.get());
        let (store, kind, dependency): (Arc<dyn Store>, _, _) = match config.kind {
            lovage_config::KeyValueKind::Redis => {
                let url = config.url.as_deref().unwrap_or_default();
                let store = redis::RedisStore::new(url, &config.prefix, quotas, timeout)?;
                let store = Arc::new(store);
                let dependency = Dependency::new("keyvalue", store.clone());
                (store, "redis", Some(dependency))
            }
            #[cfg(feature = "local")]
            lovage_config::KeyValueKind::Local => {
                (Arc::new(local::LocalStore::new(&config.path, quotas, timeout)), "local", None)
            }
            #[cfg(not(feature = "local"))]
            lovage_config::KeyValueKind::Local => {
                return Err("keyvalue.kind is `local`, and this build has no SQLite to keep \
                            buckets in; set keyvalue.kind to `redis`, and keyvalue.url"
                    .to_owned());
            }
        };
        Ok(Self { store, timeout, kind, dependency })
    }

    /// The circuit breaker of a store that is elsewhere.
    pub fn dependency(&self) -> Option<&Arc<Dependency>> {
        self.dependency.as_ref()
    }

    /// A store that is made already; its operations are bounded by whoever made it.
    pub fn with_store(store: Arc<dyn Store>, kind: &'static str) -> Self {
        Self { store, timeout: Duration::from_hours(1), kind, dependency: None }
    }

    /// The store itself.
    pub fn store(&self) -> &dyn Store {
        &*self.store
    }

    /// Waits for an operation, and not for longer than it may take. What went wrong with the store
    /// is logged here, once: a guest is told no more than that it did.
    pub async fn within<T>(
        &self,
        operation: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let admitted = self.dependency.as_ref().map_or(Ok(()), |it| it.admit());
        #[allow(clippy::single_match_else, reason = "an answer for each")]
        let answer = match admitted {
            Err(reason) => Err(StoreError::Unavailable(reason)),
            Ok(()) => {
                let answer = tokio::time::timeout(self.timeout, operation)
                    .await
                    .unwrap_or(Err(StoreError::Timeout(self.timeout)));
                self.judge(&answer);
                answer
            }
        };
        if let Err(error @ (StoreError::Unavailable(_) | StoreError::Timeout(_))) = &answer {
            // Guests can ask as often as they may.
            static QUIET: LogThrottle = LogThrottle::for_seconds(10);
            KeyvalueFailed { kind: self.kind, error, tell: QUIET.is_over() }.emit();
        }
        answer
    }
}

impl KeyValue {
    /// Tells the circuit breaker how an operation went.
    fn judge<T>(&self, answer: &Result<T, StoreError>) {
        let Some(dependency) = &self.dependency else { return };
        match answer {
            // What a guest asks for may be to blame: a probe finds out.
            Err(StoreError::Unavailable(_) | StoreError::Timeout(_))
                if dependency.is_monitored() =>
            {
                dependency.doubt();
            }
            Err(StoreError::Unavailable(reason)) => dependency.failed(reason),
            Err(StoreError::Timeout(_)) => {}
            _ => dependency.succeeded(),
        }
    }
}

/// A number as a value holds it: decimal digits, and no second way to write it.
fn number(value: &[u8]) -> Result<i64, StoreError> {
    let text = std::str::from_utf8(value).map_err(|_| StoreError::NotANumber)?;
    let number: i64 = text.parse().map_err(|_| StoreError::NotANumber)?;
    if number.to_string() == text { Ok(number) } else { Err(StoreError::NotANumber) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_pairs_of_tenant_and_bucket_share_a_namespace() {
        let names = [
            "", "a", "b", "ab", "a:b", ":", "%3a", "%", "../a", "/", "a/b", "\0", "a\0", "{a}",
            "}", "ä", "a\u{308}", "*", "?", "'", "\"", " ", "\n", "..", ".",
        ];
        let mut seen = std::collections::HashMap::new();
        for tenant in names {
            for bucket in names {
                let namespace = Namespace::new(tenant, bucket);
                let plain = |b: u8| b.is_ascii_alphanumeric() || b"_-.%:".contains(&b);
                assert!(namespace.as_str().bytes().all(plain), "{namespace:?}");
                let other = seen.insert(namespace, (tenant, bucket));
                assert_eq!(other, None, "{tenant:?} {bucket:?}");
            }
        }
    }

    #[test]
    fn a_number_has_one_way_to_be_written() {
        for (text, value) in [("0", 0), ("-1", -1), ("9223372036854775807", i64::MAX)] {
            assert_eq!(number(text.as_bytes()).unwrap(), value);
        }
        for text in ["", "+1", "01", "-0", " 1", "1 ", "1.0", "x", "9223372036854775808", "\u{661}"]
        {
            assert!(matches!(number(text.as_bytes()), Err(StoreError::NotANumber)), "{text}");
        }
    }

    #[cfg(feature = "local")]
    #[test]
    fn a_bucket_over_a_lowered_quota_may_shrink_and_not_grow() {
        let quotas = Quotas { max_keys: 2, max_bytes: 10, max_value_bytes: 5 };
        let size = |keys, bytes| Size { keys, bytes };
        assert!(quotas.allow(size(1, 5), size(2, 10)).is_ok());
        assert!(quotas.allow(size(5, 50), size(4, 40)).is_ok());
        assert!(quotas.allow(size(5, 50), size(5, 50)).is_ok());
        let refused = quotas.allow(size(2, 5), size(3, 6)).unwrap_err().to_string();
        assert_eq!(
            refused,
            "the bucket would hold 3 keys, and 2 are allowed (`keyvalue.max_keys` raises it)"
        );
        let refused = quotas.allow(size(1, 5), size(1, 11)).unwrap_err().to_string();
        assert!(refused.contains("11 bytes, and 10 bytes are allowed (`keyvalue.max_bytes`"));
        let refused = quotas.allow_value(&[0; 6]).unwrap_err().to_string();
        assert!(refused.contains("6 bytes, and 5 bytes are allowed (`keyvalue.max_value_bytes`"));
    }
}
