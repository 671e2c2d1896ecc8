//! What guests are granted, as the configuration says it.

use std::{collections::BTreeMap, fmt, num::NonZeroU64, path::PathBuf};

use serde::{Deserialize, Serialize};

/// `[defaults.grants]`, `[tasks.NAME.grants]` and `[tenants.NAME.grants]`.
///
/// A guest starts with nothing. What a field of `[tasks.NAME.grants]` leaves out is taken from
/// `[defaults.grants]`; what neither says is not granted. A tenant's grants narrow a task's and
/// never widen them: a field that is absent there narrows nothing, an empty list takes all away.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct GrantsConfig {
    /// Where HTTP requests may go: `[METHOD[,METHOD…] ]SCHEME://HOST[:PORT][/PATH]`. Scheme, host
    /// (`*.example.com` for subdomains) and port (the scheme's own when absent, `*` for any) must
    /// match; the path is a prefix, by whole segments. All methods where none is named.
    pub http: Option<Vec<String>>,
    /// Address ranges (CIDR) that requests may go to although they are private, loopback,
    /// link-local or otherwise not of the public internet.
    pub http_networks: Option<Vec<String>>,
    /// Values for `wasi:config/store`, by key. A tenant's stand over the task's, for keys that
    /// the task has.
    pub config: Option<BTreeMap<String, String>>,
    /// Secrets for `wasi:config/store`: their key for the guest, and which of `[secrets]` it is.
    /// A tenant's stand over the task's, for keys that the task has.
    pub secrets: Option<BTreeMap<String, String>>,
    /// Key-value buckets that may be opened, by the name that the guest uses.
    pub keyvalue: Option<Vec<String>>,
    /// Whether an attempt has a scratch directory: an empty private folder at `/scratch`.
    pub scratch: Option<bool>,
    /// Tasks that follow-on jobs may be for; `*` at the end matches any rest.
    pub dispatch: Option<Vec<String>>,
    /// Whether clocks stand still and random numbers repeat: the same for every attempt at a job.
    /// See [`DeterminismConfig`].
    pub deterministic: Option<DeterminismConfig>,
}

impl GrantsConfig {
    /// These, and where they are silent the others.
    #[must_use]
    pub fn or(self, others: &Self) -> Self {
        Self {
            http: self.http.or_else(|| others.http.clone()),
            http_networks: self.http_networks.or_else(|| others.http_networks.clone()),
            config: self.config.or_else(|| others.config.clone()),
            secrets: self.secrets.or_else(|| others.secrets.clone()),
            keyvalue: self.keyvalue.or_else(|| others.keyvalue.clone()),
            scratch: self.scratch.or(others.scratch),
            dispatch: self.dispatch.or_else(|| others.dispatch.clone()),
            deterministic: self.deterministic.or(others.deterministic),
        }
    }
}

/// What a deterministic task sees in place of time and chance.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct DeterminismConfig {
    /// What the wall clock shows all the while, in milliseconds since the Unix epoch. The
    /// monotonic clock starts at zero, and both move on by a nanosecond each time they are read.
    pub time_ms: u64,
    /// The seed of random numbers.
    pub seed: u64,
}

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
            .field("url", &self.url.as_deref().map(super::secrets::without_password))
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
