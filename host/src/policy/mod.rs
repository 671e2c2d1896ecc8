//! What a guest may use beyond its own memory and time: nothing, unless it was granted.
//!
//! A [`Grants`] is what holds for one task and one tenant: the operator's grants to the task,
//! narrowed by those to the tenant. It is the domain's own: how a grant is used (a connection, a
//! database) is for the sandbox.

mod http;
mod names;
mod network;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, PoisonError, RwLock},
};

use crate::config::{Config, DeterminismConfig, GrantsConfig};

pub use http::{Destination, Host, HttpPolicy, HttpRules, Reach, Scheme, percent_decode};
pub use names::Names;
pub use network::not_public;

/// A thing that a guest may use only if it was granted.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Capability {
    /// HTTP requests to places that a rule allows.
    Http,
    /// Values and secrets by key.
    Config,
    /// Key-value buckets.
    Keyvalue,
    /// Follow-on jobs.
    Dispatch,
}

impl Capability {
    /// The field of `[tasks.NAME.grants]` that grants it.
    pub const fn key(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Config => "config",
            Self::Keyvalue => "keyvalue",
            Self::Dispatch => "dispatch",
        }
    }
}

/// What one task is granted for one tenant.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Grants {
    /// Where requests may go.
    pub http: HttpPolicy,
    /// Values for `wasi:config/store`, by key; `None` where the interface is not granted.
    pub config: Option<BTreeMap<String, String>>,
    /// Which of `[secrets]` stands behind a key of `wasi:config/store`.
    pub secrets: BTreeMap<String, String>,
    /// Buckets that may be opened.
    pub keyvalue: BTreeSet<String>,
    /// Whether there is a scratch directory.
    pub scratch: bool,
    /// Tasks that follow-on jobs may be for.
    pub dispatch: Names,
    /// What stands in place of time and chance.
    pub deterministic: Option<DeterminismConfig>,
}

impl Grants {
    /// What a task is granted, whoever it runs for: its own, and where it is silent the defaults.
    pub fn of_task(config: &Config, task: &str) -> Result<Self, String> {
        let none = GrantsConfig::default();
        let own = config.tasks.get(task).map_or(&none, |task| &task.grants);
        let all = &config.defaults.grants;
        let granted = own.clone().or(all);
        let section = |is_own: bool, key: &str| {
            if is_own {
                format!("tasks.{task}.grants.{key}")
            } else {
                format!("defaults.grants.{key}")
            }
        };
        let secrets = granted.secrets.unwrap_or_default();
        for (key, secret) in &secrets {
            known_secret(config, &section(own.secrets.is_some(), "secrets"), key, secret)?;
            if granted.config.as_ref().is_some_and(|values| values.contains_key(key)) {
                return Err(format!(
                    "{} and {} both have the key `{key}`, and a guest can have one of them only",
                    section(own.config.is_some(), "config"),
                    section(own.secrets.is_some(), "secrets")
                ));
            }
        }
        Ok(Self {
            http: HttpPolicy::new(
                granted.http.as_deref().unwrap_or_default(),
                &section(own.http.is_some(), "http"),
                granted.http_networks.as_deref().unwrap_or_default(),
                &section(own.http_networks.is_some(), "http_networks"),
            )?,
            config: match granted.config {
                None if secrets.is_empty() => None,
                values => Some(values.unwrap_or_default()),
            },
            secrets,
            keyvalue: granted.keyvalue.into_iter().flatten().collect(),
            scratch: granted.scratch.unwrap_or(false),
            dispatch: Names::new(granted.dispatch.as_ref()),
            deterministic: granted.deterministic,
        })
    }

    /// What is left of it for a tenant.
    pub fn narrowed_by(mut self, config: &Config, tenant: &str) -> Result<Self, String> {
        let Some(settings) = config.tenants.get(tenant) else { return Ok(self) };
        let own = &settings.grants;
        let section = |key: &str| format!("tenants.{tenant}.grants.{key}");
        self.http.narrow(
            own.http.as_deref(),
            &section("http"),
            own.http_networks.as_deref(),
            &section("http_networks"),
        )?;
        for (key, value) in own.config.iter().flatten() {
            if let Some(mine) = self.config.as_mut().and_then(|values| values.get_mut(key)) {
                mine.clone_from(value);
            }
        }
        for (key, secret) in own.secrets.iter().flatten() {
            known_secret(config, &section("secrets"), key, secret)?;
            if let Some(mine) = self.secrets.get_mut(key) {
                mine.clone_from(secret);
            }
        }
        if let Some(buckets) = &own.keyvalue {
            self.keyvalue.retain(|bucket| buckets.contains(bucket));
        }
        self.scratch &= own.scratch.unwrap_or(true);
        if let Some(tasks) = &own.dispatch {
            self.dispatch.narrow(tasks);
        }
        self.deterministic = own.deterministic.or(self.deterministic);
        Ok(self)
    }

    /// Whether any use of a capability is granted.
    pub fn allows(&self, capability: Capability) -> bool {
        match capability {
            Capability::Http => !self.http.is_empty(),
            Capability::Config => self.config.is_some(),
            Capability::Keyvalue => !self.keyvalue.is_empty(),
            Capability::Dispatch => !self.dispatch.is_empty(),
        }
    }
}

fn known_secret(config: &Config, section: &str, key: &str, secret: &str) -> Result<(), String> {
    if config.secrets.contains_key(secret) {
        return Ok(());
    }
    Err(format!(
        "{section}.{key} names the secret `{secret}`, which is none; add [secrets.{secret}]"
    ))
}

/// The grants of a whole configuration, each made once.
#[derive(Debug, Default)]
pub struct Policies {
    config: Arc<Config>,
    made: RwLock<HashMap<(String, String), Arc<Grants>>>,
}

impl Policies {
    /// The policies of a configuration that was validated.
    pub fn new(config: Arc<Config>) -> Self {
        Self { config, made: RwLock::default() }
    }

    /// Checks all grants of a configuration. The error names the field, and says what is wrong.
    pub fn check(config: &Config) -> Result<(), String> {
        for task in config.tasks.keys().map(String::as_str).chain([""]) {
            let grants = Grants::of_task(config, task)?;
            for tenant in config.tenants.keys() {
                grants.clone().narrowed_by(config, tenant)?;
            }
        }
        Ok(())
    }

    /// What a task that is served is granted for a tenant. Nothing, where the configuration is
    /// wrong.
    pub fn of(&self, task: &str, tenant: &str) -> Arc<Grants> {
        // Tenants that are not configured have no grants of their own; senders choose their names,
        // so they must not fill the table.
        let tenant = if self.config.tenants.contains_key(tenant) { tenant } else { "" };
        let key = (task.to_owned(), tenant.to_owned());
        if let Some(made) = self.made.read().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Arc::clone(made);
        }
        let made = Grants::of_task(&self.config, task)
            .and_then(|grants| grants.narrowed_by(&self.config, tenant));
        let made = Arc::new(made.unwrap_or_else(|error| {
            tracing::error!(%error, "the grants are not valid, so nothing is granted");
            Grants::default()
        }));
        let mut all = self.made.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry(key).or_insert(made))
    }
}
