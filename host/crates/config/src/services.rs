//! Where secrets and key-value buckets are, as the configuration says it.

use std::{fmt, num::NonZeroU64, path::PathBuf};

use serde::{Deserialize, Serialize};

/// `[secrets.NAME]`: where a secret's value is, and who may see it. One of `env`, `file`,
/// `secrets_manager` and `parameter` is needed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct SecretConfig {
    /// The name of a variable in the host's environment.
    pub env: Option<String>,
    /// A file; a newline at its end is not part of the value. Relative to the configuration file.
    pub file: Option<PathBuf>,
    /// Name or ARN of a secret in AWS Secrets Manager.
    pub secrets_manager: Option<String>,
    /// Name or ARN of a parameter in AWS SSM Parameter Store; it is decrypted.
    pub parameter: Option<String>,
    /// Where the value is a JSON object: the field that holds the secret.
    pub json_field: Option<String>,
    /// For how long a value is used before it is looked up again, in milliseconds. Five minutes
    /// when absent.
    pub ttl_ms: Option<NonZeroU64>,
    /// When set, guests never see the value: what they get for it is a placeholder, which the
    /// host replaces in headers and query parameters of HTTP requests that match one of these
    /// (written as in `http`) and go over `https`, or to a place that `http_networks` grants.
    pub only_for: Option<Vec<String>>,
}

/// Where key-value buckets are kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyValueKind {
    /// In an SQLite file of this machine.
    #[default]
    Local,
    /// In Redis, or what speaks its protocol.
    Redis,
}

/// `[keyvalue]`: where buckets are kept, and how much each may hold. A bucket is private to its
/// tenant; jobs without a tenant have buckets of their own.
#[derive(Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct KeyValueConfig {
    /// `local` or `redis`.
    pub kind: KeyValueKind,
    /// For `local`: the file; made when it is absent. Relative to the configuration file.
    pub path: PathBuf,
    /// For `redis`: its URL, such as `redis://127.0.0.1:6379` or `rediss://…`. A password belongs
    /// into the environment: `LOVAGE__KEYVALUE__URL`.
    pub url: Option<String>,
    /// Put before every key in Redis.
    pub prefix: String,
    /// The most keys of one bucket of one tenant.
    pub max_keys: u64,
    /// The most bytes of one bucket of one tenant: keys and values together.
    pub max_bytes: u64,
    /// The most bytes of one value.
    pub max_value_bytes: u64,
    /// How long one operation may take, in milliseconds.
    pub timeout_ms: NonZeroU64,
}

/// The URL may hold a password.
impl fmt::Debug for KeyValueConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyValueConfig")
            .field("kind", &self.kind)
            .field("path", &self.path)
            .field("url", &self.url.as_deref().map(super::password::without_password))
            .finish_non_exhaustive()
    }
}

impl Default for KeyValueConfig {
    fn default() -> Self {
        Self {
            kind: KeyValueKind::Local,
            path: "lovage-keyvalue.db".into(),
            url: None,
            prefix: "lovage:".to_owned(),
            max_keys: 100_000,
            max_bytes: 64 << 20,
            max_value_bytes: 1 << 20,
            timeout_ms: super::nonzero64(5_000),
        }
    }
}
