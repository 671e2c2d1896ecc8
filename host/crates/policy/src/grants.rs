//! What guests are granted, as the operator writes it.

use std::collections::{BTreeMap, BTreeSet};

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
    /// True if an attempt has a scratch directory: an empty private folder at `/scratch`.
    pub scratch: Option<bool>,
    /// Tasks that follow-on jobs may be for; `*` at the end matches any rest.
    pub dispatch: Option<Vec<String>>,
    /// True if clocks stand still and random numbers repeat: the same for every attempt at a job.
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

/// All that an operator grants: the input of [`Policies`](super::Policies).
#[derive(Debug, Clone, Default)]
pub struct GrantBook {
    /// Grants of every task that has no own ones.
    pub defaults: GrantsConfig,
    /// Grants by task name.
    pub tasks: BTreeMap<String, GrantsConfig>,
    /// Grants by tenant name. They narrow those of a task.
    pub tenants: BTreeMap<String, GrantsConfig>,
    /// The names of the secrets that grants may name.
    pub secrets: BTreeSet<String>,
}
