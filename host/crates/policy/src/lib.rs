//! What a guest may use beyond its own memory and time: nothing, unless it was granted.
//!
//! A [`Grants`] is what holds for one task and one tenant: the operator's grants to the task,
//! narrowed by those to the tenant. It is the domain's own: how a grant is used (a connection, a
//! database) is for the sandbox.

#![forbid(unsafe_code)]

mod grants;
mod http;
mod names;
mod network;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, PoisonError, RwLock},
};

pub use grants::{DeterminismConfig, GrantBook, GrantsConfig};
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
    /// True if there is a scratch directory.
    pub scratch: bool,
    /// Tasks that follow-on jobs may be for.
    pub dispatch: Names,
    /// What stands in place of time and chance.
    pub deterministic: Option<DeterminismConfig>,
}

impl Grants {
    /// What a task is granted, whoever it runs for: its own, and where it is silent the defaults.
    fn of_task(book: &GrantBook, task: &str) -> Result<Self, String> {
        let none = GrantsConfig::default();
        let own = book.tasks.get(task).unwrap_or(&none);
        let all = &book.defaults;
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
            known_secret(book, &section(own.secrets.is_some(), "secrets"), key, secret)?;
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
    fn narrowed_by(mut self, book: &GrantBook, tenant: &str) -> Result<Self, String> {
        let Some(own) = book.tenants.get(tenant) else { return Ok(self) };
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
            known_secret(book, &section("secrets"), key, secret)?;
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

    /// Returns true if any use of a capability is granted.
    pub fn allows(&self, capability: Capability) -> bool {
        match capability {
            Capability::Http => !self.http.is_empty(),
            Capability::Config => self.config.is_some(),
            Capability::Keyvalue => !self.keyvalue.is_empty(),
            Capability::Dispatch => !self.dispatch.is_empty(),
        }
    }
}

impl GrantBook {
    /// What a task is granted for a tenant; empty for jobs without one. The error names the field
    /// that is wrong.
    pub fn grants_of(&self, task: &str, tenant: &str) -> Result<Grants, String> {
        Grants::of_task(self, task)?.narrowed_by(self, tenant)
    }
}

fn known_secret(book: &GrantBook, section: &str, key: &str, secret: &str) -> Result<(), String> {
    if book.secrets.contains(secret) {
        return Ok(());
    }
    Err(format!(
        "{section}.{key} names the secret `{secret}`, which is none; add [secrets.{secret}]"
    ))
}

/// The grants of a whole configuration, each made once.
#[derive(Debug, Default)]
pub struct Policies {
    book: GrantBook,
    made: RwLock<HashMap<(String, String), Arc<Grants>>>,
}

impl Policies {
    /// The policies of grants that were checked.
    pub fn new(book: impl Into<GrantBook>) -> Self {
        Self { book: book.into(), made: RwLock::default() }
    }

    /// Checks all grants of a configuration. The error names the field, and says what is wrong.
    pub fn check(book: &GrantBook) -> Result<(), String> {
        for task in book.tasks.keys().map(String::as_str).chain([""]) {
            let grants = Grants::of_task(book, task)?;
            for tenant in book.tenants.keys() {
                grants.clone().narrowed_by(book, tenant)?;
            }
        }
        Ok(())
    }

    /// What a task that is served is granted for a tenant. Nothing, where the configuration is
    /// wrong.
    pub fn of(&self, task: &str, tenant: &str) -> Arc<Grants> {
        // Tenants that are not configured have no grants of their own; senders choose their names,
        // so they must not fill the table.
        let tenant = if self.book.tenants.contains_key(tenant) { tenant } else { "" };
        let key = (task.to_owned(), tenant.to_owned());
        if let Some(made) = self.made.read().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Arc::clone(made);
        }
        let made = self.book.grants_of(task, tenant);
        let made = Arc::new(made.unwrap_or_else(|error| {
            tracing::error!(%error, "the grants are not valid, so nothing is granted");
            Grants::default()
        }));
        let mut all = self.made.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry(key).or_insert(made))
    }
}
